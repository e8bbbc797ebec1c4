"""What a failed answer means: whose fault it is, and what to do about it.

Engines use the same status for different things: 503 is a full queue, a model that still loads, or a dead engine.
`wire.exchange` asks here once an answer has failed. The module must not raise, whatever the body is: a proxy in
between may have written it.
"""

from __future__ import annotations

import re

from rbeerouter.dialects import worker_errors

FULL = "full"
"""Nothing was generated, and another worker may have room: send it there, and let this one rest."""
LOADING = "loading"
"""It cannot be used yet. Another worker may serve it."""
BROKEN = "broken"
"""The worker's fault: counts against its health, and another worker may serve it."""
MISSING = "missing"
"""This worker has no such model. Not a sign of ill health, and another worker may have it."""
REFUSED = "refused"
"""The client's fault: any worker would say the same, so the answer is for the client."""
UNAUTHORIZED = "unauthorized"
"""The key that we sent is not accepted. Nothing that this client could change; another worker may serve it."""

_LOADING_WORDS = re.compile(r"\bloading\b|\bstarting\b|\bwarming\b|not ready|initiali[sz]ing", re.IGNORECASE)
_FULL_WORDS = re.compile(
    r"busy|overload|capacity|queue|too many|rate.?limit|no slot|maximum pending|concurren|exceeded", re.IGNORECASE
)
_MODEL_WORDS = re.compile(r"\bmodel\b|\blora\b|\badapter\b", re.IGNORECASE)
_BAD_INPUT_WORDS = re.compile(r"parse.?error|json\.exception|type_error|syntax error while parsing", re.IGNORECASE)
_ALWAYS = {
    408: BROKEN, 424: BROKEN, 425: FULL, 429: FULL, 499: REFUSED, 501: REFUSED, 529: FULL, 401: UNAUTHORIZED,
    403: UNAUTHORIZED, 407: UNAUTHORIZED,
}  # fmt: skip
"""424 is TGI's "generation failed"; 529 is Anthropic's "overloaded"; 499 is Ollama's word for a client that left."""
_BUSY_WITHOUT_WORDS = frozenset({"vllm", "sglang", "ollama"})
"""Engines whose 503 for a request means a full queue, unless it says something else."""


def meaning(engine: str, status: int, body: bytes) -> str:
    """What an answer of 400 or above says of the worker: FULL, LOADING, BROKEN, MISSING, REFUSED or UNAUTHORIZED."""
    if status in _ALWAYS:
        return _ALWAYS[status]
    if status == 404:
        return MISSING if _MODEL_WORDS.search(worker_errors.in_line(body) or "") else REFUSED
    if status < 500:
        return REFUSED
    said = worker_errors.in_line(body) or ""
    if status == 503:
        if _LOADING_WORDS.search(said):
            return LOADING
        return FULL if engine in _BUSY_WITHOUT_WORDS or _FULL_WORDS.search(said) else BROKEN
    if engine == "llamacpp" and _BAD_INPUT_WORDS.search(said):
        return REFUSED                                         # it answers 500 to a body that it cannot parse
    return BROKEN
