"""A replay makes every decision of a log again as it was made, and says so where it cannot.

The logs of these tests come from the very core that serves, on a clock that is moved by hand; test_replay_live.py has
one of a real daemon.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.config.sections import Routing, Split
from rbeerouter.core.chance import Chance
from rbeerouter.core.dispatch import WAITING, Dispatcher, Job, Send
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.health import HealthRules
from rbeerouter.core.models import NO_MODELS, Model, Models
from rbeerouter.core.types import Env, Outcome, Report
from rbeerouter.record import Inputs, Recorder
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.script import Script, configured_limits
from rbeerouter.routing.split import make_split
from rbeerouter.sim.replay import Asked, replay
from tests.support.builders import Clock, request, worker

SPECS = (
    worker("w1", models=("m", "n"), performance=2.0, metadata={"region": "eu"}), worker("w2", models=("m",), vram=24.0),
    worker("w3", models=("m", "n"), max_concurrency=2, deployment="remote"),
    worker("w4", models=("m:latest",), engine="ollama"), worker("w5", max_concurrency=None, deployment="remote"),
)  # fmt: skip
PLAIN, NAMED = Routing(), Inputs(plain_users=True)


class Tape:
    """A log in memory."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def msg(self, lines: bytes) -> None:
        self.lines += lines.split(b"\n")

    def write(self, folder: Path) -> Path:
        path = folder / "routing.log"
        path.write_bytes(b"".join(line + b"\n" for line in self.lines))
        return path


class World:
    """Everything that serves but for the wire, under random traffic and every kind of trouble; all of it by one seed."""

    def __init__(
        self, source: bytes | None, routing: Routing = PLAIN, models: Models = NO_MODELS, seed: int = 1,
        base: int = 99, inputs: Inputs = NAMED,
    ) -> None:
        self.dice, self.clock, self.tape = random.Random(seed), Clock(), Tape()
        self.source, self.routing, self.models = source, routing, models
        self.env = Env(
            lambda: self.clock.now_s, lambda: self.clock.wall_s, random.Random(seed), lambda: 3600, Chance(base)
        )
        self.fleet = Fleet(HealthRules(slow_start_s=20.0, ejection_s=3.0, failures=2), random.Random(seed))
        self.fleet.configure(SPECS)
        self.decider = self.make()
        self.decider.watch.run = f"run {base}"
        self.recorder = Recorder(self.tape)  # type: ignore[arg-type]
        self.recorder.inputs = inputs
        self.decider.watch.tell(lambda roll: self.recorder.enroll(roll, self.decider))
        self.dispatcher = Dispatcher(self.fleet, self.decider, self.env)
        self.live: list[Job] = []
        self.count = 0
        for spec in SPECS:
            self.fleet.apply(Report(spec.id, True, spec.models or None, self.clock.now_s))

    def make(self) -> Decider:
        loaded = None if self.source is None else Script(self.source, "routing.lua", self.env, configured_limits(self.routing))
        return Decider(
            self.fleet, loaded, self.routing.strategy, self.env, faults=self.routing.script_faults, models=self.models,
            split=make_split(self.routing.split, self.models),
        )

    def reload(self) -> None:
        """As the daemon does it."""
        old, new = self.decider, self.make()
        if new.split is not None and old.split is not None:
            new.split.adopt(old.split)
        new.watch = old.watch
        new.watch.tell_all()
        before = old.script or (old.suspended[0] if old.suspended else None)
        if new.script is not None and before is not None:
            new.script.adopt(before)
        self.decider = self.dispatcher.decider = new

    def play(self, requests: int, also: Callable[[int], None] = lambda number: None) -> Tape:
        while self.count < requests:
            also(self.count)
            self.step()
        while self.live or self.dispatcher.waiting:
            self.clock.advance(1.0)
            self.tick()
            for job in list(self.live):
                self.end(job)
        self.recorder.catch_up()
        return self.tape

    def step(self) -> None:
        dice = self.dice
        self.clock.advance(dice.choice((0.0007, 0.0131, 0.4)))
        what = dice.random()
        if what < 0.42:
            self.arrive()
        elif what < 0.84 and self.live:
            self.end(dice.choice(self.live))
        elif what < 0.90:
            self.probe()
        elif what < 0.92 and self.live:
            job = dice.choice(self.live)
            self.live.remove(job)
            self.dispatcher.on_cancel(job)
            self.recorder.record(job)
        elif what < 0.925:
            drain = self.fleet.undrain if self.fleet.workers["w2"].draining else self.fleet.drain
            drain("w2")
        elif what < 0.93:
            self.reload()
        elif what < 0.933:
            self.decider.watch.tell_all()
        elif what < 0.935 and self.decider.script is not None and "p" in self.decider.script.params():
            self.decider.script.set_param("p", dice.random() * 10)
            self.decider.watch.tell_all()
        self.tick()

    def arrive(self) -> None:
        dice, self.count = self.dice, self.count + 1
        asked = request(
            id=f"r-{self.count}", model=dice.choice(("m", "m", "m", "n", "gpt")), stream=dice.random() < 0.5,
            user_id=dice.choice((None, "alice", "bob")), max_tokens=dice.choice((None, 8, 4096)),
            metadata={"type": "llm"} | ({"tier": "gold"} if dice.random() < 0.3 else {}),
            session_id=dice.choice((None, "s1", "s2")), prompt_tokens=dice.randrange(5000),
            priority=dice.choice((None, "high", -2)), timeout_s=dice.choice((None, None, 0.5)),
            deployment=dice.choice((None, None, None, "local")), path=dice.choice(("/v1/chat/completions", "/v1/messages")),
        )  # fmt: skip
        asked = self.models.resolved(asked)
        job = Job(asked, self.clock.now_s, self.clock.wall_s)
        self.after(job, self.dispatcher.on_request(job))

    def end(self, job: Job) -> None:
        self.live.remove(job)
        failed = self.dice.random()
        if failed < 0.75:
            job.tokens_out, job.first_content = 20, self.clock.now_s
            outcome = Outcome(None, 200, committed=True, delivered=True)
        elif failed < 0.9:
            code = self.dice.choice(("upstream_connect_failed", "upstream_disconnected", "upstream_error_status"))
            outcome = Outcome(FAILURES[code])
        else:
            outcome = Outcome(FAILURES["upstream_overloaded"], 503, answered=True, retry_after_s=self.dice.random() * 3)
        self.after(job, self.dispatcher.on_outcome(job, outcome))

    def tick(self) -> None:
        self.dispatcher.sweep(self.clock.now_s)
        for job, effect in self.dispatcher.on_tick(self.clock.now_s):
            self.after(job, effect)

    def after(self, job: Job, effect: object) -> None:
        if isinstance(effect, Send):
            self.live.append(job)
        elif job.state != WAITING:
            self.recorder.record(job)

    def probe(self) -> None:
        dice, spec = self.dice, self.dice.choice(SPECS)
        up = dice.random() < 0.8
        self.fleet.apply(
            Report(
                spec.id, up, spec.models or None, self.clock.now_s, waiting=dice.choice((None, 0, 5)),
                running=dice.choice((None, 1, 3)), kv_usage=dice.random(), most=dice.choice((None, 32)), slots=None,
                loaded=dice.choice((None, ("m",))), owner_active=dice.choice((None, True, False)),
            )
        )  # fmt: skip


def asked(world: World, **changes: Any) -> Asked:
    return Asked(**{"script": world.source, "routing": world.routing, "models": world.models, **changes})


LEAST = b"""
function route_request(request, workers)
  local ready = workers:filter(function(w) return w.status == "ready" end)
  return ready:min_by("load")
end
"""
ALL = b"""
local salt = math.random(1000)
local calls = 0
function route_request(request, workers)
  local p, hour = param("p", 2, 0, 10), timestamp():hour()
  local seen = state:incr("seen", 1, 30)
  calls = calls + 1
  if request.user_id == "alice" and seen % 7 == 0 then return reject { status = 429, message = "slow" }, "quota " .. seen end
  if seen % 11 == 0 then return queue { timeout_s = 1 } end
  if seen % 13 == 0 then return nil, "as it comes" end
  if seen % 17 == 0 then return strategy("round-robin")(request, workers), "turn" end
  if seen % 19 == 0 then return strategy("least-request")(request, workers), "least" end
  if seen % 23 == 0 then error("no") end
  if state:get("bad") == request.model then return nil, "was bad" end
  if timestamp():epoch() * 1000 % 10 < 1 then return workers:sample(), "lucky" end
  if (rand() * salt + calls) % 1 < 0.3 then return workers:weighted("capacity"), "weighted" end
  local fast = workers:filter(function(w) return w.status == "ready" and (w.latency_ms or 0) < 5000 end)
  if #fast > 1 and rand() < 0.5 then return { fast[2], fast[1] }, "list" end
  return fast:min_by(function(w) return w.load + (w.waiting or 0) / 100 + (w.load_age_s or 0) / 1000 + p / 10000 * w.capacity end)
end
function on_failure(request, attempt, workers)
  state:set("bad", request.model, 5)
  if rand() < 0.3 then return nil end
  return strategy("round-robin")(request, workers)
end
function on_complete(request, outcome)
  state:incr("seen", math.random(0, 2))
  if outcome.ok and (outcome.ttft_ms or 0) > 300 then state:set("bad", nil) end
end
"""


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("source", "strategy", "split"),
    [
        (None, "least-request", None), (None, "round-robin", None), (None, "least-request", Split(local_fraction=0.7)),
        (None, "round-robin", Split(local_fraction=0.35, debt=3)), (LEAST, "least-request", None), (ALL, "round-robin", None),
        (ALL, "least-request", Split(local_fraction=0.7)),
    ],
)  # fmt: skip
def test_the_same_script_decides_every_request_of_a_log_as_it_was_decided(
    source: bytes | None, strategy: str, split: Split | None, seed: int, tmp_path: Path
) -> None:
    models = Models((Model("n", local_fraction=0.5), Model("m", aliases=("mm",)))) if split else NO_MODELS
    world = World(source, Routing(strategy=strategy, split=split, script_faults=0), models, seed)
    path = world.play(400).write(tmp_path)
    found = replay([path], asked(world))
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert (found.total, found.changed, found.reasons, found.uncertain, found.skipped, found.notes) == (400, 0, 0, 0, {}, [])
    if source is ALL:
        reasons = " ".join(line.get("reason", "") for line in lines)
        assert all(word in reasons for word in ("quota", "turn", "lucky", "weighted", "list", "as it comes"))
        assert sum("calls" in line for line in lines) > 300
