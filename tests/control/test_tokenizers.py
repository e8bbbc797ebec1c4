"""Tests of reading prompts by a worker's tokenizer: asked when it is of use, once for each prompt, and never for long.

Run by pytest. The engines are fault workers; what is posted to which engine is in tests/dialects/test_tokenizing.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from rbeerouter.config.sections import KvEventOptions, Strategies
from rbeerouter.control.sessions import Sessions
from rbeerouter.control.tokenizers import Tokenizers
from rbeerouter.core.types import Request, Worker
from rbeerouter.dialects.prompts import Prompt
from rbeerouter.routing.strategies.exact import Exact
from tests.support.aio import story
from tests.support.behaviours import whole
from tests.support.builders import Clock, fleet, request, worker
from tests.support.fault_worker import FaultWorker
from tests.support.tokenizing_worker import TokenizingWorker, tokens_of

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
"""One prompt."""


def asking(body: bytes = BODY, **fields: Any) -> Request:
    asked = request(**fields)
    return msgspec.structs.replace(asked, text=Prompt(body, asked.path, asked.model, Strategies()))


class Desk:
    """Tokenizers over the workers that there are, of which all tell of their caches that are named."""

    def __init__(self, *workers: FaultWorker, tells: tuple[str, ...] = ("w",), engine: str = "vllm", **options: Any) -> None:
        self.clock, self.exact, self.sessions = Clock(), Exact(), Sessions()
        specs = [worker(one.name, url=one.url, engine=engine, models=("m",)) for one in workers]
        self.fleet = fleet(*specs)
        for name in tells:
            self.exact.listen_to(name).live = True
        settings = KvEventOptions(**{"tokenizer_s": 1.0, **options})
        self.reads, self.forbidden = True, frozenset[str]()
        self.tokenizers = Tokenizers(
            self.may_have, self.exact, settings, self.sessions, lambda: self.clock.now_s, lambda asked: self.reads
        )

    def may_have(self, asked: Request) -> list[Worker]:
        return [one for one in self.fleet.ordered if one.serves(asked.model) and one.id not in self.forbidden]

    async def read(self, body: bytes = BODY, **fields: Any) -> list[int] | None:
        asked = asking(body, **fields)
        await self.tokenizers.read(asked, body)
        assert asked.text is not None
        ids = asked.text.token_ids()
        return None if ids is None else list(ids)

    def results(self) -> dict[str, int]:
        return {name: count for name, count in self.tokenizers.results.items() if count}


@asynccontextmanager
async def desk(*workers: FaultWorker, **options: Any) -> AsyncIterator[Desk]:
    made = Desk(*workers, **options)
    try:
        yield made
    finally:
        await made.sessions.close()


@story
async def test_a_prompt_is_read_once() -> None:
    async with TokenizingWorker(name="w") as engine, desk(engine) as made:
        assert await made.read() == tokens_of("user:hello\nassistant:")
        assert await made.read() == tokens_of("user:hello\nassistant:")
        assert (len(engine.tokenized), made.results()) == (1, {"read": 1, "kept": 1})


@story
async def test_llamacpp_is_asked_for_its_template_first() -> None:
    async with TokenizingWorker(name="w") as engine, desk(engine, engine="llamacpp") as made:
        assert await made.read() == tokens_of("user:hello\nassistant:")
        assert [path for path, _ in engine.tokenized] == ["/apply-template", "/tokenize"]


@story
async def test_tokens_of_the_clients_own_need_nobody() -> None:
    body = json.dumps({"prompt": [3, 1, 2], "cache_salt": "s"}).encode()
    async with TokenizingWorker(name="w") as engine, desk(engine) as made:
        assert await made.read(body, path="/v1/completions") == [3, 1, 2]
        assert (engine.tokenized, made.results()) == ([], {"clients": 1})
        assert await made.read(b'{"prompt": [-1]}', path="/v1/completions") is None


@story
async def test_a_worker_that_gives_no_answer_in_time_is_left_alone_for_a_while() -> None:
    async with TokenizingWorker(name="w") as engine, desk(engine, tokenizer_s=0.05) as made:
        engine.silent = True
        assert await made.read() is None
        assert await made.read() is None
        assert (len(engine.tokenized), made.results()) == (1, {"late": 1, "nobody": 1})

        engine.silent = False
        made.clock.advance(10.0)
        assert await made.read() is not None


@story
async def test_another_worker_is_asked_while_the_first_rests() -> None:
    async with TokenizingWorker(name="w") as first, TokenizingWorker(name="v") as second:
        async with desk(first, second) as made:
            first.answer_with = whole(404, {"detail": "Not Found"})
            assert [await made.read(), await made.read()] == [None, tokens_of("user:hello\nassistant:")]
            assert (len(first.tokenized), len(second.tokenized)) == (1, 1)


@story
async def test_a_prompt_that_the_engine_refuses_does_not_keep_others_from_it() -> None:
    async with TokenizingWorker(name="w") as engine, desk(engine) as made:
        engine.answer_with = whole(400, {"error": {"message": "no such role"}})
        assert await made.read() is None
        engine.answer_with = None
        assert await made.read() is not None
        assert made.results() == {"failed": 1, "read": 1}


@story
async def test_nonsense_is_no_tokens() -> None:
    for answer in ({"tokens": "x"}, [], {"tokens": [-5]}):
        async with TokenizingWorker(name="w") as engine, desk(engine) as made:
            engine.answer_with = whole(200, answer)
            assert (await made.read(), made.results()) == (None, {"failed": 1})


@story
async def test_what_is_kept_has_an_end() -> None:
    async with TokenizingWorker(name="w") as engine, desk(engine, tokenizer_prompts=2, tokenizer_tokens=100) as made:
        bodies = [
            json.dumps({"messages": [{"role": "user", "content": content}]}).encode()
            for content in ("a", "b", "c", "d" * 60, "e" * 60)
        ]
        for body in bodies[:3]:
            await made.read(body)
        await made.read(bodies[1])
        await made.read(bodies[0])
        assert made.results() == {"read": 4, "kept": 1}
        for body in bodies[3:]:
            await made.read(body)
        await made.read(bodies[3])
        assert made.results() == {"read": 7, "kept": 1}


@story
async def test_it_is_asked_only_where_tokens_are_of_use() -> None:
    async with TokenizingWorker(name="w") as engine, desk(engine) as made:
        asks = made.tokenizers.asks
        assert asks(asking())
        assert not asks(request()), "nobody reads its prompt"
        assert not asks(asking(model="other")), "nobody who serves it tells"
        made.reads = False
        assert not asks(asking()), "its strategy goes by something else"
        made.reads = True
        made.exact.holdings["w"].live = False
        assert not asks(asking()), "nobody can be heard"
        made.exact.holdings["w"].live = True
        made.forbidden = frozenset({"w"})
        assert not asks(asking()), "who tells may not have it"
        made.forbidden = frozenset()
        made.exact.forget("w")
        assert not asks(asking()), "nobody tells"


@story
async def test_a_prompt_is_shown_to_nobody_who_may_not_have_the_request() -> None:
    async with TokenizingWorker(name="w") as first, TokenizingWorker(name="v") as second:
        async with desk(first, second) as made:
            made.forbidden = frozenset({"w"})
            assert await made.read() is not None
            assert (first.tokenized, len(second.tokenized)) == ([], 1)


@story
async def test_who_leaves_while_it_is_read_leaves_nothing_behind() -> None:
    async with TokenizingWorker(name="w") as engine, desk(engine, tokenizer_s=5.0) as made:
        engine.silent = True
        reading = asyncio.ensure_future(made.read())
        await engine.wait_until(lambda: len(engine.tokenized) == 1)
        reading.cancel()
        await engine.wait_closed_by_peer()
        assert made.results() == {}
