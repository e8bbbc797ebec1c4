"""The command `rbeerouter routing calibrate`: its options, and what it prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbeerouter.cli.arguments import config_option, count
from rbeerouter.config.sections import ConfigError


def options(commands: Any) -> None:
    """Adds the command."""
    calibrate = commands.add_parser("calibrate", help="learn from routing.log how fast workers are, for simulate")
    config_option(calibrate)
    calibrate.add_argument("--log", metavar="FILE", type=Path, action="append", default=[],
                           help="may be repeated, for rotated parts; default: [routing] log")  # fmt: skip
    calibrate.add_argument("--worker", metavar="ID", action="append", default=[], help="only this one; may be repeated")
    calibrate.add_argument("--out", metavar="FILE", type=Path, help="write what `simulate --workers FILE` reads")
    calibrate.add_argument("--most", type=count, default=2000, metavar="N", help="use a worker's newest N lines "
                           "(default 2000: more tell little more, and each is simulated some 300 times)")  # fmt: skip
    calibrate.add_argument("--slots", type=count, metavar="N", help="sequences that the engine runs at once; default: "
                           "max_concurrency of the config, else what explains the log best")  # fmt: skip
    calibrate.add_argument("--batch-tokens", type=count, metavar="N", help="tokens that fit into a step (default 2048)")
    calibrate.add_argument("--kv-tokens", type=count, metavar="N", help="tokens that fit into the KV cache "
                           "(default: no limit)")  # fmt: skip
    calibrate.add_argument("--json", action="store_true")
    calibrate.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from rbeerouter.sim import calibrate, fitted

    for name in ("slots", "batch_tokens", "kv_tokens"):
        if getattr(options, name) == 0:
            raise ConfigError(f"--{name.replace('_', '-')} 0: expected 1 or more")
    known = calibrate.Known(options.slots, options.batch_tokens, options.kv_tokens)
    found, source = calibrate.from_logs(
        options.log, options.config, options.worker, options.most, known, _progress() if sys.stderr.isatty() else None
    )
    if options.out is not None:
        fitted.write(options.out, found, source)
    print(fitted.as_json(found, source) if options.json else fitted.table(found))
    return 0 if any(one.profile for one in found) else 1


def _progress() -> Callable[[str], None]:
    """Shows that something goes on, on one line that is gone in the end."""

    def show(text: str) -> None:
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    return show
