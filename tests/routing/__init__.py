"""Tests of `rbeerouter.routing`: who gets a request, and what a script may do."""
