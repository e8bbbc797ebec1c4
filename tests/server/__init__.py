"""The tests of the daemon as a process: its pages, reloads, signals, log and command line."""
