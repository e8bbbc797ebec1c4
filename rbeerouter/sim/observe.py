"""What routing.log shows of each worker: when it got its requests, how long they were, how long they took.

Called by `calibrate`, which learns a worker's speed from it. It only looks: nothing here knows how an engine works.
What a line does not say is estimated only where the request was load for others, and never counts itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from rbeerouter.record import Line
from rbeerouter.recorded import seconds


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A request as a worker had it. Times are seconds: `sent_s` from the first that is used, the others from there.

    first_s: until the first content; None where nothing was streamed. counts: it was answered well at the first
    attempt and its tokens are known, so that a model of the worker can be held against it; others were load only.
    """

    sent_s: float
    first_s: float | None
    end_s: float
    tokens_in: int
    tokens_out: int
    counts: bool


class Record(msgspec.Struct):
    """What the log has of one worker, in order of sending.

    left_out: lines without any content, as of a worker that refuses: taken for no load at all. without_tokens: lines
    that were answered but do not say how many tokens. older: lines before those that are used. models: by name of the
    model as it was asked for, how many.
    """

    seen: list[Seen]
    left_out: int = 0
    without_tokens: int = 0
    older: int = 0
    models: dict[str, int] = {}

    @property
    def counting(self) -> int:
        return sum(one.counts for one in self.seen)


class _Worker:
    """Gathers the newest lines of a worker."""

    def __init__(self, most: int) -> None:
        self.lines: deque[Line] = deque(maxlen=most)
        self.all = 0


def records(lines: Iterable[Line], most: int) -> dict[str, Record]:
    """{worker id: its record}, of the newest `most` lines of each, by id."""
    gathered: dict[str, _Worker] = {}
    for line in lines:
        if line.worker is not None and line.total_ms is not None:
            worker = gathered.setdefault(line.worker, _Worker(most))
            worker.lines.append(line)
            worker.all += 1
    return {name: _record(worker) for name, worker in sorted(gathered.items())}


def _record(worker: _Worker) -> Record:
    record = Record([], older=worker.all - len(worker.lines))
    told = [line for line in worker.lines if _tokens(line)]
    usual_in, per_token_ms = _middle([line.tokens_in or 0 for line in told]), _per_token_ms(told)
    rows = []
    for line in worker.lines:
        record.models[line.model] = record.models.get(line.model, 0) + 1
        if line.ttft_ms is None:
            record.left_out += 1
            continue
        tokens = _tokens(line)
        if tokens is None and line.outcome == "ok":
            record.without_tokens += 1
        rows.append((_sent(line), line, tokens or _estimated(line, usual_in, per_token_ms)))
    rows.sort(key=lambda row: (row[0], row[1].request_id))
    record.seen = [_seen(sent - rows[0][0], sent, line, tokens) for sent, line, tokens in rows]
    return record


def _seen(sent_s: float, sent: float, line: Line, tokens: tuple[int, int]) -> Seen:
    before_s = sent - seconds(line.time)
    end_s = max(0.0, (line.total_ms or 0.0) / 1000 - before_s)
    first_s = (line.ttft_ms or 0.0) / 1000 - before_s if line.stream else None
    clean = line.outcome == "ok" and line.attempts == 1 and not line.continued and _tokens(line) is not None
    return Seen(sent_s, first_s, end_s, *tokens, clean and end_s > 0 and (first_s is None or first_s > 0))


def _sent(line: Line) -> float:
    """When its last worker got it, Unix seconds: after the queue, and after the attempts before."""
    before_ms = sum(attempt.duration_ms for attempt in (line.tries or [])[:-1])
    return seconds(line.time) + ((line.queue_ms or 0.0) + before_ms) / 1000


def _tokens(line: Line) -> tuple[int, int] | None:
    if not line.tokens_in or not line.tokens_out:
        return None
    return line.tokens_in, line.tokens_out


def _estimated(line: Line, usual_in: float, per_token_ms: float) -> tuple[int, int]:
    """Lengths for a line that does not say them: a usual prompt, and as many tokens as fit into its time."""
    writing_ms = max(0.0, (line.total_ms or 0.0) - (line.ttft_ms or 0.0))
    tokens_out = line.tokens_out or (round(writing_ms / per_token_ms) if per_token_ms else 0)
    return max(1, line.tokens_in or round(usual_in)), max(1, tokens_out)


def _per_token_ms(told: list[Line]) -> float:
    """The usual time from token to token, of streams."""
    rates = [
        ((line.total_ms or 0.0) - (line.ttft_ms or 0.0)) / ((line.tokens_out or 0) - 1)
        for line in told
        if line.stream and line.ttft_ms is not None and (line.tokens_out or 0) > 1
    ]
    return _middle(rates)


def _middle(values: list[float] | list[int]) -> float:
    """Their median; 0 of none."""
    return sorted(values)[len(values) // 2] if values else 0.0
