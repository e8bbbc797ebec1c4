"""The fleet that the examples of the documentation run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Report
from tests.docs.given import SCRIPTS, read_config


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """The workers of docs/routing-scripts.md in the state that it tells."""
    text = next(block.text for block in SCRIPTS.blocks if block.language == "toml")
    made = Fleet()
    made.configure(read_config(text, tmp_path, monkeypatch).workers)
    states = {name: cells for name, *cells in SCRIPTS.rows("The examples on this page")}
    assert list(states) == list(made.workers)
    for name, (status, in_flight, latency_ms, ttft_ms) in states.items():
        worker = made.workers[name]
        if status != "offline":
            made.apply(Report(name, True, None, 0.0))
        if latency_ms != "nil":
            made.sent(worker, 0.0)
            made.finished(worker, None, float(latency_ms) / 1000, 0.0, float(ttft_ms) / 1000)
        for _ in range(int(in_flight)):
            made.sent(worker, 0.0)
        assert worker.status == status
    return made
