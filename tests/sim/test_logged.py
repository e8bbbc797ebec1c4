"""The log of a simulation is a new file with every line in it, from which every decision can be made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from rbeerouter import recorded
from rbeerouter.config.loading import load
from rbeerouter.config.sections import ConfigError, Split
from rbeerouter.core.dispatch import refused_job
from rbeerouter.core.errors import RouterError
from rbeerouter.core.types import Request
from rbeerouter.sim import world
from rbeerouter.sim.logged import log_of
from rbeerouter.sim.replay import Asked, replay
from rbeerouter.sim.traces import Cut, Trace
from rbeerouter.sim.types import Fault, SimWorker
from rbeerouter.sim.workload import Traffic
from tests.sim.small import Poisson, config, scenario, worker


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


RANDOM = b"""
function route_request(request, workers)
  if math.random(1, 10) == 1 then return nil end
  if request.user_id == "user-1" then return workers:sample() end
  return strategy("round-robin")(request, workers)
end
"""
TURNS = b"""
function route_request(request, workers)
  local turn = state:incr("turn")
  if turn % 7 == 0 then return strategy("round-robin")(request, workers) end
  if turn % 11 == 0 then return nil, "the split decides" end
  return workers[turn % #workers + 1]
end
"""
HOOKS = b"""
function route_request(request, workers)
  local bad = state:get("bad " .. (request.user_id or "")) or ""
  local ready = workers:filter(function(w) return w.status == "ready" and w.id ~= bad end)
  if #ready == 0 then return queue(nil, {timeout_s = 3, priority = math.random(1, 3)}) end
  if math.random(1, 5) == 1 then return ready end
  return ready:min_by("latency_ms") or ready[1]
end

function on_failure(request, attempt, workers)
  state:set("bad " .. (request.user_id or ""), attempt.worker_id)
  if math.random(1, 4) == 1 then return nil end
  return workers:filter(function(w) return w.id ~= attempt.worker_id end):sample()
end

function on_complete(request, outcome)
  if outcome.ok then state:set("bad " .. (request.user_id or ""), nil) end
end
"""
READS_LOAD = b"""
function route_request(request, workers)
  return workers:min_by(function(w) return (w.waiting or 0) + w.load + (w.kv_usage or 0) + (w.load_age_s or 0) / 10 end)
end
"""
BY_THE_HOUR = b"""
function route_request(request, workers)
  return workers[timestamp():hour() % #workers + 1]
end
"""
FAULTS = (
    Fault("w0", "crash", 3.0, 4.0), Fault("w1", "refuse", 2.0, 6.0, 0.5), Fault("w2", "slow", 1.0, 9.0, 6.0),
    Fault("w1", "cut", 12.0, 3.0), Fault("w2", "lie", 14.0, 5.0),
)  # fmt: skip
SPLIT = {"strategy": "round-robin", "split": Split(local_fraction=0.7)}


@pytest.mark.parametrize(
    ("script", "routing", "rate"),
    [
        (RANDOM, {}, 30.0), (TURNS, {}, 30.0), (TURNS, SPLIT, 30.0), (HOOKS, {}, 30.0), (HOOKS, {}, 90.0),
        (READS_LOAD, {}, 60.0), (None, {}, 30.0), (None, SPLIT, 30.0),
        (None, {"strategy": "round-robin"}, 90.0), (BY_THE_HOUR, {"timezone": "Europe/Berlin"}, 30.0),
    ],
)  # fmt: skip
def test_what_a_simulation_logs_is_decided_again_alike(
    script: bytes | None, routing: dict[str, Any], rate: float, tmp_path: Path
) -> None:
    given = scenario(
        Poisson(600, rate, lambda rng: rng.randrange(1, 60), leaves_after_s=8.0),
        *[worker(f"w{n}", slots=4, prefill_s=0.001, overhead_s=0.01) for n in range(3)], by_token("cloud"),
        config=config(routing=routing, limits={"queue_s": 5.0}), script=script, faults=FAULTS, seed=5,
        strategy=routing.get("strategy", "least-request"), start_wall=1_774_659_600.0 + 86_400 - 10,
    )  # fmt: skip
    path = tmp_path / "routing.log"
    with log_of(path, given.config) as recorder:
        result = world.run(given, on_line=recorder.record, on_roll=recorder.enroll)
    assert all("is offline" in text for text in result.script_errors), "the script itself is right"
    assert result == msgspec.structs.replace(world.run(given), timing=result.timing), "to be told of changes nothing"
    found = replay([path], Asked(script, routing=given.config.routing, models=given.config.models))
    assert (found.changed, found.uncertain, found.reasons, found.skipped, found.notes) == (0, 0, 0, {}, [])
    assert found.total == 600 - result.errors.get("poison_request", 0)
    assert len(result.reasons) > 1 or script in (READS_LOAD, BY_THE_HOUR)
    if script is BY_THE_HOUR:
        assert sum(one.attempts > 20 for one in result.workers) >= 2, "the clock's hour changes in between"
    other = replay([path], Asked(b"function route_request(r, w) return w[#w] end", routing=given.config.routing))
    assert other.changed > 100, "a replay would find a difference"


def test_a_simulated_log_is_a_workload_again(tmp_path: Path) -> None:
    path = tmp_path / "routing.log"
    given = scenario(Poisson(200, 30.0), *[worker(f"w{n}") for n in range(3)], script=RANDOM)
    with log_of(path, given.config) as recorder:
        result = world.run(given, on_line=recorder.record, on_roll=recorder.enroll)
    again = world.run(msgspec.structs.replace(given, workload=Trace(path, None, Cut(), Traffic(models={"m": 1.0}), {}, 1)))
    assert again.all.requests == result.all.requests == 200
    assert again.all.tokens_out == result.all.tokens_out
    assert again.users.keys() == result.users.keys()


def by_token(name: str) -> SimWorker:
    """A service on the internet, for the split."""
    made = worker(name, "openai", slots=8)
    return msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, deployment="remote"))
