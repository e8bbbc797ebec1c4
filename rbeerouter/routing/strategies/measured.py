"""What the strategies of `figures` and `economy` remember of traffic, one memory for each thing.

All are told of a job in constant time, hold one record for each worker, and forget workers that are gone and what was
measured of a process that has been replaced since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import exp2
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import msgspec

from rbeerouter.core.memory import Memory
from rbeerouter.core.types import Request, Worker

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Job
    from rbeerouter.core.errors import Failure

_MOST_MODELS = 256
"""Names of models of which lengths are kept; clients may ask for anything."""
_NEWEST = 0.05
"""What the newest request weighs in a mean length, once twenty are known: lengths change with the hour, not faster."""
USUAL_PROMPT_TOKENS, USUAL_ANSWER_TOKENS = 512, 256
"""What is taken for the mean before the first answer has told its length."""
_FORGOTTEN = 1e-6
"""So much of one request says nothing any more: twenty half-lives have gone by."""
_POINTS = 512
"""Moments that are kept of a window at most: more than that are told apart by a 500th of it."""


class Lookback(msgspec.Struct, frozen=True):
    """How far back a memory looks: its window or half-life, in seconds."""

    seconds: float


class Record:
    """What is kept of one worker, and of which of its processes."""

    __slots__ = ("generation",)

    def __init__(self, generation: int) -> None:
        self.generation = generation


R = TypeVar("R", bound=Record)


class OfWorkers(Memory, Generic[R]):
    """A memory with a record for each worker."""

    def __init__(self, options: msgspec.Struct | None = None) -> None:
        super().__init__(options)
        self.records: dict[Worker, R] = {}

    def new(self, worker: Worker, now: float) -> R:
        """A record in which nothing stands yet."""
        raise NotImplementedError

    def record(self, worker: Worker, now: float) -> R:
        """For the memory itself; a strategy reads `records`, as it changes nothing."""
        found = self.records.get(worker)
        if found is None or found.generation != worker.generation:
            found = self.records[worker] = self.new(worker, now)
        return found

    def tick(self, now: float, workers: Iterable[Worker]) -> None:
        here = list(workers)
        if len(self.records) > len(here) or any(worker.index < 0 for worker in self.records):
            kept = set(here)
            self.records = {worker: one for worker, one in self.records.items() if worker in kept}
        for worker in here:
            self.record(worker, now)


def is_good(job: Job, failure: Failure | None) -> bool:
    """Does this answer tell how fast a worker is? A refusal comes fast and tells nothing."""
    return failure is None and job.status < 400


class Mean:
    """The mean of what came last: of all at first, then of about twenty."""

    __slots__ = ("count", "value")

    def __init__(self) -> None:
        self.count, self.value = 0, 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += max(_NEWEST, 1 / self.count) * (value - self.value)


class Lengths(Memory):
    """How many tokens prompts and answers have on average: of all models, and the answers of each."""

    def __init__(self, options: msgspec.Struct | None = None) -> None:
        super().__init__(options)
        self._prompts, self._answers = Mean(), Mean()
        self._of_models: dict[str, Mean] = {}

    def sent(self, job: Job, worker: Worker, now: float) -> None:
        tokens = job.request.prompt_tokens
        if tokens:
            self._prompts.add(tokens)

    def released(self, job: Job, worker: Worker, failure: Failure | None, now: float) -> None:
        if not is_good(job, failure) or not job.tokens_out:
            return
        self._answers.add(job.tokens_out)
        model = job.request.model
        of_model = self._of_models.get(model)
        if of_model is None:
            if len(self._of_models) >= _MOST_MODELS:
                self._of_models.clear()
            of_model = self._of_models[model] = Mean()
        of_model.add(job.tokens_out)

    @property
    def prompt_tokens(self) -> float:
        return self._prompts.value if self._prompts.count else USUAL_PROMPT_TOKENS

    @property
    def answer_tokens(self) -> float:
        return self._answers.value if self._answers.count else USUAL_ANSWER_TOKENS

    def prompt_of(self, request: Request) -> float:
        """Tokens of this prompt, about."""
        return request.prompt_tokens or self.prompt_tokens

    def answer_of(self, request: Request) -> float:
        """Tokens that the answer will have, about: the mean of its model's, and no more than the client wants."""
        of_model = self._of_models.get(request.model)
        usual = of_model.value if of_model is not None else self.answer_tokens
        most = request.max_tokens
        return usual if most is None or most > usual else max(1, most)


# Busy time


class Busy(Record):
    """When a worker was busy: a line over time that rises while it is, and stays while it is not.

    total: its height at the last corner, where it began to rise if `since` says when. points: (time, height) at the
    corners of the window, and at the last one before it.
    Two straight parts of it, for quick looks: the line ends in `end + rises * time`, and a window that begins before
    `until` does so at `begin + slope * time`, which is `gain` lower when nothing moves.
    """

    __slots__ = ("begin", "end", "gain", "points", "rises", "since", "slope", "total", "until")

    def __init__(self, generation: int, now: float, busy: bool) -> None:
        super().__init__(generation)
        self.total = 0.0
        self.since = now if busy else None
        self.points: deque[tuple[float, float]] = deque(((now, 0.0),))
        self.look(now - 1.0)

    def look(self, begin: float) -> None:
        """Sets the straight parts anew, for windows that begin from then on."""
        points, since = self.points, self.since
        while len(points) > 1 and points[1][0] <= begin:
            points.popleft()
        self.rises = 0.0 if since is None else 1.0
        self.end = self.total - (0.0 if since is None else since)
        at, height = points[0]
        if at > begin:                                       # nothing is known of the time before
            self.slope, self.begin, self.until = 0.0, height, at
        elif len(points) == 1:
            self.slope, self.begin, self.until = self.rises, self.end, float("inf")
        else:
            self.until, after = points[1]
            self.slope = (after - height) / (self.until - at)
            self.begin = height - self.slope * at
        self.gain = self.end - self.begin

    def height(self, time: float) -> float:
        """At a time that is not before the first corner but one."""
        at, height = self.points[0]
        for later, after in self.points:
            if later > time:
                return height + (after - height) * (time - at) / (later - at) if later > at else height
            at, height = later, after
        return self.end + self.rises * time


class BusyTime(OfWorkers[Busy]):
    """For how long each worker had at least one request of ours within the last window.

    It is exact as long as no two changes between busy and idle that follow each other lie closer than a 500th of the
    window; of those that do, the ones between are left out, so it is wrong by less than that, and what is kept is
    bounded.
    """

    def __init__(self, options: Lookback) -> None:
        super().__init__(options)
        self.window_s = options.seconds
        self._least_s = options.seconds / _POINTS

    def new(self, worker: Worker, now: float) -> Busy:
        return Busy(worker.generation, now, worker.in_flight > 0)

    def sent(self, job: Job, worker: Worker, now: float) -> None:
        busy = self.record(worker, now)
        if busy.since is None:
            busy.since = now
            self._corner(busy, now)

    def released(self, job: Job, worker: Worker, failure: Failure | None, now: float) -> None:
        busy = self.record(worker, now)
        if busy.since is not None and not worker.in_flight:
            busy.total += now - busy.since
            busy.since = None
            self._corner(busy, now)

    def _corner(self, busy: Busy, now: float) -> None:
        points = busy.points
        if len(points) > 1 and now - points[-2][0] < self._least_s:
            points.pop()
        points.append((now, busy.total))
        busy.look(now - self.window_s)

    def tick(self, now: float, workers: Iterable[Worker]) -> None:
        super().tick(now, workers)
        begin = now - self.window_s
        for busy in self.records.values():
            if busy.until <= begin:
                busy.look(begin)

    def shares(self, workers: list[Worker], now: float) -> list[float]:
        """Of the last window, from 0 to 1, for each worker. A time of which nothing is known counts as idle."""
        get, begin, window_s = self.records.get, now - self.window_s, self.window_s
        return [
            0.0 if (busy := get(worker)) is None
            else (busy.gain + busy.rises * now - busy.slope * begin) / window_s if begin < busy.until
            else (busy.end + busy.rises * now - busy.height(begin)) / window_s
            for worker in workers
        ]  # fmt: skip


# Latency


class Latency(Record):
    """A moving average of whole answers' times in seconds, and when it was made; None: no answer yet."""

    __slots__ = ("at", "mean_s")

    def __init__(self, generation: int) -> None:
        super().__init__(generation)
        self.mean_s: float | None = None
        self.at = 0.0


class Latencies(OfWorkers[Latency]):
    """How long whole answers take on each worker: an average that moves by time, so that it is as old as it is whether
    many answers come or few.

    Attributes:
        known_s: {worker: seconds}, twice a second and with each answer: the older an average is, the nearer it comes to
            the mean of all, so that a worker which was slow once is tried again.
    """

    peak: ClassVar[bool] = False

    def __init__(self, options: Lookback) -> None:
        super().__init__(options)
        self.half_life_s = options.seconds
        self.known_s: dict[Worker, float] = {}

    def new(self, worker: Worker, now: float) -> Latency:
        self.known_s.pop(worker, None)
        return Latency(worker.generation)

    def released(self, job: Job, worker: Worker, failure: Failure | None, now: float) -> None:
        if not is_good(job, failure):
            return
        one, took_s = self.record(worker, now), now - job.sent
        known = one.mean_s
        if known is None or (self.peak and took_s > known):
            one.mean_s = took_s
        else:
            one.mean_s = took_s + (known - took_s) * exp2((one.at - now) / self.half_life_s)
        one.at = now
        self.known_s[worker] = one.mean_s

    def tick(self, now: float, workers: Iterable[Worker]) -> None:
        super().tick(now, workers)
        known = [(worker, one.mean_s, one.at) for worker, one in self.records.items() if one.mean_s is not None]
        if not known:
            self.known_s = {}
            return
        mean = sum(mean_s for _, mean_s, _ in known) / len(known)
        half_life_s = self.half_life_s
        self.known_s = {
            worker: mean + (mean_s - mean) * exp2((at - now) / half_life_s) for worker, mean_s, at in known
        }


class PeakLatencies(Latencies):
    """An average that a slower answer raises to its own time at once, and faster ones lower little by little, as
    Finagle's `PeakEwma` and linkerd's do."""

    peak = True


# Time of a token


class TokenTime(Record):
    """Seconds and tokens that each halve in each half-life.

    prompt_s, prompt_tokens, prompts: until the first content. answer_s, answer_tokens, answers: after it. at: when they
    were brought up to date.
    """

    __slots__ = ("answer_s", "answer_tokens", "answers", "at", "prompt_s", "prompt_tokens", "prompts")

    def __init__(self, generation: int, now: float) -> None:
        super().__init__(generation)
        self.prompt_s = self.prompt_tokens = self.prompts = 0.0
        self.answer_s = self.answer_tokens = self.answers = 0.0
        self.at = now

    def fade(self, now: float, half_life_s: float) -> None:
        left = exp2((self.at - now) / half_life_s)
        self.prompt_s *= left
        self.prompt_tokens *= left
        self.prompts *= left
        self.answer_s *= left
        self.answer_tokens *= left
        self.answers *= left
        self.at = now


class TokenTimes(OfWorkers[TokenTime]):
    """How long a request of the mean length takes on each worker: seconds for each token of a prompt until the first
    content, and for each token after that.

    Attributes:
        known_s: {worker: seconds} of all workers, made anew twice a second. What is measured of one is mixed with the
            mean of all, which counts like one request: so a worker of which nothing is known is an average one, and one
            that was measured long ago becomes one.
        mean_s: of all; None before the first answer.
    """

    def __init__(self, options: Lookback) -> None:
        super().__init__(options)
        self.half_life_s = options.seconds
        self.known_s: dict[Worker, float] = {}
        self.mean_s: float | None = None
        self._prompt_token_s = 0.0

    def new(self, worker: Worker, now: float) -> TokenTime:
        self.known_s.pop(worker, None)
        return TokenTime(worker.generation, now)

    def released(self, job: Job, worker: Worker, failure: Failure | None, now: float) -> None:
        if not is_good(job, failure):
            return
        one, took_s = self.record(worker, now), now - job.sent
        tokens_in = job.request.prompt_tokens if job.tokens_in is None else job.tokens_in
        tokens_out, first = job.tokens_out, job.first_content
        one.fade(now, self.half_life_s)
        if not tokens_out:                                    # all of it is prompt, as in embeddings
            prompt_s = took_s
        elif job.request.stream and first is not None and first >= job.sent:
            prompt_s, tokens_out = first - job.sent, tokens_out - 1
        else:
            prompt_s = min(took_s, self._prompt_token_s * (tokens_in or 0))
            tokens_in = None                                  # it was computed, not measured
        if tokens_in:
            one.prompt_s += prompt_s
            one.prompt_tokens += tokens_in
            one.prompts += 1.0
        if tokens_out:
            one.answer_s += took_s - prompt_s
            one.answer_tokens += tokens_out
            one.answers += 1.0

    def tick(self, now: float, workers: Iterable[Worker]) -> None:
        super().tick(now, workers)
        records = self.records
        for one in records.values():
            one.fade(now, self.half_life_s)
        prompts = sum(one.prompts for one in records.values())
        answers = sum(one.answers for one in records.values())
        if prompts + answers < _FORGOTTEN:
            self.known_s, self.mean_s, self._prompt_token_s = {}, None, 0.0
            return
        prompt_tokens, prompt_s = _mean(records, prompts, "prompt_tokens"), _mean(records, prompts, "prompt_s")
        answer_tokens, answer_s = _mean(records, answers, "answer_tokens"), _mean(records, answers, "answer_s")
        self._prompt_token_s = prompt_s / prompt_tokens if prompt_tokens else 0.0
        self.mean_s = prompt_s + answer_s
        self.known_s = {
            worker: _of_mean_length(one.prompt_s, one.prompt_tokens, prompt_s, prompt_tokens)
            + _of_mean_length(one.answer_s, one.answer_tokens, answer_s, answer_tokens)
            for worker, one in records.items()
        }


def _mean(records: dict[Worker, TokenTime], count: float, name: str) -> float:
    """For one request, of all workers together."""
    return sum(getattr(one, name) for one in records.values()) / count if count >= _FORGOTTEN else 0.0


def _of_mean_length(seconds: float, tokens: float, mean_s: float, mean_tokens: float) -> float:
    """Seconds for a mean number of tokens where so many took so long, and one more request the mean."""
    return (seconds + mean_s) / (tokens + mean_tokens) * mean_tokens if mean_tokens else 0.0
