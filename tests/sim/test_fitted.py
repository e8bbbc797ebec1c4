"""Tests of how a fit is told."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from rbeerouter.config.sections import ConfigError
from rbeerouter.sim.fitted import Errors, Fitted, as_json, table, toml, write
from rbeerouter.sim.types import Profile

ERRORS = Errors(0.01, -0.02, 0.03, -0.04, 0.05)
FITTED = [
    Fitted("gpu-1", 90, 80, Profile(step_s=0.0123456, slots=3, kv_tokens=5000), ERRORS, ERRORS, ["said so"]),
    Fitted("10.0.0.7:8000", 40, 40, Profile(sequence_s=0.0, step_s=1.0, source='a "quoted" one'), ERRORS),
    Fitted("broken", 5, 5, notes=["not fitted: 5 requests count"]),
]


def test_the_toml_has_a_table_of_profile_values_for_each_fitted_worker() -> None:
    workers = tomllib.loads(toml(FITTED, "a.log"))["workers"]
    assert list(workers) == ["gpu-1", "10.0.0.7:8000"]
    assert all(set(values) <= set(Profile.__struct_fields__) for values in workers.values())
    assert (workers["gpu-1"]["step_s"], workers["gpu-1"]["slots"], workers["gpu-1"]["kv_tokens"]) == (0.01235, 3, 5000)
    assert workers["10.0.0.7:8000"]["source"] == 'a "quoted" one'
    assert "kv_tokens" not in workers["10.0.0.7:8000"]


def test_numbers_that_are_whole_stay_floats() -> None:
    values = tomllib.loads(toml(FITTED, "a.log"))["workers"]["10.0.0.7:8000"]
    assert (type(values["step_s"]), type(values["sequence_s"]), type(values["slots"])) == (float, float, int)


def test_comments_tell_the_errors_and_why_a_worker_is_missing() -> None:
    text = toml(FITTED, "a.log")
    assert "from a.log" in text.splitlines()[0]
    assert "# on the part held back: TTFT p50 +1.0%, TTFT p95 -2.0%, e2e p50 +3.0%, e2e p95 -4.0%, typical 5.0%" in text
    assert "# 80 requests of 90 lines" in text
    assert "# broken\n# not fitted: 5 requests count" in text


def test_the_table_tells_numbers_in_readable_units_and_the_notes() -> None:
    text = table(FITTED)
    assert "12.3 ms" in text
    assert "200 us" not in text                               # 0.2 ms is what one reads
    assert "- said so" in text
    assert "- not fitted: 5 requests count" in text


def test_what_cannot_be_compared_is_a_dash() -> None:
    text = table([Fitted("w", 40, 40, Profile(), Errors(None, None, 0.5, 0.5, 0.1))])
    row = next(line for line in text.splitlines() if "fitted" in line)
    assert row.split()[-5:] == ["-", "-", "+50.0%", "+50.0%", "10.0%"]


def test_json_has_everything_by_worker() -> None:
    read = json.loads(as_json(FITTED, "a.log"))
    assert read["log"] == "a.log"
    assert read["workers"]["gpu-1"]["profile"]["slots"] == 3
    assert read["workers"]["gpu-1"]["held_back"]["e2e_p95"] == -0.04
    assert read["workers"]["broken"]["profile"] is None


def test_a_file_is_written_whole_or_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "workers.toml", FITTED, "a.log")
    assert (tmp_path / "workers.toml").read_text() == toml(FITTED, "a.log")
    assert [path.name for path in tmp_path.iterdir()] == ["workers.toml"]
    with pytest.raises(ConfigError, match=r"--out .*workers\.toml: cannot be written"):
        write(tmp_path / "nowhere" / "workers.toml", FITTED, "a.log")
