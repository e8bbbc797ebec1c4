"""The parts of scripts/faulting that answers are made of, as tests use them for behaviours of their own.

Called by tests. It must not add anything.
"""

from scripts.faulting.behaviours import answer, close_delimited, embed, refusal
from scripts.faulting.names import BEHAVIOURS
from scripts.faulting.nonsense import GARBAGE, HUGE_EVENT_BYTES, LONG_EVENT_BYTES
from scripts.faulting.parts import (
    ANSWER_TEXT,
    ANSWER_TOKENS,
    BIG_ANSWER_BYTES,
    CHUNKED,
    CLOSE,
    ENDLESS_BURST_EVENTS,
    JSON_TYPE,
    LAST_CHUNK,
    POISON,
    SSE_TYPE,
    USAGE,
    Behaviour,
    Header,
    chunk,
    completion,
    envelope,
    error_object,
    events,
    head,
    is_chat,
    sse,
    stream_part,
    wants_usage,
    whole,
)

__all__ = [
    "ANSWER_TEXT", "ANSWER_TOKENS", "BEHAVIOURS", "BIG_ANSWER_BYTES", "CHUNKED", "CLOSE", "ENDLESS_BURST_EVENTS",
    "GARBAGE", "HUGE_EVENT_BYTES", "JSON_TYPE", "LAST_CHUNK", "LONG_EVENT_BYTES", "POISON", "SSE_TYPE", "USAGE",
    "Behaviour", "Header", "answer", "chunk", "close_delimited", "completion", "embed", "envelope", "error_object",
    "events", "head", "is_chat", "refusal", "sse", "stream_part", "wants_usage", "whole",
]  # fmt: skip
