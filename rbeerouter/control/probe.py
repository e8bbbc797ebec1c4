"""Active probes: is each worker there, and which models does it list?

`server.daemon` starts one `Prober`. It asks GET {url}/v1/models, which every OpenAI-compatible engine answers without
work for the GPU, and reports into the fleet. A worker that answers at all, with whatever status below 500, is
reachable: some image servers have no such path.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable

import aiohttp

from rbeerouter.config import Probes
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Env, Report, Worker, WorkerSpec
from rbeerouter.dialects import openai

_MOST_BYTES = 1 << 20


class Prober:
    """Probes every worker each `interval_s` (give or take a fifth, so that probes spread out).

    Attributes:
        problems: {worker id: what its last probe found wrong}.
    """

    def __init__(self, fleet: Fleet, probes: Probes, env: Env) -> None:
        self.problems: dict[str, str] = {}
        self._probes = probes
        self._fleet = fleet
        self._env = env
        self._session: aiohttp.ClientSession | None = None
        self._tls: dict[str | None, ssl.SSLContext] = {}

    def apply(self, probes: Probes) -> None:
        """Takes new settings, and reads CA files again."""
        self._probes = probes
        self._tls = {}

    async def run(self) -> None:
        """Probes for ever."""
        while True:
            spread = 0.8 + 0.4 * self._env.rng.random()
            await asyncio.sleep(self._probes.interval_s * spread)
            await self.probe_all()

    async def probe_all(self) -> None:
        """One round over all workers at once; each has `timeout_s`."""
        await asyncio.gather(*(self._probe(worker) for worker in self._fleet.ordered))

    async def look(self, specs: Iterable[WorkerSpec]) -> list[Report]:
        """Probes workers that are not in the fleet yet, and reports without telling it."""
        return [report for report, _ in await asyncio.gather(*(self._ask(spec) for spec in specs))]

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _probe(self, worker: Worker) -> None:
        report, problem = await self._ask(worker.spec)
        self._fleet.apply(report)
        self.problems.pop(worker.id, None)
        if problem:
            self.problems[worker.id] = problem

    async def _ask(self, spec: WorkerSpec) -> tuple[Report, str | None]:
        """What the worker shows, and what is wrong with it."""
        try:
            reachable, models, problem = await self._get_models(spec)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reachable, models, problem = False, None, str(error) or type(error).__name__
        return Report(spec.id, reachable, models, self._env.now()), problem

    async def _get_models(self, spec: WorkerSpec) -> tuple[bool, tuple[str, ...] | None, str | None]:
        session = self._session
        if session is None:
            session = self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),        # a hung worker must not hold up another's probe
                cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False,
            )
        headers = {"authorization": f"Bearer {spec.api_key}"} if spec.api_key else {}
        timeout = aiohttp.ClientTimeout(total=self._probes.timeout_s)
        async with session.get(
            spec.url + "/v1/models", headers=headers, timeout=timeout, allow_redirects=False,
            ssl=self._context(spec.ca_file),
        ) as answer:  # fmt: skip
            if answer.status >= 500:
                return False, None, f"GET /v1/models answered {answer.status}"
            if answer.status != 200:
                return True, None, f"GET /v1/models answered {answer.status}; its models are not known"
            body = await answer.content.read(_MOST_BYTES)
            while not answer.content.at_eof() and len(body) < _MOST_BYTES:
                body += await answer.content.read(_MOST_BYTES)
        return True, openai.listed_models(body), None

    def _context(self, ca_file: str | None) -> ssl.SSLContext | bool:
        if ca_file is None:
            return True
        if ca_file not in self._tls:
            self._tls[ca_file] = ssl.create_default_context(cafile=ca_file)
        return self._tls[ca_file]
