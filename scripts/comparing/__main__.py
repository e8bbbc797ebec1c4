"""The command line of scripts/compare-strategies."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rbeerouter.routing.strategies import STRATEGIES
from rbeerouter.sim import jobs

from . import picture, shown
from .cases import CASES
from .run import Compared, Job, gathered, run

ROOT = Path(__file__).resolve().parents[2]
PAGE, FIGURES = ROOT / "docs" / "strategies.md", ROOT / "docs" / "images" / "strategies"
DATA = ROOT.parent / "shared" / "data"
SEEDS, QUICK_SEEDS = 5, 3
QUICK = 4
"""A quick run has so many times fewer requests."""


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/compare-strategies", description=(
        "Simulates for each strategy what it is named for, and holds it against random and others over several seeds. "
        "Prints a table in Markdown."
    ))  # fmt: skip
    parser.add_argument("names", metavar="NAME", nargs="*", help="only these strategies (default: all)")
    parser.add_argument("--data", metavar="DIR", type=Path, default=DATA, help="where the real traces are (default "
                        "../shared/data); what is not there is made up")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="fewer requests and seeds: less than a minute")
    parser.add_argument("--seeds", metavar="N", type=int, help=f"how many (default {SEEDS}, quick {QUICK_SEEDS})")
    parser.add_argument("--jobs", metavar="N", type=int, default=jobs.cores(), help="processes (default: all cores)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write a figure for each strategy: NAME.svg")
    parser.add_argument("--docs", action="store_true", help="bring docs/strategies.md and its figures up to date")
    options = parser.parse_args(given)
    options.seeds = options.seeds or (QUICK_SEEDS if options.quick else SEEDS)
    strange = [name for name in options.names if name not in STRATEGIES]
    if strange:
        parser.error(f"{', '.join(strange)}: expected one of {', '.join(STRATEGIES)}")
    return options


def compared(options: argparse.Namespace) -> list[Compared]:
    """All that is asked for, in the order of STRATEGIES."""
    names = [name for name in STRATEGIES if name in (options.names or STRATEGIES)]
    data = options.data if options.data.is_dir() else None
    work = [
        Job(name, seed, CASES[name].requests // (QUICK if options.quick else 1), data)
        for name in names for seed in range(options.seeds)
    ]  # fmt: skip
    found = []
    for number, one in enumerate(jobs.each(run, work, options.jobs), 1):
        found.append(one)
        if sys.stderr.isatty():
            print(f"\r{number}/{len(work)} {one.strategy:24}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(f"\r{'':40}\r", end="", file=sys.stderr)
    return gathered(work, found)


def main(given: Sequence[str] | None = None) -> int:
    """0: done, whoever is better. 1: a strategy has no case. 2: wrong arguments."""
    options = arguments_of(given)
    missing = [name for name in options.names or STRATEGIES if name not in CASES]
    if missing:
        print(f"no case shows what it is for: {', '.join(missing)} (scripts/comparing/cases.py)", file=sys.stderr)
        return 1
    started = time.monotonic()
    found = compared(options)
    print(shown.table(found))
    for failure in shown.failures(found):
        print(f"not better than random: {failure}")
    print(f"{len(found)} strategies, {options.seeds} seeds, {time.monotonic() - started:.0f} s", file=sys.stderr)
    if options.out is not None:
        write(found, options.out)
    if options.docs:
        write(found, FIGURES)
        PAGE.write_text(shown.updated(PAGE.read_text(), found, "images/strategies", not options.names))
    return 0


def write(found: Sequence[Compared], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for one in found:
        (folder / f"{one.case.strategy}.svg").write_text(picture.picture(one))


if __name__ == "__main__":
    sys.exit(main())
