"""A stream of chat completions as a stream of the Messages API.

Made by `translation` for one answer, fed by `wire.exchange` with what comes from the worker. What it gives depends only
on the bytes, not on how they were cut into pieces.
"""

from __future__ import annotations

from typing import Any

import msgspec

from rbeerouter.dialects import anthropic, worker_errors

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

_REASONS = {
    "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use",
    "content_filter": "refusal",
}  # fmt: skip


_MOST_EVENT_BYTES = 8 << 20
"""An event must be whole to be translated. The longest ones hold a call with a file in it, at once."""


def message_id(completion_id: Any) -> str:
    """An id as Anthropic's begin."""
    return f"msg_{str(completion_id or '0').removeprefix('chatcmpl-')[:100]}"


def stop_reason(choice: dict[str, Any], called: bool) -> tuple[str, str | None]:
    """(stop_reason, stop_sequence) of a choice. vLLM and SGLang tell which of the stop sequences it was."""
    sequence = choice.get("stop_reason", choice.get("matched_stop"))
    finished = choice.get("finish_reason")
    if called and finished in ("stop", None):                # some say so behind a call as well
        return "tool_use", None
    if finished == "stop" and isinstance(sequence, str):
        return "stop_sequence", sequence
    return _REASONS.get(finished if isinstance(finished, str) else "stop", "end_turn"), None


def usage_of(usage: Any) -> dict[str, int]:
    """Anthropic counts the tokens that came out of a cache apart."""
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    prompt = _count(usage.get("prompt_tokens"))
    cached = min(cached, prompt)
    return {
        "input_tokens": prompt - cached, "cache_creation_input_tokens": 0, "cache_read_input_tokens": cached,
        "output_tokens": _count(usage.get("completion_tokens")),
    }  # fmt: skip


def _count(number: Any) -> int:
    return number if type(number) is int and number > 0 else 0


class MessageStream:
    """Rewrites one stream.

    A worker's tool calls come one after the other, and so do the blocks that they become. A call is told from the one
    before by its number, or by an id of its own: some engines give all calls the number 0.

    Attributes:
        tokens_in, tokens_out: known once the stream has said them.
        failed: the stream told of an error, or was none; the client has been told.
    """

    def __init__(self) -> None:
        self.tokens_in: int | None = None
        self.tokens_out: int | None = None
        self.failed = False
        self._rest = b""
        self._data: list[bytes] = []
        self._id = ""
        self._index = -1
        self._open: str | None = None
        self._number: int | None = None
        self._name: str | None = None
        self._numbers: set[int] = set()
        self._names: set[str | None] = set()
        self._choice: dict[str, Any] = {}
        self._usage: Any = None
        self._over = False

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes of the worker."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        said = b"".join([self._line(line) for line in lines])
        if len(self._rest) > _MOST_EVENT_BYTES or sum(map(len, self._data)) > _MOST_EVENT_BYTES:
            self._rest, self._data = b"", []
            said += b"" if self._over else self._fail("the worker sent an event without an end")
        return said

    def finish(self) -> bytes:
        """What is still to be said when the worker's stream has ended well."""
        rest = self._line(self._rest) + self._line(b"") if self._rest or self._data else b""
        self._rest = b""
        return rest + self._end()

    def _line(self, line: bytes) -> bytes:
        line = line.removesuffix(b"\r")
        if line.startswith(b"data:"):
            self._data.append(line[5:])
        elif line.startswith(b":"):
            return b"" if self._over else line + b"\n\n"
        elif not line and self._data:
            data, self._data = b"\n".join(self._data), []
            return b"" if self._over else self._event(data.strip())
        return b""

    def _event(self, data: bytes) -> bytes:
        if data == b"[DONE]":
            return self._end()
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            chunk = None
        if not isinstance(chunk, dict):
            return self._fail("the worker sent an event that is no chunk of a chat completion")
        error = worker_errors.message(chunk)
        if error is not None:
            return self._fail(error)
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._usage = usage
            self.tokens_in, self.tokens_out = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        said = b"" if self._id else self._start(chunk)
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("index", 0) == 0:
                said += self._said(choice)
        return said

    def _start(self, chunk: dict[str, Any]) -> bytes:
        self._id = message_id(chunk.get("id"))
        message = {
            "id": self._id, "type": "message", "role": "assistant", "model": chunk.get("model") or "", "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": usage_of(self._usage),
        }  # fmt: skip
        return _write("message_start", {"message": message})

    def _said(self, choice: dict[str, Any]) -> bytes:
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        said = b""
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought and isinstance(thought, str):
            said += self._begin("thinking") + self._delta("thinking_delta", "thinking", thought)
        text = delta.get("content") or delta.get("refusal")
        if text and isinstance(text, str):
            said += self._begin("text") + self._delta("text_delta", "text", text)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and not self._over:
                said += self._called(call)
        if choice.get("finish_reason"):
            self._choice = choice
        return said

    def _called(self, call: dict[str, Any]) -> bytes:
        function, name, number = call.get("function"), call.get("id"), call.get("index")
        function = function if isinstance(function, dict) else {}
        name = name if isinstance(name, str) and name else None
        number = number if type(number) is int else len(self._numbers)
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            arguments = _encode(arguments).decode()
        said = b""
        begun = number in self._numbers and (name is None or self._name is None or name in self._names)
        if not begun:
            self._number, self._name = number, name
            self._numbers.add(number)
            self._names.add(name)
            said = self._begin("tool_use", {
                "id": name or f"toolu_{self._id}_{number}", "name": function.get("name") or "", "input": {},
            })  # fmt: skip
        elif not arguments:
            return b""
        elif number != self._number or name not in (None, self._name) or self._open != "tool_use":
            return self._fail("the worker mixed the arguments of two tool calls")
        if arguments and isinstance(arguments, str):
            said += self._delta("input_json_delta", "partial_json", arguments)
        return said

    def _begin(self, kind: str, fields: dict[str, Any] | None = None) -> bytes:
        """Opens a block of this kind unless one is open that goes on."""
        if self._open == kind and fields is None:
            return b""
        said = self._close()
        self._open = kind
        self._index += 1
        empty = {"thinking": {"thinking": "", "signature": ""}, "text": {"text": ""}}
        block = {"type": kind, **(fields or empty[kind])}
        return said + _write("content_block_start", {"index": self._index, "content_block": block})

    def _delta(self, kind: str, name: str, piece: str) -> bytes:
        return _write("content_block_delta", {"index": self._index, "delta": {"type": kind, name: piece}})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _write("content_block_stop", {"index": self._index})

    def _end(self) -> bytes:
        if self._over:
            return b""
        said = b"" if self._id else self._start({})
        said += self._close()
        self._over = True
        reason, sequence = stop_reason(self._choice, bool(self._numbers))
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        said += _write("message_delta", {"delta": delta, "usage": usage_of(self._usage)})
        return said + _write("message_stop", {})

    def _fail(self, message: str) -> bytes:
        """The worker told of an error: no event may follow that could be taken for a good end."""
        self._over = self.failed = True
        return b"event: error\ndata: " + anthropic.error_text(500, message) + b"\n\n"


def _write(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode({"type": name, **fields}))
