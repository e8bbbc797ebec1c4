"""Simulates what docs/lab describes, opens the pages in chromium, and keeps their upper parts as docs/images/*.png.

Everything is seeded, so a picture changes only when the pages do. Run by hand after such a change.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support import chromium

DOCS = Path(__file__).resolve().parents[2] / "docs"
LAB = ("--config", "home-and-cloud.toml", "--scenario", "home-and-cloud-scenario.toml")
SHOWN: list[tuple[tuple[str, ...], dict[str, tuple[str, str]]]] = [
    (
        ("simulate", "--script", "spill.lua", *LAB, "--requests", "5000", "--fault", "gaming-pc:crash@15m+5m"),
        {
            "report": ("header", "#workers"),
            "timelines": ("h2:has-text('Over time')", ".plots.small"),
            "lines": ("h2:has-text('Why')", "#source"),
        },
    ),
    (("diff", "spill.lua", "spill-by-length.lua", *LAB), {"diff": ("header", "#changes")}),
    (
        ("tune", "--script", "spill.lua", *LAB, "--minimise", "cost,p95_ttft_s", "--runs", "40"),
        {"trade-off": ("header", "#choices")},
    ),
]
"""(the command in docs/lab, {name of a picture: the first and the last thing of the page on it})."""
WIDE, MARGIN = 1000, 16
MOST_BYTES = 150_000
"""A picture is read on the web, and kept in the repository in each of its versions."""


def taken(tab: Any, picture: Path, first: str, last: str) -> int:
    """Writes a picture of the page from one thing to another, and returns its bytes."""
    begin, end = (tab.query_selector(one).bounding_box() for one in (first, last))
    top = max(begin["y"] - MARGIN, 0)
    area = {"x": 0, "y": top, "width": WIDE, "height": end["y"] + end["height"] + MARGIN - top}
    picture.write_bytes(tab.screenshot(full_page=True, clip=area))
    size = picture.stat().st_size
    print(f"{picture.relative_to(DOCS.parent)}: {size:,} bytes")
    return size


def main() -> int:
    if chromium.CHROMIUM is None:
        print("chromium is not installed (Debian: apt install chromium)", file=sys.stderr)
        return 1
    (DOCS / "images").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium.browser() as browser:
        report = Path(folder, "report.html")
        for command, pictures in SHOWN:
            program = [sys.executable, "-m", "rbeerouter", "routing", *command, "--report", str(report)]
            subprocess.run(program, cwd=DOCS / "lab", check=True, stdout=subprocess.DEVNULL)
            with chromium.opened(browser, report, viewport={"width": WIDE, "height": 900}) as page:
                for name, (first, last) in pictures.items():
                    if taken(page.tab, DOCS / "images" / f"{name}.png", first, last) > MOST_BYTES:
                        print(f"  is more than {MOST_BYTES:,} bytes", file=sys.stderr)
                        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
