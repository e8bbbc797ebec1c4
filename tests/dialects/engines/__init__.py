"""What the tests of the engines read: recorded and written answers, in `payloads/`."""

from __future__ import annotations

from pathlib import Path

from rbeerouter.dialects.engines.spec import Answer

PAYLOADS = Path(__file__).parent / "payloads"


def answer(path: str, name: str = "", status: int = 200, *, body: bytes = b"", **headers: str) -> Answer:
    """An answer to GET path: one of the payloads, or this body."""
    told = (PAYLOADS / name).read_bytes() if name else body
    return Answer(path, status, {key.replace("_", "-"): value for key, value in headers.items()}, told)
