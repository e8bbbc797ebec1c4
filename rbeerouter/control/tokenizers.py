"""Asks a worker's tokenizer what the tokens of a prompt are, before it is decided who gets it.

`wire.exchange` waits for `read` where `asks` says that it is of use: a worker that serves the model tells what is in
its KV cache, which is named after tokens. Nothing here may fail or last: without an answer in time the strategy goes by
what it remembers of bytes. What was read is kept for prompts that come again.
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence

import aiohttp

from rbeerouter.config.sections import KvEventOptions
from rbeerouter.control.sessions import Sessions, read_up_to
from rbeerouter.core.kv_events import PromptTokens
from rbeerouter.core.types import BUSY, READY, Request, Worker
from rbeerouter.dialects.engines import ENGINES
from rbeerouter.dialects.prompts import Prompt
from rbeerouter.dialects.tokenizing import TOKENIZERS, Said, prompt_tokens, said_in
from rbeerouter.routing.strategies.exact import Exact

_REST_S = 10.0
"""How long a worker is not asked that gave no answer, or that has no such page."""
_MOST_ANSWER_BYTES = 16 << 20
_NO_PAGE = (401, 403, 404, 405, 501)
CLIENTS, KEPT, READ, LATE, FAILED, NOBODY = "clients", "kept", "read", "late", "failed", "nobody"
RESULTS = (CLIENTS, KEPT, READ, LATE, FAILED, NOBODY)
"""The client sent tokens, they were kept from before, a worker read them, none did in time, it gave no sense, or there
was none that could be asked. A prompt that cannot be read so, such as one with pictures, counts as none of these."""


class Tokenizers:
    """Reads prompts.

    Args:
        may_have: the workers that serve a request's model and may have it: a prompt is shown to nobody else.
        reads: may the strategy of this request go by its tokens?

    Attributes:
        results: how often each came of it.
    """

    def __init__(
        self, may_have: Callable[[Request], Sequence[Worker]], exact: Exact, options: KvEventOptions,
        sessions: Sessions, now: Callable[[], float], reads: Callable[[Request], bool],
    ) -> None:  # fmt: skip
        self.results: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        self._may_have = may_have
        self._sessions = sessions
        self._now = now
        self._reads = reads
        self._kept: OrderedDict[bytes, array[int]] = OrderedDict()
        self._kept_tokens = 0
        self._rests: dict[str, float] = {}
        self.apply(exact, options)

    def apply(self, exact: Exact, options: KvEventOptions) -> None:
        """Takes new settings."""
        self._exact, self._options = exact, options
        self._shrink()

    def asks(self, request: Request) -> bool:
        """Is it worth waiting for `read`?"""
        exact = self._exact
        if request.text is None or not exact.holdings or not self._reads(request):
            return False
        return any(exact.tells(worker) for worker in self._may_have(request))

    async def read(self, request: Request, body: bytes) -> None:
        """Finds out the tokens of a request's prompt, where they can be had in time, and hangs them on its text. It
        raises nothing but what ends its task."""
        if isinstance(request.text, Prompt):
            request.text.ids = await self.tokens_of(request, body)

    async def tokens_of(self, request: Request, body: bytes) -> PromptTokens | None:
        """None: they could not be had in time."""
        said = said_in(request.path, body)
        if said is None:
            return None
        if said.tokens is not None:
            return self._made(said.tokens, said, CLIENTS)
        key = hashlib.blake2b(said.key(), digest_size=16, key=request.model.encode("utf-8", "replace")[:64]).digest()
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            self.results[KEPT] += 1
            return PromptTokens(kept, said.salt)
        worker = self._worker_for(request)
        if worker is None:
            self.results[NOBODY] += 1
            return None
        try:
            async with asyncio.timeout(self._options.tokenizer_s):
                ids = await self._ask(worker, said, worker.spec.model_names.get(request.model, request.model))
        except TimeoutError:
            self._rest(worker, LATE)
            return None
        except (aiohttp.ClientError, OSError, ValueError):
            self._rest(worker, FAILED)
            return None
        if ids is None:                                        # this prompt is not to its liking
            self.results[FAILED] += 1
            return None
        tokens = self._made(ids, said, READ)
        if tokens is not None:
            self._keep(key, tokens.ids)
        return tokens

    def _made(self, ids: list[int], said: Said, result: str) -> PromptTokens | None:
        try:
            tokens = prompt_tokens(ids, said.salt)
        except ValueError:
            self.results[FAILED] += 1
            return None
        self.results[result] += 1
        return tokens

    def _worker_for(self, request: Request) -> Worker | None:
        """Who is asked: the idlest of those that can be, those that tell of their caches first."""
        now, exact = self._now(), self._exact
        can = [
            worker for worker in self._may_have(request)
            if worker.status in (READY, BUSY) and worker.engine in TOKENIZERS
            and self._rests.get(worker.id, 0.0) <= now
        ]  # fmt: skip
        return min(can, key=lambda worker: (not exact.tells(worker), worker.load), default=None)

    def _rest(self, worker: Worker, result: str) -> None:
        self.results[result] += 1
        now = self._now()
        self._rests = {name: until for name, until in self._rests.items() if until > now}
        self._rests[worker.id] = now + _REST_S

    async def _ask(self, worker: Worker, said: Said, model: str) -> list[int] | None:
        """None: it does not take this prompt. Raises ValueError, and what a connection may raise."""
        steps = TOKENIZERS[worker.engine](said, model)
        step = next(steps)
        while True:
            status, answer = await self._post(worker, step.path, step.body)
            if status in _NO_PAGE or status >= 500:
                raise ValueError(f"POST {step.path} answered {status}")
            if status != 200:
                return None
            try:
                step = steps.send(answer)
            except StopIteration as done:
                return done.value

    async def _post(self, worker: Worker, path: str, body: bytes) -> tuple[int, bytes]:
        spec = worker.spec
        headers = ENGINES[worker.engine].key_headers(spec.api_key) if spec.api_key else {}
        async with self._sessions.of(spec).post(
            spec.url + path, data=body, headers={**headers, "content-type": "application/json"},
            allow_redirects=False, ssl=self._sessions.tls(spec),
        ) as answer:  # fmt: skip
            return answer.status, await read_up_to(answer.content, _MOST_ANSWER_BYTES)

    def _keep(self, key: bytes, ids: array[int]) -> None:
        self._kept[key] = ids
        self._kept_tokens += len(ids)
        self._shrink()

    def _shrink(self) -> None:
        options = self._options
        while len(self._kept) > options.tokenizer_prompts or self._kept_tokens > options.tokenizer_tokens:
            _, ids = self._kept.popitem(last=False)
            self._kept_tokens -= len(ids)
