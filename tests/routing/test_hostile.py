"""Whole scripts that mean harm, run in this process: each ends as it may, soon, and leaves nothing behind.

The corpora and what each script may do stand in tests/hostile. tests/e2e/test_hostile.py sends them through the daemon.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.core.errors import RouterError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.sandbox import Abilities, Limits, Sandbox
from rbeerouter.routing.script import TRIAL_OUTCOME, Choice, Script, ScriptError
from tests.hostile import corpus
from tests.hostile.corpus import GOOD, OURS, SHARED, Hostile
from tests.support.builders import down, env, fill, fleet, request, script, worker
from tests.support.hang import end_the_run_when_it_hangs

CALL_LIMIT_S = 0.25
"""Of processor time. The budget is 20 ms; the machine that runs the tests may be slow, and loading is no decision."""
ATTEMPT = {"worker_id": "w1", "error": "upstream_connect_failed", "duration_ms": 12.5, "number": 1}
ABLE = {"plain": Abilities(set_headers=("x-route",)), "explained": Abilities(set_headers=("x-route",), explain=True)}


@pytest.fixture(scope="module", autouse=True)
def _no_hang(pytestconfig: pytest.Config) -> Iterator[None]:
    with end_the_run_when_it_hangs(pytestconfig, 120.0):
        yield


class Watched(Sandbox):
    """A sandbox that tells how much its heap holds, and may be used for another script after the first."""

    def held(self) -> int:
        self._lua.gccollect()
        return self._used(True)


def hostile_fleet() -> Fleet:
    """w1 to w8 as the README beside the shared scripts says."""
    made = fleet(
        *(
            worker(
                f"w{number}",
                models=("m-small", "m-big") if f"w{number}" in corpus.BIG_WORKERS else ("m-small",),
                metadata={"region": "us" if number % 2 else "eu"},
                max_concurrency=100,
            )
            for number in range(1, 9)
        )
    )
    for number, load in enumerate(corpus.LOADS, 1):
        fill(made, f"w{number}", load)
    down(made, corpus.OFFLINE_WORKER)
    for name in corpus.BUSY_WORKERS:
        made.workers[name].status = "busy"
    made.version += 1
    return made


def hostile_request() -> Request:
    return request(model="m-small", user_id="u@example.com", metadata={"tier": "premium", "region": "eu"})


def as_now(made: Fleet) -> list[tuple[Any, ...]]:
    return [(one.id, one.status, one.in_flight, one.models, one.metadata) for one in made.ordered]


def outcome(choice: Choice) -> str:
    """One of the corpus' words for what a script did."""
    action = choice.answer.action if choice.answer is not None else None
    if action is not None:
        return {"reject": "reject", "wait": "queue", "give_up": "bad-return"}[action]
    if choice.worker is not None:
        return f"pick:{choice.worker.id}"
    if choice.error is None:
        return "none"
    words = {"route_request returned": "bad-return", "budget exceeded": "timeout", "not enough memory": "memory"}
    return next((word for text, word in words.items() if text in choice.error), "error")


def first(_: str, __: Request, workers: list[Worker]) -> Worker | None:
    """Stands for a strategy."""
    return workers[0] if workers else None


def timed(call: Any, *arguments: Any) -> str:
    started = time.process_time()
    choice = call(*arguments)
    spent_s = time.process_time() - started
    assert spent_s < CALL_LIMIT_S, f"a decision took {spent_s * 1000:.0f} ms"
    return outcome(choice)


def played(source: bytes, made: Fleet, abilities: Abilities, runtime: Any = Sandbox) -> dict[str, set[str]]:
    """What four requests in a row came to, by hook."""
    try:
        one = Script(source, "routing.lua", env(), Limits(), abilities, runtime)
    except ScriptError:
        return {"expect": {"load-error"}}
    found: dict[str, set[str]] = {"expect": set()}
    for _ in range(4):
        found["expect"].add(timed(one.route, hostile_request(), made, first))
        if abilities.explain:
            one.steps()
        if one.has_on_failure:
            came = timed(one.after_failure, hostile_request(), dict(ATTEMPT), ["w1"], made, first)
            found.setdefault("on_failure", set()).add(came)
        if one.has_on_complete:
            came = timed(one.completed, hostile_request(), TRIAL_OUTCOME | {"worker_id": "w1"}, made)
            found.setdefault("on_complete", set()).add(came)
    with contextlib.suppress(RouterError):
        Decider(made, one, "least-request", env(), abilities.explain).decide(hostile_request())
    assert one.params() is not None
    successor = Script(GOOD, "routing.lua", env(), Limits(), abilities)
    successor.adopt(one)
    assert isinstance(successor.state(), list)
    return found


def cases() -> list[Any]:
    found = [*corpus.scripts(SHARED), *corpus.scripts(OURS)]
    rows = [
        pytest.param(one, able, id=f"{one.name}-{name}")
        for one in found for name, able in ABLE.items()
    ]  # fmt: skip
    if not SHARED.is_dir():
        rows.append(pytest.param(None, None, marks=pytest.mark.skip(reason=f"{SHARED} is not there")))
    return rows


@pytest.mark.parametrize(("hostile", "able"), cases())
def test_a_hostile_script_ends_as_it_may_and_does_no_lasting_damage(
    hostile: Hostile, able: Abilities, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made, before = hostile_fleet(), as_now(hostile_fleet())
    sandboxes: list[Watched] = []

    def watched(limits: Limits, abilities: Abilities) -> Watched:
        sandboxes.append(Watched(limits, abilities))
        return sandboxes[-1]

    found = played(hostile.path.read_bytes(), made, able, watched)
    for hook, outcomes in found.items():
        assert "any" in hostile.may[hook] or outcomes <= hostile.may[hook], (hook, outcomes)
    last = sandboxes[-1] if sandboxes else Watched(Limits(), able)
    if not last.swollen():                                     # nobody calls one that is; it would be replaced
        assert played(GOOD, made, able, lambda *_: last) == {"expect": {"pick:w2"}}, "in the same Lua state"
    assert played(GOOD, made, able) == {"expect": {"pick:w2"}}
    assert last.swollen() or last.held() < empty_heap() + Limits().memory_bytes // 2 + 2 * Limits().state_bytes, "the heap is not back"
    assert list(tmp_path.iterdir()) == []
    assert as_now(made) == before


def empty_heap() -> int:
    sandbox = Watched(Limits(), Abilities())
    sandbox.load(GOOD, "routing.lua")
    return sandbox.held()


def test_there_are_enough_scripts_and_each_tells_what_it_may_do() -> None:
    known = {"load-error", "error", "timeout", "memory", "bad-return", "none", "any", "reject", "queue"}
    ours = corpus.scripts(OURS)
    assert len(ours) >= 100
    for one in [*corpus.scripts(SHARED), *ours]:
        words = {word for may in one.may.values() for word in may}
        assert one.may.get("expect") and all(word in known or word.startswith("pick:w") for word in words), one.name


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_the_table_of_differences_is_about_scripts_that_are_there() -> None:
    assert all((SHARED / name).is_file() for name in corpus.DIFFERENCES)


def test_a_good_script_on_the_engine_of_a_hostile_one_still_picks_by_the_true_state() -> None:
    """One script for both: its hostile half runs when the request is a stream."""
    made = hostile_fleet()
    body = "workers[1] = nil workers.filter = nil request.model = nil local t = {} for i = 1, 1e9 do t[i] = {i} end"
    good = GOOD.decode().partition("\n")[2].rpartition("end")[0]
    one = script(f"if request.stream then {body} end {good}")
    for _ in range(4):
        assert one.route(request(stream=True), made).worker is None
        assert one.route(request(model="m-small"), made).worker is made.workers["w2"]
