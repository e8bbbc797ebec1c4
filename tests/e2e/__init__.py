"""The tests from end to end: real engines, real clients, and long runs."""
