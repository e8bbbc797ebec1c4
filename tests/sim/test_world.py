"""The whole simulated world: what theory says of queues, what must hold after every run, and what does not depend on
chance outside of the seed."""

from __future__ import annotations

import heapq
import math
import os
import random
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from rbeerouter.config.sections import ConfigError
from rbeerouter.core.dispatch import DONE, Job
from rbeerouter.core.memory import Memory
from rbeerouter.core.models import Model, Models
from rbeerouter.core.types import Decision, Request, Worker
from rbeerouter.routing.script import ScriptError
from rbeerouter.sim import world
from rbeerouter.sim.faults import random_faults
from rbeerouter.sim.statistics import BATCH
from rbeerouter.sim.types import Fault, Result, Targets
from tests.sim.small import Listed, Poisson, arrival, config, scenario, worker

PATIENT = config(limits={"queue_length": 100_000, "queue_per_caller": 100_000, "queue_s": 1e6, "queue_most_s": 1e6,
                         "request_s": 1e6, "stream_s": 1e6})
LEAST = b"""
function route_request(request, workers)
  local ready = workers:filter(function(worker) return worker.status == "ready" end)
  return ready:min_by("load")
end
"""


def erlang_c_wait(servers: int, rate: float, service_s: float) -> float:
    """The mean wait in M/M/c (Erlang, 1917)."""
    offered = rate * service_s
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    waits = last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)
    return waits * service_s / (servers - offered)


def waits(traffic: Poisson, servers: int) -> float:
    """The mean wait before so many servers, first come, first served, in order (Kiefer and Wolfowitz, 1955)."""
    free, waited = [0.0] * servers, 0.0
    for one in traffic:
        begins = max(heapq.heappop(free), one.at_s)
        waited += begins - one.at_s
        heapq.heappush(free, begins + one.tokens_out * 0.01)
    return waited / (traffic.count or 1)


def test_the_routers_own_queue_before_workers_of_one_slot_is_an_m_m_c_queue() -> None:
    servers, rate, mean = 4, 2.2, 100
    traffic = Poisson(40_000, rate, lambda rng: math.ceil(rng.expovariate(1 / mean)), 1, stream=False, users=1)
    result = world.run(scenario(traffic, *[worker(f"w{n}", "openai", slots=1) for n in range(servers)], config=PATIENT))
    service_s = result.all.tokens_out / result.all.ok * 0.01
    assert result.all.queue_s.mean == pytest.approx(waits(traffic, servers), rel=1e-6), "exactly, for these requests"
    assert result.all.queue_s.mean == pytest.approx(erlang_c_wait(servers, rate, service_s), rel=0.03)
    assert sum(one.busy for one in result.workers) / servers == pytest.approx(rate * service_s / servers, rel=0.02)


def test_one_slot_with_answers_of_one_length_is_an_m_d_1_queue() -> None:
    """Half the wait of M/M/1 (Pollaczek and Khinchine)."""
    rate, service_s = 6.0, 0.1
    traffic = Poisson(15_000, rate, lambda rng: 10, stream=False, users=1)
    result = world.run(scenario(traffic, worker("w", "openai", slots=1), config=PATIENT))
    load = rate * service_s
    assert result.all.queue_s.mean == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.03)
    assert result.all.e2e_s.mean == pytest.approx(result.all.queue_s.mean + service_s, rel=1e-6)


def check(result: Result, run: world.World, jobs: list[Job], count: int) -> None:
    """What must hold after every run."""
    group = result.all
    assert len(jobs) == len({job.request.id for job in jobs}) == group.requests == count, "each ends exactly once"
    assert group.ok + group.rejected + group.failed + group.gone == count
    assert all(job.worker is None and job.finished is not None for job in jobs)
    assert [one.in_flight for one in run.fleet.ordered] == [0] * len(run.sites)
    for site in run.sites:
        assert site.engine.advance(run.now + 1e6) == [], "a step under way ends, and whoever was cancelled in it goes"
        assert (len(site.flights), site.engine.running, site.engine.waiting) == (0, 0, 0)
    assert not run.dispatcher.waiting and run.live == 0
    assert sum(result.reasons.values()) == count
    assert sum(result.errors.values()) == count - group.ok
    assert sum(one.attempts for one in result.workers) == sum(len(job.attempts) for job in jobs)
    assert sum(one.group.requests for one in result.workers) == sum(bool(job.tried) for job in jobs)
    for groups in (result.tiers, result.users, result.models):
        assert sum(one.requests for one in groups.values()) == count
        assert sum(one.tokens_out for one in groups.values()) == group.tokens_out
    for one in result.workers:
        assert one.mean_in_flight == pytest.approx(
            sum(tried.duration_ms for job in jobs for tried in job.attempts if tried.worker_id == one.id)
            / 1000 / result.simulated_s, abs=0.01,
        )
    assert sum(result.series.arrivals) * result.series.every_s == pytest.approx(count, rel=0.1)


FAULTS = (
    Fault("w0", "crash", 20.0, 20.0), Fault("w1", "slow", 10.0, 60.0, 8.0), Fault("w2", "refuse", 30.0, 20.0, 0.7),
    Fault("w3", "stall", 15.0, 30.0, 0.5), Fault("w1", "lie", 10.0, 60.0), Fault("w0", "cut", 60.0, 10.0),
    Fault("w2", "crash", 62.0, 5.0), Fault("w2", "crash", 64.0, 10.0),
)


@pytest.mark.parametrize("faults", [(), FAULTS], ids=["well", "with every kind of fault"])
@pytest.mark.parametrize("stream", [True, False], ids=["streams", "whole answers"])
@pytest.mark.parametrize("script", [None, LEAST], ids=["strategy", "script"])
def test_everything_that_arrives_ends_once_and_leaves_nothing_behind(
    faults: tuple[Fault, ...], stream: bool, script: bytes | None
) -> None:
    traffic = Poisson(1500, 15.0, lambda rng: rng.randrange(1, 200), stream=stream, leaves_after_s=9.0)
    tight = config(limits={"queue_length": 20, "queue_s": 1.0, "gap_s": 5.0, "first_content_s": 4.0, "request_s": 8.0})
    given = scenario(
        traffic, *[worker(f"w{n}", slots=3, overhead_s=0.02, cold_start_s=2.0) for n in range(4)], config=tight,
        faults=faults, script=script,
    )
    jobs: list[Job] = []
    choices = array("h")
    run = world.World(given, choices, jobs.append)
    run.play()
    result = world.outcome.result(given, run, 1.0)
    check(result, run, jobs, 1500)
    first = {job.request.id: job.tried[0] if job.tried else None for job in jobs}
    assert [f"w{index}" if index >= 0 else None for index in choices] == [first[f"r-{n}"] for n in range(1500)]
    if faults:
        assert result.all.retried > 0
        assert result.all.failed > 0
    else:
        assert result.all.failed == 0


@pytest.mark.parametrize("seed", [5, 6, 8])
def test_random_faults_leave_nothing_behind(seed: int) -> None:
    """Overlapping ones of every kind, with requests that are on their way, pause or go on elsewhere as they begin."""
    rng = random.Random(seed)
    names = [f"w{n}" for n in range(4)]
    faults = random_faults(rng, names, 2000.0, 40.0, mean_s=8.0)
    tight = config(
        limits={"queue_length": 20, "queue_s": 2.0, "gap_s": 3.0, "first_content_s": 3.0, "request_s": 8.0,
                "stream_s": 20.0, "connect_s": 0.5},
        models=Models([Model("m", continuation=bool(seed % 2))]),
    )  # fmt: skip
    traffic = Poisson(
        300, 10.0, lambda rng: rng.randrange(1, 300), seed, stream=seed % 3 > 0, leaves_after_s=6.0 if seed % 4 == 0 else None
    )
    fleet = [worker(name, slots=3, overhead_s=0.05, cold_start_s=1.0, prefix_cache=bool(seed % 2)) for name in names]
    given = scenario(traffic, *fleet, config=tight, faults=faults, seed=seed)
    jobs: list[Job] = []
    run = world.World(given, None, jobs.append)
    run.play()
    check(world.outcome.result(given, run, 1.0), run, jobs, 300)


def played(seed: int = 3, count: int = 300) -> bytes:
    traffic = Poisson(count, 12.0, lambda rng: rng.randrange(1, 100))
    workers = [worker(f"w{n}", slots=2, prefill_s=0.001) for n in range(4)]
    result = world.run(scenario(traffic, *workers, seed=seed, faults=FAULTS[:4], script=LEAST))
    result.timing = None
    return msgspec.json.encode(result)


def in_another_process(hash_seed: str, seed: int) -> bytes:
    code = f"from tests.sim.test_world import played; import sys; sys.stdout.buffer.write(played({seed}))"
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, check=True,
        cwd=Path(__file__).parents[2],
    ).stdout


def test_the_same_seed_gives_the_same_bytes_in_any_process_and_another_seed_does_not() -> None:
    first = in_another_process("1", 3)
    assert first == in_another_process("2", 3) == played(3)
    assert first != played(4)


def test_memory_does_not_grow_with_the_number_of_requests() -> None:
    """The collector is off during a run, so whatever is kept of a request is seen here."""
    blocks: list[int] = []
    traffic = Poisson(7 * BATCH, 60.0, lambda rng: rng.randrange(1, 40), users=20)
    workers = [worker(f"w{n}", slots=8, prefill_s=0.001, overhead_s=0.01) for n in range(4)]
    given = scenario(traffic, *workers, targets=Targets(ttft_s=1.0), script=LEAST)
    world.run(given, lambda done, now: blocks.append(sys.getallocatedblocks()))
    assert len(blocks) == 8
    assert blocks[6] - blocks[2] < 2 * BATCH, "half a block for each request: each has more than ten"


def test_a_script_decides_by_what_the_last_look_told() -> None:
    """Metrics are as old as in life: a worker that fills up between two looks is not seen to."""
    seen: list[Job] = []
    source = b"""
    function route_request(request, workers)
      log(tostring(workers[1].waiting) .. " " .. tostring(workers[1].load_age_s))
      return workers[1]
    end
    """
    many = Listed(*[arrival(7.0 + n * 0.01, tokens_out=1000) for n in range(30)])
    world.run(scenario(many, worker("w", slots=2, places=64), script=source), on_line=seen.append)
    by_id = {job.request.id: job.decision.log[0] for job in seen}
    assert by_id["at-7.29"].startswith("0 ")                   # 28 wait in it
    assert float(by_id["at-7.29"].split()[1]) > 0


def test_the_clock_of_a_script_is_the_simulations() -> None:
    source = b"""
    function route_request(request, workers)
      log(timestamp():iso() .. " " .. timestamp():hour())
      return workers[1]
    end
    """
    seen: list[Job] = []
    there = config(routing={"timezone": "Europe/Berlin"})
    given = scenario(
        Listed(arrival(0.0), arrival(90_000.0)), worker("w"), script=source, start_wall=1_774_659_600.0, config=there
    )
    world.run(given, on_line=seen.append)
    assert [job.decision.log[0].split()[1] for job in seen] == ["2", "4"]     # the clocks go forward in between


def test_an_idle_day_between_two_requests_is_left_out_and_changes_nothing_for_them() -> None:
    seen: list[Job] = []
    given = scenario(Listed(arrival(1.0), arrival(86_400.0, stream=False)), worker("w"))
    run = world.World(given, None, seen.append)
    run.play()
    assert [job.state for job in seen] == [DONE, DONE]
    assert run.fleet.ordered[0].load_age_s < 7.0
    assert next(run._number) < 2000
    result = world.outcome.result(given, run, 1.0)
    rates, every_s = result.series.arrivals, result.series.every_s
    assert sum(rate * min(every_s, result.simulated_s - index * every_s) for index, rate in enumerate(rates)) == pytest.approx(2)


def test_params_are_set_and_unknown_ones_refused() -> None:
    source = b"""
    function route_request(request, workers)
      return workers[param("which", 1, 1, 2)]
    end
    """
    given = scenario(Listed(arrival(0.0)), worker("a"), worker("b"), script=source)
    result = world.run(msgspec.structs.replace(given, params={"which": 2}))
    assert [one.attempts for one in result.workers] == [0, 1]
    assert result.params == {"which": 2}
    with pytest.raises(ConfigError, match="param what: the script has no such param; known: which"):
        world.run(msgspec.structs.replace(given, params={"what": 2}))
    with pytest.raises(ConfigError, match="param which"):
        world.run(msgspec.structs.replace(given, params={"which": 3}))


def test_a_param_that_a_script_reads_once_has_its_value_as_well() -> None:
    source = b"""
    local which = param("which", 1, 1, 2)
    function route_request(request, workers) return workers[which] end
    """
    given = scenario(Listed(arrival(0.0)), worker("a"), worker("b"), script=source)
    result = world.run(msgspec.structs.replace(given, params={"which": 2}))
    assert ([one.attempts for one in result.workers], result.params) == ([0, 1], {"which": 2})
    computed = source.replace(b'"which", 1,', b'"which", 0 + 1,')
    with pytest.raises(ConfigError, match=r"routing\.lua: param which: line 2 reads it once"):
        world.run(msgspec.structs.replace(given, script=computed, params={"which": 2}))


def test_what_cannot_be_simulated_is_said() -> None:
    traffic = Listed(arrival(0.0))
    with pytest.raises(ConfigError, match="no workers"):
        world.run(scenario(traffic))
    with pytest.raises(ConfigError, match="there are two"):
        world.run(scenario(traffic, worker("a"), worker("a")))
    with pytest.raises(ConfigError, match=r"strategy = 'fastest': .*expected one of"):
        world.run(scenario(traffic, worker("a"), strategy="fastest"))
    with pytest.raises(ScriptError, match="self-test"):
        world.run(scenario(traffic, worker("a"), script=b"function route_request(r, w) return w.x.y end"))


def test_clients_that_leave_are_told_of_and_free_their_places() -> None:
    traffic = Listed(
        arrival(0.0, "slow", tokens_out=1000, leaves_after_s=2.0), arrival(1.0, "next", tokens_out=10),
        arrival(1.5, "impatient", tokens_out=10, leaves_after_s=0.25),
    )
    seen: list[Job] = []
    result = world.run(scenario(traffic, worker("w", "openai", slots=1), config=PATIENT), on_line=seen.append)
    assert [job.request.id for job in seen] == ["impatient", "slow", "next"]
    assert (result.all.gone, result.all.ok) == (2, 1)
    assert seen[2].queue_s == pytest.approx(1.0)
    assert result.errors == {"client_gone": 2}


@pytest.mark.parametrize("at_s", [5.0, 11.0])
def test_what_plans_itself_again_for_the_same_moment_is_told_and_does_not_hang(at_s: float) -> None:
    """Before the last arrival, and while the last request is served."""
    run = world.World(scenario(Listed(arrival(0.0), arrival(10.0, tokens_out=500)), worker("w")))

    def again(what: str) -> None:
        run.at(run.now, again, what)

    run.at(at_s, again, "the culprit")
    with pytest.raises(RuntimeError, match=f"does not get past {at_s} s; next comes .*the culprit"):
        run.play()


def test_all_that_may_come_at_one_moment_is_no_standstill() -> None:
    many = Listed(*[arrival(1.0, f"r-{n}", leaves_after_s=2.0) for n in range(3000)])
    result = world.run(scenario(many, worker("w", slots=4096, overhead_s=0.5), config=PATIENT))
    assert result.all.ok == 3000


class Answers(Memory):
    """Notes when each request began to be answered, by its clock and by what it was told."""

    def __init__(self, options: None = None) -> None:
        super().__init__(options)
        self.told: list[tuple[str, str, float, float]] = []
        self.clock: Callable[[], float] = lambda: 0.0

    def answering(self, job: Job, worker: Worker, now: float) -> None:
        self.told.append((job.request.id, worker.id, now, self.clock()))


@pytest.mark.parametrize("kv_tokens", [1 << 40, 600])
@pytest.mark.parametrize("stream", [True, False])
def test_memories_hear_of_the_first_content_when_it_comes_and_change_nothing(kv_tokens: int, stream: bool) -> None:
    traffic = Poisson(400, 9.0, lambda rng: rng.randrange(1, 60), tokens_in=50, stream=stream)
    workers = [worker(f"w{n}", prefill_s=0.002, batch_tokens=32, kv_tokens=kv_tokens) for n in range(2)]
    faults = (Fault("w0", "stall", 5.0, 20.0, 0.3), Fault("w1", "crash", 12.0, 3.0), Fault("w1", "slow", 20.0, 9.0, 2.0))
    given = scenario(traffic, *workers, faults=faults)
    plain: list[Job] = []
    listened: list[Job] = []
    world.World(given, on_line=plain.append).play()
    run = world.World(given, on_line=listened.append)
    answers = run.decider.memories.of(Answers)
    answers.clock = run.env.now
    run.play()
    assert [(job.request.id, job.first_content, job.finished, job.status) for job in plain] == [
        (job.request.id, job.first_content, job.finished, job.status) for job in listened
    ]
    assert all(now == clock for _, _, now, clock in answers.told)
    firsts = {job.request.id: job.first_content for job in listened if job.first_content is not None}
    assert {name: now for name, _, now, _ in answers.told} == firsts
    assert len(answers.told) == len(firsts) > 300


def test_requests_say_something_only_to_strategies_that_want_to_know() -> None:
    jobs: list[Job] = []
    said = msgspec.structs.replace(arrival(0.0), blocks=(7, 8))
    run = world.World(scenario(Listed(said, arrival(1.0)), worker("w")), on_line=jobs.append)
    run.decider.reads_prompt = True
    asked: list[tuple[int, ...]] = []
    decide = run.decider.decide

    def listen(request: Request, wall: float | None = None) -> Decision:
        asked.append(request.text.blocks() if request.text is not None else ())
        return decide(request, wall)

    run.decider.decide = listen  # type: ignore[method-assign]
    run.play()
    assert asked == [(7, 8), ()]
    assert [job.request.text.blocks() for job in jobs if job.request.text is not None] == [()], "it has ended"
    jobs.clear()
    world.World(scenario(Listed(said), worker("w")), on_line=jobs.append).play()
    assert [job.request.text for job in jobs] == [None]
