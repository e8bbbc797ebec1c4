"""What there is to know of a kind of engine: which pages to ask it for, how to read them, and what it speaks.

The families of engines (`metered`, `desktop`, `others`) fill in an `EngineSpec` for each kind; `control.probe` asks for
the pages and puts the facts together into a `Report`. Readers are pure functions of one answer, and must not raise,
whatever a worker answers: what is not there is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from rbeerouter.core.types import OPENAI
from rbeerouter.dialects.worker_errors import in_line

GIB = 1 << 30
_MISSING = (404, 405, 501)
"""Statuses that say: this server has no such page, or was started without it."""

Facts = dict[str, Any]
"""Some fields of a `Report` by name; and `ranks`, of how many engines the worker is made."""


class Answer(msgspec.Struct, frozen=True):
    """A worker's answer to one GET. Names of headers are in lower case."""

    path: str
    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""

    @property
    def missing(self) -> bool:
        return self.status in _MISSING

    def problem(self) -> str:
        """What is wrong with an answer that is no 200, in words."""
        if self.status == 401:
            return f"its api_key was refused: GET {self.path} answered 401"
        said = in_line(self.body) if self.status >= 400 else None
        return f"GET {self.path} answered {self.status}" + (f": {said[:200]}" if said else "")


class Page(msgspec.Struct, frozen=True):
    """A page that an engine is asked for.

    load: asked every `[probes] metrics_s` because what it tells changes with each request; else every `interval_s`.
    otherwise: what to ask for instead where there is no such page, as in other versions of the engine.
    """

    path: str
    read: Callable[[Answer], Facts]
    load: bool = False
    otherwise: Page | None = None


class EngineSpec(msgspec.Struct, frozen=True):
    """One kind of engine.

    name: for people.
    pages: in the order in which they are asked; the first tells whether the worker can be used at all.
    usual_concurrency: how many requests it takes at once, where neither the operator nor the engine says.
    most_concurrency: how many it gets in that case when no worker has room, rather than that they wait here for the
        sake of a guess: what it takes when it was started for more, or what its own queue bears. None: no more.
    least_load_s: asking for its load more often than this does harm, or tells nothing new.
    least_interval_s: the same for the other pages.
    speaks: the protocols that it serves natively.
    remote: a service on the internet, paid by the token.
    key_headers: from an api_key to the headers that carry it on GETs, and on requests of each protocol.
    """

    name: str
    pages: tuple[Page, ...]
    usual_concurrency: int
    most_concurrency: int | None = None
    least_load_s: float = 1.0
    least_interval_s: float = 0.0
    speaks: frozenset[str] = frozenset({OPENAI})
    remote: bool = False
    key_headers: Callable[[str], dict[str, str]] = lambda key: {"authorization": f"Bearer {key}"}


def read_health(answer: Answer) -> Facts:
    """A page whose status alone tells whether the engine can be used."""
    if answer.status == 503:
        said = in_line(answer.body) or ""
        if "loading" in said.lower():
            return {"reachable": False, "problem": "loading its model"}
    if answer.status >= 500 or answer.status == 401:
        return {"reachable": False, "problem": answer.problem()}
    if answer.status != 200:
        return {"reachable": True, "problem": answer.problem()}
    return {"reachable": True}


class _Status(msgspec.Struct):
    value: str | None = None


class _Card(msgspec.Struct):
    id: str
    owned_by: Any = None
    parent: Any = None
    state: Any = None
    status: Any = None


class _Cards(msgspec.Struct):
    data: list[_Card]


_decode_cards = msgspec.json.Decoder(_Cards).decode
_MOST_MODELS = 10_000
_ENDLESS = 1e300


def cards(answer: Answer) -> list[_Card] | None:
    """The entries of OpenAI's list of models, None when the answer is none."""
    if answer.status != 200:
        return None
    try:
        return _decode_cards(answer.body).data[:_MOST_MODELS]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def read_models(answer: Answer) -> Facts:
    """GET /v1/models. Cards with a `parent` are LoRA adapters (vLLM, SGLang), which are asked for like models.

    Statuses below 500 are a sign of life, a 401 excepted: no request could be served with this key.
    """
    if answer.status != 200:
        alive = answer.status < 500 and answer.status != 401
        problem = answer.problem()
        return {"reachable": alive, "problem": f"{problem}; its models are not known" if alive else problem}
    listed = cards(answer)
    if listed is None:
        return {"reachable": True, "problem": f"GET {answer.path} answered no list of models"}
    adapters = tuple(card.id for card in listed if isinstance(card.parent, str) and card.parent)
    facts: Facts = {"reachable": True, "models": tuple(card.id for card in listed)}
    if adapters:
        facts["loras"] = adapters
    return facts


def decode(body: bytes) -> Any:
    """JSON, or None."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def field(value: Any, *path: str) -> Any:
    """value[path][...], None where there is no such thing."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def number(value: Any) -> float | None:
    """A number that can be worked with: not a bool, not text, not below zero, and not longer than any number is."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _ENDLESS
    return float(value) if usable else None


def text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def entries(value: Any) -> list[dict[str, Any]]:
    """The objects in a list."""
    return [one for one in value[:_MOST_MODELS] if isinstance(one, dict)] if isinstance(value, list) else []
