"""The OpenAI-compatible surface: a request's bytes become a `Request`, our failures become its error object.

Called by `wire`. The body is decoded once, into a struct that skips what nobody reads; it is forwarded as it came.
Source of the shapes: OpenAI's API reference; the traps are those seen in vLLM and llama.cpp answers.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from rbeerouter.config import Limits
from rbeerouter.core.errors import Failure, RouterError
from rbeerouter.core.types import Request
from rbeerouter.dialects import worker_errors
from rbeerouter.dialects.model_sizes import BILLIONS

if TYPE_CHECKING:
    from rbeerouter.dialects.surfaces import Surface

_GOES_ON = re.compile(r"[a-z0-9]|\.[0-9]")
_LONGEST_NAME = max(map(len, BILLIONS))
_Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


_ABSENT = msgspec.Raw(b"")


class _Body(msgspec.Struct, gc=False):
    model: str
    stream: bool | None = None
    max_tokens: _Integer | None = None
    max_completion_tokens: _Integer | None = None
    max_output_tokens: _Integer | None = None
    user: str | None = None
    priority: str | _Integer | None = None
    metadata: msgspec.Raw = _ABSENT


class _Said(msgspec.Struct, gc=False):
    """A message, or a part of its content: text is in one of these, pictures and sounds in none."""

    content: str | list[str | _Said] | None = None
    text: str | None = None


class _Texts(msgspec.Struct, gc=False):
    """Where a body says something: chat, completions (a text, texts or tokens), embeddings and responses."""

    messages: list[_Said] | None = None
    prompt: str | list[str | int | list[int]] | None = None
    input: str | list[str | int | list[int] | _Said] | None = None


_decode_texts = msgspec.json.Decoder(_Texts).decode
_decode_metadata = msgspec.json.Decoder(dict[str, Any] | None).decode
_decode = msgspec.json.Decoder(_Body).decode
_encode = msgspec.json.Encoder().encode


_PLAIN_BYTES = 32 << 10
"""A body up to this size is not searched for pictures: that takes microseconds, and few are so small."""
_MOST_PICTURES = 256
_MOST_SESSION_CHARS = 256
_NO_TEXTS: dict[str, str] = {}


def parse(
    surface: Surface, request_id: str, headers: Mapping[bytes, bytes], body: bytes, limits: Limits,
    shown: dict[str, str] = _NO_TEXTS, prompt_chars: int = 0, content_type: bytes = b"",
) -> Request:  # fmt: skip
    """Makes a Request of a body.

    Args:
        headers: the request's x-rbee-* headers and x-session-id, names in lower case.
        shown: `Request.headers`, as the script may see them.
        prompt_chars: how long `Request.prompt` may be; 0 leaves it None.
        content_type: of the body; JSON whatever it says.

    Raises:
        RouterError: invalid_json, with the field it is about.
    """
    try:
        asked = _decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_type(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RouterError("invalid_json", f"the body is not valid JSON: {error}") from None
    _check_unambiguous(body)
    metadata = _metadata(asked, headers, surface.kind, limits)
    priority = asked.priority
    if priority is None and b"x-rbee-priority" in headers:
        priority = headers[b"x-rbee-priority"].decode("latin-1")
    model, user, max_tokens = asked.model, asked.user, asked.max_tokens
    if not model or headers or len(body) > limits.field_chars:
        _check_lengths(model, user, priority, limits.field_chars)
    if max_tokens is None:
        max_tokens = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_output_tokens
    size = len(body)
    return Request(
        request_id, surface.name, model, model_size(model), user, priority, max_tokens, asked.stream is True, metadata,
        _session_id(headers) if headers else None,
        (size if size <= _PLAIN_BYTES else size - _picture_bytes(body)) // 4 or 1,
        shown, _prompt(body, prompt_chars) if prompt_chars else None, surface.protocol,
    )  # fmt: skip


def _session_id(headers: Mapping[bytes, bytes]) -> str | None:
    """The header x-session-id; one that is too long to be a name is none."""
    given = headers.get(b"x-session-id", b"")
    return given.decode("utf-8", "replace") if 0 < len(given) <= _MOST_SESSION_CHARS else None


def _picture_bytes(body: bytes) -> int:
    """How much of a body is base64 inside of data: URLs, which are no words."""
    found = start = 0
    for _ in range(_MOST_PICTURES):
        start = body.find(b";base64,", start)
        end = body.find(b'"', start)
        if start < 0 or end < 0:
            break
        found += end - start
        start = end
    return found


def _prompt(body: bytes, most_chars: int) -> str | None:
    """The beginning of what a body says, one line for each text; None where it says it in a way that nobody knows."""
    try:
        texts = _decode_texts(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    pieces: list[str] = []
    left: list[Any] = [texts.messages or texts.prompt or texts.input]
    room = most_chars
    for _ in range(most_chars):                               # a bound, too, for lists of tokens or of nothing
        if not left or room <= 0:
            break
        said = left.pop()
        if type(said) is str and said:
            pieces.append(said)
            room -= len(said) + 1
        elif type(said) is list:
            left += said[:most_chars][::-1]
        elif type(said) is _Said:
            left += (said.text, said.content)
    return "\n".join(pieces)[:most_chars] if pieces else None


def _check_lengths(model: str, user: str | None, priority: str | int | None, most: int) -> None:
    """Fields that reach the script are short; a shorter body cannot hold a longer one."""
    if not model:
        raise RouterError("invalid_json", "model: expected the name of a model, got an empty string", "model")
    for name, value in (("model", model), ("user", user), ("priority", priority)):
        if type(value) is str and len(value) > most:
            raise RouterError("invalid_json", f"{name} is longer than {most} characters", name)


@functools.lru_cache(maxsize=1024)
def model_size(model: str) -> float | None:
    """Billions of parameters as the name tells: 8.0 for "llama-3-8b", 56.0 for "8x7b", 0.27 for "gemma-270m".

    Where it does not, those of the model that has this name; None for one that nobody knows.
    """
    name = model.lower()
    found = re.search(r"(?<![a-z0-9.])(?:(\d{1,3})x)?(\d{1,6}(?:\.\d{1,6})?)([bm])(?![a-z0-9])", name)
    if found is None:
        return _known_size(name.rpartition("/")[2])
    experts, size, unit = found.groups()
    return float(size) * (int(experts) if experts else 1) / (1 if unit == "b" else 1000)


def _known_size(name: str) -> float | None:
    """By the longest beginning that is a known name; what follows must not go on with the word or number."""
    for end in range(min(len(name), _LONGEST_NAME), 0, -1):
        if name[:end] in BILLIONS and not _GOES_ON.match(name, end):
            return BILLIONS[name[:end]]
    return None


def rename_model(body: bytes, model: str) -> bytes:
    """The body with its `model` replaced and every other value's bytes kept."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return _encode({**fields, "model": model})


def error_body(failure: Failure, message: str, param: str | None = None) -> bytes:
    """OpenAI's error object."""
    error = {"message": message, "type": failure.type, "param": param, "code": failure.code}
    return _encode({"error": error})


def error_event(failure: Failure, message: str) -> bytes:
    """The same inside a stream. No [DONE] may follow it: SDKs take a clean end for success."""
    return b"data: " + error_body(failure, message) + b"\n\n"


_DELTA = re.compile(rb'"delta"\s*:\s*\{([^{}]*)\}')
_SOMETHING = re.compile(rb'"(?!role")\w+"\s*+:\s*+(?!null|""|\[\s*\])')
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
_REASON = re.compile(rb'"finish_reason"\s*:\s*(.)')
_OPENING = re.compile(rb"event: ?response\.(?:created|queued|in_progress)\n")
_COMMENTS = re.compile(rb"^:.*\n?", re.MULTILINE)
_ENDED = re.compile(
    rb"(?:^|\n)(?:data: ?\[DONE\]|event: ?(?:error|response\.(?:completed|incomplete|failed))\b)"
    rb'|"type"\s*:\s*"response\.(?:completed|incomplete|failed)"|"usage"\s*:\s*\{\s*"input_tokens"'
)
"""The last event of a stream. Of the Responses API's only the end may be at hand, as it repeats the whole answer."""


def has_content(events: bytes) -> bool:
    """Has a stream begun to say anything? False while it holds only comments and openings without content.

    Only events known to be empty count as such (an opening chunk with a role alone, response.created and its like, a
    part of an event): of a shape nobody knows, the first event is content.
    """
    return _first_said(events) is not None


def error_in(events: bytes) -> str | None:
    """What went wrong, if the first event that says something tells of an error: its status is 200 all the same."""
    event = _first_said(events)
    if event is None or (b"error" not in event and b"failed" not in event):
        return None
    return worker_errors.in_event(event)


def _first_said(events: bytes) -> bytes | None:
    whole, _, _ = events.replace(b"\r\n", b"\n").rpartition(b"\n\n")
    if whole:
        for event in whole.split(b"\n\n"):
            if event.strip() and not _is_opening(event):
                return event
    return None


def _is_opening(event: bytes) -> bool:
    event = _COMMENTS.sub(b"", event).strip()
    if not event or _OPENING.match(event + b"\n"):
        return True
    deltas = _DELTA.findall(event)
    return bool(deltas) and not _FINISHED.search(event) and not any(_SOMETHING.search(delta) for delta in deltas)


def is_finished(tail: bytes) -> bool:
    """Does the end of a stream say that it is the end? By its last event, or by the last choice that was told of."""
    if _ENDED.search(tail) is not None:
        return True
    reasons = _REASON.findall(tail)
    return bool(reasons) and reasons[-1] == b'"'


class _Card(msgspec.Struct):
    id: str


class _Cards(msgspec.Struct):
    data: list[_Card]


def listed_models(body: bytes) -> tuple[str, ...] | None:
    """The names in an answer to GET /v1/models; None when it is not such a list."""
    try:
        return tuple(card.id for card in msgspec.json.decode(body, type=_Cards).data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


_PROMPT, _COMPLETION, _INPUT, _OUTPUT = (
    re.compile(rb'"%b_tokens"\s*:\s*(\d{1,15})' % name) for name in (b"prompt", b"completion", b"input", b"output")
)


def usage(tail: bytes) -> tuple[int | None, int | None]:
    """(tokens in, tokens out) as the end of an answer states them, None where it does not."""
    start = tail.rfind(b'"usage"')
    if start < 0:
        return None, None
    tokens_in = _PROMPT.search(tail, start) or _INPUT.search(tail, start)
    tokens_out = _COMPLETION.search(tail, start) or _OUTPUT.search(tail, start)
    return (int(tokens_in[1]) if tokens_in else None), (int(tokens_out[1]) if tokens_out else None)


def _metadata(asked: _Body, headers: Mapping[bytes, bytes], kind: str, limits: Limits) -> dict[str, Any]:
    """Scalars of the body's metadata object, then x-rbee-meta-NAME headers, then the endpoint's type."""
    if asked.metadata is _ABSENT and not headers:
        return {"type": kind}
    metadata: dict[str, Any] = {}
    if asked.metadata is not _ABSENT:
        for key, value in _given_metadata(asked.metadata, limits).items():
            if type(value) in (str, int, float, bool):
                if type(value) is int and not -(2**63) <= value < 2**63:
                    raise RouterError("invalid_json", "metadata: an integer of over 64 bits", "metadata")
                metadata[key] = value
    for name, given in headers.items():
        if name.startswith(b"x-rbee-meta-"):
            metadata[name[12:].decode("latin-1")] = given.decode("utf-8", "replace")
    if len(metadata) > limits.metadata_pairs:
        raise RouterError("invalid_json", f"metadata has more than {limits.metadata_pairs} entries", "metadata")
    for key, value in metadata.items():
        if len(key) + (len(value) if type(value) is str else 0) > limits.field_chars:
            raise RouterError(
                "invalid_json", f"metadata: an entry has over {limits.field_chars} characters", "metadata"
            )
    metadata.setdefault("type", kind)
    return metadata


def _given_metadata(raw: msgspec.Raw, limits: Limits) -> dict[str, Any]:
    """The body's metadata object, refused by its size before it is taken apart."""
    if len(bytes(raw)) > limits.metadata_pairs * limits.field_chars:
        raise RouterError("invalid_json", "metadata is too large", "metadata")
    try:
        return _decode_metadata(raw) or {}
    except msgspec.ValidationError as error:
        what = str(error).partition(" - at")[0]
        raise RouterError("invalid_json", f"metadata: {what[0].lower()}{what[1:]}", "metadata") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RouterError("invalid_json", f"metadata: not valid JSON: {error}", "metadata") from None


def _check_unambiguous(body: bytes) -> None:
    """Refuses a body that the router and a worker could read differently: two models, or text that is not UTF-8."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise RouterError("invalid_json", f"the body is not UTF-8 text (byte {error.start})") from None
    if body.count(b'"model"') == 1 and not (b"\\" in body and b"\\u006" in body):
        return
    outermost: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> None:
        outermost[:] = pairs                                # called for inner objects first, so the last one stays

    try:
        json.loads(body, object_pairs_hook=keep)
    except (ValueError, RecursionError) as error:
        raise RouterError("invalid_json", f"the body is not valid JSON: {error}") from None
    if [key for key, _ in outermost].count("model") > 1:
        raise RouterError("invalid_json", "model: the body has this field twice", "model")


def _wrong_type(error: msgspec.ValidationError) -> RouterError:
    message, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").removeprefix(".")
    if message.startswith("Object missing required field"):
        return RouterError("invalid_json", "model: this field is required", "model")
    return RouterError("invalid_json", f"{path or 'the body'}: {message[0].lower()}{message[1:]}", path or None)
