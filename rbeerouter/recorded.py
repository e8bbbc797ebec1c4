"""Reads routing.log again: what `record` wrote, line by line, and the request that a line tells of.

Used by everything that looks at yesterday's traffic: replay, workloads, calibration, the ledger. It only reads, keeps
one line in memory, and gets over whatever a log can hold: lines cut by a full disk or a rotation, events, lines of
other versions and of other programs. What it could not read is counted, never passed over in silence.
"""

from __future__ import annotations

import datetime
import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec

from rbeerouter.core.mirror import Mirror
from rbeerouter.core.seen import FIGURES, STATUS_CODES, Roll, Seen, Snapshot, Standing, pack
from rbeerouter.core.types import ANTHROPIC, DATA, OLLAMA, OPENAI, READY, SEND, Request
from rbeerouter.dialects.surfaces import KINDS_OF_PATHS, SURFACES
from rbeerouter.record import Called, Decided, Line
from rbeerouter.routing.panel import CONFIG

_MOST_LINE_BYTES = 16 << 20
"""No line of ours is longer; a file without ends of lines must not fill the memory."""
_MOST_CHARS = 1 << 17
"""No text of a request of ours is longer: what a script is handed must fit into its memory."""
_MOST_IN_FLIGHT = 0x3FFFFF
_FIGURES = frozenset(FIGURES)
_PROTOCOLS = {surface.name: surface.protocol for surface in SURFACES.values()}
_REQUEST = b'"event":"request"'
_decode_line = msgspec.json.Decoder(Line).decode
_decode_event = msgspec.json.Decoder(dict[str, Any]).decode


class Tally(msgspec.Struct):
    """What reading has met.

    lines: of requests. events: other lines of ours. unreadable: lines that are cut or no JSON of ours.
    lost: lines that the daemon itself says it could not write. broken: files that end within a compressed block.
    """

    lines: int = 0
    events: int = 0
    unreadable: int = 0
    lost: int = 0
    broken: list[str] = []


class LogError(Exception):
    """A log that cannot be read at all. The message names the file."""


def read_log(paths: Path | Iterable[Path], tally: Tally | None = None) -> Iterator[Line]:
    """The requests of one log or more, in the order in which they ended; of several, the oldest file first.

    Args:
        paths: plain or gzipped; rotated parts are given one by one, in any order (`routing.log*`).
        tally: counts what was met.

    Raises:
        LogError: a file cannot be opened.
    """
    return (one for one in read_all(paths, tally) if isinstance(one, Line))


def read_all(paths: Path | Iterable[Path], tally: Tally | None = None) -> Iterator[Line | dict[str, Any]]:
    """As `read_log`, with the other lines, which are events, as they are: {"time": ..., "event": ..., ...}."""
    tally = tally if tally is not None else Tally()
    for path in in_order([paths] if isinstance(paths, Path) else paths):
        for text in _texts(path, tally):
            one = _read(text)
            if one is None:
                tally.unreadable += 1
                continue
            if isinstance(one, Line):
                tally.lines += 1
            else:
                tally.events += 1
                lost = one.get("lost")
                if one["event"] == "log_lines_lost" and isinstance(lost, int):
                    tally.lost += lost
            yield one


def in_order(paths: Iterable[Path]) -> list[Path]:
    """The files by the time of their first readable line; those that have none come first. Raises LogError."""
    begun = {}
    for path in paths:
        first = next((one for one in map(_read, _texts(path, Tally())) if one is not None), None)
        begun[path] = "" if first is None else first.time if isinstance(first, Line) else first["time"]
    return sorted(begun, key=lambda path: (begun[path], str(path)))


def seconds(time: str) -> float:
    """Unix seconds of a line's `time`: the very number that `timestamp()` of the script gave. Raises ValueError."""
    return datetime.datetime.fromisoformat(time).timestamp()


def request_of(line: Line) -> Request:
    """The request that a line tells of, as the decision knew it, but for the prompt, which is never logged, and the
    user, which is a hash unless `[routing] log_users` says otherwise. Raises ValueError: no request is so long."""
    path = line.path
    metadata = line.meta
    if metadata is None:
        metadata = {"type": KINDS_OF_PATHS[path]} if path in KINDS_OF_PATHS else {}
    elif len(repr(metadata)) > _MOST_CHARS:
        raise ValueError("metadata of a size that no request has")
    if len(line.model) + len(path) + len(line.user or "") + len(line.session or "") > _MOST_CHARS:
        raise ValueError("names of a size that no request has")
    return Request(
        id=line.request_id, path=path, model=line.model, model_size=line.model_size, user_id=line.user,
        priority=line.priority, max_tokens=line.max_tokens, stream=line.stream, metadata=metadata,
        session_id=line.session, prompt_tokens=line.prompt_tokens, headers=line.headers or {},
        protocol=protocol_of(path), asked_model=line.asked_model, timeout_s=line.timeout_s, deployment=line.deployment,
        client=line.client, wishes=line.wishes,
    )  # fmt: skip


def decided_of(line: Line) -> Decided:
    """What was decided at first about a request that was decided about."""
    if line.decided is not None:
        return line.decided
    if line.by is None:
        return Decided("refused", line.error or "")
    return Decided(SEND, line.reason or "", line.by, line.tries[0].worker_id if line.tries else line.worker)


class Enrolled(msgspec.Struct):
    """A list of workers in the log, with who decided.

    script: the hash of the script; figures: those that it reads, which `saw` tells; params: those that were set.
    reloads: of this daemon until then. strategy: the one in force, and source: who said so, as `Panel` has it.
    """

    roll: Roll
    reloads: int
    strategy: str
    source: str
    script: str | None
    figures: tuple[str, ...]
    params: dict[str, float]
    utc_offset_s: int


class _Enrolled(msgspec.Struct):
    time: str
    n: Annotated[int, msgspec.Meta(ge=0)]
    run: str
    seed: int
    workers: tuple[Snapshot, ...]
    strategy: str
    source: str = CONFIG
    reloads: int = 0
    utc_offset_s: int = 0
    order: tuple[str, ...] | None = None
    script: str | None = None
    figures: tuple[str, ...] = ()
    params: dict[str, float] = {}


def enrolled_of(event: dict[str, Any]) -> Enrolled:
    """What an event "fleet" tells. Raises ValueError."""
    row = msgspec.convert(event, _Enrolled)
    for one in row.workers:
        if one.capacity < 1:
            raise ValueError(f"{one.id}: a capacity of {one.capacity}")
        _check_load(one.in_flight, one.occupied, one.status)
        _check_standing(one.standing)
    order = tuple(one.id for one in row.workers) if row.order is None else row.order
    if len(set(order)) != len(order):
        raise ValueError("two workers of one name")
    roll = Roll(row.n, seconds(row.time), row.run, row.seed, row.order is None, order, row.workers)
    return Enrolled(roll, row.reloads, row.strategy, row.source, row.script, row.figures, row.params, row.utc_offset_s)


def seen_of(row: Line | Called, mirror: Mirror, roll: Roll | None = None) -> Seen:
    """What a decision or a call saw.

    Args:
        roll: the list of workers that belongs to this decision; the mirror must have taken it already.

    Raises:
        UnknownWorker: it saw one that the mirror does not know. ValueError: nobody can have seen that.
    """
    workers, packed, standings, figures = mirror.workers, [], [], []
    for told in row.saw or ():
        if not 1 <= len(told) <= 1 + len(_NOTHING):
            raise ValueError(f"a worker with {len(told)} values")
        worker_id, *rest = told
        worker = workers.get(worker_id) if isinstance(worker_id, str) else None
        if worker is None:
            raise UnknownWorker(str(worker_id)[:100])
        in_flight, occupied, status, standing, measured = [*rest, *_NOTHING[len(rest):]]
        if in_flight is not None:
            taken = in_flight if occupied is None else occupied
            status = READY if status is None else status
            _check_load(in_flight, taken, status)
            packed.append(pack(worker.index, in_flight, taken, status))
        if standing is not None:
            standings.append((worker.index, _check_standing(msgspec.convert(standing, Standing))))
        if measured is not None:
            figures.append((worker.index, _check_figures(measured)))
    owed = row.owed if isinstance(row, Line) else None
    return Seen(
        row.n or 0, seconds(row.time), mirror.ordered, packed, tuple(standings), tuple(figures), roll, row.turns, owed
    )


_NOTHING = (None,) * 5


class UnknownWorker(ValueError):
    """A line tells of a worker that no list has told of: the list is lost, or another daemon wrote the line."""


def _check_load(in_flight: Any, occupied: Any, status: Any) -> None:
    for count in (in_flight, occupied):
        if type(count) is not int or not 0 <= count <= _MOST_IN_FLIGHT:
            raise ValueError(f"{count!r} requests")
    if status not in STATUS_CODES:
        raise ValueError(f"a status {status!r}")


def _check_standing(standing: Standing) -> Standing:
    if standing.standing not in STATUS_CODES or standing.foreign < 0:
        raise ValueError(f"a standing {standing!r}")
    return standing


def _check_figures(figures: Any) -> dict[str, Any]:
    if type(figures) is not dict or not _FIGURES.issuperset(figures):
        raise ValueError("figures that no worker has")
    if not all(value is None or isinstance(value, float | int) for value in figures.values()):
        raise ValueError("figures that are no numbers")
    return figures


def protocol_of(path: str) -> str:
    """The protocol of whoever asks for a path."""
    known = _PROTOCOLS.get(path)
    if known is not None:
        return known
    if path.startswith("/v1/messages"):
        return ANTHROPIC
    if not path.startswith("/api/"):
        return OPENAI
    return DATA if path.startswith("/api/v1/") else OLLAMA


def _read(text: bytes) -> Line | dict[str, Any] | None:
    """A line of ours; None for anything else."""
    try:
        if _REQUEST in text[:100]:
            line = _decode_line(text)
            seconds(line.time)
            return line
        event = _decode_event(text)
        if not isinstance(event.get("time"), str) or not isinstance(event.get("event"), str):
            return None
        seconds(event["time"])
        return event
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None


def _texts(path: Path, tally: Tally) -> Iterator[bytes]:
    """The lines of a file, without empty ones."""
    try:
        with opened(path) as file:
            while text := file.readline(_MOST_LINE_BYTES):
                if not text.isspace():
                    yield text
    except (EOFError, zlib.error, gzip.BadGzipFile):
        tally.broken.append(str(path))
    except OSError as error:
        raise LogError(f"{path}: cannot be read: {error.strerror or error}") from None


def opened(path: Path) -> IO[bytes]:
    """A log's text, unpacked where it is gzipped. Raises OSError."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")
