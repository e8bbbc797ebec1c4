"""The headers by which clients say how their requests are to be routed.

`wire.headers` knows for each set of header names which of them there are, and asks for their values;
`workbench.explain` asks for those of a request that is not sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from rbeerouter.core.errors import RouterError
from rbeerouter.core.types import MOST_WISH_BYTES, Wishes

WISHES = {
    b"routing-strategy": "strategy", b"config-profile": "profile", b"x-rbee-session-key": "session_key",
    b"x-slo-ttft-ms": "slo_ttft_ms", b"x-slo-tpot-ms": "slo_tpot_ms", b"x-slo-e2e-ms": "slo_e2e_ms",
}  # fmt: skip
"""{header: the field of `Wishes` that it fills}."""
_SHOWN_CHARS = 40
_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,6})?", re.ASCII)


def wishes_of(given: Iterable[tuple[bytes, bytes]]) -> Wishes | None:
    """What headers say, None where all of them are empty.

    Args:
        given: (a key of WISHES, its value).

    Raises:
        RouterError: invalid_header, with the header, its value and what was expected. Not for a strategy or profile
            that is too long: of that one byte too many is kept, for it may be that nobody reads it.
    """
    found: dict[str, str | float] = {}
    for name, value in given:
        field, text = WISHES[name], value.decode("latin-1").strip()
        if field.endswith("_ms"):
            found[field] = _milliseconds(name, text)
        elif field == "session_key" and not 1 <= len(text) <= MOST_WISH_BYTES:
            raise _refused(name, text, f"expected 1 to {MOST_WISH_BYTES} bytes, got {len(text)}")
        elif text:
            found[field] = text[: MOST_WISH_BYTES + 1]
    return Wishes(**found) if found else None  # type: ignore[arg-type]


def _milliseconds(name: bytes, text: str) -> float:
    if not _NUMBER.fullmatch(text) or not float(text):
        raise _refused(name, text, "expected a positive number of milliseconds, such as 250")
    return float(text)


def _refused(name: bytes, text: str, expected: str) -> RouterError:
    return RouterError("invalid_header", f"{name.decode()}: {text[:_SHOWN_CHARS]!r}: {expected}")
