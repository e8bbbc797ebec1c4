"""`python -m faulting`, as scripts/fault-worker runs it."""

import sys

from .cli import main

sys.exit(main())
