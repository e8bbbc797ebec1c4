"""What came of the comparison in words: a table in Markdown, and the page docs/strategies.md brought up to date.

On the page, this owns the table between `BEGIN` and `END`, and in each strategy's section its figure and the paragraph
behind it; all else is written by people.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from rbeerouter.sim.paired import Interval
from rbeerouter.sim.units import count, figure, seconds

from .cases import LEAST_REQUEST, RANDOM
from .measures import told
from .run import BETTER, LIKE, WORSE, Compared

BEGIN, END = "<!-- scripts/compare-strategies -->", "<!-- end -->"
_HEAD = ("strategy", "measured", "itself", "`random`", "difference", "`least-request`", "verdict")
_SAYS = {BETTER: "better", WORSE: "**worse**", LIKE: "alike"}


def table(found: Sequence[Compared]) -> str:
    """A row for the first measure of each strategy."""
    rows = [_HEAD, tuple("---" for _ in _HEAD), *(_row(compared) for compared in found)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(compared: Compared) -> tuple[str, ...]:
    case, measure = compared.case, compared.measures[0]
    yardstick = RANDOM if RANDOM in case.against else case.against[0]
    cells = [
        told(compared.mean(name), measure.unit) if name in compared.values else ""
        for name in (case.strategy, RANDOM, LEAST_REQUEST)
    ]
    name = f"[{case.strategy}](#{case.strategy})"
    if case.strategy == RANDOM:
        return name, measure.about, cells[0], cells[0], "", cells[2], ""
    apart = difference(compared.difference(yardstick), measure.unit)
    return name, measure.about, cells[0], cells[1], apart, cells[2], _SAYS[compared.verdict(yardstick)]


def difference(found: Interval, unit: str) -> str:
    """`-1.2 s ± 0.1 s`; of shares in points of a hundred. Without its confidence where too few seeds tell."""
    half = None if found.high is None else found.high - found.mean
    if unit == "share":
        shown = f"{100 * found.mean:+.1f}" + ("" if half is None else f" ± {100 * half:.1f}")
        return f"{shown} points"
    write = seconds if unit == "s" else figure
    return f"{'-' if found.mean < 0 else '+'}{write(abs(found.mean))}" + ("" if half is None else f" ± {write(half)}")


def sentence(compared: Compared) -> str:
    """What a figure shows, and how it was measured."""
    case, parts = compared.case, []
    for index, measure in enumerate(compared.measures):
        others = ", ".join(
            f"{name} {told(compared.mean(name, index), measure.unit)}" for name in compared.values
            if name != case.strategy
        )  # fmt: skip
        parts.append(f"{measure.about}: {told(compared.mean(case.strategy, index), measure.unit)} ({others})")
    times = f"{len(compared.values[case.strategy])} {'slices' if compared.real else 'times'} of"
    asked = f"{times} {count(compared.requests)} requests of {compared.workload}{case.clients}"
    load = f"at {case.load:.0%} of what they could serve at most"
    return f"**Measured:** {'; '.join(parts)}. Means of {asked}, on {case.workers}, {load}."


def failures(found: Sequence[Compared]) -> list[str]:
    """Those that are not better than random at what they are named for, random itself left out."""
    return [
        f"{compared.case.strategy}: {compared.measures[0].about} is {compared.verdict()}"
        for compared in found
        if RANDOM in compared.case.against and compared.verdict() != BETTER
    ]


def updated(page: str, found: Sequence[Compared], folder: str, whole: bool) -> str:
    """The page with the figures of these strategies, and with the table if they are the whole of them. folder: of the
    figures, from the page."""
    if whole:
        head, _, rest = page.partition(BEGIN)
        page = f"{head}{BEGIN}\n\n{table(found)}\n{END}{rest.partition(END)[2]}"
    for compared in found:
        page = _with_figure(page, compared, folder)
    return page


def _with_figure(page: str, compared: Compared, folder: str) -> str:
    name = compared.case.strategy
    section = re.search(rf"^## {re.escape(name)}\n.*?(?=^##+ |\Z)", page, re.MULTILINE | re.DOTALL)
    if section is None:
        return page
    figure_there = re.compile(rf"^!\[[^]]*\]\([^)]*/{re.escape(name)}\.svg\)\n\n?(?:.+\n)*", re.MULTILINE)
    told_of = figure_there.sub("", section[0]).rstrip("\n")
    beside = ", ".join(other for other in compared.values if other != name)
    words = f"{compared.measures[0].about}, {name} beside {beside}"
    block = f"![{words[0].upper()}{words[1:]}]({folder}/{name}.svg)\n\n{_wrapped(sentence(compared))}\n"
    tail = "\n" if section.end() < len(page) else ""
    return f"{page[: section.start()]}{told_of}\n\n{block}{tail}{page[section.end():]}"


def _wrapped(text: str) -> str:
    """In lines, none of which begins with a unit."""
    kept = re.sub(r"(\d) (m?s)\b", "\\1\N{NO-BREAK SPACE}\\2", text[0].upper() + text[1:])
    lines = textwrap.fill(kept, 120, break_long_words=False, break_on_hyphens=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")
