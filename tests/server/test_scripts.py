"""Tests of what the daemon does with scripts beside routing: the gate, params, state, explanations, suspension.

Run by pytest, with the daemon as a process of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.server.test_reload import command, route_to, who_answers
from tests.support.aio import story
from tests.support.daemon import DaemonProcess, daemon
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import Answer, post
from tests.support.raw_client import Connection as Client
from tests.wire.answers import CHAT, PROMPT, error_shape


async def ask_control(router: DaemonProcess, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with Client(router.control_port) as client:
        client.send_request(method, path, b"" if body is None else json.dumps(body).encode())
        answer: Answer = await client.receive()
    return answer.status, json.loads(answer.body)


# Params.

CANARY = """
function route_request(request, workers)
  if rand() * 100 < param("canary_percent", 0, 0, 100) then return "b" end
  return "a"
end
"""


@story
async def test_a_param_is_set_while_the_script_runs_and_outlives_a_reload(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=CANARY) as router:
        param = {"canary_percent": {"value": 0, "default": 0, "min": 0, "max": 100}}
        assert await ask_control(router, "GET", "/api/v1/params") == (200, {"ok": True, "params": param})
        assert await who_answers(router) == "a"
        status, answer = await ask_control(router, "POST", "/api/v1/params", {"canary_percent": 100})
        assert (status, answer["params"]["canary_percent"]["value"]) == (200, 100.0)
        assert await who_answers(router) == "b"
        assert (await router.wait_event("params_set"))["params"] == {"canary_percent": 100}
        router.script_path.write_text(CANARY + "-- changed\n")
        assert (await router.reload())["ok"]
        assert await who_answers(router) == "b"
        assert await command(router, "param", "canary_percent=0") == (
            0, "canary_percent = 0   (default 0, 0 to 100)\n", "",
        )  # fmt: skip
        assert await who_answers(router) == "a"
        await router.wait_requests(4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"canary_percent": 101}, "canary_percent = 101: expected a number from 0 to 100"),
        ({"canary_percent": 50, "canary": 1}, "canary: the script has no such param; did you mean 'canary_percent'?"),
        ({"canary_percent": "x"}, "Expected `int | float`, got `str` - at `$[...]`"),
        ([1], "Expected `object`, got `array`"),
    ],
)
@story
async def test_params_that_cannot_be_set_change_nothing(tmp_path: Path, given: Any, said: str) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=CANARY) as router:
        assert await ask_control(router, "POST", "/api/v1/params", given) == (422, {"ok": False, "error": said})
        _, answer = await ask_control(router, "GET", "/api/v1/params")
        assert answer["params"]["canary_percent"]["value"] == 0.0


# State.


@story
async def test_state_survives_a_reload_and_log_lines_stand_in_the_requests_line(tmp_path: Path) -> None:
    counting = """
    function route_request(request, workers)
      log("request", state:incr("served"), request.metadata.type)
      return workers[1]
    end
    """
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=counting) as router:
        await router.post(CHAT, PROMPT)
        router.script_path.write_text(counting + "-- changed\n")
        assert (await router.reload())["ok"]
        await router.post(CHAT, PROMPT)
        lines = await router.wait_requests(2)
        assert [line["log"] for line in lines] == [["request 1 llm"], ["request 2 llm"]]


@story
async def test_state_outlives_a_time_without_a_script(tmp_path: Path) -> None:
    counting = 'function route_request(request, workers)\n  log(state:incr("served"))\n  return workers[1]\nend\n'
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=counting) as router:
        await router.post(CHAT, PROMPT)
        text = router.config_path.read_text()
        assert "script = " in text
        router.config_path.write_text(text.replace("script = ", "# script = "))
        assert (await router.reload())["active"]["script"] is None
        router.config_path.write_text(text)
        assert (await router.reload())["ok"]
        await router.post(CHAT, PROMPT)
        assert [line["log"] for line in await router.wait_requests(2)] == [["1"], ["2"]]


# The gate.


@story
async def test_a_script_that_fails_the_check_is_not_loaded_and_the_verdict_says_why(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=route_to("a")) as router:
        router.script_path.write_text(
            'function route_request(request, workers)\n'
            '  if request.model == "rare" then return workers[1].lod end\n'
            '  return "a"\n'
            'end\n'
        )
        code, said, _ = await command(router, "reload")
        assert (code, "routing.lua:2:" in said, "did you mean load?" in said) == (1, True, True), said
        assert await who_answers(router) == "a"
        assert "'lod'" in (await router.wait_event("reload_rejected"))["error"]
        await router.wait_requests(1)


@story
async def test_a_script_that_fails_its_own_tests_is_not_loaded(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=route_to("a")) as router:
        router.script_path.with_name("routing_test.lua").write_text(
            'fleet { worker { id = "a" }, worker { id = "b" } }\n'
            'test("everything goes to a", function() expect(route {}):to_be("a") end)\n'
        )
        router.script_path.write_text(route_to("b"))
        verdict = await router.reload()
        assert (verdict["ok"], "everything goes to a" in verdict["error"]) == (False, True), verdict
        assert await who_answers(router) == "a"
        router.script_path.write_text(route_to("a") + "-- changed\n")
        verdict = await router.reload()
        assert verdict["ok"], verdict
        assert (await router.wait_event("reload_ok"))["examined"] == verdict["examined"]
        await router.wait_requests(1)


@story
async def test_tests_that_do_not_end_are_stopped_and_the_script_is_not_loaded(tmp_path: Path) -> None:
    script = route_to("a")
    async with (
        FaultWorker(name="a") as a,
        daemon(tmp_path, a, script=script, routing={"gate_s": 0.05}) as router,
    ):
        router.script_path.write_text(script + "-- changed\n")
        verdict = await router.reload()
        assert (verdict["ok"], "took longer than 0.05 s ([routing] gate_s)" in verdict["error"]) == (False, True), verdict


@story
async def test_the_gate_can_be_off(tmp_path: Path) -> None:
    rare = 'function route_request(request, workers)\n  if request.model == "rare" then return nothing() end\n  return "a"\nend\n'
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=route_to("a"), routing={"reload_gate": "off"}) as router:
        router.script_path.write_text(rare)
        verdict = await router.reload()
        assert (verdict["ok"], verdict["examined"]) == (True, "not examined: reload_gate is off")


# A script that only fails.


def failing_for(model: str, worker: str) -> str:
    return (
        "function route_request(request, workers)\n"
        f'  if request.model == "{model}" then return request.metadata.nothing.at_all end\n'
        f'  return "{worker}"\n'
        "end\n"
    )


@story
async def test_a_script_that_fails_again_and_again_gives_way_to_the_one_before_until_a_reload(tmp_path: Path) -> None:
    async with (
        FaultWorker(name="a") as a,
        FaultWorker(name="b") as b,
        daemon(tmp_path, a, b, script=route_to("a"), routing={"script_faults": 3}) as router,
    ):
        router.script_path.write_text(failing_for("tiny", "b"))
        assert (await router.reload())["ok"]
        for _ in range(3):
            await router.post(CHAT, PROMPT)
        lines = await router.wait_requests(3)
        assert {(line["by"], "nothing" in line["script_error"]) for line in lines} == {("fallback", True)}
        assert await who_answers(router) == "a"
        event = await router.wait_event("script_suspended")
        assert ("nothing" in event["error"], event["now"].startswith("script ")) == (True, True)
        assert (await router.metrics())["rbeerouter_script_suspended", ()] == 1
        assert (await router.page("/routing")).json()["suspended"]["hash"] == event["script"]
        router.script_path.write_text(route_to("b"))
        assert (await router.reload())["ok"]
        assert await who_answers(router) == "b"
        assert (await router.metrics())["rbeerouter_script_suspended", ()] == 0
        await router.wait_requests(5)


@story
async def test_without_an_earlier_script_the_strategy_takes_over(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=failing_for("tiny", "a"), routing={"script_faults": 2}) as router:
        for _ in range(4):
            await router.post(CHAT, PROMPT)
        lines = await router.wait_requests(4)
        assert [line["by"] for line in lines] == ["fallback", "fallback", "strategy", "strategy"]
        assert (await router.wait_event("script_suspended"))["now"] == "strategy least-request"


# What it answers.


@story
async def test_a_script_rejects_a_request_in_its_own_words(tmp_path: Path) -> None:
    script = 'function route_request(request, workers)\n  return reject{status = 429, message = "not before noon", retry_after = 7}\nend\n'
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=script) as router:
        answer = await router.post(CHAT, PROMPT)
        assert (answer.status, answer.headers["retry-after"], answer.headers["x-should-retry"]) == (429, "7", "true")
        assert error_shape(answer.json()) == ("rate_limit_error", "script_rejected", None)
        assert answer.json()["error"]["message"] == "not before noon"
        (line,) = await router.wait_requests(1)
        assert (line["outcome"], line["by"], line["reason"], line["status"]) == ("rejected", "script", "routing.lua:2", 429)


@story
async def test_on_failure_and_on_complete_are_called_with_what_happened(tmp_path: Path) -> None:
    script = """
    function route_request(request, workers) return "a", "first try" end
    function on_failure(request, attempt, workers)
      log("failed", attempt.worker_id, attempt.error, attempt.number, attempt.tried)
      return "c"
    end
    function on_complete(request, outcome)
      log("ended", outcome.worker_id, outcome.ok, outcome.attempts, outcome.status, outcome.tokens_out)
    end
    """
    async with (
        FaultWorker("close_before_head", name="a") as a,
        FaultWorker(name="b") as b,
        FaultWorker(name="c") as c,
        daemon(tmp_path, a, b, c, script=script) as router,
    ):
        assert await who_answers(router) == "c"
        (line,) = await router.wait_requests(1)
        assert line["log"][0].startswith("failed a upstream_")
        assert line["log"][0].endswith(' 1 {"a"}')
        assert line["log"][1].startswith("ended c true 2 200 ")
        assert (line["by"], line["worker"]) == ("failover", "c")


# Explaining.


@story
async def test_a_decision_is_explained_without_sending_anything(tmp_path: Path) -> None:
    script = """
function route_request(request, workers)
  local near = workers:filter(function(w) return w.metadata:get("near", false) end)
  log(state:incr("asked"))
  return near:min_by("load"), "the near one"
end
"""
    async with FaultWorker() as worker:
        entries = [{"id": name, "url": worker.url, "metadata": {"near": name != "far"}} for name in ("far", "one", "two")]
        async with daemon(tmp_path, *entries, script=script) as router:
            status, record = await ask_control(router, "POST", "/api/v1/explain", {"model": "tiny", "messages": []})
            state = {"status": "ready", "load": 0.0}
            order = {"by": "min_by", "line": 5, "taken": "one", "read": {"load": 0.0}}
            assert (status, record) == (200, {
                "worker": "one", "action": "send", "by": "script", "reason": "routing.lua:5: the near one",
                "log": ["1"], "runner_up": {"worker": "two", "by": "min_by", "line": 5, "margin": {"load": 0.0}},
                "workers": [
                    {"id": "far", **state, "steps": [{"by": "filter", "line": 3, "read": {"metadata.near": False}}]},
                    {"id": "one", **state, "chosen": True, "steps": [order]},
                    {"id": "two", **state, "steps": [order]},
                ],
            })  # fmt: skip
            assert worker.requests == []
            await router.post(CHAT, PROMPT)
            (line,) = await router.wait_requests(1)
            assert line["log"] == ["1"]
            code, said, _ = await command(router, "explain", "--model", "tiny")
            assert (code, said.splitlines()[0]) == (0, "one   by script: routing.lua:5: the near one")
            code, said, _ = await command(router, "explain", "--model", "tiny", "--json")
            assert json.loads(said) == record | {"log": ["2"]}


@pytest.mark.parametrize(
    ("body", "status"),
    [({"messages": []}, 400), ([1], 400), ({"body": {"model": "tiny"}, "path": "/v1/nowhere"}, 404), ({"body": {"model": "tiny"}, "pth": "x"}, 400)],
)
@story
async def test_what_cannot_be_explained_is_refused(tmp_path: Path, body: Any, status: int) -> None:
    async with FaultWorker(name="a") as worker, daemon(tmp_path, worker, script=route_to("a")) as router:
        got, answer = await ask_control(router, "POST", "/api/v1/explain", body)
        assert (got, answer["ok"]) == (status, False)


@story
async def test_the_record_of_a_decision_is_kept_for_a_while(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=route_to("a"), routing={"decisions_kept": 2, "debug": True}) as router:
        for number in range(3):
            await router.post(CHAT, PROMPT, [("x-request-id", f"r-{number}")])
        lines = await router.wait_requests(3)
        assert await ask_control(router, "GET", "/api/v1/decisions/r-2") == (200, lines[2])
        assert lines[2]["explanation"] == [{"id": "a", "status": "ready", "load": 0.0, "chosen": True}]
        assert (await ask_control(router, "GET", "/api/v1/decisions/r-0"))[0] == 404


@story
async def test_web_pages_may_neither_set_params_nor_ask(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as worker, daemon(tmp_path, worker, script=CANARY) as router:
        for path in ("/api/v1/params", "/api/v1/explain"):
            answer = await post(router.control_port, path, {"canary_percent": 1}, [("origin", "http://evil.test")])
            assert answer.status == 403


# A process of its own.


@story
async def test_with_isolation_the_script_runs_in_a_process_that_may_be_killed(tmp_path: Path) -> None:
    script = 'function route_request(request, workers)\n  return strategy("least-request")(request, workers)\nend\n'
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=script, routing={"isolation": "process"}) as router:
        assert await who_answers(router) == "a"
        (line,) = await router.wait_requests(1)
        assert (line["by"], line["reason"]) == ("script", "routing.lua:2")
