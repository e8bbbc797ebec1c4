"""The tests of the data plane, most of them with the router in the test's own event loop (tests/wire/router.py)."""
