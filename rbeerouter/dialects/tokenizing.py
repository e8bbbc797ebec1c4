"""How each engine is asked what the tokens of a prompt are, as pure steps: what to post, and what the answer means.

`control.tokenizers` takes the steps. Sources: vLLM's and SGLang's /tokenize (entrypoints of their OpenAI servers),
llama.cpp's /apply-template and /tokenize (tools/server/README.md). A prompt with pictures or sounds is not asked for,
as its tokens are not those that the engine's cache is named after; nor is a list of prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import msgspec

from rbeerouter.core.kv_events import PromptTokens

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
_NONE = msgspec.Raw(b"")
_CHAT_KEYS = (
    "messages", "tools", "chat_template", "chat_template_kwargs", "continue_final_message", "documents",
    "add_generation_prompt", "add_special_tokens",
)  # fmt: skip
"""What of a chat request decides its tokens."""
_NULL = b"null"


class _Body(msgspec.Struct, gc=False):
    """What of a body decides the tokens of its prompt, each piece as it was sent."""

    messages: msgspec.Raw = _NONE
    prompt: msgspec.Raw = _NONE
    tools: msgspec.Raw = _NONE
    chat_template: msgspec.Raw = _NONE
    chat_template_kwargs: msgspec.Raw = _NONE
    continue_final_message: msgspec.Raw = _NONE
    documents: msgspec.Raw = _NONE
    add_generation_prompt: msgspec.Raw = _NONE
    add_special_tokens: msgspec.Raw = _NONE
    cache_salt: str | None = None


class _Part(msgspec.Struct, gc=False):
    type: str


class _Message(msgspec.Struct, gc=False):
    content: str | list[str | _Part] | None = None


class _Tokens(msgspec.Struct, gc=False):
    tokens: list[int]


class _Text(msgspec.Struct, gc=False):
    prompt: str


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_messages = msgspec.json.Decoder(list[_Message]).decode
_decode_prompt = msgspec.json.Decoder(str | list[int]).decode
_decode_tokens = msgspec.json.Decoder(_Tokens).decode
_decode_text = msgspec.json.Decoder(_Text).decode
_encode = msgspec.json.encode


class Step(msgspec.Struct, frozen=True, gc=False):
    """A page to be posted to, and the body."""

    path: str
    body: bytes


Steps = Generator[Step, bytes, list[int]]
"""Wants the answer to each step, and returns the tokens. Raises ValueError where an answer makes no sense."""


class Said(msgspec.Struct, frozen=True, gc=False):
    """What a request says to the model.

    pieces: {key: its JSON as it was sent}. tokens: where the client sent those itself.
    """

    chat: bool
    pieces: dict[str, msgspec.Raw]
    salt: str | None = None
    tokens: list[int] | None = None

    def key(self) -> bytes:
        """The same for requests whose tokens are the same."""
        return b"\0".join(b"%b:%b" % (name.encode(), bytes(raw)) for name, raw in self.pieces.items())


def said_in(path: str, body: bytes) -> Said | None:
    """What a request says; None where nobody can be asked for its tokens, or would give the wrong ones."""
    if path not in (CHAT, COMPLETION):
        return None
    try:
        given = _decode_body(body)
        if path == CHAT:
            if any(_has_more_than_text(message) for message in _decode_messages(given.messages)):
                return None
            pieces = {name: raw for name in _CHAT_KEYS if (raw := getattr(given, name)) and bytes(raw) != _NULL}
            return Said(True, pieces, given.cache_salt)
        prompt = _decode_prompt(given.prompt)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    pieces = {name: raw for name in ("prompt", "add_special_tokens") if (raw := getattr(given, name))}
    return Said(False, pieces, given.cache_salt, prompt if isinstance(prompt, list) else None)


def _has_more_than_text(message: _Message) -> bool:
    content = message.content
    return isinstance(content, list) and any(isinstance(part, _Part) and part.type != "text" for part in content)


def _of_vllm(said: Said, model: str) -> Steps:
    """One page does it; it puts a conversation into the model's own template, as /v1/chat/completions does."""
    asked: dict[str, Any] = {"model": model, **said.pieces}
    if said.chat:
        unfinished = bytes(said.pieces.get("continue_final_message", _NONE)) == b"true"
        asked.setdefault("add_generation_prompt", not unfinished)
        asked.setdefault("add_special_tokens", False)
    return _read_tokens((yield Step("/tokenize", _encode(asked))))


def _of_llamacpp(said: Said, model: str) -> Steps:
    """The template is a page of its own; what it makes is read as /v1/chat/completions reads it, marks and all."""
    if said.chat:
        text = _read_text((yield Step("/apply-template", _encode({"model": model, **said.pieces}))))
    else:
        text = _decode_prompt(said.pieces["prompt"])
    asked = {"model": model, "content": text, "add_special": True, "parse_special": True}
    return _read_tokens((yield Step("/tokenize", _encode(asked))))


TOKENIZERS: dict[str, Callable[[Said, str], Steps]] = {
    "vllm": _of_vllm, "sglang": _of_vllm, "llamacpp": _of_llamacpp,
}  # fmt: skip
"""{engine: how it is asked for what was said to a model, by the name that it knows it by}."""


def _read_tokens(answer: bytes) -> list[int]:
    try:
        return _decode_tokens(answer).tokens
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no tokens: {error}") from None


def _read_text(answer: bytes) -> str:
    try:
        return _decode_text(answer).prompt
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no prompt: {error}") from None


def prompt_tokens(ids: Any, salt: str | None) -> PromptTokens:
    """Raises ValueError for what are no tokens."""
    try:
        return PromptTokens(ids, salt)
    except (OverflowError, TypeError) as error:
        raise ValueError(f"no tokens: {error}") from None
