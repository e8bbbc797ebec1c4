"""Tests of imagined fleets: rows like those of /api/v1/workers become workers in that state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rbeerouter.config.sections import ConfigError
from rbeerouter.routing.script import script_fields
from rbeerouter.workbench.fleets import Row, fleet_of, read_fleet


def test_a_row_becomes_a_worker_in_that_state() -> None:
    row = Row(
        "gpu", "busy", 3, 4, "vllm", "cuda", 24.0, 12.5, None, ("m",), 100.0, 0.5, {"region": "eu"}, 2, 0.75, 80.0, 9.0,
        "decode", ("a",), "remote", ("m",), 2, 1.5, 40.0, 9.0, 0.1, 60.0, 200.0, False, 1.0, 2.0,
    )  # fmt: skip
    assert script_fields(fleet_of([row]).ordered[0]) == {
        "id": "gpu", "status": "busy", "backend": "cuda", "vram": 24.0, "vram_used": 12.5, "load": 0.75, "models": ("m",),
        "performance": 100.0, "cost_per_hour": 0.5, "metadata": {"region": "eu"}, "engine": "vllm", "capacity": 4,
        "in_flight": 3, "waiting": 2, "kv_usage": 0.75, "latency_ms": 80.0, "ttft_ms": 9.0, "role": "decode",
        "loras": ("a",), "deployment": "remote", "loaded": ("m",), "running": 2, "load_age_s": 1.5,
        "tokens_per_s": 40.0, "inter_token_ms": 9.0, "error_rate": 0.1, "temperature_c": 60.0, "watts": 200.0,
        "owner_active": False, "price_in": 1.0, "price_out": 2.0,
    }  # fmt: skip


def test_a_load_beyond_the_requests_that_are_told_is_that_of_others_and_stays() -> None:
    made = fleet_of([Row("a", in_flight=1, capacity=4, load=0.75)])
    (worker,) = made.ordered
    made.sent(worker, 0.0)
    assert (worker.foreign, worker.load) == (2, 1.0)


def test_a_row_with_a_name_alone_is_a_ready_idle_worker() -> None:
    (worker,) = fleet_of([Row("a")]).ordered
    assert (worker.status, worker.load, worker.in_flight, worker.models) == ("ready", 0.0, 0, ())


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_file_is_read_as_the_control_plane_writes_it(tmp_path: Path, wrapped: bool) -> None:
    rows = [{"id": "a", "url": "http://a", "served": 3, "load": 0.5, "vram": None}, {"id": "b", "status": "offline"}]
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps({"workers": rows} if wrapped else rows))
    assert [(one.id, one.status, one.load) for one in read_fleet(path).ordered] == [("a", "ready", 0.5), ("b", "offline", 0)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no list of workers"),
        ('[{"status": "ready"}]', "missing required field `id` - at `$[0]`"),
        ('[{"id": "a", "status": "online"}]', "Invalid enum value 'online' - at `$[0].status`"),
        ('[{"id": "a", "capacity": 0}]', "Expected `int` >= 1 - at `$[0].capacity`"),
    ],
)
def test_a_file_that_is_no_fleet_is_refused_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "fleet.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"fleet\.json") as caught:
        read_fleet(path)
    assert said in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_fleet(tmp_path / "none.json")
