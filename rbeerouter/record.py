"""A finished job becomes one line of routing.log and some counters.

`wire` calls `Recorder.record` exactly once per request, after the client has its answer. Lines are gathered and
written in batches by a thread of their own, so a slow or full disk never holds up a request; what could not be
written is counted. Prompts and completions are never logged, users only as the first 8 hex digits of their SHA-256.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import os
import queue
import sys
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from rbeerouter.config.sections import Routing
from rbeerouter.core.dispatch import CANCELLED, DONE, NEW, Job
from rbeerouter.core.models import NO_MODELS
from rbeerouter.core.seen import Roll, Seen, unpack, whole_ms
from rbeerouter.core.types import READY, SEND, Attempt, Decision, Request, Wishes, Worker
from rbeerouter.dialects.surfaces import KINDS_OF_PATHS
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.panel import CONFIG

_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
Metadata = dict[str, str | int | float | bool]
_MOST_ROWS = 4096
CREDENTIALS = frozenset(("x-api-key", "api-key", "x-goog-api-key", "x-auth-token", "x-access-token", "x-csrf-token"))
"""Headers that a script may be shown, if its owner wants that, but which are keys: no log has them."""
HASHED_SESSION = "~"
"""Before the hash of a session, so that nobody takes it for the name that the client gave."""
SESSION_HEADER = "x-session-id"
_BATCH = 64
"""Jobs whose lines are made in one go: few enough to hold up the loop for some 0.2 ms at most."""


class Decided(msgspec.Struct, omit_defaults=True, frozen=True):
    """What was decided at first. `action` is one of core.types', "refused" where nobody could be had; then `reason` is
    the code of the failure."""

    action: str
    reason: str
    by: str | None = None
    worker: str | None = None


class Called(msgspec.Struct, omit_defaults=True, frozen=True):
    """A call of the script's on_failure (`attempt` and `tried`) or on_complete (`outcome`), as core.seen.Call is."""

    time: str
    n: int
    saw: list[list[Any]] | None = None
    turns: dict[str, Any] | None = None
    attempt: dict[str, Any] | None = None
    tried: tuple[str, ...] = ()
    outcome: dict[str, Any] | None = None


class Line(msgspec.Struct, omit_defaults=True, gc=False):
    """One request in routing.log; docs/config.md explains the fields."""

    time: str
    event: str
    request_id: str
    path: str
    model: str
    outcome: str
    status: int
    asked_model: str | None = None
    user: str | None = None
    stream: bool = False
    worker: str | None = None
    by: str | None = None
    reason: str | None = None
    strategy: str | None = None
    sent_model: str | None = None
    error: str | None = None
    script_error: str | None = None
    attempts: int = 0
    tries: list[Attempt] | None = None
    decision_us: float | None = None
    queue_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    bytes_out: int = 0
    continued: bool = False
    log: tuple[str, ...] = ()
    explanation: list[dict[str, Any]] | None = None
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    model_size: float | None = None
    session: str | None = None
    priority: str | int | None = None
    meta: Metadata | None = None
    meta_cut: bool = False
    headers: dict[str, str] | None = None
    timeout_s: float | None = None
    deployment: str | None = None
    wishes: Wishes | None = None
    client: str | None = None
    run: str | None = None
    n: int | None = None
    saw: list[list[Any]] | None = None
    turns: dict[str, Any] | None = None
    owed: tuple[str, float] | None = None
    decided: Decided | None = None
    calls: list[Called] | None = None


class Inputs(msgspec.Struct, frozen=True):
    """What a line tells of a request beside its answer: what a decision can be made from again.

    kept: is anything of that told? plain_users, plain_sessions: are these told by name rather than by hash?
    metadata_chars: so long may the metadata of a request be, names and texts together; the rest is left out.
    """

    kept: bool = True
    plain_users: bool = False
    metadata_chars: int = 1000
    plain_sessions: bool = True


class LogFile:
    """An append-only file of lines, written by a thread. Never raises, never blocks; counts what it loses.

    Rotation works by renaming the file (a new one is made at the next write) and by copying and truncating it.

    Args:
        backlog_bytes: how much may wait for the disk before further lines are dropped.
    """

    def __init__(self, path: Path, backlog_bytes: int) -> None:
        self.path = path
        self.dropped = 0                                      # because too much was waiting for the disk
        self.unwritten = 0                                    # because the disk refused them
        self.written = 0
        self.begun = 0                                        # files, or the same one emptied: what was before is gone
        self._backlog_bytes = backlog_bytes
        self._lines: list[bytes] = []
        self._taken_bytes = self._handled_bytes = 0           # each is changed by one thread only
        self._lost_told = 0
        self._torn = False
        self._descriptor = -1
        self._size = 0
        self._complained = False
        self._batches: queue.SimpleQueue[tuple[bytes, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_batches, name="routing.log", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines that will never be in the file."""
        return self.dropped + self.unwritten

    def msg(self, lines: bytes) -> None:
        """Takes one line or more, without the last one's end. Named so that structlog can write here."""
        if self._taken_bytes - self._handled_bytes > self._backlog_bytes:
            self.dropped += lines.count(b"\n") + 1
            return
        self._taken_bytes += len(lines) + 1
        self._lines.append(lines)

    def flush(self) -> None:
        """Hands what has been gathered to the thread. Called a few times a second."""
        if self._lines:
            text, self._lines = b"\n".join(self._lines) + b"\n", []
            self._batches.put((text, text.count(b"\n")))

    def close(self, timeout_s: float = 5.0) -> None:
        self.flush()
        self._batches.put(None)
        self._thread.join(timeout_s)

    def _write_batches(self) -> None:
        while (batch := self._batches.get()) is not None:
            text, count = batch
            try:
                self._reopen()
                self._write(self._descriptor, text)
                self.written += count
                self._complained = False
            except OSError as error:
                self.unwritten += count
                self._complain(error)
            self._handled_bytes += len(text)
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _reopen(self) -> None:
        """Opens the file, anew when it has been moved away."""
        if self._descriptor >= 0:
            try:
                ours, there = os.fstat(self._descriptor), os.stat(self.path)
                if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino):
                    self.begun += ours.st_size < self._size
                    self._size = ours.st_size
                    return
            except OSError:
                pass
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
        self._descriptor = open_log(self.path)
        self.begun += 1
        self._size = 0

    def _write(self, descriptor: int, text: bytes) -> None:
        lost = self.lost
        if lost > self._lost_told:
            note = {"time": timestamp(time.time()), "event": "log_lines_lost", "lost": lost - self._lost_told}
            text = _encode(note) + b"\n" + text
        if self._torn:
            text = b"\n" + text
        rest = memoryview(text)
        while rest:
            written = os.write(descriptor, rest)
            self._torn = written < len(rest)
            rest = rest[written:]
        self._lost_told = lost

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            with contextlib.suppress(OSError):
                what = f"{error.strerror}; lines are lost until it can be written"
                print(f"rbeerouter: {self.path}: {what}", file=sys.stderr)


def open_log(path: Path) -> int:
    """Opens a log for appending, as the daemon does. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


class TakesLines(Protocol):
    """What lines can be handed to: a `LogFile`, or whoever writes them elsewhere."""

    def msg(self, lines: bytes) -> None:
        """Takes one line or more, without the last one's end."""


class Recorder:
    """Counts finished jobs and writes their lines.

    Args:
        kept: how many of the newest lines stay in memory, for `find`.

    Attributes:
        outcomes: {outcome: requests}; their sum is the number of requests accepted and of lines written.
        models: what the models cost.
        inputs: what lines tell of requests.
        costs: {worker id: what its answers have cost}.
    """

    def __init__(self, log: TakesLines, kept: int = 1000) -> None:
        self._ended: list[Job] = []
        self._most_kept = kept
        self._kept: deque[list[Any]] = deque()                # [number of lines, their text], as they were written
        self.models = NO_MODELS
        self.inputs = Inputs()
        self.costs: dict[str, float] = {}
        self.outcomes: Counter[str] = Counter()
        self.decided_by: Counter[str] = Counter()
        self.script_errors = 0
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.decision_s, self.ttft_s, self.total_s = Histogram(), Histogram(), Histogram()
        self._log = log
        self._rows: dict[int, msgspec.Raw] = {}
        self._rows_of: list[Worker] = []
        self._run: str | None = None
        logger = structlog.wrap_logger(log, processors=[self._as_json], wrapper_class=structlog.BoundLogger)
        self._write = logger.bind().msg

    def record(self, job: Job) -> None:
        """Takes a job that has ended. Lines are made some at a time: that costs half of making them one by one."""
        self._ended.append(job)
        if len(self._ended) >= _BATCH:
            self.catch_up()

    def catch_up(self) -> None:
        """Makes the lines of the jobs taken so far. Called a few times a second, and before the counters are read."""
        ended, self._ended = self._ended, []
        if ended:
            lines = [self._line(job) for job in ended]
            self._write(lines)

    def enroll(self, roll: Roll, decider: Decider) -> None:
        """Writes the list of workers as a decision saw it, and who decides: what a replay begins with. To be told each
        one at once (`Watch.tell`)."""
        self._run = roll.run
        if not self.inputs.kept:
            return
        script = decider.script
        row = {"time": timestamp(roll.wall), "event": "fleet", "n": roll.n, "run": roll.run, "seed": roll.base}
        row |= {"reloads": decider.reloads, "strategy": decider.strategy.name, "utc_offset_s": decider.utc_offset_s()}
        if decider.panel.source != CONFIG:
            row["source"] = decider.panel.source
        if script is not None:
            row |= {"script": script.hash, "params": script.overrides}
        if decider.figures:
            row["figures"] = decider.figures
        row |= {"workers": roll.workers} if roll.whole else {"order": roll.order, "workers": roll.workers}
        self._log.msg(_encode(row))

    def keep(self, kept: int) -> None:
        """From here on so many lines stay in memory."""
        self._most_kept = kept
        self._forget()

    def find(self, request_id: str) -> dict[str, Any] | None:
        """The line of a request that has ended not too long ago; the latest, when clients have used a name again."""
        self.catch_up()
        left, wanted = self._most_kept, b',"request_id":"%b",' % request_id.encode()
        for count, text in reversed(self._kept):
            if wanted in text:
                for line in reversed(text.split(b"\n")[-left:]):
                    if wanted in line:
                        return msgspec.json.decode(line)
            left -= count
        return None

    def _as_json(self, logger: Any, method: str, event_dict: dict[str, Any]) -> bytes:
        """The last structlog processor: the event is a list of lines. What is kept is their text: the objects would be
        a megabyte that each request walks through."""
        lines = event_dict["event"]
        text = _encode_lines(lines)[:-1]
        if self._most_kept:
            self._kept.append([len(lines), text])
            self._forget()
        return text

    def _forget(self) -> None:
        kept = self._kept
        lines = sum(count for count, _ in kept)
        while kept and lines - kept[0][0] >= self._most_kept:
            lines -= kept.popleft()[0]

    def _cost(self, job: Job, decision: Decision, worker: Worker) -> float | None:
        """What the tokens of an answer cost, which is added to its worker's account."""
        cost = self.models.cost(worker.spec, decision.model or job.request.model, job.tokens_in, job.tokens_out)
        if cost is not None:
            self.costs[worker.id] = self.costs.get(worker.id, 0.0) + cost
        return cost

    def _line(self, job: Job) -> Line:
        request, decision = job.request, job.decision
        outcome = _outcome(job)
        self.outcomes[outcome] += 1
        total_s = (job.finished if job.finished is not None else job.arrived) - job.arrived
        self.total_s.add(total_s)
        user = request.user_id
        if user is not None and not self.inputs.plain_users:
            user = hashed(user)
        line = Line(
            timestamp(job.wall), "request", request.id, request.path, request.model, outcome, job.status,
            request.asked_model, user, request.stream,
            attempts=len(job.attempts), total_ms=_ms(total_s), bytes_out=job.bytes_out,
            tokens_in=job.tokens_in, tokens_out=job.tokens_out,
        )  # fmt: skip
        if job.failure is not None:
            line.error = job.failure.code
        if decision is not None:
            line.by, line.reason, line.log = decision.by, decision.reason, decision.log
            line.script_error, line.explanation = decision.error, decision.explanation
            line.sent_model, strategy = job.sent_model, decision.strategy
            if strategy is not None and strategy not in decision.reason:
                line.strategy = strategy
            worker = decision.worker
            if worker is not None and (
                self.models.priced or worker.price_in is not None or worker.price_out is not None
            ):
                line.cost = self._cost(job, decision, worker)
            line.decision_us = int(job.decision_s * 1e7) / 10
            line.queue_ms = int(job.queue_s * 1e6) / 1000
            self.decided_by[decision.by] += 1
            self.decision_s.add(job.decision_s)
            if decision.error is not None:
                self.script_errors += 1
        if job.first_content is not None:
            ttft_s = job.first_content - job.arrived
            line.ttft_ms = _ms(ttft_s)
            self.ttft_s.add(ttft_s)
        for attempt in job.attempts:
            self.attempts[attempt.worker_id, attempt.result] += 1
            line.worker = attempt.worker_id
        if len(job.attempts) > 1:
            line.tries, line.continued = job.attempts, job.continued
        if self.inputs.kept and job.state != NEW:
            self._add_inputs(line, request)
            if job.seen is not None:
                self._add_seen(line, job, job.seen)
        return line

    def _add_seen(self, line: Line, job: Job, seen: Seen) -> None:
        """What the decision was made from beside the request, and what it was, where the line does not tell it."""
        line.run, line.n, line.turns, line.owed = self._run, seen.n, seen.turns, seen.owed
        if seen.packed or seen.figures:
            line.saw = self._saw(seen)
        first = job.first
        if first is not None and (first.action != SEND or job.decision is not first):
            line.decided = decided(first)
        if job.calls:
            line.calls = [
                Called(
                    timestamp(call.seen.wall), call.seen.n, self._saw(call.seen) or None, call.seen.turns, call.attempt,
                    call.tried, call.outcome,
                )
                for call in job.calls
            ]  # fmt: skip

    def _saw(self, seen: Seen) -> list[Any]:
        """What had changed. The same few workers have the same few requests again and again, so texts are kept."""
        if seen.standings or seen.figures:
            return _long_rows(seen)
        rows, workers = self._rows, seen.workers
        if workers is not self._rows_of:
            rows.clear()
            self._rows_of = workers
        found = []
        for packed in seen.packed:
            row = rows.get(packed)
            if row is None:
                if len(rows) >= _MOST_ROWS:
                    rows.clear()
                row = rows[packed] = msgspec.Raw(_encode(_row(packed, workers)))
            found.append(row)
        return found

    def _add_wishes(self, line: Line, request: Request) -> None:
        """Addresses are people's, and are logged as users are; keys of sessions as sessions."""
        if request.client is not None:
            line.client = request.client if self.inputs.plain_users else hashed(request.client)
        wishes = request.wishes
        if wishes is None:
            return
        if wishes.session_key is not None and not self.inputs.plain_sessions:
            wishes = msgspec.structs.replace(wishes, session_key=HASHED_SESSION + hashed(wishes.session_key))
        line.wishes = wishes

    def _add_inputs(self, line: Line, request: Request) -> None:
        """What the decision knew of the request, beside what the line tells anyhow."""
        line.prompt_tokens, line.max_tokens, line.model_size = (
            request.prompt_tokens, request.max_tokens, request.model_size
        )  # fmt: skip
        line.session, line.priority = request.session_id, request.priority
        line.timeout_s, line.deployment = request.timeout_s, request.deployment
        if request.wishes is not None or request.client is not None:
            self._add_wishes(line, request)
        metadata = request.metadata
        if len(metadata) != 1 or metadata.get("type") != KINDS_OF_PATHS.get(request.path):
            line.meta = metadata
            if len(repr(metadata)) > self.inputs.metadata_chars:                 # in truth it may be shorter
                line.meta, line.meta_cut = _short(metadata, self.inputs.metadata_chars)
        headers = request.headers
        if headers:
            line.headers = headers
            if not CREDENTIALS.isdisjoint(headers):
                line.headers = {name: text for name, text in headers.items() if name not in CREDENTIALS}
        if line.session is not None and not self.inputs.plain_sessions:
            line.session = HASHED_SESSION + hashed(line.session)
            if SESSION_HEADER in (line.headers or ()):
                line.headers = {**line.headers, SESSION_HEADER: line.session}


class Histogram:
    """Counts of durations in buckets that double from 2 microseconds: cheap to fill, exact enough to graph."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * 64                                # 2**63 microseconds: nothing falls out
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        self.sum_s += seconds
        self.counts[int(seconds * 1e6).bit_length()] += 1

    def cumulative(self) -> list[tuple[str, int]]:
        """(upper bound in seconds, durations up to it), as Prometheus wants them, up to about half an hour."""
        total, rows = 0, []
        for index, count in enumerate(self.counts[:32]):
            total += count
            rows.append((repr(1e-6 * 2**index), total))
        return [*rows, ("+Inf", sum(self.counts))]


_second, _second_text = -1, ""


def timestamp(wall: float) -> str:
    """UTC in ISO 8601 with milliseconds; the part that changes once a second is made once a second."""
    global _second, _second_text
    milliseconds = whole_ms(wall)
    second = milliseconds // 1000
    if second != _second:
        _second_text = datetime.datetime.fromtimestamp(second, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _second = second
    return f"{_second_text}.{milliseconds - second * 1000:03d}Z"


def told_inputs(routing: Routing) -> Inputs:
    """What lines tell of requests, as it is configured."""
    return Inputs(
        routing.log_inputs, routing.log_users == "plain", routing.log_metadata_chars, routing.log_sessions == "plain"
    )


def _outcome(job: Job) -> str:
    if job.state == DONE:
        return "ok" if job.status < 400 else "worker_error"
    code = job.failure.code if job.failure else "internal_error"
    if job.state == CANCELLED:
        return "drained" if code == "draining" else code
    untranslatable = job.failure is not None and job.failure.status == 400
    return "upstream_failed" if job.attempts and not untranslatable else "rejected"


def _ms(seconds: float) -> float:
    return int(seconds * 1e6) / 1000


def decided(decision: Decision) -> Decided:
    """A decision as lines tell it."""
    worker = decision.worker
    return Decided(decision.action, decision.reason, decision.by, None if worker is None else worker.id)


def _row(packed: int, workers: list[Worker]) -> list[Any]:
    """[id, in_flight, occupied, status]; what is usual at the end is left out: as many occupied as in flight, READY."""
    index, in_flight, occupied, status = unpack(packed)
    if status != READY:
        return [workers[index].id, in_flight, occupied, status]
    return [workers[index].id, in_flight] if occupied == in_flight else [workers[index].id, in_flight, occupied]


def _long_rows(seen: Seen) -> list[list[Any]]:
    """[id, in_flight, occupied, status, standing, figures], where more than load and status has changed."""
    rows = [_row(packed, seen.workers) for packed in seen.packed]
    found = {row[0]: row for row in rows}
    for place, more in ((4, seen.standings), (5, seen.figures)):
        for index, value in more:
            worker = seen.workers[index]
            row = found.get(worker.id)
            if row is None:                                    # only its report has become older
                row = found[worker.id] = [worker.id, None]
                rows.append(row)
            if len(row) == 2:
                row += (row[1], READY) if row[1] is not None else (None, None)
            elif len(row) == 3:
                row.append(READY)
            row += [None] * (place - len(row))
            row.append(value)
    return rows


def _short(metadata: Metadata, most_chars: int) -> tuple[Metadata, bool]:
    """What fits of it, and whether anything was left out."""
    chars, kept = 0, {}
    for name, value in metadata.items():
        chars += len(name) + (len(value) if type(value) is str else 8)
        if chars > most_chars:
            return kept, True
        kept[name] = value
    return metadata, False


@functools.lru_cache(4096)
def hashed(user_id: str) -> str:
    """The beginning of its SHA-256, as lines name a user."""
    return hashlib.sha256(user_id.encode()).hexdigest()[:8]


def _clean(value: Any) -> Any:
    """File names may hold bytes that are no UTF-8, which JSON cannot."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def event_logger(log: LogFile | None, verbose: bool = True) -> Any:
    """The logger for what happens to the daemon itself: into routing.log, and for a person on standard error."""

    def into_routing_log(logger: Any, method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
        if log is not None:
            fields = {name: _clean(value) for name, value in event_dict.items()}
            log.msg(_encode({"time": timestamp(time.time()), **fields}))
        if not verbose:
            raise structlog.DropEvent
        return event_dict

    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            into_routing_log,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
    )
