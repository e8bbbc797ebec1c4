"""Tests of how clients choose their routing, over real connections: strategy, profile, address, and what they are told.

Run by pytest, with the router in the test's loop. tests/dialects/test_wishes.py has what is refused.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.routing.strategies import NAMES
from tests.support.aio import story
from tests.support.daemon import until
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import Answer
from tests.wire.answers import CHAT, PROMPT, STREAMED, error_shape
from tests.wire.router import Router, router
from tests.wire.test_waiting import Held, ask, waiting


async def wishing(under_test: Router, body: Any = PROMPT, **headers: str) -> Answer:
    return await under_test.post(CHAT, body, [(name.replace("_", "-"), value) for name, value in headers.items()])


def told(answer: Answer) -> tuple[str | None, ...]:
    """(strategy, reason, profile) as the client sees them."""
    return tuple(answer.headers.get(f"x-rbee-{name}") for name in ("strategy", "reason", "profile"))


@story
async def test_a_client_chooses_a_strategy_which_is_named_and_goes_no_further(tmp_path: Path) -> None:
    passing = {"request_headers": ["r*", "c*", "x-*"]}
    async with FaultWorker() as worker, router(tmp_path, worker, server=passing) as under_test:
        answer = await wishing(
            under_test, routing_strategy="Round_Robin", x_slo_ttft_ms="250", x_rbee_session_key="s", config_profile="auto"
        )
        assert told(answer) == ("round-robin", "round-robin", None)
        assert told(await wishing(under_test, STREAMED)) == ("least-request", "least-request", None)
        listed = await wishing(under_test, routing_strategy="least-request:2,least_kv_cache")
        assert listed.headers["x-rbee-strategy"] == "least-request:2,least-kv-cache:1"
        names = {b"routing-strategy", b"config-profile", b"x-slo-ttft-ms", b"x-rbee-session-key"}
        assert not any(names & {name.lower() for name, _ in request.headers} for request in worker.requests)
        line = (await under_test.wait_requests(3))[0]
        assert line["wishes"] == {
            "strategy": "Round_Robin", "profile": "auto", "session_key": "s", "slo_ttft_ms": 250.0,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"routing_strategy": "fastest"}, "routing-strategy: 'fastest': "),
        ({"routing_strategy": "pd"}, f"routing-strategy: 'pd': {NAMES.reserved['pd']}"),
        ({"routing_strategy": "least-request:x"}, "routing-strategy: 'least-request:x': the weight 'x': "),
        ({"routing_strategy": "random," * 40}, f"routing-strategy: '{('random,' * 6)[:40]}...': expected at most 256 bytes"),
        ({"x_slo_tpot_ms": "fast"}, "x-slo-tpot-ms: 'fast': expected a positive number of milliseconds"),
    ],
)
@story
async def test_a_wish_that_makes_no_sense_is_refused_in_openais_shape(
    tmp_path: Path, headers: dict[str, str], said: str
) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        answer = await wishing(under_test, **headers)
        assert (answer.status, error_shape(answer.json())) == (400, ("invalid_request_error", "invalid_header", None))
        message = answer.json()["error"]["message"]
        assert message.startswith(said)
        assert (worker.requests, answer.headers["x-should-retry"]) == ([], "false")


@story
async def test_the_refusal_of_an_unknown_strategy_lists_those_that_there_are(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        message = (await wishing(under_test, routing_strategy="fastest")).json()["error"]["message"]
        assert message.endswith(f"expected one of {', '.join(NAMES.known)}")


@story
async def test_where_clients_may_not_choose_and_where_the_model_is_locked_the_header_is_not_read(tmp_path: Path) -> None:
    forbidden = {"strategy_header": False}
    async with FaultWorker() as worker:
        async with router(tmp_path, worker, routing=forbidden) as under_test:
            for text in ("fastest", "s" * 10_000):
                assert told(await wishing(under_test, routing_strategy=text)) == ("least-request",) * 2 + (None,)
            assert (await wishing(under_test, config_profile="p" * 300)).status == 200, "as any that there is not"
        models: Any = [{"name": "tiny", "locked_strategy": "round_robin"}]
        (tmp_path / "locked").mkdir()
        async with router(tmp_path / "locked", worker, models=models) as under_test:
            assert told(await wishing(under_test, routing_strategy="fastest")) == ("round-robin",) * 2 + (None,)


@story
async def test_a_profile_is_named_by_the_client_or_found_by_size(tmp_path: Path) -> None:
    models: Any = [
        {
            "name": "tiny", "aliases": ["small"], "default_profile": "chat", "profiles.chat.strategy": "least-request",
            "profiles.long.strategy": "random", "profiles.long.max_tokens_gte": 100,
        }
    ]  # fmt: skip
    async with FaultWorker() as worker, router(tmp_path, worker, models=models) as under_test:
        assert told(await wishing(under_test)) == ("least-request", "least-request", "chat")
        assert told(await wishing(under_test, config_profile="long")) == ("random", "random", "long")
        assert told(await wishing(under_test, config_profile="auto")) == ("least-request", "least-request", "chat")
        longer = {**PROMPT, "model": "small", "max_tokens": 100}
        assert told(await wishing(under_test, longer, config_profile="auto")) == ("random", "random", "long")
        assert told(await wishing(under_test, routing_strategy="weighted", config_profile="long")) == (
            "weighted", "weighted", "long",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "headers", "client"),
    [
        ({}, {"x_forwarded_for": "192.0.2.7"}, "127.0.0.1"),
        ({"client_ip_header": "X-Forwarded-For"}, {"x_forwarded_for": "6.6.6.6, 192.0.2.7"}, "192.0.2.7"),
        ({"client_ip_header": "x-forwarded-for", "client_ip_hops": 2}, {"x_forwarded_for": "192.0.2.7"}, "127.0.0.1"),
        ({"client_ip_header": "x-forwarded-for"}, {}, "127.0.0.1"),
    ],
)
@story
async def test_the_client_is_who_connects_or_whom_a_trusted_proxy_names(
    tmp_path: Path, settings: dict[str, Any], headers: dict[str, str], client: str
) -> None:
    routing = {"strategy": "ip-hash", "log_users": "plain", **settings}
    async with FaultWorker() as worker, router(tmp_path, worker, routing=routing) as under_test:
        await wishing(under_test, **headers)
        assert (await under_test.wait_request())["client"] == client


@story
async def test_nobody_looks_at_the_address_where_no_strategy_goes_by_it(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker, routing={"log_users": "plain"}) as under_test:
        await wishing(under_test)
        await wishing(under_test, routing_strategy="ip-hash")
        assert [line.get("client") for line in await under_test.wait_requests(2)] == [None, "127.0.0.1"]


@story
async def test_who_waits_is_told_by_the_strategy_that_chose_in_the_end(tmp_path: Path) -> None:
    held = Held()
    async with held.worker, router(tmp_path, held.entry(), routing={"strategy": "session-affinity"}) as under_test:
        first, second = ask(under_test, "first"), ask(under_test, "second")
        await until(lambda: waiting(under_test) == 1, "one that waits")
        held.let_go(2)
        session = base64.b64encode(b"w1").decode()
        for answer in (await first, await second):
            assert (answer.headers["x-session-id"], answer.headers["x-rbee-worker"]) == (session, "w1")
            assert answer.headers["x-rbee-strategy"] == "least-request"
        waited = [line for line in await under_test.wait_requests(2) if line["queue_ms"]]
        assert [line["reason"] for line in waited] == ["session-affinity; no worker has room; then least-request"]


@story
async def test_after_a_failure_the_client_is_told_of_the_worker_that_answered(tmp_path: Path) -> None:
    async with FaultWorker("close_before_head", name="bad") as bad, FaultWorker(name="good") as good:
        async with router(tmp_path, bad, good, routing={"strategy": "session-affinity"}) as under_test:
            session = base64.b64encode(b"bad").decode()
            answer = await wishing(under_test, x_session_id=session)
            assert (answer.status, answer.headers["x-rbee-worker"]) == (200, "good")
            assert answer.headers["x-session-id"] == base64.b64encode(b"good").decode()
