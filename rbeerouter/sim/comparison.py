"""A comparison of two scripts as people read it: tables for a terminal, a page, and Markdown for a pull request.

`routing diff` prints what these return. `diff` says what is true; nothing here computes more than a ratio.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from rbeerouter.sim import text
from rbeerouter.sim.diff import BETTER, NOWHERE, OTHER, SAME, UNSURE, WORSE, Change, Diff, Move
from rbeerouter.sim.document import Curve, Document, Plot, escaped
from rbeerouter.sim.metrics import METRICS
from rbeerouter.sim.paired import FEWEST
from rbeerouter.sim.tables import BAD, GOOD, MOST_ROWS, Table, table
from rbeerouter.sim.units import count, figure, percent, printable, seconds

_LEFT_OUT = frozenset(
    f"{prefix}_{quantity}" for prefix in ("mean", "p90", "max") for quantity in ("ttft_s", "e2e_s", "queue_s", "tpot_s")
) | {"simulated_s", "requests_per_s", "tokens_in", "p95_tpot_s", "p99_tpot_s"}
"""Numbers that tell little beside their neighbours; --json has them."""
_MARKS = {BETTER: "better", WORSE: "WORSE", OTHER: "different", UNSURE: "not sure", SAME: "same"}


def headline(found: Diff) -> str:
    """What became of it, in a sentence."""
    better, worse = _named(found, BETTER), _named(found, WORSE)
    seeds = count(len(found.seeds), "seed")
    moved = f"{count(found.moved)} of {count(found.requests, 'request')} ({percent(found.moved_share)}) go elsewhere"
    if not better and not worse:
        changed = "no difference seen in any number that has a better way"
        if len(found.seeds) < FEWEST:
            changed = f"fewer than {FEWEST} seeds tell nothing for certain"
    else:
        changed = "; ".join(
            f"{word}: {', '.join(names)}" for word, names in (("better", better), ("worse", worse)) if names
        )
    return f"{moved}, over {seeds}. {changed[0].upper()}{changed[1:]}."


def _named(found: Diff, effect: str) -> list[str]:
    return [change.name for change in _shown(found.changes) if change.effect == effect and "[" not in change.name]


def changes(found: Diff) -> Table:
    """What became of the numbers of the whole result."""
    shown = [change for change in _shown(found.changes) if "[" not in change.name or change.name.startswith("share[")]
    return _table("changes", "What changes", shown, _sure(found))


def parts(found: Diff) -> Table:
    """The numbers of tiers, models and workers that changed for certain, where there are several, and of errors."""
    keys: dict[str, set[str]] = {}
    for change in found.changes:
        part, bracket, rest = change.name.partition("[")
        if bracket and part != "share":
            keys.setdefault(part, set()).add(rest.partition("]")[0])
    several = tuple(f"{part}[" for part, names in keys.items() if part == "error" or len(names) > 1)
    seen = [one for one in found.changes if one.name.startswith(several) and one.effect in (BETTER, WORSE, OTHER)]
    left = len(seen) - MOST_ROWS
    return _table("parts", "Tiers, models, workers and errors", seen[:MOST_ROWS],
                  f"{count(left)} more; --json has them" if left > 0 else "")  # fmt: skip


def moves(found: Diff) -> Table:
    """From which worker to which, and by which lines."""
    rows = [_move_row(move, found) for move in found.moves[:MOST_ROWS]]
    left = len(found.moves) - MOST_ROWS
    note = f"{count(left, 'more pair')} of workers not shown" if left > 0 else ""
    head = ("from", "to", "requests", "share", f"by {found.before}", f"by {found.after}")
    return table("moves", "Who moves", head, rows, note, wide=(0, 1, 4, 5))


def _move_row(move: Move, found: Diff) -> tuple[str, ...]:
    most = move.lines[0]
    others = f" and {count(len(move.lines) - 1)} more" if len(move.lines) > 1 else ""
    share = percent(move.requests / found.requests)
    return move.before, move.after, count(move.requests), share, _short(most.before), _short(most.after) + others


def _short(reason: str) -> str:
    """`routing.lua:7` of `script: routing.lua:7`, and of a strategy that was asked because that line returned nil."""
    by, _, why = reason.partition(": ")
    if by == "script":
        return why
    return why.partition("; ")[2] or reason


def _sure(found: Diff) -> str:
    if len(found.seeds) < FEWEST:
        return f"What is luck can be told from {FEWEST} seeds on."
    told = f"With 95 % confidence, over {count(len(found.seeds), 'seed')}, each the same on both sides."
    if found.same_traffic:
        told += " All have the same requests: this is certain of them, not of another day's."
    return told


def _shown(given: Iterable[Change]) -> list[Change]:
    return [
        change
        for change in given
        if change.name not in _LEFT_OUT and (change.before is not None or change.after is not None)
        and not (change.effect == SAME and not change.before and change.name != "rejected")
    ]  # fmt: skip


def _table(name: str, title: str, shown: Sequence[Change], note: str) -> Table:
    rows = [
        (change.name, told(change.before, change.unit), told(change.after, change.unit), *_change(change),
         _MARKS[change.effect])
        for change in shown
    ]  # fmt: skip
    head = ("", "before", "after", "change", "give or take", "so")
    return table(name, title, head, rows, note, wide=(0, 5), tones={_MARKS[BETTER]: GOOD, _MARKS[WORSE]: BAD})


def told(value: float | None, unit: str) -> str:
    """A number in its unit."""
    if value is None:
        return ""
    if unit == "s":
        return seconds(value)
    if unit == "share":
        return percent(value)
    return figure(value)


def _change(change: Change) -> tuple[str, str]:
    """The difference, and how far the truth may lie from it: in percent of the value before, where it has one."""
    difference, high = change.difference, change.high
    if not difference or change.effect == SAME:
        return ("0" if change.effect == SAME else ""), ""
    around = None if high is None else high - difference
    if change.unit == "share":
        return f"{_points(difference):+g} pp", "" if around is None else f"{_points(around):g} pp"
    if change.before and abs(difference) < 10 * abs(change.before):
        return _relative(difference / abs(change.before), "+"), "" if around is None else _relative(
            around / abs(change.before), ""
        )
    sign = "-" if difference < 0 else "+"
    return sign + told(abs(difference), change.unit), "" if around is None else told(around, change.unit)


def _relative(share: float, sign: str) -> str:
    hundred = 100 * share
    return f"{hundred:{sign}.{0 if abs(hundred) >= 99.5 else 1}f}%"


def terminal(found: Diff, *, colour: bool = False) -> str:
    """For a terminal."""
    title = f"{printable(found.before)} -> {printable(found.after)} on {printable(found.workload)}"
    tables = [made for made in (moves(found), changes(found), parts(found)) if made.rows]
    told = textwrap.fill(headline(found), text.COLUMNS)
    return "\n".join([title + "\n", told + "\n", *(text.section(made, colour=colour) for made in tables)])


def markdown(found: Diff) -> str:
    """For a pull request."""
    told = [f"### {_cell(found.before)} → {_cell(found.after)}", "", _cell(headline(found)), "", _cell(found.workload)]
    for made in (changes(found), moves(found), parts(found)):
        if not made.rows:
            continue
        open_, close = ("", "") if made.name == "changes" else ("<details><summary>", "</summary>")
        told += ["", f"{open_}{made.title}{close}" if open_ else f"**{made.title}**", "", *_lines(made)]
        if made.note:
            told += ["", _cell(made.note)]
        if open_:
            told += ["", "</details>"]
    return "\n".join(told) + "\n"


def _lines(made: Table) -> list[str]:
    head = "| " + " | ".join(_cell(name) for name in made.head) + " |"
    rule = "|" + "|".join(" --- " if place in made.wide else " ---: " for place in range(len(made.head))) + "|"
    return [head, rule, *("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in made.rows)]


_SPECIAL = str.maketrans({char: "\\" + char for char in "\\`*_{}[]<>#|~"})


def _cell(words: str) -> str:
    """Words in which nothing is taken for Markdown or HTML."""
    return printable(words).translate(_SPECIAL)


def page(found: Diff, command: str | None = None) -> str:
    """One HTML file."""
    made = Document(f"{found.before} against {found.after}")
    made.add(
        f"<header><h1>{escaped(found.before)} → {escaped(found.after)}</h1><p>{escaped(headline(found))}<br>"
        f"{escaped(found.workload)}, seeds {', '.join(map(str, found.seeds))}</p></header>"
    )
    made.heading("What changes", "Each number's mean over the seeds, before and after.")
    made.table(changes(found))
    made.table(parts(found))
    made.heading("Who moves", f"Requests of all seeds that are sent to another worker first; {NOWHERE}: to none.")
    made.table(moves(found))
    made.heading("Latency", f"Of the first seed, {found.seeds[0]}: how many of the requests took at most so long.")
    plots = []
    for caption, name in (("First token", "ttft_cdf"), ("Whole answer", "e2e_cdf")):
        sides = zip((found.before, found.after), found.first, strict=True)
        lines = [(label, getattr(result, name)) for label, result in sides]
        curves = [
            Curve(label, [share for _, share in points], [at for at, _ in points]) for label, points in lines if points
        ]
        if curves:
            plots.append(Plot(caption, "cdf", curves, "share", x_unit="s", x_label="latency (logarithmic)"))
    if plots:
        made.plots(*plots)
    made.heading("All numbers")
    made.table(_table("all", "All numbers of the whole", [one for one in found.changes if one.name in METRICS], ""))
    if command is not None:
        made.heading("To run it again")
        made.add(f'<pre class="command" tabindex="0"><code>{escaped(command)}</code></pre>')
    return made.text()


def _points(share: float) -> float:
    """Percentage points with two digits, or all that stand before the point."""
    points = 100 * share
    return round(points) if abs(points) >= 9.95 else float(f"{points:.2g}")
