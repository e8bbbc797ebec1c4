"""The nouns of the program. Read this file first.

A *worker* is a GPU server, a *job* is a request being served, an *attempt* is one try of a job on one worker.
Everything here is data: nothing awaits, reads a clock or writes a log. `Fleet` (fleet.py) is the only code that
changes a `Worker`; `Dispatcher` (dispatch.py) is the only code that moves a `Job` through its states. All other code
reads them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from rbeerouter.core.chance import Chance
from rbeerouter.core.errors import Failure, Refusal
from rbeerouter.core.health import Health
from rbeerouter.core.measure import Window
from rbeerouter.core.memory import Memories

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Job
    from rbeerouter.core.queue import Shares
    from rbeerouter.core.seen import Seen

READY = "ready"
BUSY = "busy"
OFFLINE = "offline"
DRAINING = "draining"

OPENAI, ANTHROPIC, OLLAMA, DATA = "openai", "anthropic", "ollama", "data"
"""The protocols that clients and engines speak."""
LOCAL, REMOTE = "local", "remote"

SEND, WAIT, REJECT = "send", "wait", "reject"
"""What a decision may say: give the request to a worker now, when it has room, or not at all."""


class Env(msgspec.Struct, frozen=True):
    """Time and chance, handed in so that the same core runs under a real, a simulated or a replayed clock.

    `now` is monotonic seconds (durations, deadlines), `wall` is Unix seconds (the script's `timestamp()`, log times),
    `utc_offset_s` is what must be added to `wall` for local time, `rng` spreads what must not happen at once. `chance`
    breaks ties and seeds the script's `rand()`; None: whoever decides makes one by `rng`.
    """

    now: Callable[[], float]
    wall: Callable[[], float]
    rng: random.Random
    utc_offset_s: Callable[[], int] = lambda: 0
    chance: Chance | None = None


class Text(Protocol):
    """What a request says to the model, in blocks: computed when a strategy asks for it, and not before.

    block_tokens: how many tokens, about, one block stands for.
    """

    block_tokens: int

    def blocks(self) -> Sequence[int]:
        """64-bit hashes of the whole blocks of the prompt, each over all that stands before it too (and over model,
        adapter and salt): two prompts that begin alike have the same first ones. The last part of a block has none."""

    def token_ids(self) -> Sequence[int] | None:
        """The prompt as the engine's tokenizer reads it, where it was asked in time."""

    def forget(self) -> None:
        """The request has ended and nobody will ask any more: what it holds of the body goes, and it has no blocks."""


MOST_WISH_BYTES = 256
"""What a client writes in one of the headers of `Wishes` is taken no further than that."""


class Wishes(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a client's headers say of how its request is to be routed; None: they do not.

    strategy: of the header routing-strategy. profile: of config-profile. session_key: of x-rbee-session-key.
    slo_ttft_ms, slo_tpot_ms, slo_e2e_ms: how fast it wants to be answered: until the first content, for each token
    after that, and as a whole.
    """

    strategy: str | None = None
    profile: str | None = None
    session_key: str | None = None
    slo_ttft_ms: float | None = None
    slo_tpot_ms: float | None = None
    slo_e2e_ms: float | None = None


NO_WISHES = Wishes()


class Request(msgspec.Struct, frozen=True, gc=False):
    """What a client asked for, as the router and the script see it. The body's bytes travel beside it, untouched.

    `model_size` is in billions of parameters, None when unknown. `metadata` holds only strings, numbers and booleans:
    the body's `metadata` object, then `x-rbee-meta-NAME` headers, then `type` filled from the endpoint.
    `prompt_tokens` is an estimate. `headers` holds those that `[routing] request_headers` names, in lower case.
    `prompt` is the text of the conversation, None unless `[routing] expose_prompt` lets the script have it.
    `asked_model` is the name in the body where `model` is what an alias stands for, else None. `timeout_s` is how long
    the client wants to wait from `Job.arrived` on, None when it does not say. `deployment` is LOCAL or REMOTE when only
    workers of that side may have it. `client` is the address that it came from, and `text` what it says to the model;
    both are None unless a strategy may want them, as is `caller`, the credential that it came with, which must never be
    shown. `wishes` are None where the client has none.
    """

    id: str
    path: str
    model: str
    model_size: float | None
    user_id: str | None
    priority: str | int | None
    max_tokens: int | None
    stream: bool
    metadata: dict[str, str | int | float | bool]
    session_id: str | None = None
    prompt_tokens: int | None = None
    headers: dict[str, str] = {}
    prompt: str | None = None
    protocol: str = OPENAI
    asked_model: str | None = None
    timeout_s: float | None = None
    deployment: str | None = None
    client: str | None = None
    wishes: Wishes | None = None
    text: Text | None = None
    caller: bytes | None = None


class WorkerSpec(msgspec.Struct, frozen=True):
    """What the operator says of a worker, in a file or by registering it.

    engine: a key of dialects.engines.ENGINES, or "auto": whatever it is found to be.
    Units: vram in GiB, cost_per_hour in the operator's currency, price_in and price_out in that per million tokens.
    max_concurrency: None leaves it to what the engine says, else to what is usual for it.
    model_names: {name that clients use: name that this worker knows it by}.
    speaks: the protocols that can be sent to it as they are.
    source: who told of it: "config", "file", "dns", "controller" or "registered".
    weight: its share of what strategies give by weight, against 1 of others. `Worker.weight` is another one.
    kv_events, kv_replay: where its first engine tells of its KV cache, and again what was missed: tcp://HOST:PORT.
    kv_ranks: how many engines it has, whose ports follow those of the first.
    """

    id: str
    url: str
    engine: str = "auto"
    backend: str | None = None
    vram: float | None = None
    models: tuple[str, ...] = ()
    performance: float | None = None
    cost_per_hour: float | None = None
    max_concurrency: int | None = None
    metadata: dict[str, Any] = {}
    api_key: str | None = None
    ca_file: str | None = None
    role: str | None = None
    loras: tuple[str, ...] = ()
    deployment: str = LOCAL
    model_names: dict[str, str] = {}
    price_in: float | None = None
    price_out: float | None = None
    speaks: frozenset[str] = frozenset({OPENAI})
    measure_performance: bool = False
    source: str = "config"
    weight: float = 1.0
    kv_events: str | None = None
    kv_replay: str | None = None
    kv_ranks: int = 1


class Learned(msgspec.Struct, frozen=True):
    """What reports told of a worker that an operator may also say, and says with more right."""

    engine: str | None = None
    speaks: frozenset[str] | None = None
    models: tuple[str, ...] = ()
    loaded: tuple[str, ...] | None = None
    loras: tuple[str, ...] = ()
    vram: float | None = None
    slots: int | None = None
    most: int | None = None


class Machine(msgspec.Struct, frozen=True):
    """What a worker's machine measures itself, as its agent tells; None: it does not say. GiB, degrees, watts.

    until: when to stop believing it, as `Env.now`. owner_active: somebody sits at the machine.
    """

    until: float
    vram: float | None = None
    vram_used: float | None = None
    temperature_c: float | None = None
    watts: float | None = None
    owner_active: bool | None = None


class Worker:
    """All that is known of one worker now: what the operator said, what probes and traffic showed.

    Mutable for speed (a frozen snapshot of 64 workers per request would cost more than the decision), but changed by
    `Fleet` alone. None always means: not known.

    - *load*: `in_flight` requests of ours, `foreign` ones, which the engine had besides at its last report, and places
      that are `shut`, as it said that many wait in it, are `occupied` places of `capacity`. `load` is
      occupied / capacity: 0.0 idle, 1.0 full, above 1.0 over-committed. A
      worker in slow start (`weight` below 1.0) counts each request for more than one. Where `capacity` is only what
      is usual for its engine, it may have up to `most`, and nobody is made to wait for the sake of a guess.
    - *what the engine last said*: `running`, `waiting` (in its own queue), `kv_usage` (0 to 1), `vram_used`,
      `temperature_c`, `watts`, `owner_active` and the counters of tokens; unknown again when the report is old.
      `load_age_s` is the age of a report that told requests.
    - *what this daemon measured*: `latency_ms` of whole answers, `ttft_ms` until the first content, `inter_token_ms`,
      `tokens_per_s` and `error_rate` of the last minute; measure.py says how.
    - *standing*: READY when nothing but its load speaks against it; else the status that it has whatever its load.
      `held`: it is BUSY for another reason than its load, and to be left alone; `cooling`: as it asked for that.
    - *generation* grows when its process is, or may be, another one: whatever it had cached is gone.
    """

    __slots__ = (
        "backend", "block_size", "cached_tokens", "capacity", "cooling", "cooling_until", "cost_per_hour", "deployment",
        "draining", "engine", "error_rate", "failed", "foreign", "generated_tokens", "generation", "half_open",
        "health", "held", "id", "in_flight", "index", "inter_token_ms", "kv_blocks", "kv_usage", "latency_ms",
        "learned", "load", "load_age_s", "loaded", "loras", "machine", "metadata", "model_set", "models", "most",
        "occupied", "owner_active", "performance", "price_in", "price_out", "probed_at", "prompt_tokens", "ramp_from",
        "reported_at", "restarts", "role", "running", "served", "shut", "speaks", "spec", "speed", "standing",
        "started_at", "status", "temperature_c", "tokens", "tokens_per_s", "ttft_at", "ttft_ms", "url", "vram",
        "vram_used", "waiting", "watts", "weight", "window",
    )  # fmt: skip

    def __init__(self, spec: WorkerSpec) -> None:
        self.in_flight = self.foreign = self.shut = self.occupied = 0
        self.health = Health()
        self.status = self.standing = OFFLINE
        self.held = self.half_open = self.draining = self.cooling = False
        self.machine: Machine | None = None
        self.cooling_until = 0.0
        self.weight = 1.0
        self.ramp_from: float | None = None
        self.load = 0.0
        self.load_age_s: float | None = None
        self.probed_at: float | None = None
        self.reported_at: float | None = None
        self.started_at: float | None = None
        self.restarts = self.generation = 0
        self.latency_ms: float | None = None
        self.ttft_ms: float | None = None
        self.ttft_at = 0.0
        self.inter_token_ms: float | None = None
        self.tokens_per_s: float | None = None
        self.error_rate: float | None = None
        self.speed: float | None = None
        self.tokens = self.served = self.failed = 0
        self.window = Window()
        self.index = -1
        self.learned = Learned()
        self.forget_figures()
        self.describe(spec)

    def describe(self, spec: WorkerSpec) -> None:
        """Takes over what the operator says; what was learned stays, and fills what the operator left out."""
        learned = self.learned
        self.spec = spec
        self.id = spec.id
        self.url = spec.url
        self.engine = (learned.engine or spec.engine) if spec.engine == "auto" else spec.engine
        self.speaks = learned.speaks or spec.speaks
        self.backend = spec.backend
        self.vram = learned.vram if spec.vram is None else spec.vram
        self.performance = self.speed if spec.measure_performance else spec.performance
        self.cost_per_hour = spec.cost_per_hour
        self.price_in = spec.price_in
        self.price_out = spec.price_out
        self.deployment = spec.deployment
        self.capacity = spec.max_concurrency or learned.slots or 16
        self.most = self.capacity if spec.max_concurrency else max(self.capacity, learned.most or 0)
        self.metadata = spec.metadata
        self.role = spec.role
        self.loras = spec.loras or learned.loras
        self.learn_models(spec.models or learned.models)
        self.loaded = self.models if learned.loaded is None else learned.loaded

    def learn_models(self, listed: tuple[str, ...]) -> None:
        """Takes the names that the worker lists itself, or the operator lists for it. It also serves those that
        `model_names` maps, and Ollama's `name:latest` as `name` as well."""
        self.models = tuple(dict.fromkeys((*listed, *self.spec.model_names)))
        bare = {name.removesuffix(":latest") for name in self.models if name.endswith(":latest")}
        latest = {f"{name}:latest" for name in self.models if ":" not in name} if self.engine == "ollama" else set()
        self.model_set = frozenset(self.models) | bare | latest

    def forget_figures(self) -> None:
        """What the engine said is too old to be taken for true, and nothing is taken in its place."""
        self.foreign = self.shut = 0
        self.running: int | None = None
        self.waiting: int | None = None
        self.kv_usage: float | None = None
        self.vram_used: float | None = None
        self.temperature_c: float | None = None
        self.watts: float | None = None
        self.owner_active: bool | None = None
        self.generated_tokens: float | None = None
        self.prompt_tokens: float | None = None
        self.cached_tokens: float | None = None
        self.kv_blocks: int | None = None
        self.block_size: int | None = None
        self.load_age_s = self.reported_at = None

    def serves(self, model: str) -> bool:
        """A worker that has not named its models yet (no probe answered so far) may serve any."""
        return not self.models or model in self.model_set

    @property
    def takes_more(self) -> bool:
        """It may be busy, but rather gets a request than lets it wait here, where no worker is ready.

        That is so while its capacity is only a guess, and the engine does not say that requests wait in it; and while
        less than half of what it can do is ours: somebody else fills it, who does not wait for us either, or its page
        counts parts of one request of ours as requests.
        """
        if self.standing != READY:
            return False
        if 2 * self.in_flight < self.capacity:
            return True
        return not self.waiting and self.in_flight + self.foreign < self.most

    def can(self, protocol: str) -> bool:
        """May a request of this protocol be sent to it? Anthropic's can be put in OpenAI's words for those that speak
        only that."""
        return protocol in self.speaks or (protocol == ANTHROPIC and OPENAI in self.speaks)

    def __repr__(self) -> str:
        return f"Worker({self.id} {self.status} {self.in_flight}/{self.capacity})"


class Report(msgspec.Struct, frozen=True):
    """What one probe of a worker showed. None: the worker did not say.

    reachable: it answers and can take requests; an engine that loads its model yet cannot.
    problem: in words, when it is not reachable, or when something could not be read.
    engine: a key of dialects.engines.ENGINES, as the operator said or as it was detected; speaks: its protocols.
    models: all that may be asked for; loaded: those in memory now, where the engine tells the difference.
    slots: how many requests it works on at once, as it says or as is usual for its engine.
    most: how many it may get where that is only usual; None: slots.
    generated_tokens, prompt_tokens, cached_tokens: counters since its start.
    started_at: anything that changes when the engine is restarted.
    vram, vram_used: GiB. temperature_c, watts, owner_active (somebody sits at the machine): what the agent tells.
    in_flight: requests of ours that were there while it was asked; None takes those that are there when it is applied.
    """

    worker_id: str
    reachable: bool
    models: tuple[str, ...] | None
    taken_at: float
    waiting: int | None = None
    kv_usage: float | None = None
    vram_used: float | None = None
    running: int | None = None
    problem: str | None = None
    engine: str | None = None
    speaks: frozenset[str] | None = None
    loaded: tuple[str, ...] | None = None
    loras: tuple[str, ...] | None = None
    slots: int | None = None
    most: int | None = None
    vram: float | None = None
    started_at: float | None = None
    generated_tokens: float | None = None
    prompt_tokens: float | None = None
    cached_tokens: float | None = None
    kv_blocks: int | None = None
    block_size: int | None = None
    temperature_c: float | None = None
    watts: float | None = None
    owner_active: bool | None = None
    in_flight: int | None = None


class Patience(msgspec.Struct, frozen=True, gc=False):
    """How a request waits for room: None for the configured time; a higher priority goes first, and of one priority
    whoever has to be sent soonest. due: until when, as `Env.now`; without end for those who have no such time."""

    timeout_s: float | None = None
    priority: int = 0
    due: float = inf


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Who gets the request and why.

    worker: who; None when it is rejected, or waits for any worker that can serve it
    by: "script", "strategy" (no script, or it returned nil), "fallback" (the script failed), "failover" (a worker did)
    model: the name to send when the chosen worker serves another model than the client asked for, else None
    wanted: the model that the script asked for by name, which holds for other workers as well
    error: what was wrong with the script's answer, with its line, or None
    explanation: what became of each worker, one table each (docs/explain.md), only under `[routing] debug`
    action: SEND, WAIT or REJECT
    then: the workers to try after this one, in order; None leaves that to the strategy
    headers: what the script adds to the request's headers, names in lower case
    patience: how long to wait, with WAIT
    refusal: what to tell the client, with REJECT
    log: what the script wrote with log()
    strategy: the one that chose, None where the script did
    told: headers for the client, names in lower case
    """

    worker: Worker | None
    by: str
    reason: str
    model: str | None = None
    error: str | None = None
    explanation: list[dict[str, Any]] | None = None
    action: str = SEND
    then: tuple[Worker, ...] | None = None
    headers: tuple[tuple[str, str], ...] = ()
    patience: Patience | None = None
    refusal: Refusal | None = None
    log: tuple[str, ...] = ()
    wanted: str | None = None
    strategy: str | None = None
    told: tuple[tuple[str, str], ...] = ()


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How one attempt ended. `failure` is None when the worker served it well.

    status: of the answer the client got, 0 when it got none
    committed: the client has got content, after which no other worker may be tried
    retry_after_s: how long the worker asked to be left alone, with a refusal of its own
    answered: the worker gave an error of its own that may be shown to the client, though it has not been yet
    poisonous: not the first worker that died over this request's body
    delivered: the client has got the whole answer, though it may be an error of the worker's own
    stale: a reused connection that the worker had closed before a byte came back; nobody's fault
    """

    failure: Failure | None
    status: int = 0
    committed: bool = False
    delivered: bool = False
    stale: bool = False
    retry_after_s: float | None = None
    answered: bool = False
    poisonous: bool = False


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One line of a job's history. `result` is "ok", "client_gone" or the code of a failure."""

    worker_id: str
    result: str
    duration_ms: float


class Decide(Protocol):
    """What the dispatcher asks of `routing.decide`. The first two raise `RouterError` when no worker can be had.

    seen: what the last decision saw; None before the first.
    memories: what strategies remember of traffic.
    reads_prompt, reads_client, reads_caller: does a strategy that may be asked need `Request.text`, `client`, `caller`?
    reads_request: any of them.
    shares: by whom those who wait are put in order; None: each caller in turn.
    """

    seen: Seen | None
    memories: Memories
    reads_prompt: bool
    reads_client: bool
    reads_caller: bool
    reads_request: bool

    @property
    def shares(self) -> Shares | None: ...

    def decide(self, request: Request, wall: float | None = None) -> Decision:
        """wall: Unix seconds of its arrival; None: now."""

    def room_for(self, job: Job) -> Decision | None:
        """The decision that a waiting job goes with, with the strategy's choice among the workers that may serve it and
        have room now; or None."""

    def serving(self, job: Job) -> list[Worker]:
        """Those that may serve a job, with room or without."""

    def another(self, job: Job, failure: Failure) -> Decision | None:
        """What to do after a failed attempt: SEND elsewhere, REJECT with the script's own words, None to give up."""

    def completed(self, job: Job) -> None:
        """A job has ended, well or badly: the script's on_complete may be told."""
