"""How single values of a configuration are written: addresses, names of strategies, time zones, paths, header names.

The rest of this package, the daemon and the data plane use these, so that a thing is spelled in one way everywhere.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import zoneinfo
from pathlib import Path

from rbeerouter.config.sections import ConfigError, Secret

NEVER_PASSED = {
    "authorization", "proxy-authorization", "proxy-authenticate", "proxy-connection", "cookie", "set-cookie", "host",
    "content-length", "content-encoding", "accept-encoding", "transfer-encoding", "connection", "upgrade", "te",
    "trailer", "keep-alive", "expect", "date", "x-request-id", "x-conversation-id",
    "routing-strategy", "config-profile",
}  # fmt: skip
"""Headers that no rule lets through, `*` included: credentials, hop-by-hop ones, and those the router writes itself.
x-conversation-id makes llama.cpp go on generating for a client that has left."""
NEVER_PASSED_PREFIXES = ("x-rbee-", "x-slo-", "x-override-")
"""Nor those that begin like this: our own, and those by which SGLang lets a caller choose its rank and its priority."""


def strategy_spelling(name: str) -> str:
    """A strategy's name as the tables have it: lower case, and `_` and `-` are alike."""
    return name.lower().replace("_", "-")


def utc_offset_s(timezone: str | None, at: float | None = None) -> int:
    """What must be added to Unix seconds (`at`, else now) for the local time of a zone; None is the machine's own."""
    zone = zoneinfo.ZoneInfo(timezone) if timezone is not None else None
    moment = datetime.datetime.now(datetime.UTC) if at is None else datetime.datetime.fromtimestamp(at, datetime.UTC)
    offset = moment.astimezone(zone).utcoffset()
    return int(offset.total_seconds()) if offset else 0


def minutes_of_day(text: str) -> int:
    """Minutes after midnight of "03:15". Raises ValueError."""
    found = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text)
    if found is None:
        raise ValueError(text)
    return int(found[1]) * 60 + int(found[2])


def split_bind(bind: str) -> tuple[str, int]:
    """("127.0.0.1", 8881) from "127.0.0.1:8881"; IPv6 addresses stand in brackets. Raises ValueError."""
    host, colon, port = bind.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535 or not host:
        raise ValueError(bind)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(bind)
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Can this address be reached from this machine alone?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def hidden(text: str | None) -> Secret | None:
    """A text that is shown nowhere from now on."""
    return None if text is None else Secret(text)


def absolute(folder: Path, name: str, key: str) -> Path:
    """A path as a file in this folder means it. Raises ConfigError with the key."""
    try:
        return (folder / Path(name).expanduser()).absolute()
    except RuntimeError:
        raise ConfigError(f"{key} = {name!r}: there is no such user's home") from None
