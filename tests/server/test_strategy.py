"""Tests of the strategy in force with the real daemon: who says so, changing it at run time, and what outlives what.

Run by pytest, with the daemon as a process of its own and the command that a person runs.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.config.sections import ConfigError, Routing
from rbeerouter.routing.strategies import NAMES
from rbeerouter.routing.strategies.fairness import TokenLedger
from rbeerouter.server.strategy import VARIABLE, Change, from_environment
from rbeerouter.sim.replay import Asked, replay
from tests.server.test_reload import command
from tests.server.test_scripts import ask_control
from tests.support.aio import story
from tests.support.daemon import DaemonProcess, daemon
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import Connection as Client
from tests.wire import router as in_process
from tests.wire.answers import CHAT, PROMPT


async def config(router: DaemonProcess, **asked: Any) -> tuple[int, dict[str, Any]]:
    return await ask_control(router, "POST" if asked else "GET", "/api/v1/config", asked or None)


async def in_force(router: DaemonProcess) -> tuple[str, str, str]:
    """(the strategy, who said so, the one that chose for a request)."""
    _, answer = await config(router)
    return answer["strategy"], answer["source"], (await router.post(CHAT, PROMPT)).headers["x-rbee-strategy"]


@story
async def test_what_is_set_at_run_time_goes_before_all_until_it_is_taken_back_and_persists_where_asked(
    tmp_path: Path,
) -> None:
    routing = {"strategy": "least-request", "fallback": ["random", "least-request"]}
    state = {"folder": str(tmp_path / "state")}
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, routing=routing, state=state) as router:
        assert await in_force(router) == ("least-request", "config", "least-request")
        status, answer = await config(router, strategy="Round_Robin")
        assert (status, answer["strategy"], answer["source"]) == (200, "round-robin", "runtime")
        assert (answer["config"], answer["fallback"]) == ("least-request", ["random", "least-request"])
        assert (await router.reload())["ok"]
        assert await in_force(router) == ("round-robin", "runtime", "round-robin")

        assert (await config(router, strategy="weighted", persist=True))[1]["source"] == "persisted"
        assert (await config(router, strategy="power-of-two"))[1]["source"] == "runtime"
        assert await router.stop() == 0
        router.start(environment={VARIABLE: "Random"})
        await router.until_serving()
        assert await in_force(router) == ("weighted", "persisted", "weighted")
        assert (await config(router, strategy=None))[1]["source"] == "environment"
        assert await in_force(router) == ("random", "environment", "random")

        assert await router.stop() == 0
        events = router.log_lines("strategy_set")
        assert [(event["strategy"], event["source"], event["before"]) for event in events] == [
            ("round-robin", "runtime", "least-request"), ("weighted", "persisted", "round-robin"),
            ("power-of-two", "runtime", "weighted"), ("random", "environment", "weighted"),
        ]  # fmt: skip
        fleets = [(line["strategy"], line.get("source")) for line in router.log_lines("fleet")]
        assert fleets[0] == ("least-request", None)
        assert {("round-robin", "runtime"), ("weighted", "persisted"), ("random", "environment")} <= set(fleets)
        again = replay([router.log_path], Asked(None, routing=Routing(strategy="least-request")))
        assert (again.total, again.changed, again.reasons, again.notes) == (4, 0, 0, [])


NONSENSE: list[tuple[Any, str]] = [
    ({"strategy": "pd"}, f"strategy = 'pd': {NAMES.reserved['pd']}"),
    ({"strategy": "least-request:2,zzz"}, f"strategy = 'zzz': expected one of {', '.join(NAMES.known)}"),
    ({"strategy": 5}, "the body: strategy = 5: expected `str | null`, got `int`"),
    ({"strategy": "random", "persist": "yes"}, "the body: persist = 'yes': expected `bool`, got `str`"),
    ({"strategy": "random", "persit": True}, "the body: persit: unknown key; did you mean 'persist'?"),
    ({"persist": True}, "the body: strategy is missing: expected a name, a list, or null to take back what was set"),
    ([1], "the body: Expected `object`, got `array`"),
]


@story
async def test_a_change_that_makes_no_sense_changes_nothing_and_says_what_was_expected(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, daemon(tmp_path, a) as router:
        before = await config(router)
        for asked, said in NONSENSE:
            answer = await ask_control(router, "POST", "/api/v1/config", asked)
            assert answer == (422, {"ok": False, "error": said})
        assert await config(router) == before
        async with Client(router.control_port) as client:
            client.send_request("POST", "/api/v1/config", b'{"strategy": null}', [("origin", "http://evil.test")])
            assert (await client.receive()).status == 403


@story
async def test_what_cannot_be_kept_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    state = {"folder": str(tmp_path / "file" / "state")}
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, state=state) as router:
        status, answer = await config(router, strategy="random", persist=True)
        assert (status, answer["ok"]) == (422, False)
        assert answer["error"].startswith(f"persist = true: cannot be kept: state.folder = '{state['folder']}'")
        assert (await config(router))[1]["source"] == "config"
        assert (await config(router, strategy="random"))[1]["source"] == "runtime"


@story
async def test_the_command_shows_sets_and_takes_back(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, daemon(tmp_path, a) as router:
        shown = "{}   ({}; where it knows too little: least-request)\n"
        at_first = (0, shown.format("least-request", "the configuration"), "")
        assert await command(router, "strategy") == at_first
        assert await command(router, "strategy", "least_request:2,least-connections") == (
            0, shown.format("least-request", "set at run time, until the daemon ends"), "",
        )  # fmt: skip
        assert await command(router, "strategy", "random", "--persist") == (
            0, shown.format("random", "set at run time, persisted"), "",
        )  # fmt: skip
        code, said, _ = await command(router, "strategy", "fastest")
        assert (code, said.startswith("strategy = 'fastest': ")) == (1, True)
        assert await command(router, "strategy", "--reset") == at_first
        for wrong in (["random", "--reset"], ["--persist"]):
            assert (await command(router, "strategy", *wrong))[0] == 2


def test_the_environment_is_read_as_a_configuration_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, read in (("", None), (" ", None), ("Round_Robin", "round-robin")):
        monkeypatch.setenv(VARIABLE, given)
        assert from_environment() == read
    monkeypatch.setenv(VARIABLE, "pd")
    with pytest.raises(ConfigError) as caught:
        from_environment()
    assert str(caught.value) == f"the environment variable {VARIABLE} = 'pd': {NAMES.reserved['pd']}"


@story
async def test_what_a_strategy_remembers_outlives_a_reload_and_goes_with_the_last_one_that_asks(tmp_path: Path) -> None:
    path, routing = tmp_path / "config.toml", {"strategy": "vtc-basic"}
    async with FaultWorker() as worker, in_process.router(tmp_path, worker, routing=routing) as under_test:
        made = under_test.daemon
        at_first = made.decider.memories.all
        assert [type(one) for one in at_first] == [TokenLedger]
        path.write_text(path.read_text().replace("vtc-basic", "VTC_basic"))
        assert (await made.reload("test"))["ok"]
        assert made.decider.memories.all == at_first

        (tmp_path / "broken.lua").write_text("function")
        text = path.read_text()
        path.write_text(text.replace('"VTC_basic"', '"slo-least-load"\nscript = "broken.lua"\nreload_gate = "off"'))
        assert not (await made.reload("test"))["ok"]
        assert made.decider.memories.all == at_first
        path.write_text(text.replace("VTC_basic", "least-request"))
        assert (await made.reload("test"))["ok"]
        assert made.decider.memories.all == ()


@story
async def test_what_the_strategy_set_at_run_time_remembers_outlives_a_reload_and_not_that_it_is_taken_back(
    tmp_path: Path,
) -> None:
    async with FaultWorker() as worker, in_process.router(tmp_path, worker) as under_test:
        made = under_test.daemon
        await made.strategy.change(Change("vtc-basic"), "test")
        at_first = made.decider.memories.all
        assert [type(one) for one in at_first] == [TokenLedger]
        for _ in range(2):
            assert (await made.reload("test"))["ok"]
            assert made.decider.memories.all == at_first
        await made.strategy.change(Change(None), "test")
        assert (await made.reload("test"))["ok"]
        assert made.decider.memories.all == ()


@story
async def test_what_one_client_asked_for_once_is_no_burden_after_two_reloads(tmp_path: Path) -> None:
    async with FaultWorker() as worker, in_process.router(tmp_path, worker) as under_test:
        made, chosen = under_test.daemon, [("routing-strategy", "prefix-cache")]
        assert (await under_test.post(CHAT, PROMPT, chosen)).headers["x-rbee-strategy"] == "prefix-cache"
        burdens = []
        for _ in range(2):
            assert (await made.reload("test"))["ok"]
            burdens.append((made.decider.reads_prompt, len(made.decider.memories.all) > 0))
        assert burdens == [(True, True), (False, False)]


@story
async def test_what_another_version_persisted_is_left_aside_until_it_is_taken_back(tmp_path: Path) -> None:
    state = {"folder": str(tmp_path / "state")}
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, state=state) as router:
        assert (await config(router, strategy="random", persist=True))[0] == 200
        assert await router.stop() == 0
        with sqlite3.connect(tmp_path / "state" / "state.db") as kept:
            kept.execute("UPDATE settings SET value = 'of-tomorrow' WHERE name = 'strategy'")
        kept.close()
        router.start()
        await router.until_serving()
        assert (await router.wait_event("strategy_not_known"))["strategy"] == "of-tomorrow"
        assert await in_force(router) == ("least-request", "config", "least-request")
        assert (await config(router, strategy=None))[1]["source"] == "config"
        assert await router.stop() == 0
        with sqlite3.connect(tmp_path / "state" / "state.db") as kept:
            assert kept.execute("SELECT * FROM settings").fetchall() == []
        kept.close()
