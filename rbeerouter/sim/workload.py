"""Traffic that is made up: who asks for what, how often and how much of it, the same for the same seed.

`cli.scenario` makes a `Generated` of a `Traffic`, which `scenario_file` reads or the options say; `world` goes through
it. Requests look as `dialects.bodies` would make them of a client's body. Nothing is kept but the conversations that go
on. Times and requests are drawn from generators of their own, so that another rate brings the same requests.
"""

from __future__ import annotations

import heapq
import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import count as numbers
from itertools import islice
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from rbeerouter.config.sections import ConfigError, Count, Fraction, Positive, Section
from rbeerouter.core.types import Request
from rbeerouter.dialects.model_sizes import model_size
from rbeerouter.sim import draws
from rbeerouter.sim.draws import Lengths
from rbeerouter.sim.types import Arrival

Weights = dict[str, Annotated[float, Meta(ge=0, le=1e9)]]
Ratio = Annotated[float, Meta(gt=0, le=100)]

PATHS = {
    "llm": "/v1/chat/completions",
    "embedding": "/v1/embeddings",
    "image": "/v1/images/generations",
    "audio": "/v1/audio/speech",
}
"""{metadata.type: the path that most clients ask for it at}"""
NO_PRIORITY = "none"

_KIND_BY_NAME = (
    ("embedding", re.compile(r"embed|^bge|^gte|^e5-|rerank|minilm")),
    ("image", re.compile(r"sdxl|^sd[-0-9]|stable-diffusion|flux|dall-e|^imagen")),
    ("audio", re.compile(r"whisper|tts|bark|kokoro|parakeet")),
)
_CAPS = (16, 50, 100, 200, 300, 400, 500, 800, 1000, 1500, 2000, 3000, 4096, 8192, 16_384, 32_768)
"""What clients write as max_tokens."""
_BODY_TOKENS = 30
"""What the JSON around a prompt adds to the router's estimate of its tokens, which is the body's bytes / 4."""
_LEAST_BYTES, _BYTES_SPAN = 0.85, 0.35
"""Words differ: a token has 3.4 to 4.8 bytes, so the estimate is 0.85 to 1.2 times the truth."""


class Sessions(Section):
    """Conversations: each next turn's prompt is the whole conversation so far and a new question.

    turns: on average, from 1 on, geometrically distributed. think_s: between an answer and the next question, on
    average, exponentially distributed. answer_tokens_per_s: how fast answers are taken to come, as nobody knows here.
    system_tokens: sizes of the prompts that conversations begin with; all that have the same size have the same one.
    most_tokens: who has a conversation that is longer begins a new one.
    """

    turns: Annotated[float, Meta(ge=1, le=1000)] = 4.0
    think_s: Positive = 20.0
    answer_tokens_per_s: Positive = 30.0
    system_tokens: tuple[Annotated[int, Meta(ge=0, le=1_000_000)], ...] = (200, 1000, 3000)
    most_tokens: Count = 16_384


class Mix(Section):
    """One [[workload.mix]]: a kind of request, and how it differs from what [workload] says of all."""

    weight: Positive = 1.0
    type: str | None = None
    tokens_in: Lengths | None = None
    tokens_out: Lengths | None = None
    models: Weights | None = None
    tiers: Weights | None = None
    regions: Weights | None = None
    priorities: Weights | None = None
    users: Count | None = None
    zipf: Annotated[float, Meta(ge=0, le=10)] | None = None
    stream: Fraction | None = None
    max_tokens: Fraction | None = None
    patience_s: Positive | None = None
    sessions: Sessions | None = None


class Traffic(Section):
    """The table [workload] of a scenario: docs/simulate.md explains the keys.

    rate: requests per second on average; None: by the workers, see `cli.scenario`. users: how many there are; the k-th
    of a tier and region asks as often as 1 / k ** zipf says. stream, max_tokens: the shares of requests that ask for a
    stream, and that say how long the answer may get. patience_s: after that clients go away.
    """

    requests: Count = 1000
    rate: Positive | None = None
    arrivals: str = "poisson"
    cv: Ratio = 2.0
    burst_times: Annotated[float, Meta(gt=1, le=1e6)] = 10.0
    burst_s: Positive = 10.0
    pause_s: Positive = 50.0
    swing: Fraction = 0.8
    period_s: Positive = 86_400.0
    peak_s: Annotated[float, Meta(ge=0, le=1e7)] = 50_400.0
    tokens_in: Lengths = Lengths(mean=600.0, sigma=1.0, most=16_384)
    tokens_out: Lengths = Lengths(mean=200.0, sigma=0.8, most=4096)
    models: Weights = msgspec.field(default_factory=dict)
    tiers: Weights = msgspec.field(default_factory=lambda: {"premium": 0.2, "standard": 0.5, "free": 0.3})
    regions: Weights = msgspec.field(default_factory=lambda: {"eu": 0.4, "us": 0.4, "asia": 0.2})
    priorities: Weights = msgspec.field(default_factory=lambda: {NO_PRIORITY: 0.8, "high": 0.1, "low": 0.1})
    users: Count = 50
    zipf: Annotated[float, Meta(ge=0, le=10)] = 1.0
    stream: Fraction = 0.7
    max_tokens: Fraction = 0.6
    patience_s: Positive | None = None
    sessions: Sessions | None = None
    mix: tuple[Mix, ...] = ()


def kind_of(model: str) -> str:
    """`metadata.type` of the requests for a model, as its name tells; "llm" where it tells nothing."""
    name = model.lower().rpartition("/")[2]
    return next((kind for kind, pattern in _KIND_BY_NAME if pattern.search(name)), "llm")


def check_traffic(given: Traffic, where: str) -> None:
    """What the types cannot say. Raises ConfigError with `where` and the key."""
    if given.arrivals not in draws.ARRIVALS:
        raise ConfigError(
            f"{where}: workload.arrivals = {given.arrivals!r}: expected one of {', '.join(draws.ARRIVALS)}"
        )
    if given.arrivals in ("gamma", "weibull") and given.cv < 0.01:
        raise ConfigError(f"{where}: workload.cv = {given.cv:g}: expected at least 0.01; arrivals = \"constant\" has 0")
    if given.arrivals == "weibull" and given.cv > 20:
        raise ConfigError(f"{where}: workload.cv = {given.cv:g}: expected at most 20 with arrivals = \"weibull\"")
    _check_shape(given, f"{where}: workload.")
    for index, mix in enumerate(given.mix):
        key = f"{where}: workload.mix[{index}]."
        if mix.type is not None and mix.type not in PATHS:
            raise ConfigError(f"{key}type = {mix.type!r}: expected one of {', '.join(PATHS)}")
        _check_shape(mix, key)


def _check_shape(given: Traffic | Mix, key: str) -> None:
    for name in ("tokens_in", "tokens_out"):
        if getattr(given, name) is not None:
            check_lengths(getattr(given, name), f"{key}{name}")
    for name in ("models", "tiers", "regions", "priorities"):
        weights = getattr(given, name)
        if weights and not any(weights.values()):
            raise ConfigError(f"{key}{name}: all weights are 0; expected one that is more")
        if weights and "" in weights:
            raise ConfigError(f"{key}{name}: '' is no name")
    if given.sessions is not None and not given.sessions.system_tokens:
        raise ConfigError(f"{key}sessions.system_tokens = []: expected one size or more; [0] is none")


def check_lengths(given: Lengths, key: str) -> None:
    """Raises ConfigError with the key."""
    if given.kind not in draws.NEEDS:
        raise ConfigError(f"{key}.kind = {given.kind!r}: expected one of {', '.join(draws.NEEDS)}")
    needed = draws.NEEDS[given.kind]
    for name in ("mean", "sigma", "low", "high", "values"):
        is_given = getattr(given, name) not in (None, ())
        if name in needed and not is_given:
            raise ConfigError(f"{key}.{name}: is missing; kind = {given.kind!r} needs {' and '.join(needed)}")
        if is_given and name not in needed:
            raise ConfigError(f"{key}.{name}: means nothing with kind = {given.kind!r}")
    if given.kind == "uniform" and not 0 <= (given.low or 0) <= (given.high or 0):
        raise ConfigError(f"{key}: low = {given.low}, high = {given.high}: expected 0 <= low <= high")
    if any(value < 0 for value in given.values):
        raise ConfigError(f"{key}.values: {min(given.values)}: expected 0 or more tokens")
    if not 0 <= given.least <= given.most:
        raise ConfigError(f"{key}: least = {given.least}, most = {given.most}: expected 0 <= least <= most")


class _Kind(msgspec.Struct, frozen=True, gc=False):
    """What requests may have in common besides who asks."""

    model: str
    size: float | None
    path: str
    type: str
    priority: str | None
    stream: bool


class _Group(msgspec.Struct, frozen=True):
    """The users of a tier and a region; metadata: {type: as requests have it}."""

    users: list[str | None]
    ends: list[float]
    metadata: dict[str, dict[str, Any]]


class _Talk(msgspec.Struct, gc=False):
    """A conversation: what is the same in all its turns, how long it has become, and how long its last answer was."""

    number: int
    group: _Group
    user: str | None
    kind: _Kind
    system: int
    tokens: int
    told: int = 0


class Shape:
    """One kind of request of a workload, ready to draw from. `traces` fills in with it what a file does not tell."""

    def __init__(
        self, given: Traffic | Mix, type_of: Callable[[str], str], rng: random.Random, first_user: int, index: int
    ) -> None:
        self.rng, self.first_block = rng, index * _SHAPE_BLOCKS
        self.draw_in, self.draw_out = draws.lengths(given.tokens_in, rng), draws.lengths(given.tokens_out, rng)
        self.patience_s, self.sessions = given.patience_s, given.sessions
        self.capped = given.max_tokens
        self.kinds, self.kind_ends = _kinds(given, type_of)
        self.groups, self.group_ends = _groups(given, {kind.type for kind in self.kinds}, first_user)
        self.users = sum(len(group.users) for group in self.groups)

    @classmethod
    def alone(cls, traffic: Traffic, rng: random.Random) -> Shape:
        """The requests of a workload without a mix."""
        return cls(traffic, kind_of, rng, 1, 0)

    def told(
        self, number: int, at_s: float, tokens_in: int, tokens_out: int, session: str | None, blocks: tuple[int, ...]
    ) -> Arrival:
        """A request of which so much is known. Who has a session is the same user in all of it."""
        uniform = self.rng.random
        kind = self.kinds[bisect_right(self.kind_ends, uniform())]
        who = uniform if session is None else random.Random(session).random
        group = self.groups[bisect_right(self.group_ends, who())]
        user = group.users[bisect_right(group.ends, who())]
        return self.arrival(number, at_s, kind, group, user, tokens_in, tokens_out, session, blocks)

    def request(self, number: int, at_s: float) -> Arrival:
        """A request that stands alone."""
        uniform = self.rng.random
        kind = self.kinds[bisect_right(self.kind_ends, uniform())]
        group = self.groups[bisect_right(self.group_ends, uniform())]
        user = group.users[bisect_right(group.ends, uniform())]
        tokens_in, tokens_out = self.draw_in(), self.draw_out()
        if kind.type == "embedding":
            tokens_out = 1
        return self.arrival(number, at_s, kind, group, user, tokens_in, tokens_out, None, ())

    def arrival(
        self, number: int, at_s: float, kind: _Kind, group: _Group, user: str | None, tokens_in: int, tokens_out: int,
        session: str | None, blocks: tuple[int, ...],
    ) -> Arrival:  # fmt: skip
        uniform = self.rng.random
        most = None
        if uniform() < self.capped and kind.type == "llm":
            at_least = tokens_out * (1.0 + uniform())
            most = _CAPS[min(bisect_left(_CAPS, at_least), len(_CAPS) - 1)]
            if most < tokens_out:
                most = tokens_out
        request = Request(
            f"sim-{number}", kind.path, kind.model, kind.size, user, kind.priority, most, kind.stream,
            group.metadata[kind.type], session, estimate(tokens_in, uniform()), client=address_of(user),
        )  # fmt: skip
        return Arrival(at_s, request, tokens_in, tokens_out, blocks, self.patience_s)

    def talk(self, number: int) -> _Talk:
        """A conversation that begins."""
        rng = self.rng
        kind = self.kinds[draws.choose(self.kind_ends, rng)]
        group = self.groups[draws.choose(self.group_ends, rng)]
        user = group.users[draws.choose(group.ends, rng)]
        system = int(rng.random() * len(self.sessions.system_tokens))
        return _Talk(number, group, user, kind, system, self.sessions.system_tokens[system])


def estimate(tokens_in: int, luck: float) -> int:
    """`Request.prompt_tokens` of a prompt of so many tokens: what `bodies` makes of its bytes. luck: 0 to 1."""
    return _BODY_TOKENS + int(tokens_in * (_LEAST_BYTES + _BYTES_SPAN * luck))


def address_of(user: str | None) -> str | None:
    """`Request.client` of a user that is made up: each has one machine. Of others nobody knows."""
    number = user.removeprefix("user-") if user is not None else ""
    if not number.isdecimal():
        return None
    host = int(number)
    return f"10.{host >> 16 & 255}.{host >> 8 & 255}.{host & 255}"


def _kinds(given: Traffic | Mix, type_of: Callable[[str], str]) -> tuple[list[_Kind], list[float]]:
    kinds, weights = [], []
    for model, model_weight in given.models.items():
        kind = type_of(model)
        for priority, priority_weight in given.priorities.items() or ((NO_PRIORITY, 1.0),):
            asked = None if priority == NO_PRIORITY else priority
            for stream, stream_weight in ((True, given.stream), (False, 1.0 - given.stream)):
                streams = stream and kind == "llm"
                kinds.append(_Kind(model, model_size(model), PATHS[kind], kind, asked, streams))
                weights.append(model_weight * priority_weight * stream_weight)
    return kinds, draws.shares(weights)


def _groups(given: Traffic | Mix, types: set[str], first_user: int) -> tuple[list[_Group], list[float]]:
    """A user has one tier and one region, so the shares of tiers are right however unequal the users are."""
    tiers, regions = given.tiers or {"": 1.0}, given.regions or {"": 1.0}
    pairs = [(tier, region, a * b) for tier, a in tiers.items() for region, b in regions.items()]
    total = sum(weight for _, _, weight in pairs)
    groups, next_user = [], first_user
    for tier, region, weight in pairs:
        many = max(1, round(given.users * weight / total))
        users: list[str | None] = [f"user-{next_user + index}" for index in range(many)]
        next_user += many
        named = {name: value for name, value in (("tier", tier), ("region", region)) if value}
        metadata = {kind: {**named, "type": kind} for kind in sorted(types)}
        groups.append(_Group(users, draws.zipf_shares(many, given.zipf), metadata))
    return groups, draws.shares([weight for _, _, weight in pairs])


_TALK_BLOCKS, _SHAPE_BLOCKS, _FIRST_OWN_BLOCK = 1 << 24, 1 << 40, 1 << 56
"""Block ids that a conversation or a system prompt may have: more than any context has blocks; those that the system
prompts of a mix may have; and where those of conversations begin."""


class Generated:
    """A workload that is made up as it is gone through. See `types.Workload`.

    Args:
        traffic: what it is like; checked, and with models and a rate.

    Raises:
        ConfigError: it names no model, or no rate.
    """

    block_tokens = 64

    def __init__(self, traffic: Traffic, seed: int) -> None:
        if traffic.rate is None:
            raise ConfigError("workload.rate: is missing; expected requests per second")
        for index, shape in enumerate(traffic.mix or (traffic,)):
            if not traffic.models and not shape.models:
                key = f"workload.mix[{index}]" if traffic.mix else "workload"
                raise ConfigError(f"{key}.models: is missing; expected {{model: weight}}")
        self.traffic, self.requests_per_s, self.seed = traffic, traffic.rate, seed
        self.count: int | None = traffic.requests
        lasts = "one user" if traffic.users == 1 else f"{traffic.users} users"
        self.name = f"generated: {traffic.arrivals}, {traffic.rate:.4g} requests/s, {lasts}"

    def __iter__(self) -> Iterator[Arrival]:
        shapes, ends = self._shapes()
        times = self._times(shapes, ends)
        if any(shape.sessions is not None for shape in shapes):
            return islice(self._with_sessions(shapes, ends, times), self.count)
        return islice(self._alone(shapes, ends, times), self.count)

    def _shapes(self) -> tuple[list[Shape], list[float]]:
        shapes, traffic, first_user = [], self.traffic, 1
        for index, mix in enumerate(traffic.mix or (Mix(),)):
            given = msgspec.structs.replace(
                mix, **{name: getattr(traffic, name) for name in _SHARED if getattr(mix, name) is None}
            )
            rng = random.Random(f"{self.seed} requests {index}")
            type_of = kind_of if mix.type is None else _always(mix.type)
            shapes.append(Shape(given, type_of, rng, first_user, index))
            first_user += shapes[-1].users
        return shapes, draws.shares([mix.weight for mix in traffic.mix or (Mix(),)])

    def _times(self, shapes: list[Shape], ends: list[float]) -> Iterator[float]:
        """When requests come, or conversations begin, of which there are fewer."""
        traffic, rng = self.traffic, random.Random(f"{self.seed} times")
        weights = [end - before for end, before in zip(ends, [0.0, *ends], strict=False)]
        turns = sum(
            weight * (shape.sessions.turns if shape.sessions is not None else 1.0)
            for weight, shape in zip(weights, shapes, strict=True)
        )
        rate = self.requests_per_s / turns
        match traffic.arrivals:
            case "constant":
                return draws.constant(rate)
            case "gamma":
                return draws.gamma(rate, traffic.cv, rng)
            case "weibull":
                return draws.weibull(rate, traffic.cv, rng)
            case "bursts":
                return draws.bursts(rate, traffic.burst_times, traffic.burst_s, traffic.pause_s, rng)
            case "diurnal":
                return draws.diurnal(rate, traffic.swing, traffic.period_s, traffic.peak_s, rng)
        return draws.poisson(rate, rng)

    def _alone(self, shapes: list[Shape], ends: list[float], times: Iterator[float]) -> Iterator[Arrival]:
        if len(shapes) == 1:
            return map(shapes[0].request, numbers(1), times)
        rng = random.Random(f"{self.seed} mix")
        return (shapes[draws.choose(ends, rng)].request(number, at_s) for number, at_s in enumerate(times, 1))

    def _with_sessions(self, shapes: list[Shape], ends: list[float], times: Iterator[float]) -> Iterator[Arrival]:
        """Conversations begin at `times`; their later turns wait in a heap, one for each that goes on."""
        rng = random.Random(f"{self.seed} mix")
        going_on: list[tuple[float, int, Shape, _Talk]] = []
        number, talks = 0, numbers(1)
        for begins_s in times:
            while going_on and going_on[0][0] <= begins_s:
                at_s, _, shape, talk = heapq.heappop(going_on)
                number += 1
                yield self._turn(number, at_s, shape, talk)
                self._go_on(shape, talk, talks, at_s, going_on)
            shape = shapes[draws.choose(ends, rng)]
            number += 1
            if shape.sessions is None:
                yield shape.request(number, begins_s)
            else:
                talk = shape.talk(next(talks))
                yield self._turn(number, begins_s, shape, talk)
                self._go_on(shape, talk, talks, begins_s, going_on)

    def _turn(self, number: int, at_s: float, shape: Shape, talk: _Talk) -> Arrival:
        """The next turn of a conversation, which is so much longer then."""
        tokens_in, talk.told = talk.tokens + shape.draw_in(), shape.draw_out()
        shared = shape.sessions.system_tokens[talk.system] // self.block_tokens
        first = shape.first_block + talk.system * _TALK_BLOCKS    # of the system prompt's blocks, which others have too
        own = _FIRST_OWN_BLOCK + talk.number * _TALK_BLOCKS
        whole = tokens_in // self.block_tokens
        blocks = (*range(first, first + min(shared, whole)), *range(own + shared, own + whole))
        talk.tokens = tokens_in + talk.told
        return shape.arrival(
            number, at_s, talk.kind, talk.group, talk.user, tokens_in, talk.told, f"talk-{talk.number}", blocks
        )

    def _go_on(
        self, shape: Shape, talk: _Talk, talks: Iterator[int], at_s: float,
        going_on: list[tuple[float, int, Shape, _Talk]],
    ) -> None:  # fmt: skip
        """Puts the turn after the one at `at_s` into the heap, if there is one."""
        sessions, rng = shape.sessions, shape.rng
        if rng.random() * sessions.turns < 1.0:
            return
        gap_s = talk.told / sessions.answer_tokens_per_s + rng.expovariate(1.0 / sessions.think_s)
        if talk.tokens >= sessions.most_tokens:
            talk.number, talk.tokens = next(talks), sessions.system_tokens[talk.system]
        heapq.heappush(going_on, (at_s + gap_s, talk.number, shape, talk))


_SHARED = tuple(name for name in Mix.__struct_fields__ if name in Traffic.__struct_fields__)
"""What a [[workload.mix]] takes from [workload] where it says nothing itself."""


def _always(kind: str) -> Callable[[str], str]:
    return lambda model: kind
