"""The command `rbeerouter routing replay`: its options, and what it prints."""

from __future__ import annotations

import argparse
from typing import Any


def options(commands: Any) -> None:
    """Adds the command."""


def run(options: argparse.Namespace) -> int:
    raise NotImplementedError
