"""A result as text for a terminal: `summary`, what a person wants first, and `full`, everything.

The commands print what these return. Lines fit 80 columns; nothing is coloured unless asked for, and no name in a
result can steer the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import wrap

from rbeerouter.sim import tables
from rbeerouter.sim.ledger import Ledger
from rbeerouter.sim.tables import Table
from rbeerouter.sim.types import Result
from rbeerouter.sim.units import percent, printable, seconds, shortened, width

COLUMNS = 80
BAR = 20
"""The columns that a bar has at most."""
NAME = 24
"""Names are not made shorter than this many columns."""

_BOLD, _BAR, _PLAIN = "\x1b[1m", "\x1b[36m", "\x1b[0m"
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def summary(result: Result, *, colour: bool = False) -> str:
    """The distribution over workers, the average latency, and how many requests went wrong. Ends with a line end."""
    paint = _painter(colour)
    text = [paint(_BOLD, printable(tables.headline(result))), ""]
    names = [printable(worker.id) + ":" for worker in result.workers]
    served = [tables.served(worker) for worker in result.workers]
    name_room = min(max(map(width, names), default=0), COLUMNS - BAR - 2 - max(map(len, served), default=0) - 2)
    served_room = max(map(len, served), default=0)
    most = max((worker.share for worker in result.workers), default=0.0)
    for worker, name, told in zip(result.workers, names, served, strict=True):
        full = worker.share / most if most else 0.0
        left = _padded(shortened(name, name_room), name_room)
        text.append(f"{left} {told:<{served_room}}  {paint(_BAR, _bar(full))}".rstrip())
    every = result.all
    text.append("")
    if every.e2e_s.count:
        text.append(f"average latency: {seconds(every.e2e_s.mean)} (p95 {seconds(every.e2e_s.p95)})")
    if every.ttft_s.count:
        text.append(f"first token:     {seconds(every.ttft_s.mean)} (p95 {seconds(every.ttft_s.p95)})")
    rejected = f" ({percent(every.rejected / every.requests)})" if every.rejected else ""
    text.append(f"rejected:        {every.rejected:,}{rejected}")
    if every.failed:
        text.append(f"failed:          {every.failed:,} ({percent(every.failed / every.requests)})")
    if every.gone:
        text.append(f"left:            {every.gone:,} ({percent(every.gone / every.requests)})")
    text += _script_errors(result)
    return "\n".join(text) + "\n"


def _script_errors(result: Result) -> list[str]:
    """How often the script failed and the strategy decided instead, with what it failed over most."""
    errors = sum(result.script_errors.values())
    if not errors:
        return []
    share = percent(errors / max(1, result.all.requests))
    most = shortened(printable(next(iter(result.script_errors))), COLUMNS - 4)
    return [f"script errors:   {errors:,} ({share}), most often", f"    {most}"]


def full(result: Result, *, source: bytes | None = None, ledger: Ledger | None = None, colour: bool = False) -> str:
    """Everything: the summary, then a table of each kind. ledger: the same traffic under simpler rules."""
    paint = _painter(colour)
    text = [summary(result, colour=colour)]
    shown = [tables.table("figures", "Figures", ("", "", ""), tables.key_figures(result), wide=(0, 2))]
    shown += [tables.latency(result.all), tables.workers(result), tables.machines(result), *tables.groups(result)]
    shown += [tables.reasons(result), *tables.errors(result)]
    if ledger is not None:
        shown.append(tables.ledger(ledger))
    text += [section(table, colour=colour) for table in shown if table.rows]
    decided = [line for line in tables.lines(result, source) if line.decided]
    if decided:
        text.append(paint(_BOLD, f"Lines of {printable(result.script or '')} that decided") + "\n" + _listing(decided))
    facts = tables.table("facts", "To run it again", ("", ""), tables.facts(result), wide=(0, 1))
    text.append(section(facts, colour=colour))
    return "\n".join(text)


def section(table: Table, *, colour: bool = False) -> str:
    """A table with its title and note. Fits 80 columns where leaving out spare ones and shortening names can do it."""
    spare = [column for column in table.spare if column in table.head]
    while _room(table) > COLUMNS and spare:
        table = table.without(spare.pop(0))
    rooms = _rooms(table)
    rooms[0] = max(min(rooms[0], COLUMNS - sum(rooms[1:]) - 2 * len(rooms)), min(rooms[0], NAME))
    text = [_painter(colour)(_BOLD, table.title)]
    for row in [*_head(table), *table.rows]:
        cells = [
            _padded(shortened(printable(cell), room), room, right=place not in table.wide)
            for place, (cell, room) in enumerate(zip(row, rooms, strict=True))
        ]
        text.append("  " + "  ".join(cells).rstrip())
    if table.note:
        text += wrap(printable(table.note), COLUMNS, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(text) + "\n"


def _head(table: Table) -> list[tuple[str, ...]]:
    """The heads of the columns in up to two lines, as they are often wider than the numbers below."""
    split = [name.rpartition(" ") for name in table.head]
    lines = [tuple(first for first, _, _ in split), tuple(last for _, _, last in split)]
    return [line for line in lines if any(line)]


def _rooms(table: Table) -> list[int]:
    rows = [*_head(table), *table.rows]
    return [max(width(printable(row[place])) for row in rows) for place in range(len(table.head))]


def _room(table: Table) -> int:
    """The columns that it needs at least, with its indent."""
    rooms = _rooms(table)
    return min(rooms[0], NAME) + sum(rooms[1:]) + 2 * len(rooms)


def _listing(decided: Sequence[tables.Line]) -> str:
    room = max(len(f"{line.decided:,}") for line in decided)
    numbers = len(str(decided[-1].number))
    lines = [
        f"  {line.decided:>{room},}  {line.number:>{numbers}}: "
        + shortened(printable(line.text.strip()), COLUMNS - 6 - room - numbers)
        for line in decided
    ]
    return "\n".join(lines) + "\n"


def _painter(colour: bool) -> Callable[[str, str], str]:
    return (lambda code, text: f"{code}{text}{_PLAIN}" if text else text) if colour else (lambda code, text: text)


def _padded(text: str, room: int, right: bool = False) -> str:
    space = " " * (room - width(text))
    return space + text if right else text + space


def _bar(share: float) -> str:
    """Of 0 to 1; anything above 0 shows."""
    eighths = max(round(share * BAR * 8), 1) if share > 0 else 0
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
