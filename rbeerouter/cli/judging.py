"""`--assert`, files that are written, and how far it is: what the commands that compare simulations do alike."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from rbeerouter.config.sections import ConfigError
from rbeerouter.sim.asserts import HELP, Assertion, Verdict
from rbeerouter.sim.metrics import listed

_BAR = 30


def assert_option(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --assert; `what` becomes of it when one fails."""
    parser.add_argument("--assert", dest="assertions", metavar="EXPR", action="append", default=[],
                        help=f"such as 'p95_ttft_s < 2 and rejected == 0': {what}; 'help' lists the names")  # fmt: skip


def wants_help(options: argparse.Namespace) -> bool:
    """Does it only ask what can be asserted? Then that is printed."""
    if HELP not in options.assertions:
        return False
    print(listed())
    return True


def read_assertions(
    options: argparse.Namespace, more: Collection[str] = (), prefixes: Collection[str] = ()
) -> list[Assertion]:
    """Raises ConfigError before anything is simulated."""
    return [Assertion(text, more, prefixes) for text in options.assertions]


def told(verdicts: Sequence[Verdict]) -> str:
    """A line for each, empty without any."""
    return "".join(f"{verdict}\n" for verdict in verdicts)


def write(path: Path, text: str) -> None:
    """Raises ConfigError."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def progress(total: int, what: str) -> Callable[[int], None] | None:
    """Draws a bar where a person looks on; told how many are done."""
    if not sys.stderr.isatty():
        return None

    def show(done: int) -> None:
        full = _BAR * done // total
        end = "\n" if done >= total else ""
        print(f"\r{what} {'#' * full}{'.' * (_BAR - full)} {done}/{total}", end=end, file=sys.stderr, flush=True)

    show(0)
    return show
