"""TOML text becomes one frozen, validated `Config`. Nothing half-applies: any fault refuses the whole file.

`cli` and `server.daemon` call `load`; everything else receives the finished object.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import msgspec

from rbeerouter.config.checks import check_discovery, check_file
from rbeerouter.config.reading import convert, expand, read_toml, shown_value
from rbeerouter.config.sections import (
    Config,
    ConfigError,
    Control,
    Discovery,
    File,
    ModelEntry,
    Secret,
    may_find_workers,
)
from rbeerouter.config.strategies import Names
from rbeerouter.config.values import absolute, hidden
from rbeerouter.config.workers import ca_path, clean_url, name_workers
from rbeerouter.core.models import NO_MODELS, Model, Models, Profile
from rbeerouter.core.types import WorkerSpec

HOME = Path("~/.config/rbee")
"""Where the default files live: config.toml, routing.lua, logs/routing.log."""


def load(
    path: Path | None = None,
    *,
    workers: tuple[str, ...] = (),
    script: Path | None = None,
    bind: str | None = None,
    strategies: Names | None = None,
    engines: tuple[str, ...] = (),
) -> Config:
    """Reads a configuration.

    Args:
        path: a TOML file; None uses ~/.config/rbee/config.toml if it exists, else no file.
        workers, script, bind: what the command line adds to the file, or puts in its place.
        strategies: the names that strategies may have; None: any.
        engines: the names that a worker's engine may have, beside "auto".

    Raises:
        ConfigError: with the file, key, value and what was expected.
    """
    source = path or (HOME.expanduser() / "config.toml")
    if path is None and not source.exists():
        source, raw = None, {}
    else:
        raw = read_toml(source)
    where = str(source) if source else "the command line"
    folder = source.parent if source else Path.cwd()
    raw.setdefault("workers", [])
    if isinstance(raw["workers"], list):
        raw["workers"] += [{"url": url} for url in workers]
    if bind is not None and isinstance(raw.setdefault("server", {}), dict):
        raw["server"]["bind"] = bind
    file = convert(expand(raw, where, ""), where, File)
    check_file(file, where, strategies)
    check_discovery(file, where, engines)
    chosen = _script_path(script, file.routing.script, folder, where)
    log = HOME.expanduser() / "logs" / "routing.log"
    if file.routing.log:
        log = absolute(folder, file.routing.log, f"{where}: routing.log")
    shadow = absolute(folder, file.routing.shadow, f"{where}: routing.shadow") if file.routing.shadow else None
    control = msgspec.structs.replace(
        file.control, bind=_absolute_bind(file.control.bind, folder, where), token=hidden(file.control.token)
    )
    specs = name_workers(file.workers, where, folder, engines)
    return Config(
        source=source, server=file.server, control=control, routing=file.routing, limits=file.limits,
        probes=file.probes, health=file.health, workers=specs, script=chosen, log=log,
        models=_registry(file, specs, where), discovery=_finished_discovery(file.discovery, where, folder),
        state_folder=_state_folder(file, where, folder), shadow=shadow,
        registration=msgspec.structs.replace(file.registration, token=hidden(file.registration.token)),
    )  # fmt: skip


class Access(msgspec.Struct, frozen=True):
    """What commands need to talk to the daemon."""

    bind: str
    token: Secret | None = None
    registration_token: Secret | None = None


def control_access(path: Path | None = None) -> Access:
    """How to reach the control plane: the rest of the file is for the daemon to judge. Raises ConfigError."""
    source = path or (HOME.expanduser() / "config.toml")
    raw = read_toml(source) if path or source.exists() else {}

    def text(section: str, key: str, default: str | None) -> str | None:
        table = raw.get(section, {})
        value = table.get(key, default) if isinstance(table, dict) else table
        if value is not None and not isinstance(value, str):
            expected = "HOST:PORT or unix:PATH" if key == "bind" else "text"
            raise ConfigError(f"{source}: {section}.{key} = {shown_value(key, value)}: expected {expected}")
        return None if value is None else expand(value, str(source), f"{section}.{key}")

    bind = _absolute_bind(text("control", "bind", Control().bind) or "", source.parent, str(source))
    return Access(bind, hidden(text("control", "token", None)), hidden(text("registration", "token", None)))


def _finished_discovery(section: Discovery, where: str, folder: Path) -> Discovery:
    """Paths made absolute, secrets hidden."""
    file = section.workers_file
    return msgspec.structs.replace(
        section, workers_file=str(absolute(folder, file, f"{where}: discovery.workers_file")) if file else None,
        controller=clean_url(section.controller, where, "discovery", "controller") if section.controller else None,
        controller_token=hidden(section.controller_token), controller_api_key=hidden(section.controller_api_key),
        dns=tuple(
            msgspec.structs.replace(
                entry, api_key=hidden(entry.api_key),
                ca_file=ca_path(entry.ca_file, folder, f"{where}: discovery.dns[{index}].ca_file"),
            )
            for index, entry in enumerate(section.dns)
        ),
    )  # fmt: skip


def _state_folder(file: File, where: str, folder: Path) -> Path:
    if file.state.folder:
        return absolute(folder, file.state.folder, f"{where}: state.folder")
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]        # set by systemd's StateDirectory=
    return Path(given) if given else Path("~/.local/state/rbee").expanduser()


def _absolute_bind(bind: str, folder: Path, where: str) -> str:
    """unix:PATH with its path made absolute; any other bind as it is."""
    if not bind.startswith("unix:"):
        return bind
    return f"unix:{absolute(folder, bind.removeprefix('unix:'), f'{where}: control.bind')}"


def _script_path(given: Path | None, configured: str | None, folder: Path, where: str) -> Path | None:
    if given is not None:
        return given.absolute()
    if configured is not None:
        return absolute(folder, configured, f"{where}: routing.script")
    default = HOME.expanduser() / "routing.lua"
    return default if default.exists() else None


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
    return Models(_model(entry) for entry in file.models)


def _model(entry: ModelEntry) -> Model:
    profiles = tuple(Profile(name, **msgspec.structs.asdict(profile)) for name, profile in entry.profiles.items())
    return Model(**msgspec.structs.asdict(entry) | {"profiles": profiles})
