"""The real traces of ../shared/data, each by the one command of docs/simulate.md, and its page in a real browser.

Run by pytest; skipped where the traces or chromium are missing.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import REPOSITORY, read
from tests.support import chromium
from tests.support.chromium import opened

SHARED = REPOSITORY.parent / "shared" / "data"
TRACES = {
    "azure.html": ("AzureLLMInferenceTrace_conv.csv", "azure_llm_inference_2023_conv.csv", 19_366),
    "mooncake.html": ("conversation_trace.jsonl", "mooncake_conversation.jsonl", 12_031),
}
"""{the report: (what the page calls the trace, its file, its requests)}"""


def command_of(report: str) -> list[str]:
    """The words of the documented command that writes this report."""
    lines = [line for block in read("docs/simulate.md").blocks for line in block.text.splitlines()]
    (line,) = [line for line in lines if line.startswith("rbeerouter ") and line.endswith(f"--report {report}")]
    return shlex.split(line)[1:]


def count(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.parametrize("report", TRACES)
def test_the_documented_command_makes_a_page_that_a_browser_shows(report: str, tmp_path: Path) -> None:
    called, name, requests = TRACES[report]
    if not (SHARED / name).is_file():
        pytest.skip(f"../shared/data/{name} is not there")
    (tmp_path / called).symlink_to(SHARED / name)
    shutil.copy(REPOSITORY / "routing.example.lua", tmp_path)
    with chromium.browser() as browser:
        told = subprocess.run(
            [sys.executable, "-m", "rbeerouter", *command_of(report)],
            cwd=tmp_path, check=True, capture_output=True, text=True, timeout=300,
        ).stdout  # fmt: skip
        with opened(browser, tmp_path / report) as page:
            look_at(page.tab, told, requests)
            assert (page.complaints, page.requests) == ([], [])


def look_at(tab: Any, told: str, requests: int) -> None:
    """The page says what the terminal said, and everything on it is drawn."""
    served = dict(re.findall(r"^([\w-]+): +([\d,]+) requests? \(", told, re.M))
    rows = tab.eval_on_selector_all("#workers tbody tr", "rows => rows.map(row => [row.cells[0].textContent, row.cells[2].textContent])")
    assert dict(rows) == served and len(rows) >= 2
    assert f"{requests:,} requests to {len(rows)} workers" in tab.text_content("header")
    assert 0 < sum(map(count, served.values())) <= requests
    for canvas in tab.query_selector_all(".uplot canvas"):
        assert canvas.evaluate(chromium.COLOURED) >= 1
    assert len(tab.query_selector_all(".plots.small canvas")) == len(rows)
    decided = tab.eval_on_selector_all("#source .decided", "rows => rows.map(row => row.cells[3].textContent)")
    assert decided and all("return" in line for line in decided)
