"""The pages of `routing diff` and `routing tune` in a real browser, made by the commands behind the documentation's
pictures on less traffic.

Run by pytest; skipped where chromium is missing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.picturing.__main__ import DOCS, SHOWN
from tests.support import chromium
from tests.support.chromium import opened

COMMANDS = {command[0]: command for command, _ in SHOWN}
LESS = {"diff": ("--requests", "300", "--seeds", "3"), "tune": ("--requests", "200", "--runs", "12")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.browser() as started:
        yield started


def made(command: str, report: Path) -> str:
    """What the command says; it writes the report."""
    program = [sys.executable, "-m", "rbeerouter", "routing", *COMMANDS[command], *LESS[command], "--report", str(report)]
    return subprocess.run(program, cwd=DOCS / "lab", check=True, capture_output=True, text=True, timeout=300).stdout


def rows(tab: Any, table: str) -> list[list[str]]:
    return tab.eval_on_selector_all(f"#{table} tbody tr", "all => all.map(row => [...row.cells].map(cell => cell.textContent))")


def test_the_page_of_a_comparison_shows_both_sides(browser: Any, tmp_path: Path) -> None:
    told = made("diff", tmp_path / "out.html")
    with opened(browser, tmp_path / "out.html") as page:
        assert (page.complaints, page.requests) == ([], [])
        assert page.tab.text_content("h1") == "spill.lua → spill-by-length.lua"
        canvases = page.tab.query_selector_all(".uplot canvas")
        assert len(canvases) == 2 and all(canvas.evaluate(chromium.COLOURED) >= 2 for canvas in canvases)
        legend = page.tab.eval_on_selector_all(".u-legend th", "all => all.map(one => one.textContent)")
        assert legend == ["spill.lua", "spill-by-length.lua"] * 2
        for name, *values in rows(page.tab, "changes"):
            (line,) = [line for line in told.splitlines() if line.split()[:1] == [name]][:1]
            assert line.split()[1:] == " ".join(values).split()
        assert rows(page.tab, "moves")
        news = {text for *_, text in rows(page.tab, "changes")}
        toned = page.tab.eval_on_selector_all("#changes .good, #changes .bad", "all => all.map(one => one.textContent)")
        assert set(toned) == news & {"better", "WORSE"}


def test_the_page_of_a_sweep_shows_each_point(browser: Any, tmp_path: Path) -> None:
    told = made("tune", tmp_path / "out.html")
    with opened(browser, tmp_path / "out.html", viewport={"width": 400, "height": 800}) as page:
        assert (page.complaints, page.requests) == ([], [])
        assert page.tab.query_selector(".uplot canvas").evaluate(chromium.COLOURED) >= 2
        assert page.tab.evaluate("document.documentElement.scrollWidth") == 400
        tried = len(rows(page.tab, "tried"))
        assert f"{tried} points tried" in told
        page.tab.click("details.values summary")
        page.tab.wait_for_selector("details.values table")
        assert len(page.tab.query_selector_all("details.values tbody tr")) == tried
