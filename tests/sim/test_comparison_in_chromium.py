"""The pages of a diff and of a sweep in a real browser. Skipped where there is no chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.sim import comparison, trade_off
from tests.sim import test_comparison, test_trade_off
from tests.sim.made_up import result
from tests.support import chromium
from tests.support.chromium import COLOURED, opened


@pytest.fixture(scope="module", name="browser")
def start_browser() -> Iterator[Any]:
    with chromium.browser() as started:
        yield started


CDF = [(0.1, 0.2), (0.5, 0.7), (2.0, 1.0)]
PAGES = {
    "diff": lambda: comparison.page(test_comparison.made(first=(result(ttft_cdf=CDF), result(ttft_cdf=CDF[1:])))),
    "tune": lambda: trade_off.page(test_trade_off.made(), test_trade_off.SOURCE, "routing.lua"),
}


@pytest.mark.parametrize("name", PAGES)
def test_it_opens_without_a_complaint_and_its_plot_has_curves(name: str, browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(PAGES[name]())
    with opened(browser, file) as page:
        assert (page.complaints, page.requests) == ([], [])
        canvas = page.tab.locator(".uplot canvas").first
        assert canvas.evaluate(COLOURED) >= 2
