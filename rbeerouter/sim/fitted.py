"""What `calibrate` found out about a worker, and how it is told: as TOML for `simulate --workers`, as a table, as JSON.

The TOML has the fields of `types.Profile` under [workers.ID], each with a comment of how well it predicts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from rbeerouter.config.sections import ConfigError
from rbeerouter.sim.types import Profile

TOLD = ("step_s", "sequence_s", "prefill_s", "context_s", "overhead_s", "slots", "batch_tokens")
_DEFAULT = Profile()
_NAMES = ("TTFT p50", "TTFT p95", "e2e p50", "e2e p95", "typical")


class Errors(msgspec.Struct, frozen=True):
    """How far simulated times are from those of the log, relative: 0.1 is 10 % too long; None: nothing to compare.

    typical: the median over requests of how far the end is off, without sign.
    """

    ttft_p50: float | None = None
    ttft_p95: float | None = None
    e2e_p50: float | None = None
    e2e_p95: float | None = None
    typical: float | None = None


class Fitted(msgspec.Struct):
    """A worker's profile and what to think of it.

    lines: of the log, as many as were used; counting: of those, how many the fit was held against. profile: None where
    nothing could be told. fit, held_back: the errors on the part that was fitted, and on the later part that was not.
    notes: what could not be told and what was assumed.
    """

    worker: str
    lines: int
    counting: int
    profile: Profile | None = None
    fit: Errors | None = None
    held_back: Errors | None = None
    notes: list[str] = []


def toml(fitted: Sequence[Fitted], source: str) -> str:
    """The file for `simulate --workers`. source: where the numbers come from, in words."""
    blocks = [f"# Written by `rbeerouter routing calibrate` from {source}.\n"]
    for one in fitted:
        lines = []
        if one.profile is None:
            lines.append(f"# {one.worker}")
        else:
            lines.append(f"[workers.{_key(one.worker)}]")
            lines.append(f"# {one.counting} requests of {one.lines} lines")
            lines += [f"# {what}: {_errors_text(errors)}" for what, errors in _parts(one)]
        lines += [f"# {note}" for note in one.notes]
        if one.profile is not None:
            lines += [f"{name} = {value}" for name, value in _values(one.profile).items()]
        blocks.append("\n".join([*lines, ""]))
    return "\n".join(blocks)


def write(path: Path, fitted: Sequence[Fitted], source: str) -> None:
    """Puts the TOML into a file, whole or not at all. Raises ConfigError."""
    beside = path.with_name(path.name + ".new")
    try:
        beside.write_text(toml(fitted, source))
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"--out {path}: cannot be written: {error.strerror}") from None


def table(fitted: Sequence[Fitted]) -> str:
    """For a terminal: a worker's numbers, how well they predict, and what is to be said about them."""
    lines = []
    for one in fitted:
        lines.append(f"{one.worker}: {one.counting} requests of {one.lines} lines")
        if one.profile is not None:
            for name, text in _shown(one.profile):
                lines.append(f"  {name:<28}{text:>12}")
            lines.append(f"  {'error':<28}{''.join(f'{name:>12}' for name in _NAMES)}")
            for what, errors in _parts(one):
                lines.append(f"  {what:<28}{''.join(f'{text:>12}' for text in _error_texts(errors))}")
        lines += [f"  - {note}" for note in one.notes]
        lines.append("")
    return "\n".join(lines).rstrip("\n")


def as_json(fitted: Sequence[Fitted], source: str) -> str:
    workers: dict[str, Any] = {}
    for one in fitted:
        values = msgspec.to_builtins(one)
        del values["worker"]
        workers[one.worker] = values
    return json.dumps({"log": source, "workers": workers}, indent=2)


def _values(profile: Profile) -> dict[str, str]:
    """What is written: all that the fit has told or was told, and whatever else is not as usual."""
    names = [*TOLD, *(name for name in ("kv_tokens",) if getattr(profile, name) != getattr(_DEFAULT, name)), "source"]
    return {name: _literal(getattr(profile, name)) for name in names}


def _literal(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if "." in f"{value:.4g}" or "e" in f"{value:.4g}" else f"{value:.4g}.0"
    return json.dumps(value)


def _key(worker: str) -> str:
    return worker if re.fullmatch(r"[A-Za-z0-9_-]+", worker) else json.dumps(worker)


def _parts(one: Fitted) -> list[tuple[str, Errors]]:
    parts = [("on the part that was fitted", one.fit), ("on the part held back", one.held_back)]
    return [(what, errors) for what, errors in parts if errors is not None]


def _shown(profile: Profile) -> list[tuple[str, str]]:
    return [
        ("a step", _duration(profile.step_s)),
        ("  for each sequence", _duration(profile.sequence_s)),
        ("  for each prompt token", _duration(profile.prefill_s)),
        ("  for 1000 tokens of context", _duration(profile.context_s * 1000)),
        ("before it begins", _duration(profile.overhead_s)),
        ("slots", str(profile.slots)),
    ]


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds >= 0.0001 else f"{seconds * 1e6:.3g} us"


def _error_texts(errors: Errors) -> list[str]:
    values = [errors.ttft_p50, errors.ttft_p95, errors.e2e_p50, errors.e2e_p95]
    typical = "-" if errors.typical is None else f"{errors.typical:.1%}"
    return [*("-" if value is None else f"{value:+.1%}" for value in values), typical]


def _errors_text(errors: Errors) -> str:
    return ", ".join(f"{name} {text}" for name, text in zip(_NAMES, _error_texts(errors), strict=True))
