"""Text becomes a table of `sections`: TOML is parsed, ${VAR} replaced, unknown keys refused, types checked.

`loading` and `workers` call this. Each refusal names the file, the key, the value and what was expected; an unknown key
is answered with the nearest known one. What the values mean is not judged here.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from pathlib import Path
from typing import Any, TypeVar, get_origin

import msgspec
import tomli

from rbeerouter.config.sections import ConfigError, Section, WorkerEntry, section_of


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomli.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except (tomli.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None


def read_setting(text: str, where: str) -> dict[str, Any]:
    """{"a": {"b": value}} of "a.b=value" on the command line. The value is TOML; plain words need no quotes."""
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]+(\.[A-Za-z_]+)*", key):
        raise ConfigError(f"{where} {text!r}: expected KEY=VALUE")
    try:
        return tomli.loads(f"{key} = {value}")
    except (tomli.TOMLDecodeError, RecursionError) as error:
        if re.fullmatch(r"[A-Za-z][\w -]*", value):
            return tomli.loads(f'{key} = "{value}"')
        raise ConfigError(f"{where} {text!r}: the value is not valid TOML: {error}") from None


_VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?::-([^}]*))?\}|\$\{[^}]*\}?")


def expand(value: Any, where: str, key: str) -> Any:
    """Replaces ${VAR} and ${VAR:-default} in every string; $$ is a plain dollar sign."""
    if isinstance(value, dict):
        return {name: expand(item, where, f"{key}.{name}" if key else name) for name, item in value.items()}
    if isinstance(value, list):
        return [expand(item, where, f"{key}[{index}]") for index, item in enumerate(value)]
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


def convert(raw: dict[str, Any], where: str, kind: type[_Kind]) -> _Kind:
    _refuse_unknown(raw, kind, where, "")
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`").removeprefix(".")
        given = _value_at(raw, path)
        shown = "" if given is _MISSING else f" = {shown_value(path, given)}"
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


def shown_value(path: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"a table with {', '.join(value) or 'no keys'}"
    return "(hidden)" if path.endswith(("api_key", "token")) else repr(value)


@functools.cache
def _fields(section: type[Section]) -> dict[str, msgspec.structs.FieldInfo]:
    """By name. msgspec compiles all annotations for that, which costs more than reading an entry."""
    return {field.encode_name: field for field in msgspec.structs.fields(section)}


def _refuse_unknown(raw: Any, section: type[Section], where: str, key: str) -> None:
    """Refuses keys that no field has, with the nearest one that exists."""
    if not isinstance(raw, dict):
        return
    fields = _fields(section)
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
        if get_origin(kind) is dict and isinstance(value, dict):
            for key_of_table, entry in value.items():
                _refuse_unknown(entry, inner, where, f"{here}.{key_of_table}")
        elif get_origin(kind) is not tuple:
            _refuse_unknown(value, inner, where, here)
        elif isinstance(value, list):
            for index, entry in enumerate(value):
                _refuse_unknown(entry, inner, where, f"{here}[{index}]")
