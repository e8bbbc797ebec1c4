"""What the types of a configuration cannot say: addresses, choices, tokens, and values that do not fit together.

`loading` calls `check_file` and `check_discovery` for a whole file, `workers` `check_worker` for one entry. Each raises
ConfigError with the key, the value and what was expected, and changes nothing.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import zoneinfo

from rbeerouter.config.sections import ConfigError, File, Limits, ProfileEntry, Routing, WorkerEntry
from rbeerouter.config.strategies import Names, StrategyError
from rbeerouter.config.values import (
    NEVER_PASSED,
    NEVER_PASSED_PREFIXES,
    is_loopback,
    minutes_of_day,
    split_bind,
)
from rbeerouter.core.types import LOCAL, REMOTE

_ZMQ_ENDPOINT = re.compile(r"tcp://(?:[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})")
_NAME = re.compile(r"[a-z0-9!#$%&'+.^_`|~-]+")
_PROFILE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NAME_OR_PREFIX = re.compile(rf"{_NAME.pattern}\*?")
_CHOICES = {"isolation": ("none", "process"), "reload_gate": ("off", "check", "test"), "log_users": ("hashed", "plain"),
            "log_sessions": ("plain", "hashed")}


def check_file(file: File, where: str, strategies: Names | None) -> None:
    """What types cannot say: addresses, names of strategies, combinations."""
    _check_bind(file.server.bind, file.server.allow_unauthenticated, where, "server")
    if file.control.bind == "unix:" or not file.control.bind.startswith("unix:"):
        protected = file.control.allow_unauthenticated or file.control.token is not None
        _check_bind(file.control.bind, protected, where, "control")
    _check_strategies(file, where, strategies)
    for key, choices in _CHOICES.items():
        _check_choice(getattr(file.routing, key), choices, f"{where}: routing.{key}")
    _check_choice(file.routing.strategies.fairness.by, ("user", "key"), f"{where}: routing.strategies.fairness.by")
    _check_timezone(file.routing.timezone, where)
    _check_time_of_day(file.routing.ledger_at, f"{where}: routing.ledger_at")
    _check_sides(file, where)
    kv_events, table = file.routing.strategies.kv_events, f"{where}: routing.strategies.kv_events"
    _check_kv_events(kv_events.endpoint, kv_events.replay, f"{table}.endpoint", f"{table}.replay", "{host}")
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


def check_worker(entry: WorkerEntry, key: str, engines: tuple[str, ...]) -> None:
    """What types cannot say of one worker. `key` is what stands before the names of its keys."""
    if engines:
        _check_choice(entry.engine, ("auto", *engines), f"{key}engine")
    if isinstance(entry.performance, str) and entry.performance != "auto":
        raise ConfigError(
            f"{key}performance = {entry.performance!r}: expected a number of tokens per second, or 'auto'"
        )
    if entry.deployment is not None:
        _check_choice(entry.deployment, (LOCAL, REMOTE), f"{key}deployment")
    _check_kv_events(entry.kv_events, entry.kv_replay, f"{key}kv_events", f"{key}kv_replay", "")


def _check_kv_events(endpoint: str | None, replay: str | None, key: str, replay_key: str, host: str) -> None:
    """host: what may stand in the place of a host."""
    for name, text in ((key, endpoint), (replay_key, replay)):
        match = _ZMQ_ENDPOINT.fullmatch(text.replace(host, "host") if host else text) if text is not None else None
        if text is not None and (match is None or not 0 < int(match[1]) < 65_536 - 64):
            raise ConfigError(f"{name} = {text!r}: expected tcp://{host or 'HOST'}:PORT, such as tcp://10.0.0.7:5557")
    if replay is not None and endpoint is None:
        raise ConfigError(f"{replay_key} = {replay!r}: is of no use without {key.rpartition('.')[2]}")


def _check_sides(file: File, where: str) -> None:
    for index, entry in enumerate(file.models):
        if entry.deployment is not None:
            _check_choice(entry.deployment, (LOCAL, REMOTE), f"{where}: models[{index}].deployment")


def _check_strategies(file: File, where: str, names: Names | None) -> None:
    """Every strategy that is named, and the profiles that name them."""
    named = [("routing.strategy", file.routing.strategy)]
    named += [(f"routing.fallback[{index}]", text) for index, text in enumerate(file.routing.fallback)]
    for index, model in enumerate(file.models):
        key = f"models[{index}]"
        named.append((f"{key}.locked_strategy", model.locked_strategy))
        for name, profile in model.profiles.items():
            _check_profile(name, profile, f"{where}: {key}.profiles.{name}")
            named.append((f"{key}.profiles.{name}.strategy", profile.strategy))
        if model.default_profile is not None and model.default_profile not in model.profiles:
            known = ", ".join(model.profiles) or "none"
            raise ConfigError(
                f"{where}: {key}.default_profile = {model.default_profile!r}: expected one of its profiles: {known}"
            )
    for key, text in named if names is not None else ():
        try:
            if text is not None:
                names.read(text)
        except StrategyError as error:
            raise ConfigError(f"{where}: {key} = {error}") from None
    header = file.routing.client_ip_header
    if header is not None and not re.fullmatch(_NAME, header.lower()):
        raise ConfigError(f"{where}: routing.client_ip_header = {header!r}: expected the name of a header")


def _check_profile(name: str, profile: ProfileEntry, key: str) -> None:
    if not _PROFILE.fullmatch(name) or name == "auto":
        raise ConfigError(f"{key}: expected a name of 1 to 64 letters, digits, '.', '_' and '-' that is not 'auto'")
    for kind in ("prompt_tokens", "max_tokens"):
        least, below = getattr(profile, f"{kind}_gte"), getattr(profile, f"{kind}_lt")
        if least is not None and below is not None and least >= below:
            raise ConfigError(f"{key}.{kind}_lt = {below}: expected more than {kind}_gte, which is {least}")


def _check_choice(value: str, choices: tuple[str, ...], key: str) -> None:
    if value not in choices:
        near = difflib.get_close_matches(value, choices, 1, 0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"{key} = {value!r}: {hint}expected one of {', '.join(choices)}")


_TOKEN = re.compile(r"[\x21-\x7e]{16,}")
_DNS_CHOICES = {"type": ("A", "AAAA", "SRV"), "scheme": ("http", "https")}


def check_discovery(file: File, where: str, engines: tuple[str, ...]) -> None:
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
        check_worker(entry, f"{key}.", engines)
        if entry.url or entry.id:
            raise ConfigError(f"{key}: url and id are made of what the name leads to; take them out")
        if entry.kv_events or entry.kv_replay:
            raise ConfigError(
                f"{key}: kv_events and kv_replay are those of one worker; for all that the name leads to, set "
                "[routing.strategies.kv_events] endpoint and replay"
            )
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


def _check_time_of_day(text: str | None, key: str) -> None:
    try:
        if text is not None:
            minutes_of_day(text)
    except ValueError:
        raise ConfigError(f"{key} = {text!r}: expected a time of day from 00:00 to 23:59, such as '03:15'") from None


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
