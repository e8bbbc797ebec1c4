"""A self-contained HTML file: its shell, tables, bars and plots; `page` says what stands in it.

The file needs no network and no other file, and is not allowed to: its policy (CSP) names the hashes of the styles and
scripts that it brings along, and refuses everything else. Every word that comes from a result is escaped here.
Plots are drawn in the browser by `assets/page.js` with uPlot (https://github.com/leeoniya/uPlot, MIT).
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from pathlib import Path

import msgspec

from rbeerouter import __version__
from rbeerouter.sim.tables import Table
from rbeerouter.sim.units import count, printable

ASSETS = Path(__file__).with_name("assets")

POINTS = 300
"""A plot is about a thousand pixels wide: timelines with more points are thinned, so that the file stays small."""


class Curve(msgspec.Struct, frozen=True):
    """A line of a plot. ys: one value for each x, None where there is none."""

    label: str
    ys: Sequence[float | None]
    xs: Sequence[float] = ()


class Shade(msgspec.Struct, frozen=True):
    """A stretch of time in which something was wrong."""

    start_s: float
    end_s: float
    label: str


class Plot(msgspec.Struct, frozen=True):
    """A plot.

    kind: "time", whose curves have a value for each interval of `every_s`, "cdf", whose curves have xs of their own in
    seconds and shares, or "scatter", whose curves are points with `names`.
    x_unit, unit: of the axes: "s", "share", or none. most: where the y axis ends; None: as the values do.
    """

    caption: str
    kind: str
    curves: Sequence[Curve]
    unit: str = ""
    every_s: float = 1.0
    shades: Sequence[Shade] = ()
    most: float | None = None
    small: bool = False
    x_unit: str = ""
    x_label: str = ""
    y_label: str = ""


class Document:
    """Gathers the parts of a page, top down; `text` is the file."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._body: list[str] = []
        self._plots: list[Plot] = []
        self._headed = ""

    def add(self, markup: str) -> None:
        """Markup that is safe already."""
        self._body.append(markup)

    def heading(self, text: str, remark: str = "") -> None:
        self._headed = text
        below = f'<p class="remark">{escaped(remark)}</p>' if remark else ""
        self.add(f"<h2>{escaped(text)}</h2>{below}")

    def table(self, table: Table, bars: Sequence[float] | None = None) -> None:
        """A table, if it has rows. bars: a share of 0 to 1 for each row. A title that the heading said is not shown."""
        if table.rows:
            self.add(table_markup(table, bars, titled=table.title != self._headed))

    def plots(self, *plots: Plot) -> None:
        """Plots side by side, with one table of their values below."""
        first = len(self._plots)
        self._plots += plots
        figures = "".join(self._figure(first + place, plot) for place, plot in enumerate(plots))
        numbers = " ".join(str(first + place) for place in range(len(plots)))
        self.add(
            f'<div class="plots{" small" if plots[0].small else ""}">{figures}</div>'
            f'<details class="values" data-plots="{numbers}"><summary>The values as a table</summary></details>'
        )

    def _figure(self, number: int, plot: Plot) -> str:
        caption = escaped(plot.caption)
        curves = count(len(plot.curves), "curve") if plot.kind != "scatter" else "points"
        label = f"{caption}: a plot with {curves}. The arrow keys read it out; its values are in the table below."
        return (
            f'<figure><figcaption>{caption}<output aria-hidden="true"></output></figcaption>'
            f'<div class="plot" data-plot="{number}" role="group" tabindex="0" aria-label="{label}"></div></figure>'
        )

    def text(self) -> str:
        style = _asset("uPlot.min.css") + _asset("page.css")
        scripts = [_asset("uPlot.iife.min.js"), _asset("page.js")]
        allowed = " ".join(_hash(script) for script in scripts)
        policy = (
            f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        )
        data = msgspec.json.encode([_data(plot) for plot in self._plots]).decode().replace("<", "\\u003c")
        head = [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">',
            f"<title>{escaped(self.title)}</title>",
            f'<link rel="icon" href="data:,"><style>{style}</style></head><body><main>',
        ]
        foot = [
            f'</main><footer>Made by rbeerouter {__version__}. Everything on this page is in this file.</footer>'
            '<p id="read-out" class="unseen" aria-live="polite"></p>',
            f'<script type="application/json" id="plots">{data}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body></html>\n",
        ]
        return "\n".join([*head, *self._body, *foot])


def escaped(text: str) -> str:
    return html.escape(printable(text))


def table_markup(table: Table, bars: Sequence[float] | None = None, titled: bool = True) -> str:
    """bars are drawn after the rows' names."""
    head = [f'<th scope="col"{_kind(table, place)}>{escaped(name)}</th>' for place, name in enumerate(table.head)]
    rows = []
    for place, row in enumerate(table.rows):
        name, *cells = row
        told = [f"<td{_kind(table, column, cell)}>{escaped(cell)}</td>" for column, cell in enumerate(cells, 1)]
        drawn = f"<td>{bar(bars[place])}</td>" if bars is not None else ""
        rows.append(f'<tr><th scope="row">{escaped(name)}</th>{drawn}{"".join(told)}</tr>')
    if bars is not None:
        head.insert(1, '<td class="bars"></td>')
    shown = f"<thead><tr>{''.join(head)}</tr></thead>" if any(table.head) else ""
    unseen = ' class="unseen"'
    note = f'<p class="remark">{escaped(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(table.title)}">'
        f'<table id="{table.name}"><caption{"" if titled else unseen}>{escaped(table.title)}</caption>{shown}'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _kind(table: Table, column: int, cell: str = "") -> str:
    if not column:
        return ""
    kind = "words" if column in table.wide else "number"
    return f' class="{kind} {table.tones[cell]}"' if cell in table.tones else f' class="{kind}"'


def bar(share: float) -> str:
    """A bar of a share of 0 to 1, that a style sheet colours."""
    return (
        '<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{100 * share:.1f}" height="1"/></svg>'
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data(plot: Plot) -> dict[str, object]:
    """A plot as page.js reads it, thinned, with four digits for each number."""
    length = max((len(curve.ys) for curve in plot.curves), default=0)
    step = max(-(-length // POINTS), 1) if plot.kind == "time" else 1
    return {
        "caption": plot.caption, "kind": plot.kind, "unit": plot.unit, "xUnit": plot.x_unit, "xLabel": plot.x_label,
        "yLabel": plot.y_label, "every": plot.every_s * step,
        "most": _short(plot.most) if plot.most is not None else None, "small": plot.small,
        "shades": [(shade.start_s, shade.end_s, shade.label) for shade in plot.shades],
        "curves": [
            {
                "label": curve.label, "xs": [_short(x) for x in curve.xs],
                "ys": [_mean(curve.ys[place : place + step]) for place in range(0, len(curve.ys), step)],
            }
            for curve in plot.curves
        ],
    }  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _short(sum(known) / len(known)) if known else None


def _short(value: float) -> float:
    return float(f"{value:.4g}")
