"""The commands `rbeerouter shadow` and `rbeerouter promote`: their options, and what they print."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rbeerouter.cli.arguments import config_option
from rbeerouter.config.sections import ConfigError


def options(commands: Any) -> None:
    """Adds the commands."""
    shadow = commands.add_parser("shadow", help="show what the shadow script would have done")
    config_option(shadow)
    shadow.add_argument("--json", action="store_true", help="all that GET /api/v1/shadow says")
    shadow.set_defaults(run=run)

    promote = commands.add_parser("promote", help="make the shadow script the active one")
    config_option(promote)
    promote.add_argument("--yes", action="store_true", help="do not ask")
    promote.add_argument(
        "--force", action="store_true", help="also over a script that was edited since it was loaded, which is kept as "
        "a version, and without check and tests",
    )  # fmt: skip
    promote.set_defaults(run=promote_shadow)


def run(options: argparse.Namespace) -> int:
    """Shows the shadow's numbers."""
    from rbeerouter.config.loading import control_access
    from rbeerouter.server import client

    answer = client.call(control_access(options.config), "GET", client.SHADOW)
    print(json.dumps(answer) if options.json else client.shadow_text(answer))
    return 0 if "state" in answer else 1


def promote_shadow(options: argparse.Namespace) -> int:
    """Shows the numbers, asks, and promotes what was shown."""
    from rbeerouter.config.loading import control_access
    from rbeerouter.server import client

    access = control_access(options.config)
    shown = client.call(access, "GET", client.SHADOW)
    print(client.shadow_text(shown))
    if not options.yes and shown.get("state") == "on":
        if not sys.stdin.isatty():
            raise ConfigError("promote: there is no terminal to ask on; --yes promotes without asking")
        if input(f"make {shown['hash']} the active script? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing has changed")
            return 1
    verdict = client.call(access, "POST", client.PROMOTE, {"hash": shown.get("hash"), "force": options.force})
    print(client.verdict_text(verdict))
    return 0 if verdict["ok"] else 1
