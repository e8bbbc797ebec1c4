"""One script on a made-up fleet: decided and dispatched as in the daemon, and left as it was."""

from __future__ import annotations

from pathlib import Path

import msgspec

from rbeerouter.config.loading import load
from rbeerouter.routing.sandbox import Abilities, Limits
from rbeerouter.workbench.fleets import Row
from rbeerouter.workbench.stage import NOON, Play, Stage, rules_of
from tests.support.builders import lua, request

TWO = (Row("a", models=("m",)), Row("b", in_flight=1, models=("m",)))


def stage(body: str, rows: tuple[Row, ...] = TWO, after: str = "", **options: bool) -> Stage:
    made = Stage(lua(body) + after.encode(), "routing.lua", Play(), **options)
    made.place(rows)
    return made


def test_a_request_goes_to_the_worker_that_the_script_names() -> None:
    result = stage('return "b", "because"').serve(request())
    assert (result.action, result.worker, result.by, result.line, result.status) == ("send", "b", "script", 2, 200)
    assert (result.reason, result.tried, result.model) == ("routing.lua:2: because", ["b"], "m")


def test_nothing_that_a_request_does_to_the_fleet_stays() -> None:
    played = stage('return "b"')
    for _ in range(3):
        played.serve(request())
        played.serve(request(), frozenset({"b"}))
    one = played.fleet.workers["b"]
    assert (one.status, one.in_flight, one.latency_ms) == ("ready", 1, None)


def test_a_failed_worker_is_replaced_as_in_the_daemon() -> None:
    result = stage('return { "b", "a" }').serve(request(), frozenset({"b"}))
    assert (result.by, result.worker, result.tried, result.order) == ("failover", "a", ["b", "a"], ["b", "a"])


def test_when_all_fail_the_client_is_told() -> None:
    result = stage('return { "b", "a" }').serve(request(), frozenset({"a", "b"}))
    assert (result.action, result.worker, result.status, result.tried) == ("fail", None, 502, ["b", "a"])


def test_a_rejection_and_a_request_that_waits_are_no_failures() -> None:
    refused = stage('return reject{ status = 429, message = "slowly", retry_after = 3 }').serve(request())
    assert (refused.action, refused.status, refused.message, refused.retry_after) == ("reject", 429, "slowly", 3)
    waits = stage('return queue("a", { timeout_s = 2 })', (Row("a", "busy", 4),)).serve(request())
    assert (waits.action, waits.worker, waits.timeout_s, waits.status) == ("wait", "a", 2, None)


def test_who_may_wait_and_has_room_is_served_at_once() -> None:
    assert stage('return queue("a")').serve(request()).action == "send"


def test_without_a_worker_the_error_of_the_script_is_still_told() -> None:
    result = stage("error('nobody', 0)", ()).serve(request())
    assert (result.action, result.by, result.status) == ("fail", "fallback", 503)
    assert result.error is not None and "nobody" in result.error
    assert stage("return nil", ()).serve(request()).by == "strategy"


def test_the_hooks_are_asked_and_noted_with_what_they_took() -> None:
    after = "function on_failure(r, attempt, w) return 'a' end function on_complete(r, outcome) log(outcome.worker_id) end"
    played = stage('return "b"', after=after)
    result = played.serve(request(), frozenset({"b"}))
    assert [one.hook for one in played.script.asked] == ["route_request", "on_failure", "on_complete"]
    assert result.log == ["a"]
    assert all(one.seconds > 0 and one.instructions >= 0 for one in played.script.asked)


def test_workers_that_were_offline_when_they_were_named_are_noted() -> None:
    played = stage('return "a"', (Row("a", "offline"), Row("b")))
    played.serve(request())
    assert played.script.asked[0].offline == ("a",)


def test_another_fleet_is_seen_though_it_looks_alike() -> None:
    played = stage("return workers[1]")
    assert played.serve(request()).worker == "a"
    played.place((Row("c"),))
    assert played.serve(request()).worker == "c"


def test_the_clock_stands_where_it_is_set() -> None:
    played = stage("return workers[1], timestamp():iso()")
    assert played.serve(request()).reason == "routing.lua:2: 2026-03-02T12:00:00+00:00"
    played.wall = NOON + 3600
    assert "T13:00" in played.serve(request()).reason


def test_the_lines_are_counted_when_asked() -> None:
    played = stage("local x = 1\nreturn workers[1]", coverage=True)
    played.serve(request())
    played.serve(request())
    assert {line: count for line, count in played.script.covered().items() if line in (2, 3)} == {2: 2, 3: 2}


def test_the_rules_are_those_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[routing]\nstrategy = "round-robin"\nscript_instructions = 5000\nrequest_headers = ["X-Mine"]\n'
        "[limits]\nattempts = 2\n"
    )
    play = rules_of(load(tmp_path / "config.toml"))
    assert (play.strategy, play.attempts, play.limits.instructions) == ("round-robin", 2, 5000)
    assert play.abilities.request_headers == ("x-mine",) and not play.abilities.expose_prompt


def test_without_a_configuration_a_script_may_read_what_it_asks_for() -> None:
    play = rules_of(None, {"X-Mine", "no header", ""})
    assert "x-mine" in play.abilities.request_headers and "no header" not in play.abilities.request_headers
    assert play.abilities.expose_prompt
    assert (play.limits, play.attempts) == (Limits(), 3)
    assert msgspec.structs.replace(play, abilities=Abilities(), ids=frozenset()) == Play()
