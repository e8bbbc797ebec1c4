"""Tests of `rbeerouter.dialects`: bytes in, our types out."""
