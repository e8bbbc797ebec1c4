"""Which addresses a worker may have that this machine's owner did not write down.

`server.registration` asks when a worker registers, and `wire.upstream` and `control.probe` ask again about what a name
resolves to each time they connect: a name that was harmless may lead to a cloud's metadata service a minute later.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

import aiohttp

from rbeerouter.core.types import WorkerSpec

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Guard = Callable[[str, str], str | None]
"""(host as written, address) -> why that address may not be used, or None."""

_METADATA = {ipaddress.ip_address(text) for text in ("100.100.100.200", "192.0.0.192", "fd00:ec2::254")}
"""Metadata services outside of the link-local range: Alibaba, Oracle, AWS over IPv6."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def guard_for(spec: WorkerSpec, allow: Iterable[str]) -> Guard | None:
    """What a connection to this worker must pass; None where the owner of this machine wrote its url."""
    if spec.source in ("config", "file"):
        return None
    if spec.source != "registered":
        return never_allowed
    networks = as_networks(allow)
    return lambda host, address: never_allowed(host, address) or outside(networks, address)


def misplaced(spec: WorkerSpec, allow: Iterable[str]) -> str | None:
    """Why a worker may not be where its url says, None if it may, or if the url has a name: whoever resolves that asks
    its guard. aiohttp resolves no addresses, so nobody would ask."""
    guard, host = guard_for(spec, allow), host_of(spec.url)
    if guard is None:
        return None
    try:
        address = literal(host)
    except ValueError as error:
        return str(error)
    return None if address is None else guard(host, address)


def never_allowed(host: str, address: str) -> str | None:
    """Refused whoever asks: addresses that lead to a machine's own secrets, or to no machine at all."""
    try:
        found = real(address)
    except ValueError:
        return f"{address} is no IP address"
    for refused, what in (
        (found.is_link_local or found in _METADATA, "a link-local or metadata address"),
        (found.is_multicast, "a multicast address"),
        (found.is_unspecified or (found.version == 4 and int(found) >> 24 == 0), "an unspecified address"),
        (found.version == 4 and found.is_reserved, "a reserved address"),
        (found.is_loopback and not _may_be_loopback(host), "this machine, under a name that is not localhost"),
    ):
        if refused:
            return f"{address} is {what}"
    return None


def outside(networks: Iterable[Network], address: str) -> str | None:
    found = real(address)
    if any(found.version == network.version and found in network for network in networks):
        return None
    return f"{address} is in no network of [registration] allow"


def as_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def real(address: str) -> Address:
    """The address that is meant: an IPv4 address can be written as several kinds of IPv6. Raises ValueError."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and (found in _NAT64 or (int(found) >> 32 == 0 and int(found) > 1)):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        return inner or found
    return found


def literal(host: str) -> str | None:
    """The host when it is an address already, else None. Raises ValueError for one that only some programs read as an
    address: 0x7f.1, 2130706433 and 127.1 are 127.0.0.1 to a resolver."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        last = host.rstrip(".").rpartition(".")[2]
        if last.isdecimal() or last.lower().startswith("0x"):
            raise ValueError(f"{host!r} is neither a name nor a plain IP address") from None
        return None


class GuardedResolver(aiohttp.ThreadedResolver):
    """Resolves names for aiohttp, and refuses one as a whole that leads to an address where no worker may be."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        found = await super().resolve(host, port, family)
        for entry in found:
            problem = self._guard(host, entry["host"])
            if problem is not None:
                raise OSError(problem)
        return found


def host_of(url: str) -> str:
    return urlsplit(url).hostname or ""


def _may_be_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return real(host).is_loopback
    except ValueError:
        return False
