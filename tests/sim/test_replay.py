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
from rbeerouter.routing.strategies import STRATEGIES
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
        self.offset_s = 3600
        self.env = Env(
            lambda: self.clock.now_s, lambda: self.clock.wall_s, random.Random(seed), lambda: self.offset_s, Chance(base)
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
        new.succeed(old)
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
            client=f"10.0.0.{self.count % 7}",
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
  if (rand() * salt + calls % 10 / 10) % 1 < 0.3 then return workers:weighted("capacity"), "weighted" end
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


def test_a_changed_script_changes_the_expected_decisions_and_no_other(tmp_path: Path) -> None:
    world = World(LEAST, seed=2)
    path = world.play(300).write(tmp_path)
    body = b'if request.user_id == "alice" then return reject { status = 429 } end\n'
    new = LEAST.replace(b"workers)\n", b"workers)\n" + body, 1)
    found = replay([path], asked(world, script=new))
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    of_alice = [
        line for line in lines if line.get("user") == "alice" and line.get("decided", {}).get("action") != "reject"
    ]
    assert (found.total, found.changed, found.uncertain) == (300, len(of_alice), 0)
    assert {one.after for one in found.changes} == {"reject"} and sum(one.count for one in found.changes) == len(of_alice)
    examples = {name for one in found.changes for name in one.examples}
    assert examples <= {line["request_id"] for line in of_alice}


def test_users_that_the_script_names_are_known_by_their_hash_and_others_are_told(tmp_path: Path) -> None:
    body = LEAST.replace(b"workers)\n", b'workers)\n  if request.user_id == "alice" then return workers[1] end\n', 1)
    world = World(body, seed=2, inputs=Inputs())
    path = world.play(200).write(tmp_path)
    found = replay([path], asked(world))
    assert (found.total, found.changed, found.reasons) == (200, 0, 0)
    assert [note for note in found.notes if "users are known by their hash alone" in note]


def test_after_lost_lines_a_script_that_goes_by_state_is_sure_again_at_the_next_start(tmp_path: Path) -> None:
    world = World(ALL, Routing(strategy="round-robin", script_faults=0), seed=4)
    path = world.play(300, lambda number: world.decider.watch.tell_all() if number == 200 else None).write(tmp_path)
    whole = path.read_bytes().splitlines()
    lost = [line for line in whole if b'"request_id":"r-50"' in line]
    path.write_bytes(b"\n".join(line[:80] if line in lost else line for line in whole) + b"\n")
    found = replay([path], asked(world))
    assert (found.tally.unreadable, found.total + found.uncertain) == (1, 299)
    assert 0 < found.uncertain < 260 and found.total > 40 and found.changed == 0
    assert any("`state` may not be what it was" in note for note in found.notes)
    anew = World(ALL, Routing(strategy="round-robin", script_faults=0), seed=5, base=5).play(100).lines
    path.write_bytes(path.read_bytes() + b"\n".join(anew) + b"\n")
    both = replay([path], asked(world))
    assert (both.total, both.uncertain, both.changed) == (found.total + 100, found.uncertain, 0)


def test_without_state_nothing_is_changed_by_a_lost_line_but_what_follows_it(tmp_path: Path) -> None:
    world = World(None, seed=4)
    path = world.play(300, lambda number: world.decider.watch.tell_all() if number == 100 else None).write(tmp_path)
    text = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in text if b'"request_id":"r-50"' not in line))
    found = replay([path], asked(world))
    assert (found.changed, found.total + found.uncertain) == (0, 299) and 0 < found.uncertain < 60


def test_a_log_that_begins_in_the_middle_is_replayed_from_its_first_list_on(tmp_path: Path) -> None:
    world = World(None, Routing(strategy="round-robin", split=Split(local_fraction=0.7)), seed=6)
    path = world.play(300, lambda number: world.decider.watch.tell_all() if number == 150 else None).write(tmp_path)
    text = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(text[120:]))
    found = replay([path], asked(world))
    assert (found.changed, found.reasons, found.uncertain) == (0, 0, 0) and found.total >= 100
    assert list(found.skipped) == ["decided before the first list of workers in the log"]


def test_two_runs_of_the_daemon_in_one_log_are_two(tmp_path: Path) -> None:
    first, second = (World(ALL, Routing(script_faults=0), seed=seed, base=seed) for seed in (1, 2))
    path = tmp_path / "routing.log"
    path.write_bytes(b"".join(line + b"\n" for world in (first, second) for line in world.play(150).lines))
    found = replay([path], asked(first))
    assert (found.total, found.changed, found.reasons, found.uncertain) == (300, 0, 0, 0)


def test_what_comes_too_late_for_the_window_is_told(tmp_path: Path) -> None:
    world = World(None, seed=6)
    path = world.play(100).write(tmp_path)
    text = path.read_bytes().splitlines(keepends=True)
    late = next(line for line in text if b'"request_id":"r-3"' in line)
    path.write_bytes(b"".join([*(line for line in text if line is not late), late]))
    assert replay([path], asked(world)).skipped == {}
    found = replay([path], asked(world, window=30))
    assert found.skipped == {"the line came too late to be put in order": 1} and found.uncertain > 50


def test_a_log_without_inputs_says_that_it_cannot_be_replayed(tmp_path: Path) -> None:
    world = World(None, seed=6, inputs=Inputs(kept=False))
    found = replay([world.play(50).write(tmp_path)], asked(world))
    assert found.total == 0 and sum(found.skipped.values()) > 30 and "no list of workers" in found.notes[0]


def test_what_a_new_script_reads_and_the_old_one_did_not_is_told(tmp_path: Path) -> None:
    world = World(LEAST, seed=3)
    path = world.play(60).write(tmp_path)
    new = LEAST + b"-- latency_ms in a comment is nothing\nlocal x = { 'prompt', 'kv_usage', 'state', 'X-Api-Key' }\n"
    notes = replay([path], asked(world, script=new, configured=False)).notes
    assert [note.partition(",")[0] for note in notes] == [
        "kv_usage: what decided did not go by it", "the script reads request.prompt",
        "the script reads x-api-key: headers that carry keys are never logged", "no configuration: rules of [[models]]",
        f"script {replay([path], asked(world)).script} decided in between",
    ]  # fmt: skip


def test_a_script_that_fails_in_the_replay_is_told(tmp_path: Path) -> None:
    world = World(LEAST, seed=3)
    path = world.play(60).write(tmp_path)
    new = b"function route_request(request, workers)\n  error('never')\nend\n"
    assert replay([path], asked(world, script=new)).script_errors == {"routing.lua:2: never": 60}


COUNTS = b"""
local calls = 0
function route_request(request, workers)
  calls = calls + 1
  return workers:first(), "call " .. calls .. " at " .. timestamp():hour()
end
"""


def test_what_a_script_keeps_in_variables_is_lost_where_the_daemon_loaded_it_anew(tmp_path: Path) -> None:
    world = World(COUNTS, seed=7)
    path = world.play(300, lambda number: world.reload() if number == 100 else None).write(tmp_path)
    reasons = [line.get("reason", "") for line in map(json.loads, path.read_bytes().splitlines())]
    assert sum(": call 1 at" in reason for reason in reasons) > 1
    found = replay([path], asked(world))
    assert (found.total, found.changed, found.reasons, found.uncertain) == (300, 0, 0, 0)


def test_from_the_very_decision_on_at_which_the_clocks_changed_it_is_another_hour(tmp_path: Path) -> None:
    world = World(COUNTS, seed=8)

    def change(number: int) -> None:
        if number == 50 and world.offset_s == 3600:            # as the daemon's tape does it
            world.offset_s = 7200
            assert world.decider.script is not None
            world.decider.script.look_at_clock_again()
            world.decider.watch.tell_all()

    path = world.play(100, change).write(tmp_path)
    reasons = [line.get("reason", "") for line in map(json.loads, path.read_bytes().splitlines())]
    assert len({reason.rpartition(" ")[2] for reason in reasons if "call" in reason}) > 1
    found = replay([path], asked(world))
    assert (found.total, found.changed, found.reasons, found.uncertain) == (100, 0, 0, 0)


@pytest.mark.parametrize("told", [True, False])
def test_after_a_list_of_workers_that_is_lost_nothing_is_certain_until_the_next(told: bool, tmp_path: Path) -> None:
    world = World(None, seed=4)

    def change(number: int) -> None:
        if number == 50 and len(world.fleet.ordered) == len(SPECS):
            world.fleet.configure(SPECS[:-2])
        if number == 100:
            world.decider.watch.tell_all()

    text = world.play(200, change).write(tmp_path).read_bytes().splitlines(keepends=True)
    gone = next(number for number, line in enumerate(text) if b'"event":"fleet"' in line and b'"order"' in line)
    cut = b'{"time":"2026-03-01T12:00:00.000Z","event":"log_lines_lost","lost":1}\n' if told else text[gone][:90] + b"\n"
    path = tmp_path / "cut.log"
    path.write_bytes(b"".join([*text[:gone], cut, *text[gone + 1:]]))
    found = replay([path], asked(world))
    assert (found.changed, found.total + found.uncertain) == (0, 200) and found.uncertain > 10
    assert any("after lines that are not there" in note for note in found.notes)


def test_two_daemons_that_write_into_one_log_are_told_apart(tmp_path: Path) -> None:
    first, second = (World(LEAST, seed=seed, base=seed).play(150).lines for seed in (1, 2))
    path = tmp_path / "routing.log"
    path.write_bytes(b"".join(line + b"\n" for both in zip(first, second, strict=False) for line in both))
    found = replay([path], Asked(LEAST))
    assert (found.changed, found.reasons) == (0, 0) and found.total > 50
    assert any("another daemon decided it" in why for why in found.skipped)


def test_requests_whose_metadata_was_cut_are_not_compared_where_the_script_reads_it(tmp_path: Path) -> None:
    world = World(LEAST, seed=3, inputs=Inputs(plain_users=True, metadata_chars=7))
    path = world.play(100).write(tmp_path)
    cut = sum(b'"meta_cut":true' in line for line in path.read_bytes().splitlines())
    reads = LEAST.replace(b"return ready", b"if request.metadata.tier then return workers[1] end return ready")
    found = replay([path], asked(world, script=reads))
    assert cut > 10 and found.total == 100 - cut and list(found.skipped.values()) == [cut]
    assert replay([path], asked(world)).total == 100


BEGIN = (
    b'{"time":"2026-03-01T12:00:00.000Z","event":"fleet","n":1,"run":"r","seed":1,"strategy":"round-robin",'
    b'"workers":[{"id":"a","capacity":1,"speaks":["openai"]}]}\n'
)
LINE = (
    b'{"time":"2026-03-01T12:00:00.000Z","event":"request","request_id":"x","path":"/v1/chat/completions","model":"m",'
    b'"outcome":"ok","status":200,"by":"script","worker":"a","run":"r","n":1,%s}\n'
)


@pytest.mark.parametrize(
    "text",
    [
        BEGIN.replace(b'"capacity":1', b'"capacity":0'), BEGIN.replace(b'"capacity":1', b'"capacity":1,"status":"odd"'),
        BEGIN.replace(b"[{", b'[{"id":"a","capacity":1},{'), BEGIN.replace(b'"n":1', b'"n":-1'),
        BEGIN.replace(b'"capacity":1', b'"capacity":1,"standing":{"standing":"odd"}'), BEGIN.replace(b"2026", b"soon"),
        *(
            BEGIN + LINE % told
            for told in (
                b'"saw":[[]]', b'"saw":[["b",1]]', b'"saw":[[[],1]]', b'"saw":[["a","x"]]', b'"saw":[["a",-1]]',
                b'"saw":[["a",1,1,"odd"]]', b'"saw":[["a",99999999999]]', b'"saw":[["a",1,1,"ready",5]]',
                b'"saw":[["a",1,1,"ready",null,[1]]]', b'"saw":[["a",1,1,"ready",null,{"__class__":3}]]',
                b'"saw":[["a",1,1,"ready",null,{"kv_usage":"x"}]]', b'"saw":[["a",1,1,"ready",null,null,7,8]]',
                b'"saw":[["a",1,1,"ready",{"standing":"odd"}]]', b'"meta":{"a":' + b"[" * 100_000 + b"}",
                b'"saw":' + b"[" * 100_000, b'"user":"' + b"u" * 1_000_000 + b'"', b'"meta":{"a":"' + b"u" * 1_000_000 + b'"}',
            )
        ),
        BEGIN + b'{"a":' * 100_000 + b"\n", bytes(range(256)) * 10 + b"\n",
    ],
)  # fmt: skip
def test_what_no_daemon_can_have_written_is_counted_and_stops_nothing(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "routing.log"
    after = BEGIN.replace(b'"run":"r"', b'"run":"later"') + (LINE % b'"saw":[["a",0]]').replace(b'"run":"r"', b'"run":"later"')
    path.write_bytes(text + after)
    found = replay([path], Asked(LEAST.replace(b"ready:", b"state:get('x') or request.metadata.y or ready:")))
    assert (found.total, found.uncertain) == (1, 0), found
    assert found.tally.unreadable + sum(found.skipped.values()) >= 1


def test_a_call_of_a_hook_that_makes_no_sense_is_told(tmp_path: Path) -> None:
    path = tmp_path / "routing.log"
    path.write_bytes(BEGIN + LINE % b'"calls":[{"time":"soon","n":2,"outcome":{}},{"time":"2026-03-01T12:00:01Z","n":3,"saw":[["b",1]]}]')
    found = replay([path], Asked(LEAST))
    assert (found.total, sum(found.skipped.values())) == (1, 2)


# Strategies.


@pytest.mark.parametrize("name", [*STRATEGIES, "least-request:2,session-affinity:1"])
def test_each_strategy_decides_the_same_again_or_says_that_it_remembers_what_no_log_has(name: str, tmp_path: Path) -> None:
    world = World(None, Routing(strategy=name), seed=8)
    found = replay([world.play(150, also=lambda number: world.reload() if number == 70 else None).write(tmp_path)], asked(world))
    note = any("remembers of traffic" in text for text in found.notes)
    if note:
        assert (found.total, found.uncertain > 100) == (0, True)
    else:
        assert (found.changed, found.uncertain, found.total > 100) == (0, 0, True), found.changes


@pytest.mark.parametrize(
    ("name", "hidden"), [("ip-hash", Inputs()), ("consistent-hash", Inputs(plain_sessions=False)), ("session-affinity", Inputs(plain_sessions=False))]
)
def test_a_hash_of_what_the_log_has_only_as_a_hash_is_not_compared(name: str, hidden: Inputs, tmp_path: Path) -> None:
    found = []
    for inputs in (NAMED, hidden):
        world = World(None, Routing(strategy=name), seed=8, inputs=inputs)
        found.append(replay([world.play(150).write(tmp_path)], asked(world)))
    named, hashed = found
    assert (named.changed, named.uncertain, named.total > 100) == (0, 0, True), named.changes
    assert (hashed.changed, hashed.uncertain > 20, hashed.total + hashed.uncertain) == (0, True, named.total)
    assert any("of which the log has only the hash" in text for text in hashed.notes)


def test_those_that_remember_traffic_are_known() -> None:
    def remembers(name: str) -> bool:
        world = World(None, Routing(strategy=name), seed=8)
        return world.decider.strategy.remembers

    assert not any(remembers(name) for name in ("random", "round-robin", "weighted", "least-request", "power-of-two"))
    assert remembers("vtc-basic")
