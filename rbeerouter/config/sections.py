"""The tables of a configuration file as frozen structs, and `Config`, which is what they become.

Whoever needs a table's type imports it from here; `loading` fills them. Nothing here reads a file or checks more than
the types say: `checks` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from rbeerouter.core.health import HealthRules
from rbeerouter.core.models import NO_MODELS, OWN_LIMITS, Models
from rbeerouter.core.queue import QueueRules
from rbeerouter.core.retry import RetryRules
from rbeerouter.core.types import WorkerSpec

Positive = Annotated[float, Meta(gt=0, le=1e7)]
Count = Annotated[int, Meta(ge=1, le=2**40)]
CountFromZero = Annotated[int, Meta(ge=0, le=2**40)]
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Price = Annotated[float, Meta(ge=0, le=1e9)]


class Secret(str):
    """Text that is never shown: not in a repr, so not in a log or a traceback."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'(hidden)'"


class ConfigError(Exception):
    """A configuration that cannot be used; the message is the whole story, ready to print."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TOML table. Each field's comment in docs/config.md gives unit, default and reason."""


class Server(Section):
    """The public listener, where clients send their requests."""

    bind: str = "127.0.0.1:8881"
    allow_unauthenticated: bool = False
    max_connections: Annotated[int, Meta(ge=0)] = 0
    drain_s: Positive = 300.0
    request_headers: tuple[str, ...] = (
        "accept", "accept-language", "traceparent", "tracestate", "user-agent", "openai-beta", "openai-organization",
        "openai-project", "x-session-id", "anthropic-version", "anthropic-beta",
    )  # fmt: skip
    response_headers: tuple[str, ...] = (
        "content-type", "content-language", "cache-control", "retry-after", "retry-after-ms", "server-timing",
        "openai-*", "anthropic-*", "request-id", "x-ratelimit-*", "x-accel-buffering",
    )  # fmt: skip


class Control(Section):
    """The control plane: health, workers, metrics, reload."""

    bind: str = "127.0.0.1:8882"
    token: str | None = None
    allow_unauthenticated: bool = False


class Split(Section):
    """How requests are shared between the local workers and the remote ones."""

    local_fraction: Fraction
    debt: Annotated[float, Meta(ge=1, le=1e6)] = 10.0


class Prefix(Section):
    """What is remembered of prompts, so that one goes where its beginning is in the cache."""

    block_bytes: Annotated[int, Meta(ge=4, le=1 << 20)] = 256
    most_blocks: Annotated[int, Meta(ge=1, le=1 << 20)] = 2048
    worker_tokens: Count = 500_000
    cold_share: Fraction = 0.05
    queued_weight: Annotated[float, Meta(ge=0, le=1e6)] = 0.05
    load_power: Annotated[float, Meta(ge=0, le=10)] = 0.33
    speed_power: Annotated[float, Meta(ge=0, le=10)] = 0.25
    strict_seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    strict_blocks: Count = 200_000
    strict_kept_s: Positive = 1200.0
    strict_imbalance: CountFromZero = 16
    strict_deviations: Annotated[float, Meta(ge=0, le=1e6)] = 2.0


class Preble(Section):
    """By what prefix-cache-preble reckons the cost of a prompt, and for how long it remembers."""

    reuse_share: Fraction = 0.5
    window_s: Positive = 180.0
    kept_s: Positive = 300.0
    most_prompts: Count = 100_000
    most_blocks: Count = 1_000_000
    imbalance: CountFromZero = 16
    slowness: Positive = 2.5
    decode_tokens: CountFromZero = 45
    token_s: Annotated[float, Meta(ge=0, le=1e6)] = 0.15


class ConsistentHash(Section):
    """The strategy consistent-hash."""

    load_factor: Annotated[float, Meta(ge=1, le=1000)] = 1.25


class KvEventOptions(Section):
    """How engines are listened to that tell what is in their KV caches, and who reads prompts as they do."""

    endpoint: str | None = None
    replay: str | None = None
    blocks: Annotated[int, Meta(ge=16, le=1 << 24)] = 131_072
    optimistic_s: Annotated[float, Meta(ge=0, le=600)] = 2.0
    replay_s: Annotated[float, Meta(ge=0.1, le=60)] = 2.0
    tokenizer_s: Annotated[float, Meta(gt=0, le=10)] = 0.1
    tokenizer_prompts: Annotated[int, Meta(ge=0, le=1 << 20)] = 1000
    tokenizer_tokens: Count = 4_000_000


class Fairness(Section):
    """How vtc-basic keeps account of tokens."""

    by: str = "user"
    window_s: Positive = 300.0
    users: Count = 10_000
    input_weight: Annotated[float, Meta(ge=0, le=1e6)] = 1.0
    output_weight: Annotated[float, Meta(ge=0, le=1e6)] = 2.0
    tier: str = "tier"
    tiers: dict[str, Annotated[float, Meta(gt=0, le=1e6)]] = {}
    bucket_tokens: Positive = 1000.0
    fairness_weight: Annotated[float, Meta(ge=0, le=1e6)] = 1.0
    utilization_weight: Annotated[float, Meta(ge=0, le=1e6)] = 1.0


class Span(Section):
    """How far back strategies look that go by what was measured."""

    busy_s: Annotated[float, Meta(ge=1, le=86_400)] = 300.0
    latency_s: Annotated[float, Meta(ge=1, le=86_400)] = 30.0
    tokens_s: Annotated[float, Meta(ge=1, le=86_400)] = 60.0


class Cheapest(Section):
    """What counts as cheap."""

    tolerance: Annotated[float, Meta(ge=0, le=10)] = 0.05
    answer_s: Positive = 10.0


class Ratio(Section):
    """What fixed-ratio holds to."""

    local: Fraction = 0.5
    debt: Annotated[float, Meta(ge=1, le=1e6)] = 10.0


class Warm(Section):
    """When cache-warm lets another worker load a model."""

    spill: Annotated[float, Meta(ge=1, le=1e6)] = 4.0


class Slo(Section):
    """What the slo strategies aim at, and how they learn."""

    ttft_ms: Positive | None = None
    tpot_ms: Positive | None = None
    e2e_ms: Positive | None = None
    late: Literal["send", "reject"] = "send"
    queue_timeout_s: Positive = 10.0
    caution: Annotated[float, Meta(ge=0, le=10)] = 1.0
    explore: Fraction = 0.01
    answers: Annotated[int, Meta(ge=10, le=1_000_000)] = 200
    least_answers: Annotated[int, Meta(ge=1, le=1_000_000)] = 10
    models_kept: Annotated[int, Meta(ge=1, le=1000)] = 16
    output_tokens: Count = 256


class Strategies(Section):
    """What strategies can be told."""

    strict: bool = False
    prefix: Prefix = Prefix()
    preble: Preble = Preble()
    consistent_hash: ConsistentHash = ConsistentHash()
    fairness: Fairness = Fairness()
    kv_events: KvEventOptions = KvEventOptions()
    span: Span = Span()
    cheapest: Cheapest = Cheapest()
    ratio: Ratio = Ratio()
    warm: Warm = Warm()
    slo: Slo = Slo()


class Routing(Section):
    """Who decides."""

    script: str | None = None
    strategy: str = "least-request"
    debug: bool = False
    log: str | None = None
    fallback: tuple[str, ...] = ("least-request",)
    strategy_header: bool = True
    client_ip_header: str | None = None
    client_ip_hops: Annotated[int, Meta(ge=1, le=16)] = 1
    script_instructions: Annotated[int, Meta(ge=1_000, le=10**12)] = 2_000_000
    script_cpu_s: Positive = 0.02
    script_memory_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 32)] = 2 << 20
    script_faults: CountFromZero = 20
    isolation: str = "none"
    reload_gate: str = "test"
    gate_s: Positive = 60.0
    timezone: str | None = None
    request_headers: tuple[str, ...] = ("user-agent", "x-session-id", "accept-language")
    set_headers: tuple[str, ...] = ("x-session-id", "x-priority")
    expose_prompt: bool = False
    prompt_chars: Count = 16_384
    state_keys: Count = 10_000
    state_bytes: Count = 1 << 20
    state_value_bytes: Count = 16 << 10
    log_lines: CountFromZero = 20
    log_line_chars: Count = 1000
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | None = None
    log_inputs: bool = True
    log_users: str = "hashed"
    log_sessions: str = "plain"
    log_metadata_chars: CountFromZero = 1000
    decisions_kept: Annotated[int, Meta(ge=0, le=1_000_000)] = 1000
    versions_kept: Annotated[int, Meta(ge=2, le=1000)] = 20
    shadow: str | None = None
    shadow_share: Annotated[float, Meta(ge=0.001, le=1)] = 0.1
    shadow_buffer: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    ledger_at: str | None = None
    ledger_s: Positive = 600.0
    split: Split | None = None
    strategies: Strategies = Strategies()


class Limits(Section):
    """Everything that could wait or grow without end, and where it ends."""

    request_body_bytes: Count = 10 << 20
    upload_bytes: Count = 64 << 20
    header_bytes: Annotated[int, Meta(ge=1024)] = 32 << 10
    header_count: Count = 100
    header_s: Positive = 10.0
    body_gap_s: Positive = 10.0
    body_s: Positive = 60.0
    keep_alive_s: Positive = 75.0
    write_stall_s: Positive = 30.0
    connect_s: Positive = 2.0
    first_content_s: Positive = 120.0
    gap_s: Positive = 60.0
    request_s: Positive = 600.0
    stream_s: Positive = 1800.0
    attempts: Count = 3
    retry_share: Annotated[float, Meta(ge=0, le=1)] = 0.2
    retry_floor: CountFromZero = 30
    comment_s: Positive = 15.0
    continuation_bytes: Count = 1 << 20
    queue_length: Annotated[int, Meta(ge=0, le=100_000)] = 512
    queue_per_caller: Annotated[int, Meta(ge=1, le=100_000)] = 64
    queue_s: Positive = 30.0
    queue_most_s: Positive = 300.0
    field_chars: Count = 4096
    metadata_pairs: Count = 64
    hold_bytes: Count = 64 << 10
    idle_connection_s: Positive = 3.0
    idle_connections: Annotated[int, Meta(ge=0)] = 64
    connection_age_s: Positive = 300.0
    resolve_s: Annotated[float, Meta(ge=0.1, le=3600)] = 4.0
    log_backlog_bytes: Count = 8 << 20


class Probes(Section):
    """How workers are looked at while no request tells."""

    interval_s: Annotated[float, Meta(ge=0.1, le=86_400)] = 30.0
    down_interval_s: Annotated[float, Meta(ge=0.1, le=86_400)] = 1.0
    metrics_s: Annotated[float, Meta(ge=0.1, le=86_400)] = 5.0
    timeout_s: Positive = 2.0
    fall: Count = 2
    rise: Count = 2
    stale_s: Positive = 15.0
    at_once: Count = 64
    page_bytes: Annotated[int, Meta(ge=1 << 16, le=1 << 30)] = 4 << 20


class Health(Section):
    """When a worker is left alone, and how it comes back."""

    connect_failures: Count = 3
    failures: Count = 5
    error_rate: Annotated[float, Meta(gt=0, le=1)] = 0.5
    error_rate_requests: Count = 20
    ejection_s: Positive = 10.0
    ejection_cap_s: Positive = 300.0
    max_ejected: Annotated[float, Meta(ge=0, le=1)] = 0.5
    slow_start_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    cool_down_cap_s: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    yield_to_owner: bool = True
    poison_strikes: Annotated[int, Meta(ge=0, le=100)] = 2
    poison_s: Positive = 60.0
    poison_kept: Count = 1000


class WorkerEntry(Section):
    """One [[workers]] block."""

    url: str
    id: str | None = None
    engine: str = "auto"
    backend: str | None = None
    vram: Annotated[float, Meta(ge=0)] | None = None
    models: tuple[str, ...] = ()
    performance: Annotated[float, Meta(ge=0)] | str | None = None
    cost_per_hour: Annotated[float, Meta(ge=0)] | None = None
    max_concurrency: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    weight: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    metadata: dict[str, str | Integer | float | bool] = {}
    api_key: str | None = None
    ca_file: str | None = None
    role: str | None = None
    loras: tuple[str, ...] = ()
    deployment: str | None = None
    model_names: dict[str, str] = {}
    price_in: Price | None = None
    price_out: Price | None = None
    kv_events: str | None = None
    kv_replay: str | None = None
    kv_ranks: Annotated[int, Meta(ge=1, le=64)] = 1


class ProfileEntry(Section):
    """One [models.profiles.NAME] table."""

    strategy: str | None = None
    prompt_tokens_gte: CountFromZero | None = None
    prompt_tokens_lt: Count | None = None
    max_tokens_gte: CountFromZero | None = None
    max_tokens_lt: Count | None = None


class ModelEntry(Section):
    """One [[models]] block."""

    name: str
    size: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    aliases: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    deployment: str | None = None
    local_fraction: Fraction | None = None
    price_in: Price | None = None
    price_out: Price | None = None
    continuation: bool = False
    first_content_s: Positive | None = None
    gap_s: Positive | None = None
    request_s: Positive | None = None
    stream_s: Positive | None = None
    slo_ttft_ms: Positive | None = None
    slo_tpot_ms: Positive | None = None
    slo_e2e_ms: Positive | None = None
    locked_strategy: str | None = None
    default_profile: str | None = None
    profiles: dict[str, ProfileEntry] = {}


class DnsEntry(WorkerEntry, frozen=True, kw_only=True):
    """One [[discovery.dns]] block: a name, and what holds for every worker that it leads to."""

    name: str
    type: str = "A"
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    scheme: str = "http"
    server: str | None = None
    interval_s: Annotated[float, Meta(ge=1, le=86_400)] = 30.0
    url: str = ""


class Discovery(Section):
    """Where workers come from besides this file."""

    workers_file: str | None = None
    file_s: Annotated[float, Meta(ge=0.1, le=3600)] = 2.0
    controller: str | None = None
    controller_s: Annotated[float, Meta(ge=1, le=86_400)] = 30.0
    controller_token: str | None = None
    controller_api_key: str | None = None
    dns: tuple[DnsEntry, ...] = ()


class Registration(Section):
    """Workers that announce themselves."""

    token: str | None = None
    allow: tuple[str, ...] = (
        "127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7",
    )  # fmt: skip
    ttl_s: Annotated[float, Meta(ge=5, le=86_400)] = 90.0
    most_workers: Annotated[int, Meta(ge=1, le=65_536)] = 1024


class State(Section):
    """What outlives a restart."""

    folder: str | None = None


class WorkersFile(Section):
    """The file of [discovery] workers_file."""

    workers: tuple[WorkerEntry, ...] = ()


class File(Section):
    """The whole file as it was written."""

    server: Server = Server()
    control: Control = Control()
    routing: Routing = Routing()
    limits: Limits = Limits()
    probes: Probes = Probes()
    health: Health = Health()
    discovery: Discovery = Discovery()
    registration: Registration = Registration()
    state: State = State()
    workers: tuple[WorkerEntry, ...] = ()
    models: tuple[ModelEntry, ...] = ()


class Config(msgspec.Struct, frozen=True):
    """What the daemon runs on: the file with defaults filled in, paths made absolute and workers named."""

    source: Path | None
    server: Server
    control: Control
    routing: Routing
    limits: Limits
    probes: Probes
    health: Health
    workers: tuple[WorkerSpec, ...]
    script: Path | None
    log: Path
    models: Models = NO_MODELS
    discovery: Discovery = Discovery()
    registration: Registration = Registration()
    state_folder: Path = Path()
    shadow: Path | None = None


def may_find_workers(settings: File | Config) -> bool:
    """Can there be workers that do not stand in the file?"""
    discovery = settings.discovery
    return bool(
        discovery.workers_file or discovery.controller or discovery.dns or settings.registration.token
    )


def health_rules(config: Config) -> HealthRules:
    """What [health] and [probes] say of when a worker may be used."""
    names = {field.name for field in msgspec.structs.fields(HealthRules)}
    given = msgspec.structs.asdict(config.health) | msgspec.structs.asdict(config.probes)
    return HealthRules(**{name: value for name, value in given.items() if name in names})


def retry_rules(limits: Limits) -> RetryRules:
    """What [limits] says of trying another worker."""
    return RetryRules(limits.attempts, limits.retry_share, limits.retry_floor)


def queue_rules(limits: Limits, of_models: dict[str, Limits]) -> QueueRules:
    """What [limits] says of waiting, and of how long a request may take; `of_models` as `limits_of_models` gives it."""
    own = {name: (one.request_s, one.stream_s) for name, one in of_models.items()}
    return QueueRules(
        limits.queue_length, limits.queue_per_caller, limits.queue_s, limits.queue_most_s, limits.request_s,
        limits.stream_s, own,
    )  # fmt: skip


def limits_of_models(limits: Limits, models: Models) -> dict[str, Limits]:
    """{model: the limits with its own in their place}."""
    found = {}
    for model in models:
        own = {name: value for name in OWN_LIMITS if (value := getattr(model, name)) is not None}
        found[model.name] = msgspec.structs.replace(limits, **own)
    return found


def section_of(kind: Any) -> type[Section] | None:
    """The table that a field of this type holds: always, if it is there at all, or once for each entry of a list."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    return next((section for one in get_args(kind) if (section := section_of(one)) is not None), None)
