"""The tests of the background loops, in the test's own event loop."""
