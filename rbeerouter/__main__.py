"""`python -m rbeerouter`: the same as the `rbeerouter` command."""

import sys

from rbeerouter.cli import main

if __name__ == "__main__":
    sys.exit(main())
