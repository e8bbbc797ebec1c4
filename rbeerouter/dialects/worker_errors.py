"""What a worker says when it fails: engines write it in five shapes, and in events of a stream.

Called by the dialects, for streams that begin with an error, and by translations. It reads; it decides nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
_MOST_CHARS = 2000
"""An error is a sentence; what is longer is a page of HTML or a trace."""


def message(answer: Any) -> str | None:
    """The message in a decoded error, None when it is none.

    {"error": {"message"}} (OpenAI, vLLM, llama.cpp, Anthropic), {"error": "text"} (Ollama, TGI), {"object": "error",
    "message"} (SGLang, LMDeploy), {"response": {"error": {"message"}}} (the Responses API), {"type": "error",
    "message"} (its event), {"detail": ...} (FastAPI).
    """
    if not isinstance(answer, dict):
        return None
    found = answer.get("error")
    if isinstance(found, dict):
        found = found.get("message") or found.get("type") or "error"
    elif not found and (answer.get("object") == "error" or answer.get("type") == "error"):
        found = answer.get("message") or "error"
    elif not found and answer.get("type") == "response.failed":
        response = answer.get("response")
        found = message(response) if isinstance(response, dict) else None
        found = found or "the response failed"
    elif not found and set(answer) == {"detail"}:
        found = answer["detail"]
    if not found:
        return None
    return (found if isinstance(found, str) else str(found))[:_MOST_CHARS]


def in_body(body: bytes) -> str | None:
    """The message in the body of an error; of one in another shape, its beginning."""
    try:
        found = message(_decode(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = None
    return found or body[:200].decode("utf-8", "replace").strip() or None


def in_event(event: bytes) -> str | None:
    """The message of an event of a stream (lines that end with \\n), None when it does not tell of an error."""
    lines = event.split(b"\n")
    data = b"\n".join(line[5:] for line in lines if line.startswith(b"data:"))
    named = any(line.startswith(b"event:") and line[6:].strip() == b"error" for line in lines)
    try:
        found = message(_decode(data))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = None
    return found or ((data[:200].decode("utf-8", "replace").strip() or "error") if named else None)


def in_line(line: bytes) -> str | None:
    """The message of one JSON object, None when it does not tell of an error."""
    try:
        return message(_decode(line))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
