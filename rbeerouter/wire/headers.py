"""HTTP header names and heads, as bytes. Used on both sides of the data plane.

Parsers hand over names as they were written; a small cache turns each spelling into lower case once.
"""

from __future__ import annotations

import functools
import http
from collections.abc import Iterable, Mapping

Headers = dict[bytes, bytes]

_spellings: dict[bytes, bytes] = {}
_MOST_SPELLINGS = 2048
"""Clients choose header names, so the cache must not grow with them."""


def lower_names(headers: Mapping[bytes, bytes]) -> Headers:
    """The same headers under lower-case names."""
    lowered = {}
    spellings = _spellings
    for name, value in headers.items():
        known = spellings.get(name)
        if known is None:
            known = name.lower()
            if len(spellings) < _MOST_SPELLINGS:
                spellings[name] = known
        lowered[known] = value
    return lowered


class AllowList:
    """The headers that may pass one way, by name or by `prefix*`.

    Everything else stops here: hop-by-hop headers, cookies, credentials, and what no one thought of.
    """

    def __init__(self, names: Iterable[str]) -> None:
        given = [name.lower().encode() for name in names]
        self._names = {name for name in given if not name.endswith(b"*")}
        self._prefixes = tuple(name[:-1] for name in given if name.endswith(b"*"))

    def lines(self, headers: Headers) -> bytes:
        """The allowed headers as lines of an HTTP head."""
        names, prefixes = self._names, self._prefixes
        kept = b""
        for name, value in headers.items():
            if name in names or (prefixes and name.startswith(prefixes)):
                kept += b"%b: %b\r\n" % (name, value)
        return kept

    def without(self, named: bytes) -> AllowList:
        """This list less what a Connection header names."""
        other = AllowList(())
        other._names = self._names - {name.strip().lower() for name in named.split(b",")}
        other._prefixes = self._prefixes
        return other


@functools.cache
def status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase.encode())


def header_value(text: str) -> bytes:
    """Text as it may stand in a header: printable ASCII, anything else a question mark."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return "".join(char if " " <= char <= "~" else "?" for char in text).encode()
