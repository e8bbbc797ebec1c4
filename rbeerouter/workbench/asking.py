"""`rbeerouter explain`: makes the request out of a file or flags, and decides it on a fleet file when there is one."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from rbeerouter.config.loading import load
from rbeerouter.config.sections import ConfigError, Limits, Routing
from rbeerouter.config.values import utc_offset_s
from rbeerouter.core.errors import RouterError
from rbeerouter.core.models import NO_MODELS
from rbeerouter.core.types import Env
from rbeerouter.routing.decide import Decider, as_configured
from rbeerouter.routing.script import Script, configured_abilities, configured_limits, read_source
from rbeerouter.routing.split import make_split
from rbeerouter.workbench.explain import explain, read_request, render
from rbeerouter.workbench.fleets import read_fleet

_DEFAULT_STRATEGY = "least-request"


def asked(file: Path | None, path: str, headers: Mapping[str, str], **fields: Any) -> dict[str, Any]:
    """What POST /api/v1/explain takes: {"path", "headers", "body"}. A field that is None is left out of the body.

    Raises:
        ConfigError: the file cannot be read or is no JSON object, or there is neither a file nor a model.
    """
    given: Any = {}
    if file is not None:
        try:
            given = msgspec.json.decode(sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes())
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: is not valid JSON: {error}") from None
        if not isinstance(given, dict):
            raise ConfigError(f"{file}: expected a JSON object, the body of a request")
    whole = given if "body" in given and "model" not in given else {"body": given}
    where = file if file is not None else "the request"
    for key in ("body", "headers"):
        if not isinstance(whole.get(key, {}), dict):
            raise ConfigError(f"{where}: {key}: expected a JSON object, got {type(whole[key]).__name__}")
    body = whole["body"] | {name: value for name, value in fields.items() if value is not None}
    if "model" not in body:
        raise ConfigError("there is no request to explain; pass a FILE with its JSON body, or --model NAME")
    return {"path": whole.get("path", path), "headers": {**whole.get("headers", {}), **headers}, "body": body}


def offline(
    given: dict[str, Any], fleet: Path, script: Path | None, config: Path | None
) -> tuple[dict[str, Any], bytes | None]:
    """(the record, the script's text) of a decision on the fleet of a file. Raises ConfigError, ScriptError."""
    settings = load(config) if config is not None else None
    routing = settings.routing if settings is not None else Routing()
    limits = settings.limits if settings is not None else Limits()
    path = script or (settings.script if settings is not None else None)
    zone = routing.timezone
    env = Env(time.monotonic, time.time, random.Random(), lambda: utc_offset_s(zone))
    source = read_source(path) if path is not None else None
    loaded = None
    if source is not None and path is not None:
        abilities = configured_abilities(routing, explain=True)
        loaded = Script(source, path.name, env, configured_limits(routing), abilities)
    models = settings.models if settings is not None else NO_MODELS
    try:
        request = read_request(msgspec.json.encode(given), limits, routing, models)
    except RouterError as error:
        raise ConfigError(f"the request: {error.message}") from None
    strategy = routing.strategy if settings is not None else _DEFAULT_STRATEGY
    decider = Decider(
        read_fleet(fleet), loaded, strategy, env, debug=True, models=models, split=make_split(routing.split, models),
        **as_configured(routing),
    )
    return explain(request, decider), source


def shown(record: Mapping[str, Any], source: bytes | None, as_json: bool) -> str:
    return msgspec.json.encode(record).decode() if as_json else render(record, source)
