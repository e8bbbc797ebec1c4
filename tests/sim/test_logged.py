"""The log of a simulation is a new file with every line in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbeerouter import recorded
from rbeerouter.config.loading import load
from rbeerouter.config.sections import ConfigError
from rbeerouter.core.dispatch import refused_job
from rbeerouter.core.errors import RouterError
from rbeerouter.core.types import Request
from rbeerouter.sim.logged import log_of


def test_every_job_becomes_a_line_with_its_user_by_name(tmp_path: Path) -> None:
    path = tmp_path / "routing.log"
    with log_of(path, load(workers=("http://127.0.0.1:9",))) as recorder:
        for number in range(100):
            request = Request(f"sim-{number}", "/v1/chat/completions", "m", None, "anna", None, None, False, {"type": "llm"})
            recorder.record(refused_job(request, RouterError("queue_full", "nobody"), 0.0, 1_767_225_600.0 + number, 0.0))
    lines = list(recorded.read_log(path))
    assert [line.request_id for line in lines] == [f"sim-{number}" for number in range(100)]
    assert {line.user for line in lines} == {"anna"}
    assert recorded.seconds(lines[3].time) == 1_767_225_603.0


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "routing.log"
    path.write_text("yesterday\n")
    with pytest.raises(ConfigError, match="is there already; expected the name of a new file"), log_of(path, load()):
        pass
    with pytest.raises(ConfigError, match="cannot be written: Not a directory"), log_of(path / "x", load()):
        pass
    assert path.read_text() == "yesterday\n"
