"""Plays one made-up script on a made-up fleet and tells what it did that no script may do.

Called by fuzzing.cli, in a process that may die of it. It finds, it does not explain: the program's number tells how to
make it again.
"""

from __future__ import annotations

import contextlib
import gc
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbeerouter.core.dispatch import Job
from rbeerouter.core.errors import FAILURES, RouterError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Attempt, Decision, Env, Report, Request, Worker, WorkerSpec
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.sandbox import Abilities, Limits, Sandbox
from rbeerouter.routing.script import Script, ScriptError
from tests.hostile.corpus import OURS, SHARED
from tests.support import lua_fuzz

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(
    instructions=100_000, cpu_s=0.005, memory_bytes=1 << 20, log_lines=5, log_line_chars=200, state_keys=50,
    state_bytes=8192, state_value_bytes=512,
)  # fmt: skip
CALL_LIMIT_S = 0.15
"""Processor seconds of one call; its own limit is 5 ms. A call that takes longer is tried again, as chance may."""
MEMORY_SLACK_BYTES = 48 << 20
GOOD = b"""function route_request(request, workers)
  log("seen", #workers)
  return workers:filter(function(w) return w.status == "ready" end):sort_by("load")[1]
end"""
NEVER_SHOWN = re.compile(r"\b0x[0-9a-f]{8,}|<class |<function |<built-in|object at |POBJECT|Traceback|\.py\b|lupa")
WALL = 1_772_366_405.25


class Broken(Exception):
    """A script did what no script may do."""


def known_scripts() -> list[str]:
    """The seeds of mutation: both hostile corpora and the examples."""
    folders = (SHARED, OURS, ROOT / "docs" / "examples")
    paths = [path for folder in folders for path in sorted(folder.glob("*.lua"))]
    return [text for path in paths if len(text := path.read_text("utf-8", "replace")) < 6000]


class Player:
    """Plays programs one after the other; `check_memory` looks at what they left behind together."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.sources = known_scripts()
        self.played = 0
        self.came: dict[str, int] = {}
        self._base_bytes: int | None = None

    def text(self, number: int) -> str:
        return lua_fuzz.program(f"{self.seed}-{number}", self.sources)

    def play(self, number: int, text: str) -> None:
        """Raises Broken."""
        rng = random.Random(f"play {self.seed}-{number}")
        self.played += 1
        abilities = Abilities(
            request_headers=("x-route",), set_headers=("x-route",), expose_prompt=rng.random() < 0.5,
            explain=rng.random() < 0.3,
        )  # fmt: skip
        env = Env(lambda: 100.0, lambda: WALL, random.Random(number))
        sandboxes: list[Sandbox] = []

        def recorded(limits: Limits, able: Abilities) -> Sandbox:
            sandboxes.append(Sandbox(limits, able))
            return sandboxes[-1]

        fleet = some_fleet(rng)
        try:
            script = bounded(
                lambda: Script(text.encode("utf-8", "replace"), "routing.lua", env, LIMITS, abilities, recorded)
            )
        except ScriptError as error:
            self._count("load-error")
            look(str(error))
            return
        decider = Decider(fleet, script, "least-request", env, abilities.explain)
        for _ in range(3):
            self._request(decider, script, rng)
            some_change(fleet, rng)
        successor = Script(GOOD, "routing.lua", env, LIMITS, abilities)
        successor.adopt(script)
        if not isinstance(script.params(), dict):
            raise Broken("params() gave no table")
        check_good(successor, fleet, rng, "a new script that took over the state")
        if not sandboxes[-1].swollen():  # nobody calls one that is; it would be replaced
            again = Script(GOOD, "routing.lua", env, LIMITS, abilities, lambda *_: sandboxes[-1])
            check_good(again, fleet, rng, "a good script in the same Lua state")

    def _request(self, decider: Decider, script: Script, rng: random.Random) -> None:
        request = some_request(rng)
        before = [(one.id, one.status, one.in_flight, one.load) for one in decider.fleet.ordered]
        decision: Decision | None = None
        with contextlib.suppress(RouterError):
            decision = bounded(lambda: decider.decide(request))
        if decision is not None:
            self._count(decision.by if decision.action == "send" else decision.action)
            check_decision(decision, decider.fleet)
            job = Job(request, 100.0, WALL)
            job.decision = decision
            worker = decision.worker or next(iter(decider.fleet.ordered), None)
            if worker is not None:
                job.tried, job.attempts = [worker.id], [Attempt(worker.id, "upstream_stalled", 5.0)]
                another = bounded(lambda: decider.another(job, FAILURES["upstream_connect_failed"]))
                if another is not None:
                    check_decision(another, decider.fleet)
            job.finished, job.state = 100.5, "done"
            bounded(lambda: decider.completed(job))
            if job.decision is not None:
                check_decision(job.decision, decider.fleet)
        if before != [(one.id, one.status, one.in_flight, one.load) for one in decider.fleet.ordered]:
            raise Broken("the script changed a worker")

    def _count(self, what: str) -> None:
        self.came[what] = self.came.get(what, 0) + 1

    def check_memory(self) -> None:
        """Raises Broken when the process has grown since the first call."""
        gc.collect()
        now = resident_bytes()
        if self._base_bytes is None:
            self._base_bytes = now
        elif now > self._base_bytes + MEMORY_SLACK_BYTES:
            raise Broken(f"memory grew from {self._base_bytes >> 20} to {now >> 20} MiB")


def bounded(call: Callable[[], Any]) -> Any:
    """The call's result; Broken when it takes too long, each of three times."""
    spent_s = []
    for _ in range(3):
        started = time.process_time()
        result = call()
        spent_s.append(time.process_time() - started)
        if spent_s[-1] < CALL_LIMIT_S:
            return result
    raise Broken(f"a call took {min(spent_s) * 1000:.0f} ms")


def check_decision(decision: Decision, fleet: Fleet) -> None:
    if decision.worker is not None and decision.worker not in fleet.ordered:
        raise Broken("a worker that is not of the fleet")
    if any(one not in fleet.ordered for one in decision.then or ()):
        raise Broken("a list with a worker that is not of the fleet")
    if (decision.action == "reject") != (decision.refusal is not None) or (decision.action == "wait") != (
        decision.patience is not None
    ):
        raise Broken(f"half an answer: {decision}")
    if decision.refusal is not None and not 400 <= decision.refusal.failure.status <= 599:
        raise Broken(f"a refusal with status {decision.refusal.failure.status}")
    for name, value in decision.headers:
        if name != "x-route" or not value.isprintable() or not value.isascii():
            raise Broken(f"a header {name!r}: {value!r}")
    if len(decision.log) > 40 or any(len(line) > LIMITS.log_line_chars + 100 for line in decision.log):
        raise Broken("more log than allowed")
    look(
        decision.reason,
        decision.error,
        decision.model,
        *decision.log,
        *([decision.refusal.message] if decision.refusal else []),
    )


def look(*texts: str | None) -> None:
    for text in texts:
        if text is None:
            continue
        text.encode()  # half a character would not do
        if NEVER_SHOWN.search(text):
            raise Broken(f"shows what lies below: {text[:200]!r}")


def check_good(script: Script, fleet: Fleet, rng: random.Random, which: str) -> None:
    for _ in range(2):
        choice = script.route(some_request(rng), fleet)
        ready = [worker for worker in fleet.ordered if worker.status == "ready"]
        best = min(ready, key=lambda worker: worker.load, default=None)
        if choice.error is not None or choice.worker is not best or choice.log != (f"seen {len(fleet.ordered)}",):
            raise Broken(f"{which} chose {choice.worker}, not {best}: {choice.error} {choice.log}")


def some_fleet(rng: random.Random) -> Fleet:
    fleet = Fleet()
    fleet.configure([
        WorkerSpec(
            id=f"w{number}", url=f"http://w{number}.test", max_concurrency=rng.choice((1, 4, 16)),
            models=rng.choice(((), ("m",), ("m", "big"))), vram=rng.choice((None, 24.0)),
            backend=rng.choice((None, "cuda")),
            metadata=rng.choice(({}, {"region": "eu", "get": 1}, {"tier": 2, "spot": True, "": "ü"})),
        )
        for number in range(1, rng.choice((1, 2, 4, 9)) + 1)
    ])  # fmt: skip
    for worker in fleet.ordered:
        if rng.random() < 0.9:
            fleet.apply(Report(worker.id, True, None, 0.0))
    return fleet


def some_change(fleet: Fleet, rng: random.Random) -> None:
    worker: Worker = rng.choice(fleet.ordered)
    if rng.random() < 0.6:
        fleet.sent(worker, 0.0)
    elif worker.in_flight:
        fleet.finished(worker, None, 0.0)
    if rng.random() < 0.1:
        fleet.apply(Report(worker.id, True, ("m", "other"), 0.0))


def some_request(rng: random.Random) -> Request:
    long_metadata = {"type": "llm", "tier": "premium", "n": 1 << 62, "get": True, "x" * 100: 0.5}
    return Request(
        id="r", path="/v1/chat/completions", model=rng.choice(("m", "big", "ü\0")), model_size=rng.choice((None, 8.0)),
        user_id=rng.choice((None, "ann", "x" * 4000)), priority=rng.choice((None, "high", 5)),
        max_tokens=rng.choice((None, 64)), stream=rng.random() < 0.5, session_id=rng.choice((None, "s")),
        prompt_tokens=12, prompt=rng.choice((None, "hello " * 500)), headers=rng.choice(({}, {"x-route": "a"})),
        metadata=rng.choice(({}, {"type": "llm"}, long_metadata)),
    )  # fmt: skip


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
