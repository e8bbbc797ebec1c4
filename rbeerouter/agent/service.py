"""The agent's life: find engines, register them, send heartbeats, and sign off at the end.

`cli` runs `run`. It keeps nothing on disk; a router that was restarted, or has forgotten the worker, is told anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from rbeerouter.agent import machine
from rbeerouter.config.sections import Probes, Secret
from rbeerouter.control.probe import Prober
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Env, Report, WorkerSpec

PORTS = {
    8000: "vLLM, TensorRT-LLM", 30000: "SGLang", 8080: "llama.cpp, TGI", 11434: "Ollama", 1234: "LM Studio",
    3000: "TGI", 7860: "Stable Diffusion WebUI", 23333: "LMDeploy",
}  # fmt: skip
"""Where engines listen unless they are told otherwise."""
_TIMEOUT_S = 10.0
_LONGEST_WAIT_S = 60.0
_WORKERS = "/api/v1/workers"


class RefusedError(ValueError):
    """The router does not want the worker; the message says why."""


class Settings(msgspec.Struct, frozen=True):
    """What the command line says."""

    router: str
    token: Secret
    engine_urls: tuple[str, ...] = ()
    name: str | None = None
    interval_s: float = 15.0
    yield_to_owner: bool = False
    idle_after_s: float = 300.0
    api_key: Secret | None = None


class Agent:
    """Tells one router of this machine's engines."""

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        self.settings = settings
        self.name = settings.name or socket.gethostname().split(".")[0]
        self._rng = rng
        self._registered: set[str] = set()
        self._told: dict[str, str] = {}
        self._prober = Prober(Fleet(), Probes(), Env(time.monotonic, time.time, rng))
        self._session: aiohttp.ClientSession | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Tells until it is told to stop, then signs off."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False,
            headers={"authorization": f"Bearer {self.settings.token}"},
        )
        failures = 0
        try:
            while not stop.is_set():
                try:
                    await self.once()
                    failures = 0
                    self._say("router", f"told {self.settings.router}")
                except (aiohttp.ClientError, OSError, ValueError) as error:
                    failures += 1
                    self._say("router", f"cannot tell {self.settings.router}: {error or type(error).__name__}")
                patience = 2 ** min(failures, 4)
                wait_s = max(self.settings.interval_s, min(self.settings.interval_s * patience, _LONGEST_WAIT_S))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), wait_s * (0.8 + 0.4 * self._rng.random()))
            await self._sign_off()
        finally:
            await self._session.close()
            await self._prober.close()

    async def once(self) -> None:
        """One round: every engine that is there is registered, or its heartbeat sent; others are signed off."""
        backend, reading = await machine.measure()
        active = await machine.owner_active(self.settings.idle_after_s)
        figures = {**msgspec.structs.asdict(reading), "owner_active": active}
        if self.settings.yield_to_owner:
            figures["yielding"] = active is True
        found = await self.engines()
        for worker_id, url, engine in found:
            if worker_id in self._registered and await self._heartbeat(worker_id, figures):
                continue
            try:
                await self._register(worker_id, url, engine, backend, reading.vram)
                await self._heartbeat(worker_id, figures)
            except RefusedError as error:
                self._registered.discard(worker_id)
                self._say(worker_id, f"the router refuses it: {error}")
        for worker_id in self._registered - {worker_id for worker_id, _, _ in found}:
            await self._forget(worker_id)
            self._registered.discard(worker_id)

    async def engines(self) -> list[tuple[str, str, str | None]]:
        """(id, url as the router reaches it, engine) of each engine that answers."""
        urls = self.settings.engine_urls
        if not urls:
            address = _address_towards(self.settings.router)
            host = f"[{address}]" if ":" in address else address
            urls = tuple(f"http://{host}:{port}" for port in PORTS)
        key = self.settings.api_key
        specs = [
            WorkerSpec(f"{self.name}-{urlsplit(url).port or 80}", url.rstrip("/"), engine="auto", api_key=key)
            for url in urls
        ]
        reports = {report.worker_id: report for report in await self._prober.look(specs)}
        found = [
            (spec.id, spec.url, reports[spec.id].engine) for spec in specs
            if reports[spec.id].reachable and (self.settings.engine_urls or _is_engine(reports[spec.id]))
        ]  # fmt: skip
        if not found:
            where = ", ".join(urls)
            self._say("engines", f"no engine answers at {where}; one that listens at 127.0.0.1 alone cannot be reached "
                      "from the router")  # fmt: skip
        else:
            self._say("engines", "found " + ", ".join(f"{worker_id} at {url}" for worker_id, url, _ in found))
        return found

    async def _register(self, worker_id: str, url: str, engine: str | None, backend: str | None, vram: Any) -> None:
        entry = {"id": worker_id, "url": url, "engine": engine, "backend": backend, "vram": vram}
        if self.settings.api_key:
            entry["api_key"] = str(self.settings.api_key)
        given = {name: value for name, value in entry.items() if value is not None}
        ttl_s = max(90.0, 6 * self.settings.interval_s) if self.settings.interval_s > 15 else None
        status, answer = await self._ask("POST", _WORKERS, given | ({"ttl_s": ttl_s} if ttl_s else {}))
        if status != 200:
            raise RefusedError(answer.get("error", f"status {status}"))
        self._registered.add(worker_id)
        self._say(worker_id, answer.get("note", "the router reaches it"))

    async def _heartbeat(self, worker_id: str, figures: dict[str, Any]) -> bool:
        """False when the router does not know the worker (any more)."""
        given = {name: value for name, value in figures.items() if value is not None}
        status, answer = await self._ask("POST", f"{_WORKERS}/{worker_id}/heartbeat", given)
        if status not in (200, 404):
            raise RefusedError(answer.get("error", f"status {status}"))
        return status == 200

    async def _forget(self, worker_id: str) -> None:
        await self._ask("DELETE", f"{_WORKERS}/{worker_id}", None)

    async def _sign_off(self) -> None:
        for worker_id in sorted(self._registered):
            try:
                await self._forget(worker_id)
            except (aiohttp.ClientError, OSError, ValueError):
                return                                        # the router is away, and lets the workers expire

    async def _ask(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        assert self._session is not None
        url = self.settings.router.rstrip("/") + path
        async with self._session.request(method, url, json=body, allow_redirects=False) as answer:
            told = await answer.json(content_type=None)
            return answer.status, told if isinstance(told, dict) else {}

    def _say(self, topic: str, what: str) -> None:
        """One line for each change, none for each round."""
        if self._told.get(topic) != what:
            self._told[topic] = what
            print(f"{topic}: {what}", file=sys.stderr, flush=True)


def _is_engine(report: Report) -> bool:
    """Any program may listen at these ports: one that lists models, or was recognised, is an engine."""
    return bool(report.models) or report.engine not in (None, "openai", "auto")


def run(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT."""

    async def story() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await Agent(settings, random.Random()).run(stop)

    asyncio.run(story())


def _address_towards(router: str) -> str:
    """This machine's address on the way to the router; nothing is sent."""
    parts = urlsplit(router)
    for family, kind, number, _, place in socket.getaddrinfo(
        parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM
    ):
        with socket.socket(family, kind, number) as probe:
            probe.connect(place)
            return str(probe.getsockname()[0])
    raise OSError(f"{parts.hostname} has no address")
