"""A sweep of params as people read it: the trade-off drawn in a terminal and on a page, and the lines to paste.

`routing tune` prints what these return.
"""

from __future__ import annotations

from collections.abc import Sequence

from rbeerouter.sim import text
from rbeerouter.sim.comparison import told
from rbeerouter.sim.document import Curve, Document, Plot, escaped
from rbeerouter.sim.metrics import metric_of
from rbeerouter.sim.paste import pasted, settable, shown
from rbeerouter.sim.tables import Table, table
from rbeerouter.sim.tune import Objective, Tried, Tuned
from rbeerouter.sim.units import count, figure, printable

_WIDE, _HIGH = 60, 16
"""Of the drawing, in characters."""
_TRIED, _FRONT, _NOW, _KNEE = ".", "o", "@", "*"


def unit_of(objective: Objective) -> str:
    metric = metric_of(objective.name)
    return metric.unit if metric is not None else ""


def drawing(found: Tuned) -> str:
    """The points in plain characters: the first objective to the right, the second one upwards. Empty with only one."""
    if len(found.objectives) < 2:
        return ""
    across, up = found.objectives[:2]
    marks: list[tuple[float, float, str]] = []
    for place, point in enumerate(found.tried):
        x, y = point.values[across.name], point.values[up.name]
        if x is not None and y is not None:
            marks.append((x, y, _mark(found, place, point)))
    if not marks:
        return ""
    rows = [[" "] * _WIDE for _ in range(_HIGH)]
    lowest, highest = (min(x for x, _, _ in marks), min(y for _, y, _ in marks)), (
        max(x for x, _, _ in marks), max(y for _, y, _ in marks),
    )  # fmt: skip
    for x, y, mark in sorted(marks, key=lambda one: ".o@*".index(one[2])):
        column = _step(x, lowest[0], highest[0], _WIDE)
        row = _HIGH - 1 - _step(y, lowest[1], highest[1], _HIGH)
        rows[row][column] = mark
    top, bottom = told(highest[1], unit_of(up)), told(lowest[1], unit_of(up))
    room = max(len(top), len(bottom))
    lines = [f"{up.name}"]
    for number, row in enumerate(rows):
        label = top if number == 0 else bottom if number == _HIGH - 1 else ""
        lines.append(f"{label:>{room}} |{''.join(row).rstrip()}".rstrip())
    left, right = told(lowest[0], unit_of(across)), told(highest[0], unit_of(across))
    lines.append(f"{'':{room}} +{'-' * _WIDE}")
    lines.append(f"{'':{room}}  {left}{right:>{_WIDE - len(left)}}")
    lines.append(f"{across.name:>{room + 2 + _WIDE}}")
    lines.append(f"{_TRIED} tried   {_FRONT} nothing is better in both   {_NOW} now   {_KNEE} recommended")
    return "\n".join(lines) + "\n"


def _mark(found: Tuned, place: int, point: Tried) -> str:
    if place == found.knee:
        return _KNEE
    return _NOW if place == found.now else _FRONT if point.front else _TRIED


def _step(value: float, low: float, high: float, steps: int) -> int:
    return round((value - low) / (high - low) * (steps - 1)) if high > low else 0


def choices(found: Tuned) -> Table:
    """The present values and the points worth choosing between, in order of the first objective."""
    first = found.objectives[0]
    places = [place for place, point in enumerate(found.tried) if point.front or place == found.now]
    places.sort(key=lambda place: (first.loss(found.tried[place].values[first.name] or 0.0), place))
    names = list(found.tried[0].params)
    rows = [
        (
            _role(found, place), *(shown(found.tried[place].params[name]) for name in names),
            *(told(found.tried[place].values[one.name], unit_of(one)) for one in found.objectives),
            str(found.tried[place].seeds),
        )
        for place in places
    ]  # fmt: skip
    head = ("", *names, *(one.name for one in found.objectives), "seeds")
    return table("choices", "Worth choosing between", head, rows, _note(found))


def _role(found: Tuned, place: int) -> str:
    """What a point is, in words."""
    words = ["now"] if place == found.now else []
    words += ["recommended"] if place == found.knee else []
    words += [f"best {name}" for name, best in found.ends.items() if best == place]
    return ", ".join(words)


def _note(found: Tuned) -> str:
    broken = sum(bool(point.broken) for point in found.tried)
    notes = [f"{count(len(found.tried), 'point')} tried in {count(found.runs, 'simulation')}"]
    if broken:
        notes.append(f"{count(broken)} broke an assertion")
    flat = [one.name for one in found.objectives if len({point.values[one.name] for point in found.tried}) == 1]
    notes += [f"{name} is the same wherever it was tried" for name in flat]
    return "; ".join(notes)


def to_paste(found: Tuned, source: bytes, name: str) -> str:
    """The lines of the script for the recommended point and for each end of the front."""
    if found.knee is None:
        broken = dict.fromkeys(expression for point in found.tried for expression in point.broken)
        why = f"every point breaks {' or '.join(broken)}" if broken else "no point has all of the numbers"
        return f"Nothing can be recommended: {why}.\n"
    wanted: dict[int, list[str]] = {found.knee: ["recommended"]}
    for objective, place in found.ends.items():
        wanted.setdefault(place, []).append(f"best {objective}")
    lines = []
    for place, roles in wanted.items():
        point = found.tried[place]
        values = ", ".join(f"{param} = {shown(value)}" for param, value in point.params.items())
        lines.append(f"{' and '.join(roles)}: {values}")
        if place == found.now:
            lines.append("  these are the values that the script has now")
            continue
        changed = pasted(source, point.params)
        lines += [f"  {name}:{line}: {printable(code)}" for line, code in changed]
        if settable(source, point.params):
            setting = " ".join(f"{param}={shown(value)}" for param, value in point.params.items())
            lines.append(f"  or, until the next restart: rbeerouter param {setting}")
    return "\n".join(lines) + "\n"


def terminal(found: Tuned, source: bytes, name: str, *, colour: bool = False) -> str:
    """For a terminal."""
    title = f"{printable(name)} on {printable(found.workload)}\n"
    parts = [title, drawing(found), text.section(choices(found), colour=colour), to_paste(found, source, name)]
    return "\n".join(part for part in parts if part)


def page(found: Tuned, source: bytes, name: str, command: str | None = None) -> str:
    """One HTML file."""
    made = Document(title := f"Params of {name}")
    made.add(f"<header><h1>{escaped(title)}</h1><p>{escaped(found.workload)}<br>{escaped(_note(found))}</p></header>")
    for other in found.objectives[1:]:
        made.plots(_plot(found, found.objectives[0], other))
    made.heading("Worth choosing between", "Nothing that was tried is better in one number and as good in all.")
    made.table(choices(found))
    made.heading("To paste")
    made.add(f'<pre class="command" tabindex="0"><code>{_markup(to_paste(found, source, name))}</code></pre>')
    made.heading("All that was tried")
    made.table(_everything(found))
    if command is not None:
        made.heading("To run it again")
        made.add(f'<pre class="command" tabindex="0"><code>{escaped(command)}</code></pre>')
    return made.text()


def _markup(lines: str) -> str:
    return "\n".join(escaped(line) for line in lines.splitlines())


def _plot(found: Tuned, across: Objective, up: Objective) -> Plot:
    groups: dict[str, list[Tried]] = {"recommended": [], "now": [], "nothing is better in all": [], "tried": []}
    names = dict(zip((_KNEE, _NOW, _FRONT, _TRIED), groups, strict=True))
    for place, point in enumerate(found.tried):
        if point.values[across.name] is not None and point.values[up.name] is not None:
            groups[names[_mark(found, place, point)]].append(point)
    curves = [_curve(label, points, across.name, up.name) for label, points in groups.items() if points]
    return Plot(
        f"{up.name} by {across.name}", "scatter", curves, _short_unit(up), x_unit=_short_unit(across),
        x_label=across.name, y_label=up.name,
    )  # fmt: skip


def _short_unit(objective: Objective) -> str:
    unit = unit_of(objective)
    return unit if unit in ("s", "share") else ""


def _curve(label: str, points: Sequence[Tried], across: str, up: str) -> Curve:
    return Curve(label, [point.values[up] for point in points], [point.values[across] or 0.0 for point in points])


def _everything(found: Tuned) -> Table:
    names = list(found.tried[0].params)
    rows = [
        (
            str(place + 1), *(shown(point.params[name]) for name in names),
            *(figure(point.values[one.name]) for one in found.objectives), str(point.seeds), "; ".join(point.broken),
        )
        for place, point in enumerate(found.tried)
    ]  # fmt: skip
    head = ("point", *names, *(one.name for one in found.objectives), "seeds", "breaks")
    return table("tried", "All that was tried", head, rows, wide=(0, len(head) - 1))
