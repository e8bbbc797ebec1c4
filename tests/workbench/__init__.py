"""Tests of `rbeerouter.workbench`: what is told of a script before it is live."""
