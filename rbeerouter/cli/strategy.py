"""The command `rbeerouter strategy`: its options, and what it prints."""

from __future__ import annotations

import argparse
from typing import Any

from rbeerouter.cli.arguments import config_option
from rbeerouter.config.sections import ConfigError


def options(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("strategy", help="show the strategy in force, or put another one there")
    config_option(command)
    command.add_argument("name", metavar="NAME", nargs="?", help="a strategy, or a list of them")
    command.add_argument("--persist", action="store_true", help="it outlives a restart of the daemon")
    command.add_argument("--reset", action="store_true", help="back to what environment and configuration say")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Shows it, or sets it."""
    from rbeerouter.config.loading import control_access
    from rbeerouter.server import client

    if options.reset and (options.name is not None or options.persist):
        raise ConfigError("strategy: --reset takes back what was set; expected no NAME and no --persist with it")
    if options.persist and options.name is None:
        raise ConfigError("strategy: --persist: expected the NAME of a strategy before it")
    access = control_access(options.config)
    if options.name is None and not options.reset:
        answer = client.call(access, "GET", client.CONFIG)
    else:
        asked = {"strategy": options.name, "persist": options.persist}
        answer = client.call(access, "POST", client.CONFIG, asked)
    print(client.strategy_text(answer))
    return 0 if answer.get("ok") else 1
