"""A controller's list of workers: another rbeerouter, or anything that answers GET /api/v1/workers as one does.

`server.discovery` runs one `Follower`. A controller that is away changes nothing: the last list is used, also over a
restart of this daemon.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from typing import Any

import aiohttp
import msgspec

from rbeerouter.config.sections import ConfigError, Discovery, Secret, WorkerEntry
from rbeerouter.config.workers import read_worker
from rbeerouter.control.addresses import host_of, literal, never_allowed, real
from rbeerouter.control.roster import CONTROLLER, Roster
from rbeerouter.control.store import Store
from rbeerouter.core.types import WorkerSpec
from rbeerouter.dialects.engines import ENGINES

NAME = CONTROLLER
_PATH = "/api/v1/workers"
_TIMEOUT_S = 10.0
_MOST_BYTES = 8 << 20
_MOST_WORKERS = 4096
_FIELDS = frozenset(WorkerEntry.__struct_fields__) - {"api_key", "ca_file", "kv_events", "kv_replay", "kv_ranks"}
"""What may come from a controller. Its keys and files stay with it."""


class ListError(Exception):
    """The controller's answer is no list of workers."""


class Follower:
    """Asks a controller every `controller_s`.

    Attributes:
        draining: ids of the workers to which the controller gives nothing new.
    """

    def __init__(self, settings: Discovery, roster: Roster, store: Store, rng: random.Random) -> None:
        assert settings.controller is not None
        self._url = settings.controller + _PATH
        self._settings = settings
        self._roster = roster
        self._store = store
        self._rng = rng
        self.draining: frozenset[str] = frozenset()
        self._kept: bytes | None = None
        self._looked = False

    def recall(self, kept: dict[str, tuple[float, bytes]]) -> None:
        """Begins with the list from before the restart, if it came from this controller."""
        if self._url in kept and NAME not in self._roster.sources:
            taken_at, data = kept[self._url]
            specs, _ = self._read(data)
            self.draining = read_drains(data)
            self._roster.put(NAME, specs, CONTROLLER, taken_at)

    async def run(self) -> None:
        """Asks for ever; at once, unless that was done before."""
        while True:
            if self._looked:
                await asyncio.sleep(self._settings.controller_s * (0.9 + 0.2 * self._rng.random()))
            await self.look()

    async def look(self) -> None:
        """Asks once."""
        self._looked = True
        try:
            data = await self._get()
            specs, refused = await asyncio.to_thread(self._read, data)    # thousands would hold up requests
        except (aiohttp.ClientError, OSError, ValueError, ListError) as error:
            problem = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
            self._roster.failed(NAME, CONTROLLER, f"{self._url}: {problem}")
            return
        self._roster.put(NAME, specs, CONTROLLER)
        draining = read_drains(data)
        if draining != self.draining:
            self.draining = draining
            self._roster.changed.set()
        if refused:
            self._roster.failed(NAME, CONTROLLER, f"{self._url}: {len(refused)} left out: {refused[0]}")
        kept = [{**public(spec), **({"draining": True} if spec.id in draining else {})} for spec in specs]
        plain = msgspec.json.encode({"workers": kept})
        if plain != self._kept:
            self._kept = plain
            self._store.keep_list(self._url, self._roster.sources[NAME].taken_at or 0.0, plain)

    def _read(self, data: bytes) -> tuple[list[WorkerSpec], list[str]]:
        return read_list(data, self._settings.controller_api_key, _on_this_machine(host_of(self._url)))

    async def _get(self) -> bytes:
        headers = {"accept": "application/json"}
        if self._settings.controller_token:
            headers["authorization"] = f"Bearer {self._settings.controller_token}"
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            ) as session,
            session.get(self._url, headers=headers, allow_redirects=False, ssl=_tls(self._url)) as answer,
        ):
            if answer.status != 200:
                raise ListError(f"answered {answer.status}")
            body = b""
            async for part in answer.content.iter_chunked(1 << 16):
                body += part
                if len(body) > _MOST_BYTES:
                    raise ListError(f"answered with more than {_MOST_BYTES} bytes")
        return body


def read_list(
    data: bytes, api_key: Secret | str | None, nearby: bool = True
) -> tuple[list[WorkerSpec], list[str]]:
    """The workers of a controller's list, and what was wrong with those that are left out.

    Workers that the controller has from a controller of its own are not taken: two that follow each other would keep
    alive what is long gone. Fields that are not known here are skipped; a later version may send them.

    Args:
        nearby: the controller is on this machine. To any other, 127.0.0.1 is another machine than to this one.

    Raises:
        ListError: it is no list of workers.
    """
    try:
        listed = msgspec.json.decode(data)["workers"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        raise ListError('expected a JSON object with a list "workers"') from None
    if not isinstance(listed, list) or len(listed) > _MOST_WORKERS:
        raise ListError(f'expected a list of at most {_MOST_WORKERS} "workers"')
    specs: dict[str, WorkerSpec] = {}
    refused = []
    for entry in listed:
        if isinstance(entry, dict) and entry.get("source") == CONTROLLER:
            continue
        try:
            spec = _read_entry(entry, api_key, nearby)
        except (ConfigError, ValueError) as error:
            refused.append(str(error))
        else:
            specs[spec.id] = spec
    return list(specs.values()), refused


def read_drains(data: bytes) -> frozenset[str]:
    """Who is to get nothing new, in a list that `read_list` has taken."""
    listed = msgspec.json.decode(data)["workers"]
    return frozenset(
        entry["id"] for entry in listed
        if isinstance(entry, dict) and entry.get("draining") is True and isinstance(entry.get("id"), str)
    )  # fmt: skip


def public(spec: WorkerSpec) -> dict[str, Any]:
    """A worker as a controller gives it to others: what its operator said, without key and files."""
    values = {name: getattr(spec, name) for name in sorted(_FIELDS)}
    if spec.measure_performance:
        values["performance"] = "auto"
    return {name: value for name, value in values.items() if value is not None}


def _read_entry(entry: Any, api_key: Secret | str | None, nearby: bool) -> WorkerSpec:
    if isinstance(entry, dict):
        said = entry["spec"] if isinstance(entry.get("spec"), dict) else entry
        entry = {name: said[name] for name in _FIELDS & said.keys() if said[name] is not None}
        if entry.get("engine") not in ENGINES:
            entry.pop("engine", None)                             # one that only later versions know: it is detected
    spec = read_worker(entry, "a worker of the list", CONTROLLER, tuple(ENGINES))
    host = host_of(spec.url)
    address = literal(host)
    if address is not None and (problem := never_allowed(host, address)) is not None:
        raise ConfigError(f"{spec.id}: {problem}")
    if not nearby and _on_this_machine(host):
        raise ConfigError(f"{spec.id}: {host} is the controller's own machine; give it the url that others reach it at")
    return msgspec.structs.replace(spec, api_key=api_key) if api_key else spec


def _on_this_machine(host: str) -> bool:
    address = None if host == "localhost" else literal(host)
    return host == "localhost" or (address is not None and real(address).is_loopback)


def _tls(url: str) -> ssl.SSLContext | bool:
    return ssl.create_default_context() if url.startswith("https:") else True
