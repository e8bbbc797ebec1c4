"""`python -m fuzzing`, as scripts/fuzz runs it."""

import sys

from .cli import main

sys.exit(main())
