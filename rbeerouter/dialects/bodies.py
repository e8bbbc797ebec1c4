"""The body of a request becomes a `Request`: what all JSON bodies have in common, whatever their protocol.

Called through the rows of `surfaces`. A body is decoded once, into a struct that skips what nobody reads; it is
forwarded as it came. Source of the shapes: the API references of OpenAI, Anthropic and Ollama.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from rbeerouter.config.sections import Limits
from rbeerouter.core.errors import RouterError
from rbeerouter.core.types import DATA, Request
from rbeerouter.dialects import multipart
from rbeerouter.dialects.model_sizes import model_size

if TYPE_CHECKING:
    from rbeerouter.dialects.surfaces import Surface

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


class _Options(msgspec.Struct, gc=False):
    num_predict: _Integer | None = None


class _OllamaBody(msgspec.Struct, gc=False):
    """A body of Ollama's own API. How much may be written stands inside of `options`; -1 and -2 set no bound. `name` is
    what `model` once was called."""

    model: str = ""
    name: str = ""
    stream: bool | None = None
    options: _Options | None = None


class _Person(msgspec.Struct, gc=False):
    user_id: str | None = None


class _AnthropicBody(msgspec.Struct, gc=False):
    """A body of Anthropic's Messages API. Its metadata holds nothing but who the user is."""

    model: str
    max_tokens: _Integer | None = None
    stream: bool | None = None
    metadata: _Person | None = None


class _Said(msgspec.Struct, gc=False):
    """A message, or a part of its content: text is in one of these, pictures and sounds in none."""

    content: str | list[str | _Said] | None = None
    text: str | None = None


class _Texts(msgspec.Struct, gc=False):
    """Where a body says something: chat, completions (a text, texts or tokens), embeddings, responses, and the system
    prompt where it stands apart."""

    system: str | list[_Said] | None = None
    messages: list[_Said] | None = None
    prompt: str | list[str | int | list[int]] | None = None
    input: str | list[str | int | list[int] | _Said] | None = None


_decode_texts = msgspec.json.Decoder(_Texts).decode
_decode_metadata = msgspec.json.Decoder(dict[str, Any] | None).decode
_decode = msgspec.json.Decoder(_Body).decode
_decode_ollama = msgspec.json.Decoder(_OllamaBody).decode
_decode_anthropic = msgspec.json.Decoder(_AnthropicBody).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


_OTHER_SPELLING = re.compile(rb'"(?!model"|name")(?i:model|name)"')
_PLAIN_BYTES = 32 << 10
"""A body up to this size is not searched for pictures: that takes microseconds, and few are so small."""
_MOST_PICTURES = 256
_MOST_SESSION_CHARS = 256
_UPLOAD_FIELDS = frozenset({"model", "user", "stream"})
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
        content_type: of the body; here it is JSON whatever that says.

    Raises:
        RouterError: invalid_json, with the field it is about.
    """
    try:
        asked = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(error) from None
    _check_unambiguous(body)
    metadata = _metadata(asked.metadata, headers, surface.kind, limits)
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


def parse_ollama(
    surface: Surface, request_id: str, headers: Mapping[bytes, bytes], body: bytes, limits: Limits,
    shown: dict[str, str] = _NO_TEXTS, prompt_chars: int = 0, content_type: bytes = b"",
) -> Request:  # fmt: skip
    """`parse` for Ollama's own API, where an answer streams unless the body says that it shall not."""
    asked = _decoded(_decode_ollama, body)
    if _OTHER_SPELLING.search(body) is not None or b"\\u00" in body:
        _check_spelling(body)
    most = asked.options.num_predict if asked.options is not None else None
    stream = surface.streams if asked.stream is None else asked.stream and surface.streams
    return _request(
        surface, request_id, headers, asked.model or asked.name, None, None if most is None or most < 0 else most,
        stream, body, limits, shown, prompt_chars,
    )  # fmt: skip


def parse_anthropic(
    surface: Surface, request_id: str, headers: Mapping[bytes, bytes], body: bytes, limits: Limits,
    shown: dict[str, str] = _NO_TEXTS, prompt_chars: int = 0, content_type: bytes = b"",
) -> Request:  # fmt: skip
    """`parse` for Anthropic's Messages API."""
    asked = _decoded(_decode_anthropic, body)
    user = asked.metadata.user_id if asked.metadata is not None else None
    return _request(
        surface, request_id, headers, asked.model, user, asked.max_tokens, asked.stream is True, body, limits,
        shown, prompt_chars,
    )  # fmt: skip


def parse_upload(
    surface: Surface, request_id: str, headers: Mapping[bytes, bytes], body: bytes, limits: Limits,
    shown: dict[str, str] = _NO_TEXTS, prompt_chars: int = 0, content_type: bytes = b"",
) -> Request:  # fmt: skip
    """`parse` where files may be sent: a body of several parts, or JSON. Of files no tokens are counted."""
    if not content_type or content_type.partition(b";")[0].strip().lower().endswith(b"json"):
        return parse(surface, request_id, headers, body, limits, shown, prompt_chars)
    given = multipart.fields(body, multipart.boundary_of(content_type), _UPLOAD_FIELDS, limits.field_chars)
    if not given.get("model"):
        raise RouterError("invalid_form", "model: this field is required", "model")
    return _request(
        surface, request_id, headers, given["model"], given.get("user"), None,
        given.get("stream", "").lower() == "true", b"", limits, shown, 0,
    )  # fmt: skip


def parse_data(
    surface: Surface, request_id: str, headers: Mapping[bytes, bytes], body: bytes, limits: Limits,
    shown: dict[str, str] = _NO_TEXTS, prompt_chars: int = 0, content_type: bytes = b"",
) -> Request:  # fmt: skip
    """`parse` for queries of data, which are JSON of any shape. One that names no model asks for "data"."""
    asked = _decoded(_decode_any, body)
    fields = asked if isinstance(asked, dict) else {}
    model, user = fields.get("model"), fields.get("user")
    return _request(
        surface, request_id, headers, model if isinstance(model, str) and model else DATA,
        user if isinstance(user, str) else None, None, fields.get("stream") is True, body, limits, shown, prompt_chars,
    )  # fmt: skip


def _request(
    surface: Surface, request_id: str, headers: Mapping[bytes, bytes], model: str, user: str | None,
    max_tokens: int | None, stream: bool, body: bytes, limits: Limits, shown: dict[str, str], prompt_chars: int,
) -> Request:  # fmt: skip
    """What `parse` does once it knows what the body says, for bodies that have neither priority nor metadata."""
    priority = headers[b"x-rbee-priority"].decode("latin-1") if b"x-rbee-priority" in headers else None
    _check_lengths(model, user, priority, limits.field_chars)
    return Request(
        request_id, surface.name, model, model_size(model), user, priority, max_tokens, stream,
        _metadata(_ABSENT, headers, surface.kind, limits), _session_id(headers) if headers else None,
        (len(body) - _picture_bytes(body)) // 4 or 1 if body else None,
        shown, _prompt(body, prompt_chars) if prompt_chars else None, surface.protocol,
    )  # fmt: skip


def _decoded(decode: Callable[[bytes], Any], body: bytes) -> Any:
    """What this decoder makes of a body. Raises RouterError."""
    try:
        asked = decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(error) from None
    _check_unambiguous(body)
    return asked


def _unreadable(error: Exception) -> RouterError:
    if isinstance(error, msgspec.ValidationError):
        return wrong_type(error)
    return RouterError("invalid_json", f"the body is not valid JSON: {error}")


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
    left: list[Any] = [texts.messages or texts.prompt or texts.input, texts.system]
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


def rename_model(body: bytes, model: str) -> bytes:
    """The body with its `model` replaced and every other value's bytes kept; one of several parts, too."""
    if body.startswith(b"--"):
        return multipart.rename_model(body, model)
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return _encode({**fields, "model": model})


def rename_in_data(body: bytes, model: str) -> bytes:
    """The same for a query of data, which has no place for a model when it is no object."""
    return rename_model(body, model) if body.lstrip().startswith(b"{") else body


def _metadata(given: msgspec.Raw, headers: Mapping[bytes, bytes], kind: str, limits: Limits) -> dict[str, Any]:
    """Scalars of the body's metadata object, then x-rbee-meta-NAME headers, then the endpoint's type."""
    if given is _ABSENT and not headers:
        return {"type": kind}
    metadata: dict[str, Any] = {}
    if given is not _ABSENT:
        for key, value in _given_metadata(given, limits).items():
            if type(value) in (str, int, float, bool):
                if type(value) is int and not -(2**63) <= value < 2**63:
                    raise RouterError("invalid_json", "metadata: an integer of over 64 bits", "metadata")
                metadata[key] = value
    for name, text in headers.items():
        if name.startswith(b"x-rbee-meta-"):
            metadata[name[12:].decode("latin-1")] = text.decode("utf-8", "replace")
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


def _check_spelling(body: bytes) -> None:
    """Refuses other spellings of `model` and `name`: to Ollama, which is written in Go, "MODEL" is the same field, and
    the last one holds."""
    for key in msgspec.json.decode(body, type=dict[str, msgspec.Raw]):
        if key.lower() in ("model", "name") and key not in ("model", "name"):
            raise RouterError("invalid_json", f"{key}: expected this field in small letters", key)


def wrong_type(error: msgspec.ValidationError) -> RouterError:
    message, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").removeprefix(".")
    if message.startswith("Object missing required field"):
        return RouterError("invalid_json", "model: this field is required", "model")
    return RouterError("invalid_json", f"{path or 'the body'}: {message[0].lower()}{message[1:]}", path or None)
