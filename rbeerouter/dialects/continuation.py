"""Going on with a stream whose worker died in the middle of it: another worker continues the text so far.

`wire.exchange` uses this for models that are configured with `continuation = true`. A `Transcript` keeps what the
client has got, as whole events. When the worker dies, `resume` makes the request for the next worker: the conversation
with the text so far as its last, unfinished message (or the prompt with the text appended), and a `Continued`, which
turns what that worker sends into the rest of the stream that the client knows: one id, one opening, one usage.

It is refused wherever going on could not be told from starting anew, or the text alone does not say all: tools, JSON
schemas, log probabilities, several choices, a seed, reasoning, sound. Then the stream ends as any broken one does.

The final assistant message is continued by llama.cpp and Ollama as it is; vLLM and SGLang want to be told so with
`continue_final_message` (vllm/entrypoints/openai/protocol.py).
"""

from __future__ import annotations

from typing import Any

import msgspec

_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_FORBIDDEN = (
    "tools", "functions", "tool_choice", "response_format", "logprobs", "top_logprobs", "seed", "audio", "modalities",
    "guided_json", "guided_regex", "guided_grammar", "structured_outputs", "grammar", "json_schema", "echo", "suffix",
    "best_of", "prompt_logprobs", "stop_token_ids", "return_token_ids",
)  # fmt: skip
"""Fields that say that the text alone is not the whole answer, or that it must not depend on how it was made."""
_SAME = ("id", "created", "model", "system_fingerprint")
_UNFINISHED = "�"
_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class Transcript:
    """What a client has got of a stream, in whole events.

    Args:
        most_bytes: past so much, nothing is kept any more and the stream cannot be resumed.
    """

    def __init__(self, most_bytes: int) -> None:
        self.resumable = True
        self._most_bytes = most_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._rest = b""

    def take(self, data: bytes) -> bytes:
        """Gives back as much of the stream as ends with the end of an event; the rest comes with the next call."""
        data = self._rest + data
        line_feeds, both = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
        end = max(line_feeds + 2 if line_feeds >= 0 else 0, both + 4 if both >= 0 else 0)
        whole, self._rest = data[:end], data[end:]
        self._size += len(whole)
        if self._size > self._most_bytes or len(self._rest) > self._most_bytes:
            self.resumable = False
            self._parts.clear()
            whole, self._rest = whole + self._rest, b""
        elif whole:
            self._parts.append(whole)
        return whole

    def rest(self) -> bytes:
        """What stands behind the last whole event, at the end of the stream."""
        rest, self._rest = self._rest, b""
        return rest

    def drop_rest(self) -> None:
        """The worker died within an event, which nobody needs."""
        self._rest = b""

    def events(self) -> list[dict[str, Any]]:
        """The JSON objects of the stream so far. Raises ValueError for anything else."""
        return [event for event in map(_payload, _split(b"".join(self._parts))) if event is not None]


def may_continue(path: str, body: bytes) -> bool:
    """Is this a request whose stream could be continued? It is decoded for this once, when the stream begins."""
    if path not in (_CHAT, _COMPLETIONS):
        return False
    try:
        asked = _decode_object(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    if asked.get("n") not in (None, 1) or any(asked.get(field) for field in _FORBIDDEN):
        return False
    if path == _COMPLETIONS:
        return isinstance(asked.get("prompt"), str)
    messages = asked.get("messages")
    return isinstance(messages, list) and bool(messages) and all(isinstance(said, dict) for said in messages)


def resume(path: str, body: bytes, transcript: Transcript, says_so: bool) -> tuple[bytes, Continued] | None:
    """The request that goes on with a stream, and what turns its answer into the rest of it.

    Args:
        says_so: add the fields that vLLM and SGLang want; others may refuse fields that they do not know.

    Returns:
        None when the text so far cannot be continued, or is complete.
    """
    try:
        events, asked = transcript.events(), _decode_object(body)
    except (ValueError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    said = _said(events)
    if said is None or not events or _UNFINISHED in said[-1:]:
        return None
    tokens = sum(bool(_text(event)) for event in events)
    left = _less(asked, tokens)
    if left is None:
        return None
    if path == _COMPLETIONS:
        left["prompt"] += said
    else:
        messages = left["messages"]
        last = messages[-1]
        if last.get("role") == "assistant" and isinstance(last.get("content"), str):     # the client's own beginning
            messages = [*messages[:-1], {**last, "content": last["content"] + said}]
        else:
            messages = [*messages, {"role": "assistant", "content": said}]
        left["messages"] = messages
        if says_so:
            left["add_generation_prompt"], left["continue_final_message"] = False, True
    return _encode(left), Continued(events[0], tokens)


class Continued:
    """Rewrites the events of the worker that goes on.

    Args:
        first: the first event that the client got, whose id, model and time go on.
        tokens: how many the client has got already; they move from the prompt to the completion in the usage.
    """

    def __init__(self, first: dict[str, Any], tokens: int) -> None:
        self._same = {field: first[field] for field in _SAME if field in first}
        self.tokens = tokens
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The rewritten events that are whole now."""
        events = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        self._rest = events.pop()
        return b"".join(map(self._rewritten, events))

    def finish(self) -> bytes:
        rest, self._rest = self._rest, b""
        return self._rewritten(rest) if rest.strip() else b""

    def _rewritten(self, event: bytes) -> bytes:
        try:
            payload = _payload(event)
        except ValueError:
            payload = None
        if payload is None or "error" in payload:
            return event + b"\n\n" if event.strip() else b""
        for choice in payload.get("choices") or ():
            delta = choice.get("delta")
            if isinstance(delta, dict):
                delta.pop("role", None)
        usage = payload.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            usage["completion_tokens"] += self.tokens
            read = usage.get("prompt_tokens")
            usage["prompt_tokens"] = max(0, read - self.tokens) if isinstance(read, int) else 0
        if not usage and payload.get("choices") and all(map(_is_empty, payload["choices"])):
            return b""                                        # its opening: the client has had one
        return b"data: " + _encode({**payload, **self._same}) + b"\n\n"


def _is_empty(choice: dict[str, Any]) -> bool:
    said = choice.get("delta", choice.get("text"))
    if isinstance(said, dict):
        said = [value for value in said.values() if value]
    return not said and not choice.get("finish_reason")


def _split(stream: bytes) -> list[bytes]:
    return stream.replace(b"\r\n", b"\n").split(b"\n\n")


def _payload(event: bytes) -> dict[str, Any] | None:
    """The JSON object of an event; None for comments, [DONE] and nothing. Raises ValueError for what is no event of
    this protocol."""
    lines = [line for line in event.split(b"\n") if line and not line.startswith(b":")]
    if not lines:
        return None
    if any(not line.startswith(b"data:") for line in lines):
        raise ValueError("an event with more than data")
    data = b"\n".join(line[5:].strip() for line in lines)
    if data == b"[DONE]":
        return None
    try:
        payload = _decode_object(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    choices = payload.get("choices") or []
    if not isinstance(choices, list) or not all(map(_is_choice, choices)):
        raise ValueError("choices that are none")
    return payload


def _is_choice(choice: Any) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("delta") or {}, dict)


def _text(event: dict[str, Any]) -> str:
    for choice in event.get("choices") or ():
        said = choice.get("text")
        if said is None:
            said = (choice.get("delta") or {}).get("content")
        return said if isinstance(said, str) else ""
    return ""


def _said(events: list[dict[str, Any]]) -> str | None:
    """The text of all events; None when there was more than text, or it has come to its end."""
    for event in events:
        if event.get("error") or event.get("object") == "error":
            return None
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            more = {name for name, value in delta.items() if value and name not in ("role", "content")}
            if more or choice.get("index", 0) != 0 or choice.get("finish_reason") or choice.get("logprobs"):
                return None
    return "".join(map(_text, events))


def _less(asked: dict[str, Any], tokens: int) -> dict[str, Any] | None:
    """The request with so many tokens less to make; None when none are left."""
    left = dict(asked)
    for field in ("max_tokens", "max_completion_tokens"):
        most = left.get(field)
        if isinstance(most, int):
            if most <= tokens:
                return None
            left[field] = most - tokens
    return left
