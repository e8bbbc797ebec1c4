"""Tests of requests that a script lets wait, turns away, sends down a list or gives headers to, over real connections.

Run by pytest, with the router in the test's loop. `Held` is a worker that answers when it is told to, so who goes when
does not depend on time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.core.dispatch import FINISH, Job
from rbeerouter.core.types import OFFLINE, READY, Report
from tests.support.aio import story
from tests.support.behaviours import JSON_TYPE, completion, whole
from tests.support.daemon import until
from tests.support.fault_worker import Connection, FaultWorker, Request
from tests.support.raw_client import Answer
from tests.wire.answers import CHAT, PROMPT, STREAMED, error_shape
from tests.wire.router import Router, router

QUEUE = "function route_request(request, workers)\n  return queue(workers[1])\nend\n"
ANY = "function route_request(request, workers)\n  return queue()\nend\n"
PATIENT = "function route_request(request, workers)\n  return queue(workers[1], {timeout_s = %s})\nend\n"
SOON_S = 1.0


class Held:
    """A worker with room for one request, which it answers when `let_go` is called."""

    def __init__(self, name: str = "w1") -> None:
        self.turns = asyncio.Semaphore(0)
        self.worker = FaultWorker(self._answer, name=name)
        self.counts = False

    async def _answer(self, connection: Connection, request: Request) -> None:
        """counts: the prompt's tokens are told as they are, in place of the usual three."""
        await self.turns.acquire()
        body = completion(connection, request)
        if self.counts:
            body["usage"] = body["usage"] | {"prompt_tokens": len(request.body) // 4}
        await connection.write(whole(200, body, JSON_TYPE))

    def entry(self) -> dict[str, Any]:
        return {"id": self.worker.name, "url": self.worker.url, "models": ["tiny"], "max_concurrency": 1}

    def let_go(self, requests: int = 1) -> None:
        for _ in range(requests):
            self.turns.release()

    def asked_by(self) -> list[bytes | None]:
        return [request.header("x-request-id") for request in self.worker.requests]


@asynccontextmanager
async def held_router(
    folder: Path, script: str | None, *names: str, **sections: Any
) -> AsyncIterator[tuple[Router, list[Held]]]:
    """A router before held workers, every one of which has a request already that nobody else counts on."""
    held = [Held(name) for name in names or ("w1",)]
    for one in held:
        await one.worker.__aenter__()
    try:
        async with router(folder, *(one.entry() for one in held), script=script, **sections) as under_test:
            yield under_test, held
    finally:
        for one in held:
            await one.worker.__aexit__(None, None, None)


def ask(under_test: Router, name: str, body: Any = PROMPT) -> asyncio.Task[Answer]:
    return asyncio.create_task(under_test.post(CHAT, body, [("x-request-id", name)]))


def waiting(under_test: Router) -> int:
    return len(under_test.daemon.listener.dispatcher.waiting)


async def until_waiting(under_test: Router, count: int) -> None:
    await until(lambda: waiting(under_test) == count, f"{count} requests to wait", SOON_S)


async def fill(under_test: Router, held: Held, name: str = "first") -> asyncio.Task[Answer]:
    """Gives the worker the request that takes its room."""
    before = len(held.worker.requests)
    task = ask(under_test, name)
    await held.worker.wait_requests(before + 1)
    return task


def error_of(answer: Answer) -> tuple[int, str, str]:
    kind, code, param = error_shape(answer.json())
    assert param is None
    return answer.status, kind, code


UNAVAILABLE = "service_unavailable_error"

# Waiting for room.


@pytest.mark.parametrize("script", [QUEUE, ANY], ids=["named", "any"])
@pytest.mark.parametrize("body", [PROMPT, STREAMED], ids=["json", "stream"])
@story
async def test_a_request_waits_until_a_slot_is_free_and_its_line_says_how_long(
    body: dict[str, Any], script: str, tmp_path: Path
) -> None:
    async with held_router(tmp_path, script) as (under_test, (held,)):
        first = await fill(under_test, held)
        second = ask(under_test, "second", body)
        await until_waiting(under_test, 1)
        await asyncio.sleep(0.05)
        assert len(held.worker.requests) == 1
        held.let_go()
        assert (await first).status == 200
        held.let_go()
        answer = await second
        assert (answer.status, answer.headers["x-rbee-worker"], waiting(under_test)) == (200, "w1", 0)
        one, other = await under_test.wait_requests(2)
        assert (one["queue_ms"], one["request_id"], other["worker"], other["by"]) == (0.0, "first", "w1", "script")
        assert 40 < other["queue_ms"] <= other["total_ms"]


@story
async def test_with_vtc_basic_who_had_the_fewest_tokens_goes_first_and_a_key_says_who_that_is(tmp_path: Path) -> None:
    async with held_router(tmp_path, None, routing={"strategy": "vtc-basic"}) as (under_test, (held,)):
        long = PROMPT | {"messages": [{"role": "user", "content": "hello there " * 500}]}
        held.counts = True
        tasks = []
        for name, body in (("long-1", long), ("long-2", long), ("short-1", PROMPT), ("short-2", PROMPT)):
            key = ("authorization", f"Bearer {name.partition('-')[0]}")
            tasks.append(asyncio.create_task(under_test.post(CHAT, body, [("x-request-id", name), key])))
            await (held.worker.wait_requests(1) if len(tasks) == 1 else until_waiting(under_test, len(tasks) - 1))
        for done in range(4):
            await held.worker.wait_requests(done + 1)
            held.let_go()
        assert [(await task).status for task in tasks] == [200] * 4
        assert held.asked_by() == [b"long-1", b"short-1", b"long-2", b"short-2"], "in turns, long-2 came second"
        lines = await under_test.wait_requests(4)
        assert [line["reason"].partition(";")[0] for line in lines] == ["vtc-basic"] * 4, "by its key, without a user"


@story
async def test_what_users_have_had_outlives_a_reload_while_they_wait(tmp_path: Path) -> None:
    async with held_router(tmp_path, None, routing={"strategy": "vtc-basic"}) as (under_test, (held,)):
        held.counts = True
        long = {**PROMPT, "user": "long", "messages": [{"role": "user", "content": "hello there " * 500}]}
        tasks = [ask(under_test, "long-1", long)]
        await held.worker.wait_requests(1)
        tasks.append(ask(under_test, "long-2", long))
        await until_waiting(under_test, 1)
        assert (await under_test.daemon.reload("test"))["ok"]
        tasks.append(ask(under_test, "short", PROMPT | {"user": "short"}))
        await until_waiting(under_test, 2)
        for done in range(3):
            await held.worker.wait_requests(done + 1)
            held.let_go()
        assert [(await task).status for task in tasks] == [200] * 3
        assert held.asked_by() == [b"long-1", b"short", b"long-2"], "those who have had nothing go as they came"


@story
async def test_two_who_wait_for_one_slot_go_one_after_the_other_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    async with held_router(tmp_path, QUEUE) as (under_test, (held,)):
        tasks = [await fill(under_test, held)]
        for count, name in enumerate(("second", "third"), 1):
            tasks.append(ask(under_test, name))
            await until_waiting(under_test, count)
        for done in (1, 2, 3):
            assert len(held.worker.requests) == done, "one at a time"
            held.let_go()
            assert (await tasks[done - 1]).status == 200
        assert held.asked_by() == [b"first", b"second", b"third"]


PRIORITY = """
function route_request(request, workers)
  return queue(workers[1], {priority = request.metadata:get("urgent") and "high" or "low"})
end
"""


@story
async def test_the_higher_priority_goes_first(tmp_path: Path) -> None:
    async with held_router(tmp_path, PRIORITY) as (under_test, (held,)):
        tasks = [await fill(under_test, held)]
        for count, (name, metadata) in enumerate({"low": {}, "high": {"urgent": True}}.items(), 1):
            tasks.append(ask(under_test, name, {**PROMPT, "metadata": metadata}))
            await until_waiting(under_test, count)
        held.let_go(3)
        assert {(await task).status for task in tasks} == {200}
        assert held.asked_by() == [b"first", b"high", b"low"]


@story
async def test_who_waits_for_a_full_worker_holds_up_nobody_who_waits_for_another(tmp_path: Path) -> None:
    script = "function route_request(request, workers)\n  return queue(request.metadata.to)\nend\n"
    async with held_router(tmp_path, script, "w1", "w2") as (under_test, (one, two)):
        tasks = []
        for name, held in (("w1-a", one), ("w2-a", two)):
            tasks.append(ask(under_test, name, {**PROMPT, "metadata": {"to": held.worker.name}}))
            await held.worker.wait_requests(1)
        for count, name in enumerate(("w1-b", "w2-b"), 1):
            tasks.append(ask(under_test, name, {**PROMPT, "metadata": {"to": name[:2]}}))
            await until_waiting(under_test, count)
        two.let_go(2)
        assert [(await task).status for task in tasks[1::2]] == [200, 200]
        assert (two.asked_by(), one.asked_by(), waiting(under_test)) == ([b"w2-a", b"w2-b"], [b"w1-a"], 1)
        one.let_go(2)
        assert [(await task).status for task in tasks[::2]] == [200, 200]


@story
async def test_those_who_wait_go_before_the_next_request_on_the_connection_that_freed_the_slot(tmp_path: Path) -> None:
    async with held_router(tmp_path, QUEUE) as (under_test, (held,)), under_test.connect() as client:
        for name in ("one", "behind"):
            client.send_request("POST", CHAT, PROMPT, [("x-request-id", name)])
        await held.worker.wait_requests(1)
        waits = ask(under_test, "waits")
        await until_waiting(under_test, 1)
        held.let_go(3)
        assert {(await client.receive()).status, (await waits).status, (await client.receive()).status} == {200}
        assert held.asked_by() == [b"one", b"waits", b"behind"]


@story
async def test_a_worker_that_comes_back_serves_those_who_wait_for_it(tmp_path: Path) -> None:
    async with FaultWorker(name="w1") as worker, router(tmp_path, worker, script=QUEUE, offline=[worker]) as under_test:
        assert under_test.worker("w1").status == OFFLINE
        task = ask(under_test, "r")
        await until_waiting(under_test, 1)
        under_test.daemon.fleet.apply(Report("w1", True, ("tiny",), 0.0))
        assert ((await task).status, under_test.worker("w1").status) == (200, READY)


@story
async def test_a_reload_that_removes_the_worker_lets_any_other_serve_those_who_wait_for_it(tmp_path: Path) -> None:
    async with held_router(tmp_path, QUEUE, "w1", "w2") as (under_test, (one, two)):
        first = await fill(under_test, one)
        second = ask(under_test, "second")
        await until_waiting(under_test, 1)
        daemon = under_test.daemon
        left = daemon.config.workers[1:]
        daemon.fleet.configure(left)
        daemon.listener.pools.swap(type(daemon.listener.pools).prepare(left, daemon.config.limits))
        two.let_go()
        assert (await second).headers["x-rbee-worker"] == "w2"
        one.let_go()
        assert (await first).status == 200
        await one.worker.wait_until(lambda: not one.worker.open_connections, SOON_S)


# Not for ever.


@story
async def test_who_waits_too_long_is_told_so_and_never_reaches_the_worker(tmp_path: Path) -> None:
    async with held_router(tmp_path, PATIENT % 0.1) as (under_test, (held,)):
        first = await fill(under_test, held)
        answer = await ask(under_test, "second")
        assert error_of(answer) == (503, UNAVAILABLE, "queue_timeout")
        assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("5", "true")
        assert answer.headers["x-request-id"] == "second"
        line = await under_test.wait_request()
        assert (line["outcome"], line["error"], line["status"]) == ("rejected", "queue_timeout", 503)
        assert not line.keys() & {"worker", "attempts"} and 100 <= line["queue_ms"] < 500
        held.let_go()
        assert ((await first).status, len(held.worker.requests)) == (200, 1)


@pytest.mark.parametrize("limits", [{"queue_s": 0.1}, {"queue_most_s": 0.1}, {"request_s": 0.1}, {"stream_s": 0.1}])
@story
async def test_every_limit_on_waiting_holds(limits: dict[str, float], tmp_path: Path) -> None:
    script = PATIENT % 60 if "queue_s" not in limits else QUEUE
    async with held_router(tmp_path, script, limits=limits) as (under_test, (held,)):
        made = under_test.daemon.fleet.workers["w1"]
        under_test.daemon.fleet.sent(made, 0.0)
        body = STREAMED if "stream_s" in limits else PROMPT
        assert error_of(await ask(under_test, "r", body)) == (503, UNAVAILABLE, "queue_timeout")
        under_test.daemon.fleet.finished(made, None, 0.0)
        assert held.worker.requests == []


@pytest.mark.parametrize("length", [0, 1])
@story
async def test_a_full_queue_answers_at_once(length: int, tmp_path: Path) -> None:
    async with held_router(tmp_path, QUEUE, limits={"queue_length": length}) as (under_test, (held,)):
        tasks = [await fill(under_test, held)]
        if length:
            tasks.append(ask(under_test, "waits"))
            await until_waiting(under_test, 1)
        answer = await ask(under_test, "too many")
        assert error_of(answer) == (503, UNAVAILABLE, "queue_full")
        assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("5", "true")
        held.let_go(len(tasks))
        assert {(await task).status for task in tasks} == {200}
        assert (await under_test.wait_requests(len(tasks) + 1))[0]["outcome"] == "rejected"


# The client leaves, the daemon stops.


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@story
async def test_a_client_that_leaves_while_it_waits_gives_up_its_place(how: str, tmp_path: Path) -> None:
    async with held_router(tmp_path, QUEUE) as (under_test, (held,)):
        first = await fill(under_test, held)
        async with under_test.connect() as client:
            client.send_request("POST", CHAT, PROMPT, [("x-request-id", "leaves")])
            await until_waiting(under_test, 1)
            stays = ask(under_test, "stays")
            await until_waiting(under_test, 2)
            {"close": client.half_close, "reset": client.abort, "half-close": client.half_close}[how]()
            await until_waiting(under_test, 1)
        line = await under_test.wait_request()
        assert (line["outcome"], line["status"]) == ("client_gone", 499)
        assert not line.keys() & {"worker", "attempts"}
        held.let_go(2)
        assert ((await first).status, (await stays).status) == (200, 200)
        assert held.asked_by() == [b"first", b"stays"]


@story
async def test_a_client_that_leaves_its_worker_makes_room_for_who_waits(tmp_path: Path) -> None:
    async with held_router(tmp_path, QUEUE) as (under_test, (held,)):
        async with under_test.connect() as client:
            client.send_request("POST", CHAT, PROMPT)
            await held.worker.wait_requests(1)
            task = ask(under_test, "waits")
            await until_waiting(under_test, 1)
            client.abort()
            await held.worker.wait_requests(2)
        held.let_go(2)
        assert (await task).status == 200


@story
async def test_while_the_daemon_drains_those_who_wait_are_served(tmp_path: Path) -> None:
    async with held_router(tmp_path, QUEUE) as (under_test, (held,)):
        tasks = [await fill(under_test, held), ask(under_test, "waits")]
        await until_waiting(under_test, 1)
        drain = asyncio.create_task(under_test.daemon.listener.drain(5.0))
        await asyncio.sleep(0)
        held.let_go(2)
        assert [(await task).status for task in tasks] == [200, 200]
        await drain


@story
async def test_when_the_drain_ends_those_who_wait_are_told_and_reach_no_worker(tmp_path: Path) -> None:
    async with held_router(tmp_path, QUEUE) as (under_test, (held,)):
        tasks = [await fill(under_test, held), ask(under_test, "second"), ask(under_test, "third")]
        await until_waiting(under_test, 2)
        await under_test.daemon.listener.drain(0.05)
        assert [error_of(await task) for task in tasks] == [(503, UNAVAILABLE, "draining")] * 3
        assert (held.asked_by(), waiting(under_test)) == ([b"first"], 0)
        assert {line["outcome"] for line in await under_test.wait_requests(3)} == {"drained"}
        held.let_go()


# Turning away.


@pytest.mark.parametrize(
    ("said", "expected", "retry_after", "should_retry"),
    [
        ("reject()", (403, "invalid_request_error"), None, "false"),
        ("reject{status = 429}", (429, "rate_limit_error"), None, "true"),
        ("reject{status = 429, retry_after = 7}", (429, "rate_limit_error"), "7", "true"),
        ("reject{status = 503, retry_after = 1.2}", (503, UNAVAILABLE), "2", "true"),
        ("reject{status = 500}", (500, "server_error"), None, "false"),
        ("reject{status = 404, message = 'come back\\ntomorrow'}", (404, "invalid_request_error"), None, "false"),
    ],
)
@pytest.mark.parametrize("body", [PROMPT, STREAMED], ids=["json", "stream"])
@story
async def test_a_rejected_client_gets_the_script_s_own_answer(
    body: dict[str, Any], said: str, expected: tuple[int, str], retry_after: str | None, should_retry: str, tmp_path: Path
) -> None:
    script = f"function route_request(request, workers)\n  return {said}\nend\n"
    async with FaultWorker() as worker, router(tmp_path, worker, script=script) as under_test, under_test.connect() as client:
        answer = await client.post(CHAT, body, [("x-request-id", "r")])
        assert error_of(answer) == (*expected, "script_rejected")
        assert (answer.headers.get("retry-after"), answer.headers["x-should-retry"]) == (retry_after, should_retry)
        assert answer.headers["x-request-id"] == "r"
        if "message" in said:
            assert answer.json()["error"]["message"] == "come back\ntomorrow"
        line = await under_test.wait_request()
        assert (line["outcome"], line["error"], line["status"], line["by"]) == (
            "rejected", "script_rejected", expected[0], "script",
        )  # fmt: skip
        assert line["reason"] == "routing.lua:2" and "worker" not in line
        assert (await client.post(CHAT, body)).status == expected[0], "the connection goes on"
        assert worker.requests == []
        await client.close()
        await under_test.wait_requests(2)


# Failover through a list, headers.

LIST = """
function route_request(request, workers)
  return {worker = {"w3", "w1"}, headers = {["x-priority"] = "9", ["x-session-id"] = "mine"}, reason = "in order"}
end
"""


@story
async def test_workers_of_a_list_are_tried_in_its_order_and_each_gets_the_script_s_headers(tmp_path: Path) -> None:
    async with (
        FaultWorker(name="w1") as one,
        FaultWorker(name="w2") as two,
        FaultWorker("close_before_head", name="w3") as three,
        router(tmp_path, one, two, three, script=LIST) as under_test,
    ):
        answer = await under_test.post(CHAT, PROMPT, [("X-Session-Id", "theirs"), ("User-Agent", "test")])
        assert (answer.status, answer.headers["x-rbee-worker"]) == (200, "w1")
        for worker in (three, one):
            (request,) = worker.requests
            assert [request.header(name) for name in ("x-priority", "x-session-id", "user-agent")] == [
                b"9", b"mine", b"test",
            ]  # fmt: skip
        assert two.requests == []
        line = await under_test.wait_request()
        assert [row["worker_id"] for row in line["tries"]] == ["w3", "w1"]


@story
async def test_a_list_that_has_come_to_its_end_leaves_no_other_worker(tmp_path: Path) -> None:
    script = "function route_request(request, workers)\n  return {'w2', 'w1'}\nend\n"
    async with (
        FaultWorker("close_before_head", name="w1") as one,
        FaultWorker("close_before_head", name="w2") as two,
        FaultWorker(name="w3") as three,
        router(tmp_path, one, two, three, script=script) as under_test,
    ):
        answer = await under_test.post(CHAT, PROMPT)
        assert (answer.status, answer.json()["error"]["code"], three.requests) == (502, "poison_request", [])
        assert (len(one.requests), len(two.requests)) == (1, 1)


# What a defect may not do.


@story
async def test_a_request_that_cannot_go_on_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    async with held_router(tmp_path, QUEUE) as (under_test, (held,)):
        tasks = [await fill(under_test, held)]
        for count, name in enumerate(("second", "third"), 1):
            tasks.append(ask(under_test, name))
            await until_waiting(under_test, count)
        listener = under_test.daemon.listener
        broken, _ = list(listener.waiters._exchanges.values())

        def fail(effect: object) -> None:
            del broken.perform  # type: ignore[method-assign]
            under_test.daemon.listener.dispatcher.on_cancel(broken.job)
            raise ValueError("a defect")

        broken.perform = fail  # type: ignore[method-assign]
        held.let_go(3)
        assert (await tasks[0]).status == 200
        assert (await tasks[2]).status == 200
        broken.perform(FINISH)
        tasks[1].cancel()
        (told,) = under_test.unexpected
        assert (told["message"], repr(told["exception"])) == (
            "a request that waited could not go on", "ValueError('a defect')",
        )  # fmt: skip
        under_test.unexpected.clear()


@story
async def test_a_decider_that_cannot_be_told_of_an_end_is_reported(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        def fail(job: Job) -> None:
            raise ValueError("a defect")

        under_test.daemon.decider.completed = fail  # type: ignore[method-assign]
        assert (await under_test.post(CHAT, PROMPT)).status == 200
        await until(lambda: bool(under_test.unexpected), "the report", SOON_S)
        assert under_test.unexpected[0]["message"] == "a finished request could not be told to the script"
        under_test.unexpected.clear()


@story
async def test_a_client_that_pipelines_while_it_waits_gets_its_answers_in_order(tmp_path: Path) -> None:
    async with held_router(tmp_path, QUEUE) as (under_test, (held,)), under_test.connect() as client:
        first = await fill(under_test, held)
        for name in ("a", "b", "c"):
            client.send_request("POST", CHAT, PROMPT, [("x-request-id", name)])
        await until_waiting(under_test, 1)
        held.let_go(4)
        assert [(await client.receive()).headers["x-request-id"] for _ in range(3)] == ["a", "b", "c"]
        assert (await first).status == 200


@story
async def test_a_hundred_who_wait_are_all_served_and_nothing_is_left(tmp_path: Path) -> None:
    async with held_router(tmp_path, ANY, "w1", "w2") as (under_test, held):
        tasks = [ask(under_test, f"r-{number}") for number in range(100)]
        await until(lambda: waiting(under_test) == 98, "98 to wait")
        for one in held:
            one.let_go(100)
        assert {(await task).status for task in tasks} == {200}
        assert sum(len(one.worker.requests) for one in held) == 100
