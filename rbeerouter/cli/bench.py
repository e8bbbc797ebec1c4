"""The command `rbeerouter routing bench`: its options, and what it prints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from rbeerouter.cli.arguments import config_option


def options(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("bench", help="how long a decision takes, by the number of workers")
    config_option(command)
    command.add_argument("--script", metavar="FILE", type=Path, help="default: the configured one, else the strategy")
    command.add_argument("--workers", metavar="N,N", help="how many there are (default 1,8,64,256,512)")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Returns the exit code. Raises ConfigError, ScriptError."""
    from rbeerouter.config.loading import load
    from rbeerouter.routing.script import configured_abilities, read_source
    from rbeerouter.routing.strategies import NAMES
    from rbeerouter.sim.bench import WORKERS, bench, read_workers, shown
    from rbeerouter.sim.text import section

    workers = WORKERS if options.workers is None else read_workers(options.workers)
    config = load(options.config, script=options.script, strategies=NAMES)
    source = read_source(config.script) if config.script is not None else None
    name = config.script.name if config.script is not None else config.routing.strategy
    costs = bench(source, name, configured_abilities(config.routing), workers, config.routing.strategy)
    if options.json:
        print(msgspec.json.encode({"script": name, "decisions": costs}).decode())
    else:
        print(section(shown(costs, name), colour=sys.stdout.isatty()), end="")
    return 0
