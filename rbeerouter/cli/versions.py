"""The commands `rbeerouter versions` and `rbeerouter rollback`: their options, and what they print."""

from __future__ import annotations

import argparse
import sys
from typing import Any
from urllib.parse import quote

from rbeerouter.cli.arguments import config_option


def options(commands: Any) -> None:
    """Adds the commands."""
    versions = commands.add_parser("versions", help="list the scripts that were active, or print one")
    config_option(versions)
    versions.add_argument("hash", metavar="HASH", nargs="?", help="print this one's text; its first digits are enough")
    versions.set_defaults(run=run)

    rollback = commands.add_parser("rollback", help="make an earlier script the active one")
    config_option(rollback)
    rollback.add_argument("hash", metavar="HASH", nargs="?", help="default: the one that was active before")
    rollback.add_argument(
        "--force", action="store_true", help="also over a file that was edited since it was loaded, which is kept as a "
        "version, and without check and tests",
    )  # fmt: skip
    rollback.set_defaults(run=roll_back)


def run(options: argparse.Namespace) -> int:
    """Lists the versions, or prints one."""
    from rbeerouter.config.loading import control_access
    from rbeerouter.server import client

    access = control_access(options.config)
    if options.hash is None:
        answer = client.call(access, "GET", client.VERSIONS)
        print(client.versions_text(answer))
        return 0 if "versions" in answer else 1
    name = quote(options.hash, safe="", errors="replace")
    status, text = client.fetch(access, f"{client.VERSIONS}/{name}")
    if status != 200:
        print(client.refusal(text), file=sys.stderr)
        return 1
    sys.stdout.buffer.write(text)
    return 0


def roll_back(options: argparse.Namespace) -> int:
    from rbeerouter.config.loading import control_access
    from rbeerouter.server import client

    asked = {"version": options.hash, "force": options.force}
    verdict = client.call(control_access(options.config), "POST", client.ROLLBACK, asked)
    print(client.verdict_text(verdict))
    return 0 if verdict["ok"] else 1
