"""Tests of `rbeerouter.core`: no sockets, no clock but the hand-moved one."""
