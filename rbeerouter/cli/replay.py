"""The command `rbeerouter routing replay`: its options, and what it prints."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbeerouter.cli.arguments import config_option, count, script_and_config
from rbeerouter.config.sections import ConfigError

if TYPE_CHECKING:
    from rbeerouter.sim.replay import Replayed

_MOST_ROWS = 20


def options(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "replay", help="decide a log's requests again, with another script",
        description="Makes the decisions of routing.log again, by what the log says was seen, and shows which ones "
        "another script (or the same) would make otherwise.",
    )  # fmt: skip
    parser.add_argument(
        "--log", metavar="FILE", type=Path, action="append", nargs="+", required=True,
        help="routing.log, also rotated and gzipped parts of it, in any order",
    )  # fmt: skip
    parser.add_argument("--script", metavar="FILE", type=Path, help="default: the configured one")
    config_option(parser)
    for name, what in (("--from", "not compared before"), ("--to", "not compared from then on")):
        parser.add_argument(
            name, metavar="TIME", dest=name[2:] + "_", type=_time, help=f"{what}; as in the log: 2026-03-01T12:00:00Z"
        )
    parser.add_argument("--fail-over", metavar="N%", type=_percent, help="exit with 1 when more than so many change")
    parser.add_argument("--max-changed", metavar="N", type=count, help="exit with 1 when more decisions change")
    parser.add_argument("--window", metavar="LINES", type=count, help="how many may wait for an earlier one (100000)")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Replays and prints. Raises ConfigError, ScriptError."""
    import msgspec

    from rbeerouter.recorded import LogError
    from rbeerouter.routing.script import read_source
    from rbeerouter.sim.replay import WINDOW, Asked, replay

    path, config = script_and_config(options)
    try:
        asked = Asked(read_source(path), path.name, window=WINDOW if options.window is None else options.window)
        if config is None:
            asked = msgspec.structs.replace(asked, configured=False)
        else:
            asked = msgspec.structs.replace(asked, routing=config.routing, models=config.models)
        times = {"begin": options.from_, "end": options.to_}
        asked = msgspec.structs.replace(asked, **{name: time for name, time in times.items() if time is not None})
        result = replay([one for several in options.log for one in several], asked)
    except LogError as error:
        raise ConfigError(str(error)) from None
    if options.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    else:
        print("\n".join(in_words(result)))
    return int(_too_many(result, options))


def _too_many(result: Replayed, options: argparse.Namespace) -> bool:
    share, most = options.fail_over, options.max_changed
    if result.total == 0 and (most is not None or share is not None):
        print("replay: no decision could be compared, so nothing is known of how many would change", file=sys.stderr)
        return True
    if most is not None and result.changed > most:
        return True
    return share is not None and result.changed > share * result.total


def in_words(result: Replayed) -> list[str]:
    """What was found, line by line."""
    share = f" ({result.changed / result.total:.2%})" if result.total else ""
    lines = [f"{result.total} decisions made again, {result.changed} changed{share}"]
    if result.reasons:
        lines.append(f"{result.reasons} more go where they went, for another reason")
    if result.changes:
        lines += ["", f"{'requests':>8}  from -> to"]
        for one in result.changes[:_MOST_ROWS]:
            lines.append(f"{one.count:8}  {one.before} -> {one.after}")
            lines.append(f"{'':8}    {one.reason_before} -> {one.reason_after}; such as {', '.join(one.examples)}")
        if len(result.changes) > _MOST_ROWS:
            lines.append(f"{'':8}  and {len(result.changes) - _MOST_ROWS} other kinds; --json has them")
    if result.script_errors:
        lines += ["", "the script failed:"]
        lines += [f"{times:8}  {text}" for text, times in sorted(result.script_errors.items(), key=lambda one: -one[1])]
    lines += _doubts(result)
    return lines


def _doubts(result: Replayed) -> list[str]:
    """What was not replayed, or not for certain."""
    tally, lines = result.tally, []
    if result.uncertain:
        lines.append(
            f"{result.uncertain} decisions are not counted, of which {result.uncertain_changed} changed: "
            "not all is known that they saw"
        )
    lines += [f"{times} decisions were not made again: {why}" for why, times in result.skipped.items()]
    if tally.unreadable or tally.lost:
        lines.append(f"{tally.unreadable} lines of the log cannot be read, {tally.lost} were never written")
    lines += [f"{name}: the file breaks off" for name in tally.broken]
    others = {by: times for by, times in result.deciders.items() if by != f"script {result.script}"}
    if others:
        told = ", ".join(f"{times} by {by}" for by, times in others.items())
        now = f"script {result.script}" if result.script else "no script"
        lines.append(f"decided at the time: {told}; now: {now}")
    lines += result.notes
    return ["", *lines] if lines else []


def _time(text: str) -> float:
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a time such as 2026-03-01T12:00:00Z") from None
    return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()


def _percent(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a percentage such as 5%")
    return percent / 100
