"""The nouns of the policy lab. Read this file first.

A *scenario* is what is simulated: a script, the workers, a *workload* of *arrivals*, faults and a seed. `world.run`
turns it into a *result*. Everything here is data; times are seconds of simulated time, from 0 at the first arrival's
clock, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from rbeerouter.config.sections import Config
from rbeerouter.core.types import Request, WorkerSpec


class Profile(msgspec.Struct, frozen=True):
    """How fast a worker is: the parameters of `engine.Engine`, a preset of `hardware`, or fitted by `calibrate`.

    One step of continuous batching takes

        step_s + sequence_s * decoding sequences + prefill_s * prompt tokens in the step + context_s * tokens in context

    seconds, and gives each decoding sequence one token. A step has room for `batch_tokens` tokens: one for each
    decoding sequence, the rest for a chunk of the prompts that wait for prefill, in order.

    slots: sequences that run at once; others wait in the engine, first come, first served.
    kv_tokens: tokens that fit into the KV cache, running sequences and cached prefixes together.
    block_tokens: tokens of a cached block; prefix_cache: are the blocks of finished sequences kept, least recently used
    out first?
    overhead_s: from the router's sending until the engine begins, and nothing else.
    memory_gib, load_gib_per_s, load_s: where models are swapped, how many fit, and how long one takes to load: load_s +
    its size / load_gib_per_s. keep_alive_s: an idle model is unloaded after so long; None: never.
    cold_start_s: from the start of the machine, or its return after a crash, until it can be reached.
    watts_idle, watts_busy: of the whole machine; None: not known.
    source: where the numbers come from, in words.
    """

    step_s: float = 0.02
    sequence_s: float = 0.0
    prefill_s: float = 0.0002
    context_s: float = 0.0
    slots: int = 16
    batch_tokens: int = 2048
    kv_tokens: int = 1 << 40
    block_tokens: int = 16
    prefix_cache: bool = False
    overhead_s: float = 0.0
    memory_gib: float | None = None
    load_gib_per_s: float = 2.0
    load_s: float = 0.5
    keep_alive_s: float | None = None
    cold_start_s: float = 0.0
    watts_idle: float | None = None
    watts_busy: float | None = None
    source: str = ""


class Footprint(msgspec.Struct, frozen=True):
    """What a model is to a worker's profile: its size in memory, and how many times slower than the profile says."""

    gib: float = 0.0
    times: float = 1.0


class SimWorker(msgspec.Struct, frozen=True):
    """A worker of a scenario: what the operator says of it, and what it is in truth.

    footprints: {model: what it costs}; models that are not there cost what the profile says.
    loaded: models in memory at the start; None: as many of its models as fit.
    """

    spec: WorkerSpec
    profile: Profile
    footprints: dict[str, Footprint] = {}
    loaded: tuple[str, ...] | None = None


class Fault(msgspec.Struct, frozen=True):
    """Something that goes wrong with a worker from `at_s` on for `for_s` seconds.

    kind: a name in `faults.KINDS`: "crash", "slow", "refuse" (503 at once), "stall" (stops in the middle of answers),
    "lie" (its metrics show it idle), "cut" (the network drops what is under way; nothing can be reached).
    amount: of "slow", how many times slower; of the others, the share of requests that it hits, 1 for all.
    """

    worker: str
    kind: str
    at_s: float
    for_s: float
    amount: float = 1.0


class Arrival(msgspec.Struct, gc=False):
    """A request of a workload.

    tokens_in, tokens_out: in truth; the router may know other numbers, or none (`Request.prompt_tokens`).
    blocks: names of the prompt's full blocks of `Workload.block_tokens` tokens from its beginning. Each stands for all
    tokens up to its end, so two prompts with the same block share everything before it.
    leaves_after_s: the client goes away if it has no whole answer by then; None: it waits.
    """

    at_s: float
    request: Request
    tokens_in: int
    tokens_out: int
    blocks: tuple[int, ...] = ()
    leaves_after_s: float | None = None


class BlockNames:
    """What a request of a simulation says to the model (`core.types.Text`): the names of its blocks, and no words."""

    __slots__ = ("_blocks", "block_tokens")

    def __init__(self, blocks: tuple[int, ...], block_tokens: int) -> None:
        self._blocks = blocks
        self.block_tokens = block_tokens

    def blocks(self) -> tuple[int, ...]:
        return self._blocks

    def token_ids(self) -> None:
        return None

    def forget(self) -> None:
        self._blocks = ()


class Workload(Protocol):
    """A sequence of arrivals in order of time, the same each time it is gone through.

    name: what it is, in words. count: how many, None when nobody has counted. Nothing but the arrival at hand is kept.
    """

    name: str
    count: int | None
    block_tokens: int

    def __iter__(self) -> Iterator[Arrival]: ...


class Targets(msgspec.Struct, frozen=True):
    """The service level objectives that goodput counts by, and that clients wish for; None: no such target."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


class Scenario(msgspec.Struct, frozen=True):
    """All that a simulation depends on: the same scenario gives the same result, byte for byte.

    config: [routing], [limits], [health], [probes], [[models]] hold as they do for the daemon.
    script: its text and name; None: the strategy of the config alone.
    params: values for the script's param()s.
    start_wall: Unix seconds of time 0, for the script's timestamp().
    stop_after_s: nothing arrives later; what is under way ends.
    """

    config: Config
    workers: tuple[SimWorker, ...]
    workload: Workload
    script: bytes | None = None
    script_name: str = "routing.lua"
    strategy: str = "least-request"
    params: dict[str, float] = {}
    faults: tuple[Fault, ...] = ()
    targets: Targets = Targets()
    seed: int = 1
    start_wall: float = 1_767_225_600.0
    stop_after_s: float | None = None


class Quantiles(msgspec.Struct):
    """Of a quantity, over the requests that have it; None where no request has."""

    count: int = 0
    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    most: float | None = None


class Group(msgspec.Struct):
    """What a part of the requests got: all of them, those of a tier, a user, a model, or what one worker served.

    ok: the client got a whole good answer. rejected: refused by script, queue or for want of workers. failed: by
    workers. gone: the client left. retried: more than one attempt was made. ttft_s (of streams alone), e2e_s, queue_s:
    from the arrival; tpot_s: seconds per token after the first; waiting in the router is part of ttft_s and e2e_s.
    goodput: the share of all requests that were ok and met the targets. cost: by the workers' prices of tokens.
    """

    requests: int = 0
    ok: int = 0
    rejected: int = 0
    failed: int = 0
    gone: int = 0
    retried: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    goodput: float = 0.0
    ttft_s: Quantiles = msgspec.field(default_factory=Quantiles)
    tpot_s: Quantiles = msgspec.field(default_factory=Quantiles)
    e2e_s: Quantiles = msgspec.field(default_factory=Quantiles)
    queue_s: Quantiles = msgspec.field(default_factory=Quantiles)


class WorkerResult(msgspec.Struct):
    """A worker's part. share: of all requests that a worker ended up with; busy: the share of time with work on it.

    attempts: requests that were sent to it; failures: of those, how many failed. kv_hit_rate: prompt tokens found in
    its cache, None without a cache. machine_cost: cost_per_hour over the whole time. loads: models brought into memory.
    """

    id: str
    attempts: int
    failures: int
    share: float
    busy: float
    mean_in_flight: float
    kv_hit_rate: float | None
    machine_cost: float | None
    energy_wh: float | None
    loads: int
    group: Group


class Series(msgspec.Struct):
    """What was going on over time, one value for each interval of `every_s` seconds; means over the interval.

    in_flight: {worker id: requests it was working on}. ttft_p95_s: of the requests that ended in it.
    """

    every_s: float
    arrivals: list[float]
    waiting: list[float]
    in_flight: dict[str, list[float]]
    ttft_p95_s: list[float | None]


class Result(msgspec.Struct):
    """What came of a scenario. Without `timing` it depends on nothing but the scenario.

    reasons: {"who decided: why": requests}. errors: {failure code: requests}. script_errors: {its text: times}.
    fairness: Jain's index of the tokens that users got, 1 for equal ones; None with fewer than two users.
    requests_per_s, tokens_per_s: of requests that were ok, over `simulated_s`.
    machine_cost, energy_wh: sums over the workers for which they are known; None where for none.
    ttft_cdf, e2e_cdf: (seconds, share of requests that took at most so long), for drawing.
    timing: what the run itself took: {"decision_us": ..., "run_s": ..., "requests_per_s": ...}.
    """

    script: str | None
    script_hash: str | None
    strategy: str
    workload: str
    seed: int
    simulated_s: float
    all: Group
    workers: list[WorkerResult]
    tiers: dict[str, Group]
    users: dict[str, Group]
    models: dict[str, Group]
    reasons: dict[str, int]
    errors: dict[str, int]
    script_errors: dict[str, int]
    fairness: float | None
    kv_hit_rate: float | None
    requests_per_s: float
    tokens_per_s: float
    machine_cost: float | None
    energy_wh: float | None
    series: Series
    ttft_cdf: list[tuple[float, float]]
    e2e_cdf: list[tuple[float, float]]
    params: dict[str, float] = {}
    timing: dict[str, Any] | None = None
