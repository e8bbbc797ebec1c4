"""Made-up requests and fleets, of the kinds that scripts meet once a year: `Inputs.case(seed)`.

`properties` and `suite` ask for them. The same seed gives the same case, and seeds in a row give all kinds of fleets in
turn. Values that the script compares fields with come up often, so that its branches are taken. `as_lua` writes a case
as a test that a person can read and keep.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from rbeerouter.core.types import BUSY, DRAINING, OFFLINE, READY, Request
from rbeerouter.dialects.model_sizes import model_size
from rbeerouter.dialects.surfaces import KINDS_OF_PATHS
from rbeerouter.routing.sandbox import Abilities
from rbeerouter.workbench.fleets import Row
from rbeerouter.workbench.literals import Literal, literals
from rbeerouter.workbench.stage import NOON

KINDS = (
    "none", "one", "offline", "busy", "few", "few", "bare", "same", "few", "given", "many", "few", "odd", "few",
    "given", "few",
)  # fmt: skip
"""What fleets there are, in turn. `given`: the one of the configuration, or of the file of tests."""

MODELS = ("m", "llama-3-8b", "llama-3-70b")
ODD_TEXTS = (
    "", " ", "🦙", "größe", "日本語", "e\u0301", "\u202eabc", "a\0b", "\ufeff", "%d%s%", "[[", "nil", "x" * 300, "a\nb",
    "'", '"', "-1", "1e309", "get",
)  # fmt: skip
ODD_NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63 - 1, -(2**63), 0.5, 1e300)
PATHS = {kind: path for path, kind in reversed(KINDS_OF_PATHS.items())}
"""One path for each type of request."""

CAPACITY, PROMPT_TOKENS = 4, 10
"""Of a worker and a request that do not say."""

_METADATA = re.compile(rb"metadata\s*(?:\.\s*|:\s*get\s*\(\s*[\"']|\[\s*[\"'])([A-Za-z_]\w*)")
_KEYWORDS = {
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in", "local", "nil",
    "not", "or", "repeat", "return", "then", "true", "until", "while",
}  # fmt: skip
_CHAT = "/v1/chat/completions"
_STREAM_ENDS = ("upstream_connect_failed", "upstream_disconnected")


class Case(msgspec.Struct, frozen=True):
    """One request on one fleet. `failing` are the workers that fail it, with `code`."""

    seed: int
    workers: tuple[Row, ...]
    request: Request
    wall: float = NOON
    failing: tuple[str, ...] = ()
    code: str = "upstream_connect_failed"


class Inputs:
    """Makes cases for one script.

    Args:
        given: fleets that the operator knows; they come up among the others.
    """

    def __init__(self, source: bytes, abilities: Abilities, given: Sequence[tuple[Row, ...]] = ()) -> None:
        found = literals(source)
        self.texts = sorted(found.texts)
        self._numbers = [number for number in sorted(found.numbers) if _can_arrive(number)]
        self._request, self._worker, self._clock = map(_that_can_arrive, (found.request, found.worker, found.clock))
        self._abilities = abilities
        self._given = [fleet for fleet in given if fleet]
        self._models = sorted({*self._known("model", "models", "loras"), *MODELS})
        named = {name.decode() for name in _METADATA.findall(source)} - {"get"}
        asked = {field.partition(".")[2] for field in (*found.request, *found.worker) if field.startswith("metadata.")}
        self._entries = sorted({*named, *asked})
        self._headers = sorted(
            {field.partition(".")[2].lower() for field in found.request if field.startswith("headers.")}
            & {*abilities.request_headers}
        ) or list(abilities.request_headers[:3])

    def _known(self, *fields: str) -> set[str]:
        owners = (self._request, self._worker)
        values = {value for field in fields for owner in owners for value in owner.get(field, ())}
        return {value for value in values if isinstance(value, str)}

    def case(self, seed: int) -> Case:
        dice = random.Random(seed)
        kind = KINDS[seed % len(KINDS)]
        if kind == "given" and self._given:
            workers = tuple(self._restless(dice, one) for one in dice.choice(self._given))
        else:
            workers = self._fleet(dice, kind)
        request = self._make_request(dice, workers, odd=kind == "odd")
        failing: tuple[str, ...] = ()
        if workers and dice.random() < 0.3:
            failing = tuple(one.id for one in workers if dice.random() < 0.7)
        return Case(seed, workers, request, self._wall(dice), failing, dice.choice(_STREAM_ENDS))

    # Workers

    def _fleet(self, dice: random.Random, kind: str) -> tuple[Row, ...]:
        if kind == "none":
            return ()
        number = 1 if kind == "one" else dice.randint(13, 40) if kind == "many" else dice.randint(2, 8)
        models = dice.sample(self._models, min(len(self._models), dice.randint(1, 3)))
        if dice.random() < 0.3 and self.texts:
            models.append(dice.choice(self.texts))
        prefixes = [self._prefix(dice) for _ in range(2)]
        made: dict[str, Row] = {}
        for place in range(number):
            name = f"{dice.choice(prefixes)}{place + 1}"
            if kind == "bare":
                made[name] = Row(name)
            elif kind == "same" and made:
                made[name] = msgspec.structs.replace(next(iter(made.values())), id=name)
            else:
                status = {"offline": OFFLINE, "busy": BUSY}.get(kind)
                made[name] = self._make_worker(dice, name, models, status, kind == "odd")
        return tuple(made.values())

    def _prefix(self, dice: random.Random) -> str:
        known = [text for text in self.texts if text.endswith(("-", "_"))]
        roll = dice.random()
        if known and roll < 0.5:
            return dice.choice(known)
        if self.texts and roll < 0.6:
            return dice.choice(self.texts)[:60]
        return dice.choice(["gpu", "cpu", "w"])

    def _make_worker(
        self, dice: random.Random, name: str, models: list[str], status: str | None, odd: bool
    ) -> Row:
        listed = tuple(dice.sample(models, dice.randint(0, len(models))))
        if odd and dice.random() < 0.5:
            listed = (*listed, dice.choice(ODD_TEXTS))
        capacity = dice.choice([1, 1, 2, 4, 4, 16, 100, 10**6])
        status = status or dice.choice([READY, READY, READY, BUSY, OFFLINE])
        in_flight = {READY: dice.randrange(min(capacity, 8)), BUSY: capacity, OFFLINE: dice.choice([0, 0, 1])}[status]
        if status == BUSY and dice.random() < 0.3:
            in_flight = capacity + dice.randint(1, capacity)
        row = Row(
            id=name, status=status, in_flight=in_flight, capacity=capacity,
            engine=dice.choice(["openai", "vllm", "llamacpp"]),
            backend=self._text(dice, "backend", ["cuda", "rocm", "metal", "cpu"]),
            vram=self._number(dice, "vram", [8.0, 24.0, 80.0]), models=tuple(dict.fromkeys(listed)),
            performance=self._number(dice, "performance", [10.0, 50.0, 100.0, 150.0]),
            cost_per_hour=self._number(dice, "cost_per_hour", [0.0, 0.4, 2.5]),
            metadata=self._metadata(dice, odd), role=self._text(dice, "role", ["prefill", "decode"]),
            loras=tuple(dice.sample(models, 1)) if dice.random() < 0.2 else (),
        )  # fmt: skip
        if dice.random() < 0.4:
            return row
        return msgspec.structs.replace(
            row, waiting=dice.choice([None, 0, 1, 50, *self._whole("waiting")]),
            kv_usage=self._number(dice, "kv_usage", [0.0, 0.5, 1.0], odd=False),
            vram_used=self._number(dice, "vram_used", [0.0, 20.0], odd=False),
            latency_ms=self._number(dice, "latency_ms", [1.0, 900.0], odd=False),
            ttft_ms=self._number(dice, "ttft_ms", [1.0, 300.0], odd=False),
            running=dice.choice([None, 0, 3]), load_age_s=dice.choice([None, 0.5, 12.0]),
            tokens_per_s=self._number(dice, "tokens_per_s", [0.0, 900.0], odd=False),
            inter_token_ms=self._number(dice, "inter_token_ms", [4.0, 50.0], odd=False),
            error_rate=self._share(dice), temperature_c=self._number(dice, "temperature_c", [45.0, 88.0], odd=False),
            watts=self._number(dice, "watts", [60.0, 350.0], odd=False), owner_active=dice.choice([None, False, True]),
            price_in=self._number(dice, "price_in", [0.0, 0.5], odd=False),
            price_out=self._number(dice, "price_out", [0.0, 1.5], odd=False),
            deployment=dice.choice(["local", "remote"]),
            status=DRAINING if status == READY and dice.random() < 0.1 else status,
        )  # fmt: skip

    @staticmethod
    def _share(dice: random.Random) -> float | None:
        return dice.choice([None, 0.0, 0.05, 0.6, 1.0])

    def _restless(self, dice: random.Random, one: Row) -> Row:
        """A worker that the operator knows, in some state."""
        capacity = one.capacity or CAPACITY
        status = dice.choice([one.status, READY, READY, OFFLINE, BUSY])
        in_flight = {READY: dice.randrange(min(capacity, 8)), BUSY: capacity, OFFLINE: 0}[status]
        return msgspec.structs.replace(one, status=status, in_flight=in_flight)

    # Values

    def _values(self, field: str) -> list[Literal]:
        return sorted({*self._worker.get(field, ()), *self._request.get(field, ())}, key=repr)

    def _whole(self, field: str) -> list[int]:
        return [int(value) for value in self._values(field) if isinstance(value, int) and 0 <= value < 2**31]

    def _text(self, dice: random.Random, field: str, usual: list[str]) -> str | None:
        known = [value for value in self._values(field) if isinstance(value, str)]
        roll = dice.random()
        if known and roll < 0.5:
            return dice.choice(known)
        if roll < 0.75:
            return dice.choice(usual)
        if self.texts and roll < 0.8:
            return dice.choice(self.texts)
        return None

    def _number(self, dice: random.Random, field: str, usual: list[float], odd: bool = True) -> float | None:
        known = [value for value in self._values(field) if not isinstance(value, str)]
        roll = dice.random()
        if known and roll < 0.5:
            value = dice.choice(known)
            return max(0.0, float(dice.choice([value, value - 1, value + 1, value / 2, value * 2])))
        if roll < 0.75:
            return dice.choice(usual)
        if odd and roll < 0.8:
            return float(max(0, dice.choice(ODD_NUMBERS)))
        return None

    def _metadata(self, dice: random.Random, odd: bool) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name in (*self._entries, "tier"):
            if dice.random() < 0.7:
                made[name] = self._entry(dice, name, odd)
        if odd:
            made[dice.choice(ODD_TEXTS)] = dice.choice(ODD_TEXTS)
        return made

    def _entry(self, dice: random.Random, name: str, odd: bool) -> Any:
        known = self._values(f"metadata.{name}") + (self._values(name) if name == "type" else [])
        roll = dice.random()
        if known and roll < 0.7:
            return dice.choice(known)
        if roll < 0.85:
            return dice.choice([True, True, False])
        if odd or roll < 0.9:
            return dice.choice([*ODD_TEXTS, *ODD_NUMBERS])
        return dice.choice([*self.texts, *self._numbers, "premium", 1])

    # Requests

    def _make_request(self, dice: random.Random, workers: Sequence[Row], odd: bool) -> Request:
        listed = sorted({model for one in workers for model in one.models})
        roll = dice.random()
        model = dice.choice(self._models) if not listed or roll < 0.2 else dice.choice(listed)
        if odd or roll > 0.95:
            model = dice.choice([*ODD_TEXTS[1:], *listed])
        path = dice.choice([_CHAT, _CHAT, *KINDS_OF_PATHS])
        metadata = self._metadata(dice, odd) if dice.random() < 0.85 else {}
        if "type" not in metadata or "type" not in self._entries:
            metadata["type"] = KINDS_OF_PATHS[path]
        sizes = self._of_request(dice, "model_size", [7.0, 70.0])
        return Request(
            id=f"r-{dice.getrandbits(32):08x}", path=path, model=model,
            model_size=model_size(model) if dice.random() < 0.5 else dice.choice(sizes),
            user_id=self._word(dice, "user_id", ["alice", "bob"], odd),
            priority=dice.choice([None, "high", "normal", "low", 5, -5, *self._values("priority")]),
            max_tokens=self._tokens(dice), stream=dice.random() < 0.5, metadata=metadata,
            session_id=self._word(dice, "session_id", ["session-1", "session-2"], odd),
            prompt_tokens=int(dice.choice([1, 8, 100, 5000, 10**6, *self._of_request(dice, "prompt_tokens", [])])),
            headers={name: dice.choice([*ODD_TEXTS[:8], *self.texts]) for name in self._headers if dice.random() < 0.5},
            prompt=self._word(dice, "prompt", ["Hello", "x" * 2000], odd) if self._abilities.expose_prompt else None,
        )  # fmt: skip

    def _of_request(self, dice: random.Random, field: str, usual: list[float]) -> list[float]:
        known = [value for value in self._values(field) if not isinstance(value, str) and abs(value) < 2**53]
        return [*usual, *known, *(value + dice.choice([-1, 1]) for value in known)]

    def _tokens(self, dice: random.Random) -> int | None:
        known = [int(value) for value in self._of_request(dice, "max_tokens", [])]
        if known and dice.random() < 0.6:
            return dice.choice(known)
        return dice.choice([None, None, 0, 1, 16, 99, 100, 512, 4096, -1, 2**31, 2**63 - 1])

    def _word(self, dice: random.Random, field: str, usual: list[str], odd: bool) -> str | None:
        known = [value for value in self._values(field) if isinstance(value, str)]
        if odd and dice.random() < 0.5:
            return dice.choice(ODD_TEXTS)
        return dice.choice([None, *usual, *known, *known, f"user-{dice.randrange(1000)}"])

    def _wall(self, dice: random.Random) -> float:
        """Some minute of two years; often one in which the script's clock strikes."""
        day = NOON // 86400 + dice.randrange(730)
        hours = [int(hour) for hour in self._clock.get("hour", ()) if not isinstance(hour, str)]
        if hours and dice.random() < 0.6:
            minute = dice.choice(hours) * 60 + dice.choice([-1, 0, 0, 30])
        else:
            minute = dice.randrange(1440)
        return day * 86400 + (minute % 1440) * 60


def _can_arrive(value: Literal) -> bool:
    """Numbers that JSON and Lua can hold; a script may compare with others."""
    if isinstance(value, str):
        return True
    return -(2**63) <= value < 2**63 if isinstance(value, int) else abs(value) < 1e300


def _that_can_arrive(values: Mapping[str, Collection[Literal]]) -> dict[str, set[Literal]]:
    return {field: {value for value in some if _can_arrive(value)} for field, some in values.items()}


# A case as a person reads it


def as_lua(case: Case) -> str:
    """A case in the words of a file of tests; only what differs from what is filled in there."""
    lines = []
    if case.wall != NOON:
        lines.append(f'at("{datetime.fromtimestamp(case.wall, UTC):%Y-%m-%d %H:%M}")')
    lines.append(f"seed({case.seed})")
    workers = [f"  worker{{ {_fields(_worker_fields(one))} }}," for one in case.workers]
    lines += ["fleet{", *workers, "}"] if workers else ["fleet{}"]
    if case.failing:
        lines.append(f"fails({', '.join(map(_lua, case.failing))})")
    lines.append(f"route{{ {_fields(_request_fields(case.request))} }}")
    return "\n".join(lines)


def _worker_fields(one: Row) -> dict[str, Any]:
    capacity = one.capacity or CAPACITY
    usual = {
        "status": READY, "capacity": CAPACITY, "in_flight": capacity if one.status == BUSY else 0, "engine": "openai",
        "models": (), "loras": (), "metadata": {}, "deployment": "local",
    }  # fmt: skip
    fields = msgspec.structs.asdict(one)
    return {name: value for name, value in fields.items() if value is not None and value != usual.get(name)}


def _request_fields(request: Request) -> dict[str, Any]:
    metadata, kind = dict(request.metadata), KINDS_OF_PATHS.get(request.path)
    given = metadata.get("type")
    if given == kind:
        del metadata["type"]
    fields: dict[str, Any] = {"model": request.model}
    if request.path != _CHAT or (given != kind and given in PATHS):
        fields["path"] = request.path
    if request.model_size != model_size(request.model):
        fields["model_size"] = request.model_size
    fields |= {
        "user_id": request.user_id, "session_id": request.session_id, "priority": request.priority,
        "max_tokens": request.max_tokens, "stream": request.stream or None, "metadata": metadata or None,
        "prompt_tokens": request.prompt_tokens if request.prompt_tokens != PROMPT_TOKENS else None,
        "headers": request.headers or None, "prompt": request.prompt,
    }  # fmt: skip
    return {name: value for name, value in fields.items() if value is not None}


def _fields(fields: dict[str, Any]) -> str:
    return ", ".join(f"{_key(name)} = {_lua(value)}" for name, value in fields.items())


def _key(name: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and name not in _KEYWORDS
    return name if plain else f"[{_lua(name)}]"


def _lua(value: Any) -> str:
    if isinstance(value, str):
        return '"' + "".join(map(_character, value)) + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + _fields(value) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "{ " + ", ".join(map(_lua, value)) + " }" if value else "{}"
    if value == -(2**63) and isinstance(value, int):
        return "math.mininteger"
    return f"{value:g}" if isinstance(value, float) and value == round(value, 4) and abs(value) < 1e5 else repr(value)


def _character(one: str) -> str:
    if one in '"\\':
        return "\\" + one
    if one == "\n":
        return "\\n"
    return one if one.isprintable() else f"\\u{{{ord(one):x}}}"
