"""Entries become workers: the blocks of the configuration, of a workers file, and what comes over the network.

`loading` names the workers of its file here, `control` those of the other sources, `server.registration` those that
announce themselves. What a stranger sent is taken as it stands: no ${VAR} is replaced and no file is opened for it.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from rbeerouter.config.checks import check_worker
from rbeerouter.config.reading import convert, expand, read_toml
from rbeerouter.config.sections import ConfigError, WorkerEntry, WorkersFile
from rbeerouter.config.values import absolute, hidden
from rbeerouter.core.sides import usual_side
from rbeerouter.core.types import WorkerSpec


def read_workers_file(path: Path, engines: tuple[str, ...] = ()) -> tuple[WorkerSpec, ...]:
    """The workers of a file of [[workers]] blocks, or of a JSON list of the same objects. Raises ConfigError."""
    if path.suffix == ".json":
        try:
            raw = msgspec.json.decode(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{path}: is not valid JSON: {error}") from None
        raw = {"workers": raw} if isinstance(raw, list) else raw
    else:
        raw = read_toml(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a list of workers, got {raw!r:.40}")
    file = convert(expand(raw, str(path), ""), str(path), WorkersFile)
    return name_workers(file.workers, str(path), path.parent, engines, "file")


def read_worker(raw: Any, where: str, source: str, engines: tuple[str, ...] = ()) -> WorkerSpec:
    """One worker that came over the network, checked as a [[workers]] block is. Its texts are taken as they stand:
    ${NAME} would hand out the environment, and `ca_file` is a path of somebody else's machine. Raises ConfigError."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected an object with at least url, got {raw!r:.40}")
    if "ca_file" in raw:
        raise ConfigError(f"{where}: ca_file: is a path on this machine and can be set in its own files only")
    for key in ("kv_events", "kv_replay"):
        if key in raw:
            raise ConfigError(f"{where}: {key}: can be set in this machine's own files only; see "
                              "[routing.strategies.kv_events] endpoint for workers from elsewhere")
    entry = convert(raw, where, WorkerEntry)
    check_worker(entry, f"{where}: ", engines)
    return _name_worker(entry, where, "", Path(), source)


def name_workers(
    entries: tuple[WorkerEntry, ...], where: str, folder: Path, engines: tuple[str, ...], source: str = "config"
) -> tuple[WorkerSpec, ...]:
    specs: dict[str, WorkerSpec] = {}
    for index, entry in enumerate(entries):
        key = f"workers[{index}]."
        check_worker(entry, f"{where}: {key}", engines)
        spec = _name_worker(entry, where, key, folder, source)
        if spec.id in specs:
            raise ConfigError(f"{where}: {key}id = {spec.id!r}: another worker has this id; ids must differ")
        specs[spec.id] = spec
    return tuple(specs.values())


def _name_worker(entry: WorkerEntry, where: str, key: str, folder: Path, source: str) -> WorkerSpec:
    """One finished worker. `key` is what stands before the names of its keys in errors."""
    url = clean_url(entry.url, where, key.rstrip("."))
    worker_id = entry.id if entry.id is not None else urlsplit(url).netloc
    if not re.fullmatch(r"[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]{0,63}", worker_id):
        raise ConfigError(
            f"{where}: {key}id = {worker_id!r}: expected 1 to 64 letters, digits, '.', '_', ':' or '-'"
        )
    ca_file = ca_path(entry.ca_file, folder, f"{where}: {key}ca_file")
    if entry.api_key is not None and not re.fullmatch(r"[\x21-\x7e]+", entry.api_key):
        raise ConfigError(f"{where}: {key}api_key: expected printable ASCII without spaces, got something else")
    values = worker_values(entry) | {"id": worker_id, "url": url, "ca_file": ca_file, "source": source}
    return WorkerSpec(**values)


def ca_path(name: str | None, folder: Path, key: str) -> str | None:
    """The absolute path of a file with CA certificates that can be used. It is tried here, so that a bad one refuses
    the list that it stands in and not whatever comes from other lists later. Raises ConfigError."""
    if not name:
        return None
    path = absolute(folder, name, key)
    if not path.is_file():
        raise ConfigError(f"{key} = {name!r}: no such file")
    try:
        ssl.create_default_context(cafile=path)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{key} = {name!r}: not a usable CA certificate: {error}") from None
    return str(path)


def worker_values(entry: WorkerEntry) -> dict[str, Any]:
    """The fields of a WorkerSpec as an entry has them."""
    values = {name: getattr(entry, name) for name in WorkerEntry.__struct_fields__}
    measured = entry.performance == "auto"
    return values | {
        "api_key": hidden(entry.api_key), "measure_performance": measured,
        "performance": None if measured else entry.performance,
        "deployment": entry.deployment or usual_side(entry.engine, entry.url),
    }  # fmt: skip


def clean_url(url: str, where: str, key: str, name: str = "url") -> str:
    """The base that request paths are appended to: no trailing slash, no /v1, which people often paste with it."""
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")                 # what cannot be put so breaks every resolver
    except ValueError:
        parts, port = urlsplit(""), None
    shown = url if "@" not in url else url.partition("://")[0] + "://...@" + url.rpartition("@")[2]
    plain = parts.scheme in ("http", "https") and parts.hostname
    extra = parts.query or parts.fragment or "@" in url or port == 0
    if not plain or extra or not re.fullmatch(r"[\x21-\x7e]+", url):
        name = f"{key}.{name}" if key else name
        raise ConfigError(f"{where}: {name} = {shown!r}: expected http://HOST:PORT or https://HOST[:PORT]")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"


def check_url(url: str, what: str) -> str:
    """A URL of the command line, without slash and /v1 at its end. Raises ConfigError."""
    return clean_url(url, "the command line", "", what)
