"""TOML text becomes one frozen, validated `Config`. Nothing half-applies: any fault refuses the whole file.

`cli` and `server.daemon` call `load`; everything else receives the finished object. A refusal names the file, the key,
the value and what was expected; an unknown key is answered with the nearest known one.
"""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import os
import re
import zoneinfo
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
import tomli
from msgspec import Meta

from rbeerouter.core.health import HealthRules
from rbeerouter.core.models import NO_MODELS, Model, Models
from rbeerouter.core.sides import usual_side
from rbeerouter.core.types import LOCAL, REMOTE, WorkerSpec

HOME = Path("~/.config/rbee")
"""Where the default files live: config.toml, routing.lua, logs/routing.log."""

Positive = Annotated[float, Meta(gt=0, le=1e7)]
Count = Annotated[int, Meta(ge=1, le=2**40)]
CountFromZero = Annotated[int, Meta(ge=0, le=2**40)]
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Price = Annotated[float, Meta(ge=0, le=1e9)]


NEVER_PASSED = {
    "authorization", "proxy-authorization", "proxy-authenticate", "proxy-connection", "cookie", "set-cookie", "host",
    "content-length", "content-encoding", "accept-encoding", "transfer-encoding", "connection", "upgrade", "te",
    "trailer", "keep-alive", "expect", "date", "x-request-id", "x-conversation-id",
}  # fmt: skip
"""Headers that no rule lets through, `*` included: credentials, hop-by-hop ones, and those the router writes itself.
x-conversation-id makes llama.cpp go on generating for a client that has left."""
NEVER_PASSED_PREFIXES = ("x-rbee-", "x-override-")
"""Nor those that begin like this: our own, and those by which SGLang lets a caller choose its rank and its priority."""


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


class Routing(Section):
    """Who decides."""

    script: str | None = None
    strategy: str = "least-request"
    debug: bool = False
    log: str | None = None
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
    decisions_kept: Annotated[int, Meta(ge=0, le=1_000_000)] = 1000
    split: Split | None = None


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
    retry_floor: CountFromZero = 10
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
    metadata: dict[str, str | Integer | float | bool] = {}
    api_key: str | None = None
    ca_file: str | None = None
    role: str | None = None
    loras: tuple[str, ...] = ()
    deployment: str | None = None
    model_names: dict[str, str] = {}
    price_in: Price | None = None
    price_out: Price | None = None


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


def health_rules(config: Config) -> HealthRules:
    """What [health] and [probes] say of when a worker may be used."""
    names = {field.name for field in msgspec.structs.fields(HealthRules)}
    given = msgspec.structs.asdict(config.health) | msgspec.structs.asdict(config.probes)
    return HealthRules(**{name: value for name, value in given.items() if name in names})


def load(
    path: Path | None = None,
    *,
    workers: tuple[str, ...] = (),
    script: Path | None = None,
    bind: str | None = None,
    strategies: tuple[str, ...] = (),
    engines: tuple[str, ...] = (),
) -> Config:
    """Reads a configuration.

    Args:
        path: a TOML file; None uses ~/.config/rbee/config.toml if it exists, else no file.
        workers, script, bind: what the command line adds to the file, or puts in its place.
        strategies: the names that [routing] strategy may have.
        engines: the names that a worker's engine may have, beside "auto".

    Raises:
        ConfigError: with the file, key, value and what was expected.
    """
    source = path or (HOME.expanduser() / "config.toml")
    if path is None and not source.exists():
        source, raw = None, {}
    else:
        raw = _parse(source)
    where = str(source) if source else "the command line"
    folder = source.parent if source else Path.cwd()
    raw.setdefault("workers", [])
    if isinstance(raw["workers"], list):
        raw["workers"] += [{"url": url} for url in workers]
    if bind is not None and isinstance(raw.setdefault("server", {}), dict):
        raw["server"]["bind"] = bind
    file = _convert(_expand(raw, where, ""), where, File)
    _check(file, where, strategies)
    _check_discovery(file, where, engines)
    chosen = _script_path(script, file.routing.script, folder, where)
    log = HOME.expanduser() / "logs" / "routing.log"
    if file.routing.log:
        log = _absolute(folder, file.routing.log, f"{where}: routing.log")
    control = msgspec.structs.replace(
        file.control, bind=_absolute_bind(file.control.bind, folder, where), token=_hidden(file.control.token)
    )
    specs = _name_workers(file.workers, where, folder, engines)
    return Config(
        source=source, server=file.server, control=control, routing=file.routing, limits=file.limits,
        probes=file.probes, health=file.health, workers=specs, script=chosen, log=log,
        models=_registry(file, specs, where), discovery=_finished_discovery(file.discovery, where, folder),
        state_folder=_state_folder(file, where, folder),
        registration=msgspec.structs.replace(file.registration, token=_hidden(file.registration.token)),
    )  # fmt: skip


def read_workers_file(path: Path, engines: tuple[str, ...] = ()) -> tuple[WorkerSpec, ...]:
    """The workers of a file of [[workers]] blocks, or of a JSON list of the same objects. Raises ConfigError."""
    if path.suffix == ".json":
        try:
            raw = msgspec.json.decode(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: is not valid JSON: {error}") from None
        raw = {"workers": raw} if isinstance(raw, list) else raw
    else:
        raw = _parse(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a list of workers, got {raw!r:.40}")
    file = _convert(_expand(raw, str(path), ""), str(path), WorkersFile)
    return _name_workers(file.workers, str(path), path.parent, engines, "file")


def read_worker(raw: Any, where: str, source: str, engines: tuple[str, ...] = ()) -> WorkerSpec:
    """One worker that came over the network, checked as a [[workers]] block is. Its texts are taken as they stand:
    ${NAME} would hand out the environment, and `ca_file` is a path of somebody else's machine. Raises ConfigError."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected an object with at least url, got {raw!r:.40}")
    if "ca_file" in raw:
        raise ConfigError(f"{where}: ca_file: is a path on this machine and can be set in its own files only")
    entry = _convert(raw, where, WorkerEntry)
    _check_worker(entry, f"{where}: ", engines)
    return _name_worker(entry, where, "", Path(), source)


class Access(msgspec.Struct, frozen=True):
    """What commands need to talk to the daemon."""

    bind: str
    token: Secret | None = None
    registration_token: Secret | None = None


def control_access(path: Path | None = None) -> Access:
    """How to reach the control plane: the rest of the file is for the daemon to judge. Raises ConfigError."""
    source = path or (HOME.expanduser() / "config.toml")
    raw = _parse(source) if path or source.exists() else {}

    def text(section: str, key: str, default: str | None) -> str | None:
        table = raw.get(section, {})
        value = table.get(key, default) if isinstance(table, dict) else table
        if value is not None and not isinstance(value, str):
            expected = "HOST:PORT or unix:PATH" if key == "bind" else "text"
            raise ConfigError(f"{source}: {section}.{key} = {_shown(key, value)}: expected {expected}")
        return None if value is None else _expand(value, str(source), f"{section}.{key}")

    bind = _absolute_bind(text("control", "bind", Control().bind) or "", source.parent, str(source))
    return Access(bind, _hidden(text("control", "token", None)), _hidden(text("registration", "token", None)))


def check_url(url: str, what: str) -> str:
    """A URL of the command line, without slash and /v1 at its end. Raises ConfigError."""
    return _clean_url(url, "the command line", "", what)


def may_find_workers(settings: File | Config) -> bool:
    """Can there be workers that do not stand in the file?"""
    discovery = settings.discovery
    return bool(
        discovery.workers_file or discovery.controller or discovery.dns or settings.registration.token
    )


def _hidden(text: str | None) -> Secret | None:
    return None if text is None else Secret(text)


def _finished_discovery(section: Discovery, where: str, folder: Path) -> Discovery:
    """Paths made absolute, secrets hidden."""
    file = section.workers_file
    return msgspec.structs.replace(
        section, workers_file=str(_absolute(folder, file, f"{where}: discovery.workers_file")) if file else None,
        controller=_clean_url(section.controller, where, "discovery", "controller") if section.controller else None,
        controller_token=_hidden(section.controller_token), controller_api_key=_hidden(section.controller_api_key),
        dns=tuple(
            msgspec.structs.replace(
                entry, api_key=_hidden(entry.api_key),
                ca_file=str(_absolute(folder, entry.ca_file, f"{where}: discovery.dns")) if entry.ca_file else None,
            )
            for entry in section.dns
        ),
    )  # fmt: skip


def _state_folder(file: File, where: str, folder: Path) -> Path:
    if file.state.folder:
        return _absolute(folder, file.state.folder, f"{where}: state.folder")
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]        # set by systemd's StateDirectory=
    return Path(given) if given else Path("~/.local/state/rbee").expanduser()


def _absolute_bind(bind: str, folder: Path, where: str) -> str:
    """unix:PATH with its path made absolute; any other bind as it is."""
    if not bind.startswith("unix:"):
        return bind
    return f"unix:{_absolute(folder, bind.removeprefix('unix:'), f'{where}: control.bind')}"


def strategy_spelling(name: str) -> str:
    """A strategy's name as the tables have it: lower case, and `_` and `-` are alike."""
    return name.lower().replace("_", "-")


def utc_offset_s(timezone: str | None) -> int:
    """What must be added to Unix seconds now for the local time of a zone; None is the machine's own."""
    zone = zoneinfo.ZoneInfo(timezone) if timezone is not None else None
    offset = datetime.datetime.now(datetime.UTC).astimezone(zone).utcoffset()
    return int(offset.total_seconds()) if offset else 0


def split_bind(bind: str) -> tuple[str, int]:
    """("127.0.0.1", 8881) from "127.0.0.1:8881"; IPv6 addresses stand in brackets. Raises ValueError."""
    host, colon, port = bind.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535 or not host:
        raise ValueError(bind)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(bind)
    return host, int(port)


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomli.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except tomli.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None


_VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?::-([^}]*))?\}|\$\{[^}]*\}?")


def _expand(value: Any, where: str, key: str) -> Any:
    """Replaces ${VAR} and ${VAR:-default} in every string; $$ is a plain dollar sign."""
    if isinstance(value, dict):
        return {name: _expand(item, where, f"{key}.{name}" if key else name) for name, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, where, f"{key}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        if name is None:
            if match.group() != "$$":
                raise ConfigError(f"{where}: {key}: {match.group()!r}: expected ${{NAME}} or ${{NAME:-default}}")
            return "$"
        found = os.environ.get(name) or default
        if found is None:
            raise ConfigError(f"{where}: {key}: the environment variable {name} is not set; write ${{{name}:-default}}")
        return found

    return _VARIABLE.sub(replace, value)


_Kind = TypeVar("_Kind", bound=Section)


def _convert(raw: dict[str, Any], where: str, kind: type[_Kind]) -> _Kind:
    _refuse_unknown(raw, kind, where, "")
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`").removeprefix(".")
        given = _value_at(raw, path)
        shown = "" if given is _MISSING else f" = {_shown(path, given)}"
        what = f"{path or 'the file'}{shown}: " if path or kind is not WorkerEntry else ""
        raise ConfigError(f"{where}: {what}{message[0].lower()}{message[1:]}") from None


_MISSING = object()


def _value_at(raw: Any, path: str) -> Any:
    for part in re.findall(r"[^.\[\]]+", path):
        try:
            raw = raw[int(part)] if isinstance(raw, list) else raw[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return _MISSING
    return raw


def _shown(path: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"a table with {', '.join(value) or 'no keys'}"
    return "(hidden)" if path.endswith(("api_key", "token")) else repr(value)


def section_of(kind: Any) -> type[Section] | None:
    """The table that a field of this type holds: always, if it is there at all, or once for each entry of a list."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    return next((section for one in get_args(kind) if (section := section_of(one)) is not None), None)


def _refuse_unknown(raw: Any, section: type[Section], where: str, key: str) -> None:
    """Refuses keys that no field has, with the nearest one that exists."""
    if not isinstance(raw, dict):
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(section)}
    for name, value in raw.items():
        here = f"{key}.{name}" if key else name
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fields)}"
            raise ConfigError(f"{where}: {here}: unknown key; {hint}")
        kind = fields[name].type
        inner = section_of(kind)
        if inner is None:
            continue
        if get_origin(kind) is not tuple:
            _refuse_unknown(value, inner, where, here)
        elif isinstance(value, list):
            for index, entry in enumerate(value):
                _refuse_unknown(entry, inner, where, f"{here}[{index}]")


_NAME = re.compile(r"[a-z0-9!#$%&'+.^_`|~-]+")
_NAME_OR_PREFIX = re.compile(rf"{_NAME.pattern}\*?")
_CHOICES = {"isolation": ("none", "process"), "reload_gate": ("off", "check", "test")}


def _check(file: File, where: str, strategies: tuple[str, ...]) -> None:
    """What types cannot say: addresses, names of strategies, combinations."""
    _check_bind(file.server.bind, file.server.allow_unauthenticated, where, "server")
    if file.control.bind == "unix:" or not file.control.bind.startswith("unix:"):
        protected = file.control.allow_unauthenticated or file.control.token is not None
        _check_bind(file.control.bind, protected, where, "control")
    if strategies:
        _check_choice(file.routing.strategy, strategies, f"{where}: routing.strategy")
    for key, choices in _CHOICES.items():
        _check_choice(getattr(file.routing, key), choices, f"{where}: routing.{key}")
    _check_timezone(file.routing.timezone, where)
    _check_sides(file, where)
    _check_room_for_requests(file.routing, file.limits, where)
    for section, key, form in (
        ("server", "request_headers", _NAME_OR_PREFIX), ("server", "response_headers", _NAME_OR_PREFIX),
        ("routing", "request_headers", _NAME), ("routing", "set_headers", _NAME),
    ):  # fmt: skip
        for header in getattr(getattr(file, section), key):
            name = header.lower()
            # Those that a script sets go behind what the router itself writes.
            ours = key == "set_headers" and (name == "content-type" or name.startswith("x-rbee-"))
            never = name in NEVER_PASSED or (section == "server" and name.startswith(NEVER_PASSED_PREFIXES))
            if not form.fullmatch(name) or never or ours:
                raise ConfigError(
                    f"{where}: {section}.{key}: {header!r}: expected a header name that may be passed on"
                )


def _check_worker(entry: WorkerEntry, key: str, engines: tuple[str, ...]) -> None:
    """What types cannot say of one worker. `key` is what stands before the names of its keys."""
    if engines:
        _check_choice(entry.engine, ("auto", *engines), f"{key}engine")
    if isinstance(entry.performance, str) and entry.performance != "auto":
        raise ConfigError(
            f"{key}performance = {entry.performance!r}: expected a number of tokens per second, or 'auto'"
        )
    if entry.deployment is not None:
        _check_choice(entry.deployment, (LOCAL, REMOTE), f"{key}deployment")


def _check_sides(file: File, where: str) -> None:
    for index, entry in enumerate(file.models):
        if entry.deployment is not None:
            _check_choice(entry.deployment, (LOCAL, REMOTE), f"{where}: models[{index}].deployment")


def _check_choice(value: str, choices: tuple[str, ...], key: str) -> None:
    spelled = strategy_spelling(value) if key.endswith("strategy") else value
    if spelled not in choices:
        near = difflib.get_close_matches(spelled, choices, 1, 0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"{key} = {value!r}: {hint}expected one of {', '.join(choices)}")


_TOKEN = re.compile(r"[\x21-\x7e]{16,}")
_DNS_CHOICES = {"type": ("A", "AAAA", "SRV"), "scheme": ("http", "https")}


def _check_discovery(file: File, where: str, engines: tuple[str, ...]) -> None:
    for key, token in (("control.token", file.control.token), ("registration.token", file.registration.token)):
        if token is not None and not _TOKEN.fullmatch(token):
            raise ConfigError(
                f"{where}: {key}: expected at least 16 printable ASCII characters without spaces; "
                "`openssl rand -hex 32` makes one"
            )
    for network in file.registration.allow:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            expected = f"expected a network such as 10.0.0.0/8: {error}"
            raise ConfigError(f"{where}: registration.allow: {network!r}: {expected}") from None
    for index, entry in enumerate(file.discovery.dns):
        key = f"{where}: discovery.dns[{index}]"
        for name, choices in _DNS_CHOICES.items():
            _check_choice(getattr(entry, name), choices, f"{key}.{name}")
        _check_worker(entry, f"{key}.", engines)
        if entry.url or entry.id:
            raise ConfigError(f"{key}: url and id are made of what the name leads to; take them out")
        if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})", entry.name):
            raise ConfigError(f"{key}.name = {entry.name!r}: expected a DNS name")
        if entry.type != "SRV" and entry.port is None:
            raise ConfigError(f"{key}.port: is missing; only SRV records name the port themselves")
        _check_name_server(entry.server, key)


def _check_name_server(server: str | None, key: str) -> None:
    if server is None:
        return
    try:
        ipaddress.ip_address(split_bind(server)[0])
    except ValueError:
        raise ConfigError(f"{key}.server = {server!r}: expected ADDRESS:PORT, such as 127.0.0.1:8600") from None


def _check_room_for_requests(routing: Routing, limits: Limits, where: str) -> None:
    """The largest request must fit into what the script's memory has left in the worst case, which is half of it: Lua
    cannot refuse what it is handed."""
    chars = 3 * limits.field_chars + (routing.prompt_chars if routing.expose_prompt else 0)
    largest = limits.metadata_pairs * limits.field_chars + 2 * limits.header_bytes + 4 * chars
    if largest > routing.script_memory_bytes // 2:
        key = "routing.prompt_chars" if 4 * routing.prompt_chars > largest // 2 else "limits.field_chars"
        raise ConfigError(
            f"{where}: routing.script_memory_bytes = {routing.script_memory_bytes}: expected at least {2 * largest}, "
            f"as half of it must hold the largest request that {key} and the other limits allow"
        )


def _check_timezone(name: str | None, where: str) -> None:
    if name is None:
        return
    try:
        zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        near = difflib.get_close_matches(name, zoneinfo.available_timezones(), 1, 0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"{where}: routing.timezone = {name!r}: {hint}expected the name of a time zone, such as 'Europe/Berlin'"
        ) from None


def _check_bind(bind: str, allowed: bool, where: str, section: str) -> None:
    try:
        host, _ = split_bind(bind)
    except ValueError:
        also = " or unix:PATH" if section == "control" else ""
        expected = f"expected HOST:PORT{also}, such as 127.0.0.1:8881"
        raise ConfigError(f"{where}: {section}.bind = {bind!r}: {expected}") from None
    if not is_loopback(host) and not allowed:
        raise ConfigError(
            f"{where}: {section}.bind = {bind!r}: this address can be reached from other machines and no API keys are "
            f"configured; bind to 127.0.0.1, {'set control.token, ' if section == 'control' else ''}"
            f"or set {section}.allow_unauthenticated = true if the network is trusted"
        )


def is_loopback(host: str) -> bool:
    """Can this address be reached from this machine alone?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _script_path(given: Path | None, configured: str | None, folder: Path, where: str) -> Path | None:
    if given is not None:
        return given.absolute()
    if configured is not None:
        return _absolute(folder, configured, f"{where}: routing.script")
    default = HOME.expanduser() / "routing.lua"
    return default if default.exists() else None


def _absolute(folder: Path, name: str, key: str) -> Path:
    try:
        return (folder / Path(name).expanduser()).absolute()
    except RuntimeError:
        raise ConfigError(f"{key} = {name!r}: there is no such user's home") from None


def _name_workers(
    entries: tuple[WorkerEntry, ...], where: str, folder: Path, engines: tuple[str, ...], source: str = "config"
) -> tuple[WorkerSpec, ...]:
    specs: dict[str, WorkerSpec] = {}
    for index, entry in enumerate(entries):
        key = f"workers[{index}]."
        _check_worker(entry, f"{where}: {key}", engines)
        spec = _name_worker(entry, where, key, folder, source)
        if spec.id in specs:
            raise ConfigError(f"{where}: {key}id = {spec.id!r}: another worker has this id; ids must differ")
        specs[spec.id] = spec
    return tuple(specs.values())


def _name_worker(entry: WorkerEntry, where: str, key: str, folder: Path, source: str) -> WorkerSpec:
    """One finished worker. `key` is what stands before the names of its keys in errors."""
    url = _clean_url(entry.url, where, key.rstrip("."))
    worker_id = entry.id if entry.id is not None else urlsplit(url).netloc
    if not re.fullmatch(r"[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]{0,63}", worker_id):
        raise ConfigError(
            f"{where}: {key}id = {worker_id!r}: expected 1 to 64 letters, digits, '.', '_', ':' or '-'"
        )
    ca_file = str(_absolute(folder, entry.ca_file, f"{where}: {key}ca_file")) if entry.ca_file else None
    if ca_file and not Path(ca_file).is_file():
        raise ConfigError(f"{where}: {key}ca_file = {entry.ca_file!r}: no such file")
    if entry.api_key is not None and not re.fullmatch(r"[\x21-\x7e]+", entry.api_key):
        raise ConfigError(f"{where}: {key}api_key: expected printable ASCII without spaces, got something else")
    values = worker_values(entry) | {"id": worker_id, "url": url, "ca_file": ca_file, "source": source}
    return WorkerSpec(**values)


def worker_values(entry: WorkerEntry) -> dict[str, Any]:
    """The fields of a WorkerSpec as an entry has them."""
    values = {name: getattr(entry, name) for name in WorkerEntry.__struct_fields__}
    measured = entry.performance == "auto"
    return values | {
        "api_key": _hidden(entry.api_key), "measure_performance": measured,
        "performance": None if measured else entry.performance,
        "deployment": entry.deployment or usual_side(entry.engine, entry.url),
    }  # fmt: skip


def _registry(file: File, specs: tuple[WorkerSpec, ...], where: str) -> Models:
    """The models of the file, each name and alias in one place only."""
    if not file.models:
        return NO_MODELS
    names = {entry.name: index for index, entry in reversed(list(enumerate(file.models)))}
    aliases: dict[str, str] = {}
    known = [spec.id for spec in specs]
    for index, entry in enumerate(file.models):
        key = f"{where}: models[{index}]"
        first, most = names[entry.name], file.limits.field_chars
        if first != index:
            raise ConfigError(f"{key}.name = {entry.name!r}: models[{first}] has this name; names must differ")
        for field, texts in (("name", (entry.name,)), ("aliases", entry.aliases), ("workers", entry.workers)):
            for text in texts:
                if not text or len(text) > most:
                    raise ConfigError(f"{key}.{field}: {text[:100]!r}: expected 1 to {most} characters")
        for alias in entry.aliases:
            other = alias if alias in names else aliases.get(alias)
            if other is not None:
                taken = "there is a model of this name" if alias in names else f"it is an alias of {other!r} already"
                raise ConfigError(f"{key}.aliases: {alias!r}: {taken}; expected a name that nothing else has")
            aliases[alias] = entry.name
        for worker_id in entry.workers:
            if "*" not in worker_id and worker_id not in known and not may_find_workers(file):
                near = difflib.get_close_matches(worker_id, known, 1, 0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
                raise ConfigError(
                    f"{key}.workers: {worker_id!r}: no worker has this id; {hint} (* stands for any text)"
                )
    return Models(Model(**msgspec.structs.asdict(entry)) for entry in file.models)


def _clean_url(url: str, where: str, key: str, name: str = "url") -> str:
    """The base that request paths are appended to: no trailing slash, no /v1, which people often paste with it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    shown = url if "@" not in url else url.partition("://")[0] + "://...@" + url.rpartition("@")[2]
    plain = parts.scheme in ("http", "https") and parts.hostname
    extra = parts.query or parts.fragment or "@" in url or port == 0
    if not plain or extra or not re.fullmatch(r"[\x21-\x7e]+", url):
        name = f"{key}.{name}" if key else name
        raise ConfigError(f"{where}: {name} = {shown!r}: expected http://HOST:PORT or https://HOST[:PORT]")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
