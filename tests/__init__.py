"""The tests of rbeerouter; a package, so that `tests.support` can be imported and run from the repository's root."""
