"""What all Ollama machines together hold, as one of them would tell it: models on disk and in memory, the version.

`server.ollama_pages` asks when a client does, which is seldom: clients fill their lists of models with it. A worker is
asked at most once in `_FRESH_S`; what it said last stands in for one that cannot be reached.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import aiohttp
import msgspec

from rbeerouter.config.sections import Probes
from rbeerouter.control.addresses import GuardedResolver, guard_for, never_allowed
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.models import NO_MODELS, Models
from rbeerouter.core.types import OLLAMA, Env, Worker, WorkerSpec

_FRESH_S = 5.0
"""Open WebUI asks for models with each page; a model that was pulled a moment ago may be seen some seconds later."""
_MOST_BYTES = 4 << 20
"""A thousand models take less than one MiB."""
_PATHS = ("/api/tags", "/api/ps", "/api/version")

Card = dict[str, Any]


class _Known:
    """What one worker said last, by path, and when it was asked."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.asked_at = -_FRESH_S
        self.pages: dict[str, Any] = {}
        self.asking = asyncio.Lock()


class OllamaCards:
    """The union over the workers of a fleet."""

    def __init__(self, fleet: Fleet, probes: Probes, env: Env, models: Models = NO_MODELS) -> None:
        self._fleet = fleet
        self._probes, self._models = probes, models
        self._env = env
        self._known: dict[str, _Known] = {}

    def apply(self, probes: Probes, models: Models) -> None:
        self._probes, self._models = probes, models

    def any(self) -> bool:
        """Is there a worker that speaks Ollama's protocol?"""
        return any(OLLAMA in worker.speaks for worker in self._fleet.ordered)

    async def tags(self) -> list[Card]:
        """Models on disk, each name once: of several workers that hold it the card that was changed last."""
        return await self._union("/api/tags", "modified_at")

    async def running(self) -> list[Card]:
        """Models in memory, each name once: of several workers that hold it the card that expires last."""
        return await self._union("/api/ps", "expires_at")

    async def version(self) -> str:
        """The oldest version among the workers, so that clients expect no more than each of them has."""
        told = [page.get("version") for _, page in await self._pages("/api/version") if isinstance(page, dict)]
        versions = [version for version in told if isinstance(version, str)]
        return min(versions, key=_ordered) if versions else "0.0.0"

    async def _union(self, path: str, newest: str) -> list[Card]:
        found: dict[str, Card] = {}
        for worker, page in await self._pages(path):
            listed = page.get("models") if isinstance(page, dict) else None
            for card in listed if isinstance(listed, list) else ():
                if not isinstance(card, dict):
                    continue
                for name in self._names_for_clients(worker, str(card.get("name") or card.get("model") or "")):
                    known = found.get(name)
                    if known is None or str(card.get(newest, "")) > str(known.get(newest, "")):
                        found[name] = {**card, "name": name, "model": name}
        return list(found.values())

    def _names_for_clients(self, worker: Worker, name: str) -> list[str]:
        """Under which names clients may ask for a model of this worker: its own, if the operator lists no others; those
        of `model_names`; and the aliases of both."""
        known = (name, name.removesuffix(":latest"))
        names = [name] if name and worker.serves(name) else []
        names += [asked for asked, meant in worker.spec.model_names.items() if meant in known]
        found: list[str] = []
        for one in names:
            model = self._models.resolve(one)
            if model is None or model.allows(worker):
                found += [one, *(model.aliases if model is not None else ())]
        return found

    async def _pages(self, path: str) -> list[tuple[Worker, Any]]:
        workers = [worker for worker in self._fleet.ordered if OLLAMA in worker.speaks]
        for gone in self._known.keys() - {worker.id for worker in workers}:
            del self._known[gone]
        known = await asyncio.gather(*(self._ask(worker) for worker in workers))
        return [(worker, one.pages.get(path)) for worker, one in zip(workers, known, strict=True)]

    async def _ask(self, worker: Worker) -> _Known:
        """What the worker says of itself, fresh enough."""
        known = self._known.get(worker.id)
        if known is None or known.spec.url != worker.spec.url:
            known = self._known[worker.id] = _Known(worker.spec)
        if not worker.health.reachable:                       # a client's page must not wait for a machine that is off
            known.pages.pop("/api/ps", None)
            return known
        async with known.asking:                              # who comes meanwhile gets the same answer
            if self._env.now() - known.asked_at >= _FRESH_S:
                known.asked_at = self._env.now()
                try:
                    async with asyncio.timeout(self._probes.timeout_s), _session(worker.spec) as session:
                        pages = await asyncio.gather(*(_get(session, worker.spec, path) for path in _PATHS))
                    known.pages.update(zip(_PATHS, pages, strict=True))
                except (aiohttp.ClientError, OSError, ValueError):
                    # What is on its disk stays true while it is away; what was in its memory does not.
                    known.pages.pop("/api/ps", None)
        return known


def _session(spec: WorkerSpec) -> aiohttp.ClientSession:
    """Connections to one worker for one round of questions: the next may come in hours."""
    tls = ssl.create_default_context(cafile=spec.ca_file) if spec.ca_file else True
    resolver = None if guard_for(spec, ()) is None else GuardedResolver(never_allowed)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls, resolver=resolver),
        cookie_jar=aiohttp.DummyCookieJar(), trust_env=False,
        headers={"authorization": f"Bearer {spec.api_key}"} if spec.api_key else {},
    )  # fmt: skip


async def _get(session: aiohttp.ClientSession, spec: WorkerSpec, path: str) -> Any:
    async with session.get(spec.url + path, allow_redirects=False) as answer:
        if answer.status != 200:
            raise ValueError(f"GET {path} answered {answer.status}")
        body = b""
        async for piece in answer.content.iter_chunked(1 << 16):
            body += piece
            if len(body) > _MOST_BYTES:
                raise ValueError(f"GET {path} answered more than {_MOST_BYTES} bytes")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"GET {path} answered no JSON") from error


def _ordered(version: str) -> list[int]:
    return [int(part) if part.isdecimal() and len(part) < 9 else 0 for part in version.partition("-")[0].split(".")[:4]]
