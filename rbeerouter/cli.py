"""The commands. Each parses its arguments, calls one function elsewhere and prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rbeerouter import __version__
from rbeerouter.config import ConfigError
from rbeerouter.routing.script import ScriptError

EXIT_FAILED, EXIT_REFUSED = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns its exit code: 0 done, 1 failed, 2 refused for its input."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ConfigError, ScriptError) as error:
        print(f"rbeerouter: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rbeerouter", description="Routes LLM requests to GPU workers by a Lua script you edit while it runs."
    )
    parser.add_argument("--version", action="version", version=f"rbeerouter {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the daemon")
    _config_option(serve)
    serve.add_argument("--worker", metavar="URL", action="append", default=[], help="a worker; may be repeated")
    serve.add_argument("--script", metavar="FILE", type=Path, help="the routing script, in place of [routing] script")
    serve.add_argument("--bind", metavar="HOST:PORT", help="where to listen, in place of [server] bind")
    serve.set_defaults(run=_serve)

    reload = commands.add_parser("reload", help="make the running daemon load its config and script again")
    _config_option(reload)
    reload.set_defaults(run=_reload)

    demo = commands.add_parser("demo", help="start fake workers and a daemon, send requests, show where they went")
    demo.add_argument("--stay", action="store_true", help="keep running afterwards, to try things by hand")
    demo.set_defaults(run=_demo)
    return parser


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="default: ~/.config/rbee/config.toml, if it exists"
    )


def _serve(options: argparse.Namespace) -> int:
    from rbeerouter.server import daemon

    def read() -> daemon.Config:
        return daemon.read_config(options.config, tuple(options.worker), options.script, options.bind)

    daemon.serve(read(), read)
    return 0


def _reload(options: argparse.Namespace) -> int:
    from rbeerouter import config as configuration
    from rbeerouter.server import client

    verdict = client.reload(configuration.control_bind(options.config))
    print(client.verdict_text(verdict))
    return 0 if verdict["ok"] else EXIT_FAILED


def _demo(options: argparse.Namespace) -> int:
    from rbeerouter.demo import tour

    return tour.run(stay=options.stay)
