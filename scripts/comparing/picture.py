"""A comparison as a small SVG: for each measure a bar for each contender, and a dot on it for each seed.

Colours are those of `rbeerouter/sim/assets/page.css` in the light; the ground is white, as a picture that a page shows
knows nothing of the page's colours.
"""

from __future__ import annotations

import textwrap
from xml.sax.saxutils import escape

from .measures import Measure, told
from .run import Compared

WIDE, NAMES, GAP, ROW, LINE, MARGIN = 760, 150, 24, 26, 15, 12
"""Pixels: of the picture, of the names, between plots, of a bar with its distance, of a line of text, around all."""
OURS, OTHERS, DOTS, INK, SOFT = "#2563eb", "#cbd5e1", "#0f172a", "#1f2937", "#6b7280"
_VALUE = 62
"""Room for the number behind the longest bar."""
_CHARS = 6.4
"""Pixels of a character of a title, on average."""


def picture(compared: Compared) -> str:
    """The SVG's text, the same for the same numbers."""
    names, measures = list(compared.values), compared.measures
    wide = (WIDE - NAMES - 2 * MARGIN - GAP * (len(measures) - 1)) / len(measures)
    titles = [_title(measure, wide) for measure in measures]
    top = MARGIN + LINE * max(map(len, titles)) + 8
    high = top + ROW * len(names) + MARGIN
    made = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {high}" width="{WIDE}" height="{high}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>{escape(compared.case.strategy)} against {escape(', '.join(names[1:]))}</title>",
        f'<rect width="{WIDE}" height="{high}" rx="6" fill="#ffffff"/>',
    ]
    for row, name in enumerate(names):
        weight = ' font-weight="600"' if not row else ""
        middle = top + ROW * (row + 0.5)
        made.append(_text(MARGIN + NAMES - 8, middle + 4, name, INK, f' text-anchor="end"{weight}'))
    for index, title in enumerate(titles):
        left = MARGIN + NAMES + index * (wide + GAP)
        made += [_text(left, MARGIN + 12 + LINE * at, line, SOFT) for at, line in enumerate(title)]
        made += _bars(compared, index, left, top, wide)
    return "\n".join([*made, "</svg>", ""])


def _title(measure: Measure, wide: float) -> list[str]:
    """In lines; the last says which way is better."""
    about = measure.about[0].upper() + measure.about[1:]
    return [*textwrap.wrap(about, int(wide / _CHARS)), f"{'less' if measure.lower else 'more'} is better"]


def _bars(compared: Compared, index: int, left: float, top: float, wide: float) -> list[str]:
    measure, made = compared.measures[index], []
    most = max(abs(row[index]) for rows in compared.values.values() for row in rows) or 1.0
    scale = (wide - _VALUE) / most
    for row, (name, rows) in enumerate(compared.values.items()):
        mean, middle = compared.mean(name, index), top + ROW * (row + 0.5)
        colour = OTHERS if row else OURS
        made.append(
            f'<rect x="{left:.1f}" y="{middle - 8:.1f}" width="{max(1.0, mean * scale):.1f}" height="16" rx="2" '
            f'fill="{colour}"/>'
        )
        made += [
            f'<circle cx="{left + one[index] * scale:.1f}" cy="{middle:.1f}" r="2" fill="{DOTS}" fill-opacity="0.55"/>'
            for one in rows
        ]
        ends = left + scale * max(mean, *(one[index] for one in rows)) + 6
        made.append(_text(ends, middle + 4, told(mean, measure.unit), INK))
    return made


def _text(x: float, y: float, text: str, colour: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}"{more}>{escape(text)}</text>'
