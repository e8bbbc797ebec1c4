"""The table of all that clients may ask for: each path, how its body is read, and the protocol it speaks.

`wire.listener` looks a path up here; `wire.exchange` asks the request's `Dialect` what an answer means. A path that is
not here is not forwarded: engines keep their administration beside these (vLLM's /v1/load_lora_adapter).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Protocol

import msgspec

from rbeerouter.core.errors import Failure
from rbeerouter.core.types import ANTHROPIC, DATA, OLLAMA, OPENAI, Request
from rbeerouter.dialects import anthropic, bodies, ollama, openai, translation

EVENT_STREAM, LINES = b"text/event-stream", b"application/x-ndjson"


class Dialect(msgspec.Struct, frozen=True):
    """What one protocol says, in functions over bytes.

    error_body(failure, message, param), error_event(failure, message): a failure of ours, as an answer and in a stream
    has_content(held): has a stream begun to say anything?
    error_in(held): the message, if what it begins to say is an error; None otherwise
    is_finished(tail): does the end of a stream say that it is the end?
    is_failed(tail): is the last that a stream says an error?
    usage(tail): (tokens in, tokens out) as the end of an answer states them
    rename_model(body, name): the body of a request with another model
    stream_type: the content type of its streams
    keep_alive: what may be written between events so that nobody takes a silent stream for dead; b"" when nothing may
    error_from(status, body): a worker's error in the protocol's own shape, which engines that speak it do not all keep
        to; None for protocols whose clients read any
    tokens_read(held): tokens in, where a stream states them as it begins; None for protocols that never do
    """

    protocol: str
    error_body: Callable[[Failure, str, str | None], bytes]
    error_event: Callable[[Failure, str], bytes]
    has_content: Callable[[bytes], bool]
    error_in: Callable[[bytes], str | None]
    is_finished: Callable[[bytes], bool]
    is_failed: Callable[[bytes], bool]
    usage: Callable[[bytes], tuple[int | None, int | None]]
    rename_model: Callable[[bytes, str], bytes]
    stream_type: bytes = EVENT_STREAM
    keep_alive: bytes = b": keep-alive\n\n"
    error_from: Callable[[int, bytes], bytes] | None = None
    tokens_read: Callable[[bytes], int | None] | None = None


class Rewriter(Protocol):
    """Turns a worker's stream into the client's, piece by piece; where the pieces begin and end makes no difference.

    tokens_in, tokens_out: known once the stream has said them.
    failed: it told of an error, and so does what was made of it.
    """

    tokens_in: int | None
    tokens_out: int | None
    failed: bool

    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes:
        """What is still to be said when the worker's stream has ended well."""


class Translation(Protocol):
    """How a request of one protocol is put to a worker that speaks another.

    path: where it goes at the worker.
    source: the dialect of the worker's answer; what is held and relayed of it is judged by that.
    """

    path: bytes
    source: Dialect

    def body(self, body: bytes, model: str | None) -> bytes:
        """The request for the worker, with the model's name if another is to be asked for. Raises RouterError."""

    def answer(self, status: int, body: bytes) -> bytes | None:
        """A whole answer of the worker, good or bad, in the client's protocol; None for a good one that makes no sense.
        There is always one for a status from 400 on."""

    def stream(self) -> Rewriter: ...


class Surface(msgspec.Struct, frozen=True):
    """One path for clients.

    kind: `metadata.type` of its requests
    parse: makes a Request of (surface, id, our headers, body, limits, shown headers, prompt chars, content type)
    name: the path as text
    streams: does it stream when the body does not say?
    uploads: may the body have several parts, with files?
    translated: how it is put to workers that speak OpenAI's protocol alone
    lacked_by: engines that speak the protocol but for this path
    """

    path: bytes
    kind: str
    dialect: Dialect
    parse: Callable[..., Request]
    name: str
    protocol: str
    streams: bool = False
    uploads: bool = False
    translated: Translation | None = None
    lacked_by: frozenset[str] = frozenset()

    def translation(self, speaks: Collection[str], engine: str = "") -> Translation | None:
        """How a worker that speaks these protocols is asked; None when it takes the request as it is."""
        if self.translated is None or (self.protocol in speaks and engine not in self.lacked_by):
            return None
        return self.translated

    def unread(self, request_id: str) -> Request:
        """What can be said of a request whose body could not be understood."""
        return Request(
            request_id, self.name, "", None, None, None, None, self.streams, {"type": self.kind}, protocol=self.protocol
        )


OPENAI_DIALECT = Dialect(
    OPENAI, openai.error_body, openai.error_event, openai.has_content, openai.error_in, openai.is_finished,
    openai.is_failed, openai.usage, bodies.rename_model,
)  # fmt: skip
ANTHROPIC_DIALECT = Dialect(
    ANTHROPIC, anthropic.error_body, anthropic.error_event, anthropic.has_content, anthropic.error_in,
    anthropic.is_finished, anthropic.is_failed, anthropic.usage, bodies.rename_model,
    error_from=anthropic.error_from, tokens_read=anthropic.tokens_read,
)  # fmt: skip
OLLAMA_DIALECT = Dialect(
    OLLAMA, ollama.error_body, ollama.error_event, ollama.has_content, ollama.error_in, ollama.is_finished,
    ollama.is_failed, ollama.usage, bodies.rename_model, LINES, b"", ollama.error_from,
)  # fmt: skip

_UNSURE_DIALECT = msgspec.structs.replace(OPENAI_DIALECT, keep_alive=b"")
"""For paths where many engines answer with a whole body though a stream was asked for: none may be begun for them."""
DATA_DIALECT = msgspec.structs.replace(
    _UNSURE_DIALECT, protocol=DATA, rename_model=bodies.rename_in_data, error_in=lambda held: None,
    is_finished=lambda tail: True, is_failed=lambda tail: False,
)  # fmt: skip
"""An answer may be anything, and nobody but the client knows what it means."""

_OPENAI = {
    "/v1/chat/completions": "llm",
    "/v1/completions": "llm",
    "/v1/responses": "llm",
    "/v1/moderations": "llm",
    "/v1/embeddings": "embedding",
    "/v1/rerank": "embedding",
    "/v2/rerank": "embedding",
    "/rerank": "embedding",
    "/v1/score": "embedding",
    "/score": "embedding",
    "/v1/pooling": "embedding",
    "/pooling": "embedding",
    "/v1/classify": "embedding",
    "/classify": "embedding",
    "/v1/images/generations": "image",
    "/v1/audio/speech": "audio",
}
_UPLOADS = {
    "/v1/images/edits": "image",
    "/v1/images/variations": "image",
    "/v1/audio/transcriptions": "audio",
    "/v1/audio/translations": "audio",
}
_ANTHROPIC: dict[str, tuple[type[translation.Messages], frozenset[str]]] = {
    "/v1/messages": (translation.Messages, frozenset()),
    "/v1/messages/count_tokens": (translation.Count, frozenset({"ollama", "lmstudio"})),
}
_OLLAMA = {
    "/api/chat": ("llm", True),
    "/api/generate": ("llm", True),
    "/api/embed": ("embedding", False),
    "/api/embeddings": ("embedding", False),
    "/api/show": ("llm", False),
}
ADMINISTRATION = frozenset({b"/api/pull", b"/api/push", b"/api/create", b"/api/copy", b"/api/delete"})
"""What clients of Ollama get only an answer for that says why not: which machine holds which model is not
for those to decide who ask for answers."""


def _rows() -> Iterator[Surface]:
    for path, kind in _OPENAI.items():
        dialect = OPENAI_DIALECT if kind == "llm" else _UNSURE_DIALECT
        yield Surface(path.encode(), kind, dialect, bodies.parse, path, OPENAI)
    for path, kind in _UPLOADS.items():
        yield Surface(path.encode(), kind, _UNSURE_DIALECT, bodies.parse_upload, path, OPENAI, uploads=True)
    for path, (how, lacked_by) in _ANTHROPIC.items():
        yield Surface(
            path.encode(), "llm", ANTHROPIC_DIALECT, bodies.parse_anthropic, path, ANTHROPIC,
            translated=how(OPENAI_DIALECT), lacked_by=lacked_by,
        )  # fmt: skip
    for path, (kind, streams) in _OLLAMA.items():
        yield Surface(path.encode(), kind, OLLAMA_DIALECT, bodies.parse_ollama, path, OLLAMA, streams)
    yield Surface(b"/api/v1/data/query", "data", DATA_DIALECT, bodies.parse_data, "/api/v1/data/query", DATA)


SURFACES: dict[bytes, Surface] = {surface.path: surface for surface in _rows()}
KINDS_OF_PATHS = {surface.name: surface.kind for surface in SURFACES.values()}
"""{path: metadata.type}"""


def dialect_of(path: bytes) -> Dialect:
    """The protocol of whoever asks for a path, so that an error is understood though there is nothing at it."""
    surface = SURFACES.get(path)
    if surface is not None:
        return surface.dialect
    if path.startswith(b"/v1/messages"):
        return ANTHROPIC_DIALECT
    if path.startswith(b"/api/") and not path.startswith(b"/api/v1/"):
        return OLLAMA_DIALECT
    return OPENAI_DIALECT
