"""The command `rbeerouter routing simulate`: its options, and what it prints."""

from __future__ import annotations

import argparse
from typing import Any

from rbeerouter.cli import scenario


def options(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("simulate", help="run a script on traffic that is made up or recorded, in no time")
    scenario.scenario_options(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Returns the exit code. Raises ConfigError, ScriptError."""
    prepared = scenario.prepare(options)
    for note in prepared.notes:
        print(f"note: {note}")
    print(f"workload: {prepared.scenario.workload.name}")
    return 0
