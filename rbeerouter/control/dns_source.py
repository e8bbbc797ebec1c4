"""Workers behind a DNS name: each address, or each SRV record, is one.

`server.discovery` runs one `DnsSource` for each [[discovery.dns]] block. Names are asked of the system's resolver, so
that /etc/hosts counts, unless the block names a server. SRV records and servers need dnspython, the extra `dns`.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from rbeerouter.config.sections import DnsEntry
from rbeerouter.config.values import split_bind
from rbeerouter.config.workers import worker_values
from rbeerouter.control.roster import DNS, Roster
from rbeerouter.core.types import WorkerSpec

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

_TIMEOUT_S = 3.0
_SOONEST_S = 1.0
"""Names with a TTL of 0 are asked again after this."""
_MOST_ID_CHARS = 64
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_MOST_WORKERS = 1024
"""Of one name; an answer with more is taken for a mistake."""


class DnsError(Exception):
    """The name led nowhere; the message says why."""


class Place(NamedTuple):
    """Where a worker is. `host` is what its url has, `metadata` what the record says besides."""

    host: str
    port: int
    metadata: dict[str, Any]


class DnsSource:
    """One name, asked again every `interval_s`, or sooner when its records say so."""

    def __init__(self, entry: DnsEntry, roster: Roster, rng: random.Random) -> None:
        self.name = source_name(entry)
        self._entry = entry
        self._roster = roster
        self._rng = rng
        self._resolver: Resolver | None = None
        self._wait_s: float | None = None

    async def run(self) -> None:
        """Asks for ever; at once, unless that was done before."""
        while True:
            if self._wait_s is not None:
                await asyncio.sleep(self._wait_s * (0.9 + 0.2 * self._rng.random()))
            await self.look()

    async def look(self) -> float:
        """Asks once. Returns the seconds until the answer is old.

        A name that is gone or has no records keeps its last workers as well: probes find out about each, and a name
        server that answers nonsense for a minute must not empty the fleet.
        """
        entry = self._entry
        self._wait_s = entry.interval_s
        try:
            async with asyncio.timeout(2 * _TIMEOUT_S):
                places, ttl_s = await self._places()
            if not places:
                raise DnsError(f"{entry.name}: has no {entry.type} records")
            if len(places) > _MOST_WORKERS:
                raise DnsError(f"{entry.name}: has {len(places)} records; at most {_MOST_WORKERS} are taken")
        except TimeoutError:
            self._roster.failed(self.name, DNS, f"{entry.name}: no answer in {2 * _TIMEOUT_S:g} s")
            return self._wait_s
        except DnsError as error:
            self._roster.failed(self.name, DNS, str(error))
            return self._wait_s
        workers = {worker.id: worker for worker in (as_worker(entry, place) for place in places)}
        self._roster.put(self.name, [workers[worker_id] for worker_id in sorted(workers)], DNS)
        self._wait_s = max(_SOONEST_S, min(entry.interval_s, ttl_s))
        return self._wait_s

    async def _places(self) -> tuple[list[Place], float]:
        entry = self._entry
        if entry.type == "SRV":
            return await self._services()
        assert entry.port is not None
        addresses, ttl_s = await self._addresses(entry.name, entry.type)
        return [Place(address, entry.port, {}) for address in addresses], ttl_s

    async def _addresses(self, name: str, kind: str) -> tuple[list[str], float]:
        if self._entry.server is not None:
            answer = await self._ask(name, kind)
            return [record.address for record in answer], float(answer.rrset.ttl)
        family = socket.AF_INET if kind == "A" else socket.AF_INET6
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(name, None, family=family, type=socket.SOCK_STREAM)
        except OSError as error:
            raise DnsError(f"{name}: {error.strerror or error}") from None
        return list(dict.fromkeys(str(entry[4][0]) for entry in found)), self._entry.interval_s

    async def _services(self) -> tuple[list[Place], float]:
        """SRV records of the lowest and all other priorities alike: who is preferred, the script may decide."""
        entry = self._entry
        answer = await self._ask(entry.name, "SRV")
        ttl_s, places = float(answer.rrset.ttl), []
        for record in answer:
            target = record.target.to_text(omit_final_dot=True)
            told = {"srv_priority": record.priority, "srv_weight": record.weight}
            if target in ("", "."):
                continue                                          # "decidedly not available", RFC 2782
            if not _HOST.fullmatch(target):                       # DNS allows any byte, a url does not
                raise DnsError(f"{entry.name}: {target[:100]!r} is no name of a machine")
            hosts = [target]
            if entry.server is not None:                          # its names need not be known to the system
                hosts, target_ttl_s = await self._addresses(target, "A")
                ttl_s = min(ttl_s, target_ttl_s)
            places += [Place(host, entry.port or record.port, told) for host in hosts]
        return places, ttl_s

    async def _ask(self, name: str, kind: str) -> Any:
        """One lookup with dnspython, which does not wait for anybody else's lookups."""
        try:
            import dns.asyncresolver
            import dns.exception
        except ImportError:
            raise DnsError(
                "SRV records and [[discovery.dns]] server need dnspython: pip install 'rbeerouter[dns]'"
            ) from None
        if self._resolver is None:
            server = self._entry.server
            self._resolver = dns.asyncresolver.Resolver(configure=server is None)
            if server is not None:
                host, self._resolver.port = split_bind(server)
                self._resolver.nameservers = [host]
        try:
            return await self._resolver.resolve(name, kind, lifetime=_TIMEOUT_S, search=False)
        except (dns.exception.DNSException, OSError) as error:
            raise DnsError(f"{name}: {error}") from None


def source_name(entry: DnsEntry) -> str:
    """What the source is called in logs and pages; two blocks that differ have different names."""
    port = f":{entry.port}" if entry.port else ""
    server = f" at {entry.server}" if entry.server else ""
    return f"{DNS} {entry.type} {entry.name}{port}{server}"


def as_worker(entry: DnsEntry, place: Place) -> WorkerSpec:
    """The worker at this place; its id is the same as long as name, address and port are."""
    host = f"[{place.host}]" if ":" in place.host else place.host
    end = f"-{place.host}-{place.port}"
    worker_id = entry.name.rstrip(".")[: max(1, _MOST_ID_CHARS - len(end))] + end
    if len(worker_id) > _MOST_ID_CHARS:                           # what is cut off may be all that tells two apart
        digest = hashlib.blake2s(end.encode(), digest_size=4).hexdigest()
        worker_id = f"{worker_id[: _MOST_ID_CHARS - 9]}-{digest}"
    values = worker_values(entry) | {
        "id": worker_id.lstrip("_"), "url": f"{entry.scheme}://{host}:{place.port}", "source": DNS,
        "metadata": {**place.metadata, **entry.metadata},
    }  # fmt: skip
    return WorkerSpec(**values)

