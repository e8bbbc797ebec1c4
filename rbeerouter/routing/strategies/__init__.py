"""The built-in strategies: one family a file, one line each in the table `STRATEGIES` of routing/decide.py."""
