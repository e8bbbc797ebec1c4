"""Debian's chromium, driven by playwright: opens files in it, and notes what a page does that it should not.

Tests that look at a page use `opened`; it skips them where there is no browser.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 20.0
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip

COLOURED = """canvas => {
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const colours = new Set();
  for (let at = 0; at < pixels.length; at += 4) {
    const [red, green, blue, alpha] = pixels.subarray(at, at + 4);
    if (alpha > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) > 60) {
      colours.add([red, green, blue].map(part => part >> 5).join());
    }
  }
  return colours.size;
}"""
"""How many colours, other than greys, a canvas shows."""


@contextmanager
def browser() -> Iterator[Any]:
    """A playwright Browser without a window, with a profile of its own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="`scripts/install test` brings playwright")
    if CHROMIUM is None:
        pytest.skip("`scripts/install test` as root on Debian brings chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield started
        finally:
            started.close()


class Opened:
    """A file in a tab. complaints: whatever the console said; requests: whatever it asked for but itself."""

    def __init__(self, browser: Any, file: Path, **looks: Any) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._context = browser.new_context(**{"viewport": {"width": 1100, "height": 900}, **looks})
        self.tab = self._context.new_page()
        self.tab.set_default_timeout(TIMEOUT_S * 1000)
        self.tab.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(file.as_uri())
        self.until("document.querySelectorAll('[data-plot]').length === "
                   "document.querySelectorAll('.uplot canvas').length")  # fmt: skip
        self.requests.remove(file.as_uri())

    def until(self, expression: str, argument: Any = None) -> None:
        """Waits for something to be true. Asked from outside, as the page's own rules let nobody evaluate texts in it."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.tab.evaluate(expression, argument):
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {TIMEOUT_S:g} s still not: {expression}")
            self.tab.wait_for_timeout(20)

    def close(self) -> None:
        self._context.close()


@contextmanager
def opened(browser: Any, file: Path, **looks: Any) -> Iterator[Opened]:
    """The file, opened and drawn. looks: of playwright's new_context, such as color_scheme or viewport."""
    page = Opened(browser, file, **looks)
    try:
        yield page
    finally:
        page.close()
