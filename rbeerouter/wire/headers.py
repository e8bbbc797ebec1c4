"""HTTP heads as bytes: which headers may pass, and the lines we write. Used on both sides of the data plane.

A client or worker sends the same header names in the same spelling and order again and again. What such a *shape*
means (which of its headers may pass, where the ones we read are) is worked out once and remembered.
"""

from __future__ import annotations

import functools
import http
import ipaddress
import re
from collections.abc import Iterable

from rbeerouter.config.values import NEVER_PASSED, NEVER_PASSED_PREFIXES
from rbeerouter.core.errors import RouterError
from rbeerouter.core.types import Wishes
from rbeerouter.dialects.wishes import WISHES, wishes_of

RawHeaders = dict[bytes, bytes]
"""Headers under the names as they were written."""

_TIME = re.compile(rb"\d{1,9}(?:\.\d{1,6})?")
_MOST_SHAPES = 512
"""Peers choose their header names, so the memory of shapes must not grow with them."""


class Shape:
    """One set of header names.

    Attributes:
        names: {name in lower case: name as written}.
        passing: (name as written, b"lower-case-name: ") of the headers that may pass.
        ours: (name in lower case, name as written) of the headers that are for us: x-rbee-* and x-session-id.
        shown: (name in lower case, name as written) of the headers that the script may see.
        credential: the name, as written, of the header that tells who the client is, if there is one.
        hurried: does any of them say how long the client wants to wait?
        wishing: (name in lower case, name as written) of those that say how the client wants to be routed.
    """

    __slots__ = ("credential", "hurried", "names", "ours", "passing", "shown", "wishing")

    def __init__(
        self, written: Iterable[bytes], allowed: list[bytes], ours: frozenset[bytes] = frozenset(),
        shown: frozenset[bytes] = frozenset(),
    ) -> None:  # fmt: skip
        self.names = {name.lower(): name for name in written}
        self.passing = [
            (spelled, b"%b: " % name)
            for name, spelled in self.names.items()
            if name not in ours and _may_pass(name, allowed)
        ]
        self.ours = [
            (name, spelled)
            for name, spelled in self.names.items()
            if name.startswith(b"x-rbee-") or name == b"x-session-id"
        ]
        self.credential = self.names.get(b"authorization") or self.names.get(b"x-api-key")
        self.hurried = b"x-rbee-timeout-ms" in self.names or b"x-stainless-read-timeout" in self.names
        self.wishing = [(name, spelled) for name, spelled in self.names.items() if name in WISHES]
        self.shown = [(name.decode(), spelled) for name, spelled in self.names.items() if name in shown]

    def get(self, raw: RawHeaders, name: bytes) -> bytes | None:
        spelled = self.names.get(name)
        return None if spelled is None else raw[spelled]

    def lines(self, raw: RawHeaders) -> bytes:
        """The headers that may pass, as lines of an HTTP head."""
        lines = b""
        for spelled, prefix in self.passing:
            lines += prefix + raw[spelled] + b"\r\n"
        return lines

    def timeout_s(self, raw: RawHeaders, stream: bool) -> float | None:
        """How long the client wants to wait for all of its answer, None when it does not say.

        `x-rbee-timeout-ms` says so; the OpenAI and Anthropic SDKs tell their own limit, in seconds, in
        `x-stainless-read-timeout`, which for a stream is only that between two reads.

        Raises:
            RouterError: invalid_header, for a time that is none.
        """
        given = self.get(raw, b"x-rbee-timeout-ms")
        if given is not None:
            if not _TIME.fullmatch(given) or not float(given):
                shown = given[:40].decode("latin-1")
                expected = "expected milliseconds, such as 1500"
                raise RouterError("invalid_header", f"x-rbee-timeout-ms: {shown!r}: {expected}")
            return float(given) / 1000
        given = self.get(raw, b"x-stainless-read-timeout")
        return float(given) if given and not stream and _TIME.fullmatch(given) and float(given) else None

    def wishes(self, raw: RawHeaders) -> Wishes | None:
        """How the client wants to be routed. Raises RouterError: invalid_header."""
        return wishes_of((name, raw[spelled]) for name, spelled in self.wishing)

    def texts(self, raw: RawHeaders) -> dict[str, str]:
        """The headers that the script may see."""
        return {name: raw[spelled].decode("utf-8", "replace") for name, spelled in self.shown}


class Shapes:
    """The shapes seen in one direction.

    Args:
        allowed: names of the headers that may pass, or `prefix*`. Everything else stops here: hop-by-hop headers,
            cookies, credentials, and what no one thought of.
        ours: names of headers that we write in this direction ourselves.
        shown: names of headers that the script may see.
    """

    def __init__(self, allowed: Iterable[str], ours: Iterable[bytes] = (), shown: Iterable[str] = ()) -> None:
        self._allowed = [name.lower().encode() for name in allowed]
        self._ours = frozenset(ours)
        self._shown = frozenset(name.lower().encode() for name in shown)
        self._known: dict[tuple[bytes, ...], Shape] = {}

    def of(self, raw: RawHeaders) -> Shape:
        written = tuple(raw)
        shape = self._known.get(written)
        if shape is None:
            shape = Shape(written, self._allowed, self._ours, self._shown)
            if len(self._known) < _MOST_SHAPES:
                self._known[written] = shape
        return shape

    def less(self, raw: RawHeaders) -> Shape:
        """The shape of these headers without those that their Connection headers name."""
        connection = b",".join(value for name, value in raw.items() if name.lower() == b"connection")
        named = {name.strip().lower() for name in connection.split(b",")}
        return Shape([name for name in raw if name.lower() not in named], self._allowed, self._ours, self._shown)


_NEVER_PASSED = {name.encode() for name in NEVER_PASSED}
_NEVER_PASSED_PREFIXES = tuple(prefix.encode() for prefix in NEVER_PASSED_PREFIXES)


def client_of(told: bytes, hops: int) -> str | None:
    """The client's address in a list that each proxy on the way has added the address of its own client to, as in
    X-Forwarded-For; without a port. None where there is none.

    Args:
        hops: how many proxies stand before us. What the first of them wrote is the last entry but `hops - 1`: all that
            stands before it may have been made up by the client.
    """
    entries = told.split(b",")
    if len(entries) < hops:
        return None
    text = entries[-hops].strip().strip(b'"').decode("latin-1")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _may_pass(name: bytes, allowed: list[bytes]) -> bool:
    if name in _NEVER_PASSED or name.startswith(_NEVER_PASSED_PREFIXES):
        return False
    return any(name.startswith(rule[:-1]) if rule.endswith(b"*") else name == rule for rule in allowed)


@functools.cache
def status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase.encode())


@functools.lru_cache(maxsize=256)
def strategy_line(name: str) -> bytes:
    """What tells the client which strategy chose its worker."""
    return b"x-rbee-strategy: %b\r\n" % header_value(name)


@functools.lru_cache(maxsize=1024)
def header_value(text: str) -> bytes:
    """Text as it may stand in a header: printable ASCII, anything else a question mark."""
    return "".join(char if " " <= char <= "~" else "?" for char in text).encode()


def with_headers(lines: bytes, added: Iterable[tuple[str, str]]) -> bytes:
    """Header lines with these put in the place of those of the same names, or behind them."""
    new = {name.lower().encode(): header_value(value) for name, value in added}
    kept = [line for line in lines.split(b"\r\n") if line and line.partition(b":")[0].lower() not in new]
    kept += [b"%b: %b" % header for header in new.items()]
    return b"\r\n".join(kept) + b"\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
