"""How fast workers answer, learned from their answers: what the slo strategies choose by.

For each worker and model two linear laws are fitted, with coefficients that are not negative:

    time to first token  = a + b * its prompt + c * prompts that are computed before it + d * other requests there
    time per other token = e + f * requests there + g * their prompts        (means while it was there)

and for each model the lengths of answers by the length of the prompt. Times are seconds, prompts thousands of tokens as
`Request.prompt_tokens` estimates them, as that is what is known when a worker is chosen. llm-d's latency predictor
learns from like inputs; the lengths and the load are those of AIBrix (output_predictor.go, pending_load_provider.go):
by Little's law a request takes 1 / N of a worker that can have N such requests at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING

import msgspec

from rbeerouter.config.sections import Slo
from rbeerouter.core.memory import Memory
from rbeerouter.routing.strategies.regression import AnswerLengths, LeastSquares

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Job
    from rbeerouter.core.errors import Failure
    from rbeerouter.core.types import Request, Worker

_THOUSAND = 1000.0
_OVERDUE_TIMES = 2.0
"""A prompt counts as computed after so many times the time that it should take: of answers in one piece, nobody tells
when it is, and a wrong guess must not stand for ever."""
_NEWEST = 0.1
_OF_LENGTH = 0.5
"""How much of the caution holds for lengths: with all of it too few workers seem to be in time, and with none one is
filled until long answers are late."""

Coefficients = tuple[float, ...]


class Ask(msgspec.Struct, frozen=True, gc=False):
    """A request as the laws see it: thousands of prompt tokens, tokens of the answer that is expected, and the times
    that it is to take at most, in seconds; None: it does not matter. tokens_more: what caution adds to the answer for
    being in time; not for how much of a worker it takes, as long answers and short ones are there at once."""

    prompt: float
    tokens_out: float
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    tokens_more: float = 0.0

    @property
    def has_target(self) -> bool:
        return self.ttft_s is not None or self.tpot_s is not None or self.e2e_s is not None


class Expected(msgspec.Struct, frozen=True, gc=False):
    """What a request would get: seconds, None where nothing tells."""

    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None

    def slack_s(self, ask: Ask) -> float:
        """How long it may wait before that and still be in time; -inf where it cannot be."""
        if ask.tpot_s is not None and self.tpot_s is not None and self.tpot_s > ask.tpot_s:
            return -inf
        slack = inf
        if ask.ttft_s is not None and self.ttft_s is not None:
            slack = ask.ttft_s - self.ttft_s
        if ask.e2e_s is not None and self.e2e_s is not None:
            slack = min(slack, ask.e2e_s - self.e2e_s)
        return slack


class Law(msgspec.Struct, frozen=True, gc=False):
    """A worker's two laws, a to d and e to g, each None as long as it is not known. They hold what caution adds."""

    ttft: Coefficients | None = None
    tpot: Coefficients | None = None

    def expected(self, ask: Ask, queued: float = 0.0, others: float = 0.0, prompts: float = 0.0) -> Expected:
        """What a request would get there now. prompts: of the others, all together."""
        first = token = whole = None
        if self.ttft is not None:
            a, b, c, d = self.ttft
            first = a + b * ask.prompt + c * queued + d * others
        if self.tpot is not None:
            e, f, g = self.tpot
            token = e + f * (others + 1) + g * (prompts + ask.prompt)
            whole = (first or 0.0) + token * max(0.0, ask.tokens_out + ask.tokens_more - 1)
        return Expected(first, token, whole)

    def lateness(
        self, ask: Ask, queued: float = 0.0, others: float = 0.0, prompts: float = 0.0, waited_s: float = 0.0
    ) -> float | None:
        """The greatest of expected / target: above 1 one is missed. None when none can be told. In one piece, as it is
        asked of every worker for every request."""
        first_s, worst, ttft, tpot = waited_s, None, self.ttft, self.tpot
        if ttft is not None:
            first_s += ttft[0] + ttft[1] * ask.prompt + ttft[2] * queued + ttft[3] * others
            if ask.ttft_s is not None:
                worst = first_s / ask.ttft_s
        if tpot is not None and (ask.tpot_s is not None or ask.e2e_s is not None):
            token_s = tpot[0] + tpot[1] * (others + 1) + tpot[2] * (prompts + ask.prompt)
            if ask.tpot_s is not None:
                late = token_s / ask.tpot_s
                if worst is None or late > worst:
                    worst = late
            if ask.e2e_s is not None:
                late = (first_s + token_s * max(0.0, ask.tokens_out + ask.tokens_more - 1)) / ask.e2e_s
                if worst is None or late > worst:
                    worst = late
        return worst

    def room(self, ask: Ask, capacity: float) -> float:
        """How many such requests the worker can have at once, each in time: 1 at least, its capacity at most. For each
        target, one alone takes so long, and each other one makes it so much more. In one piece as well."""
        room, alone, more, ttft, tpot = capacity, 0.0, 0.0, self.ttft, self.tpot
        if ttft is not None:
            alone, more = ttft[0] + ttft[1] * ask.prompt, ttft[3]
            target = ask.ttft_s
            if target is not None:
                if alone >= target:
                    return 1.0
                if more > 0.0 and (most := 1.0 + (target - alone) / more) < room:
                    room = most
        if tpot is not None and (ask.tpot_s is not None or ask.e2e_s is not None):
            each = tpot[1] + tpot[2] * ask.prompt
            target = ask.tpot_s
            if target is not None:
                if tpot[0] + each >= target:
                    return 1.0
                if each > 0.0 and (most := 1.0 + (target - tpot[0] - each) / each) < room:
                    room = most
            target = ask.e2e_s
            if target is not None:
                tokens = max(0.0, ask.tokens_out - 1)
                alone += tokens * (tpot[0] + each)
                more += tokens * each
                if alone >= target:
                    return 1.0
                if more > 0.0 and (most := 1.0 + (target - alone) / more) < room:
                    room = most
        return room if room > 1.0 else 1.0


UNKNOWN = Law()


class _Fit:
    """What is learned of a worker for one model. `law` is made of it when somebody asks; `most` requests there were at
    once, on average, while one of those answers was made that are behind it."""

    __slots__ = ("_law", "_options", "most", "tpot", "ttft")

    def __init__(self, options: Slo) -> None:
        self._options = options
        self.ttft = LeastSquares(4, options.answers)
        self.tpot = LeastSquares(3, options.answers)
        self._law: Law | None = None
        self.most = 0.0

    def learn(self, of: LeastSquares, inputs: Coefficients, seconds: float) -> None:
        of.add(inputs, seconds)
        self._law = None

    @property
    def law(self) -> Law:
        if self._law is None:
            self._law = Law(self._known(self.ttft), self._known(self.tpot))
        return self._law

    def _known(self, of: LeastSquares) -> Coefficients | None:
        if of.count < self._options.least_answers:
            return None
        times = 1.0 + self._options.caution * of.spread
        return tuple(one * times for one in of.coefficients)


class _Running(msgspec.Struct, gc=False):
    """A job on a worker: what was there when it came, and the sums of `_Site` then."""

    prompt: float
    taken: float
    inputs: Coefficients
    generation: int
    until: float
    requests_s: float
    prompts_s: float


class _Site:
    """One worker. requests_s, prompts_s: the sums over time of how many requests, and thousands of prompt tokens, were
    there; taken: how much of it its jobs take; used_at: when one came or left last."""

    __slots__ = (
        "_queued", "_until", "at", "fits", "generation", "jobs", "prompts", "prompts_s", "requests", "requests_s",
        "taken", "unanswered", "used_at",
    )  # fmt: skip

    def __init__(self, generation: int, now: float) -> None:
        self.generation = generation
        self.fits: dict[str, _Fit] = {}
        self.jobs: dict[Job, _Running] = {}
        self.unanswered: dict[Job, _Running] = {}
        self.taken = self.prompts = self.requests = self.requests_s = self.prompts_s = 0.0
        self.at = self.used_at = now
        self._queued, self._until = 0.0, inf

    def go_on(self, worker: Worker, now: float) -> None:
        """Brings the sums to the present; what changes then is counted from here on."""
        passed = now - self.at
        self.requests_s += self.requests * passed
        self.prompts_s += self.prompts * passed
        self.at = self.used_at = now
        self.requests = worker.in_flight + worker.foreign
        if worker.generation != self.generation:               # another process, or perhaps another machine
            self.generation = worker.generation
            self.fits.clear()

    def queued(self, now: float) -> float:
        """Thousands of prompt tokens that it has to compute; counted anew when that has changed."""
        if now >= self._until:
            waiting = [one for one in self.unanswered.values() if one.until > now]
            self._queued = sum([one.prompt for one in waiting])
            self._until = min([one.until for one in waiting], default=inf)
        return self._queued

    def asks(self, job: Job, running: _Running) -> None:
        """A prompt is to be computed."""
        self.unanswered[job] = running
        self._until = -inf

    def answers(self, job: Job) -> None:
        """A prompt is computed, or nobody wants it any more."""
        if self.unanswered.pop(job, None) is not None:
            self._until = -inf

    def law(self, worker: Worker, model: str) -> Law:
        """What it has learned of the process that the worker is now."""
        fit = self.fits.get(model) if self.generation == worker.generation else None
        return fit.law if fit is not None else UNKNOWN

    def fit(self, model: str, options: Slo) -> _Fit:
        """The fit of a model; the one that was used longest ago makes room for a new one."""
        fit = self.fits.pop(model, None) or _Fit(options)
        self.fits[model] = fit
        if len(self.fits) > options.models_kept:
            del self.fits[next(iter(self.fits))]
        return fit


class Speeds(Memory):
    """The laws of all workers, what their jobs take of them, and the lengths of answers.

    Bounded by the workers there are, their jobs, and `models_kept` models of each and in all.
    """

    options: Slo

    def __init__(self, options: msgspec.Struct | None = None) -> None:
        super().__init__(options or Slo())
        self._sites: dict[Worker, _Site] = {}
        self._lengths: dict[str, AnswerLengths] = {}
        self._freed_at: float | None = None
        self.gap_s = inf

    # What strategies read

    def ask(self, request: Request) -> Ask:
        """A request with its targets, those of the configuration where it has none of its own, and how long
        answers to such prompts may get. Of an answer in one piece, the client sees the end alone."""
        options, wishes = self.options, request.wishes
        ttft_ms, tpot_ms, e2e_ms = options.ttft_ms, options.tpot_ms, options.e2e_ms
        if wishes is not None:
            ttft_ms = wishes.slo_ttft_ms or ttft_ms
            tpot_ms = wishes.slo_tpot_ms or tpot_ms
            e2e_ms = wishes.slo_e2e_ms or e2e_ms
        if not request.stream:
            ttft_ms = tpot_ms = None
        prompt_tokens, most = request.prompt_tokens or 0, request.max_tokens
        lengths = self._lengths.get(request.model)
        known = lengths.expected(prompt_tokens, most, _OF_LENGTH * options.caution) if lengths is not None else None
        mean, cautious = known or (float(min(options.output_tokens, most or options.output_tokens)),) * 2
        targets = (_seconds(ttft_ms), _seconds(tpot_ms), _seconds(e2e_ms))
        return Ask(prompt_tokens / _THOUSAND, mean, *targets, cautious - mean)

    def laws(self, workers: Sequence[Worker], model: str) -> list[Law]:
        """The law of each of them: its own; what is not known of it, the mean of the others', by their performance
        where that is known; where nobody has answered often enough, its moving averages, or the mean of those."""
        found, sites, complete = [], self._sites, True
        for worker in workers:
            site = sites.get(worker)
            law = site.law(worker, model) if site is not None else UNKNOWN
            if law.ttft is None or law.tpot is None:
                complete = False
            found.append(law)
        return found if complete else self._filled(found, workers, model)

    def _filled(self, found: list[Law], workers: Sequence[Worker], model: str) -> list[Law]:
        """The laws, with what is not known of some."""
        known = [(worker, site.law(worker, model)) for worker, site in self._sites.items()]
        ttft = _Others({worker: law.ttft for worker, law in known if law.ttft is not None})
        if not ttft.known:
            even = {worker: (ms / 1000, 0.0, 0.0, 0.0) for worker in workers if (ms := worker.ttft_ms) is not None}
            ttft = _Others(even, even)
        tpot = _Others({worker: law.tpot for worker, law in known if law.tpot is not None})
        if not tpot.known:
            flat = {worker: (ms / 1000, 0.0, 0.0) for worker in workers if (ms := worker.inter_token_ms) is not None}
            tpot = _Others(flat, flat)
        return [
            law if law.ttft is not None and law.tpot is not None
            else Law(law.ttft or ttft.law(worker), law.tpot or tpot.law(worker))
            for worker, law in zip(workers, found, strict=True)
        ]  # fmt: skip

    def work(self, worker: Worker, now: float) -> tuple[float, float, float]:
        """What a worker has to do: (how much of it its requests take, of which 1 is as much as it can do and those of
        others count as usual ones; thousands of prompt tokens that are computed before the next one; all there)."""
        site, foreign = self._sites.get(worker), worker.foreign
        if site is None:
            return (worker.in_flight + foreign) / worker.capacity, 0.0, 0.0
        taken = site.taken + foreign / worker.capacity if foreign else site.taken
        return taken, site.queued(now), site.prompts

    def most(self, worker: Worker, model: str) -> float:
        """How many requests it had at once, at most, on average over one answer."""
        site = self._sites.get(worker)
        fit = site.fits.get(model) if site is not None else None
        return fit.most if fit is not None else 0.0

    def used_at(self, worker: Worker) -> float:
        site = self._sites.get(worker)
        return site.used_at if site is not None else -inf

    def working(self, model: str) -> list[Worker]:
        """Workers of this model that have work of ours, so that something will come of waiting for them."""
        return [one for one, site in self._sites.items() if site.jobs and one.index >= 0 and one.serves(model)]

    # What it is told

    def sent(self, job: Job, worker: Worker, now: float) -> None:
        site = self._sites.get(worker)
        if site is None:
            site = self._sites[worker] = _Site(worker.generation, now)
        site.go_on(worker, now)
        request = job.request
        ask = self.ask(request)
        law = self.laws((worker,), request.model)[0] if ask.has_target else site.law(worker, request.model)
        others, queued = worker.in_flight - 1 + worker.foreign, site.queued(now)
        first_s = law.expected(ask, queued, others, site.prompts).ttft_s
        until = inf if first_s is None else now + _OVERDUE_TIMES * first_s
        running = _Running(
            ask.prompt, 1.0 / law.room(ask, worker.capacity), (1.0, ask.prompt, queued, others),
            worker.generation, until, site.requests_s, site.prompts_s,
        )  # fmt: skip
        site.jobs[job] = running
        site.asks(job, running)
        site.taken += running.taken
        site.prompts += running.prompt

    def answering(self, job: Job, worker: Worker, now: float) -> None:
        site = self._sites.get(worker)
        if site is not None:
            site.answers(job)

    def released(self, job: Job, worker: Worker, failure: Failure | None, now: float) -> None:
        site = self._sites.get(worker)
        running = site.jobs.pop(job, None) if site is not None else None
        if site is None or running is None:                    # it was sent before this memory began
            return
        site.go_on(worker, now)
        site.answers(job)
        site.taken = max(0.0, site.taken - running.taken) if site.jobs else 0.0
        site.prompts = max(0.0, site.prompts - running.prompt) if site.jobs else 0.0
        if self._freed_at is not None:
            gap_s = now - self._freed_at
            self.gap_s = gap_s if self.gap_s == inf else self.gap_s + _NEWEST * (gap_s - self.gap_s)
        self._freed_at = now
        if failure is None and job.status < 400 and not job.continued and running.generation == worker.generation:
            self._learn(job, site, running, now)

    def tick(self, now: float, workers: Iterable[Worker]) -> None:
        here = set(workers)
        for worker in [one for one in self._sites if one not in here]:
            del self._sites[worker]

    def _learn(self, job: Job, site: _Site, running: _Running, now: float) -> None:
        request, first, tokens = job.request, job.first_content, job.tokens_out
        if tokens is not None:
            self._learn_length(request, tokens)
        took_s = now - job.sent
        if took_s <= 0.0:
            return
        fit = site.fit(request.model, self.options)
        start_s = 0.0
        if request.stream:
            if first is None or first < job.sent:
                return
            start_s = first - job.sent
            fit.learn(fit.ttft, running.inputs, start_s)
        elif (known := fit.law.ttft) is not None:
            start_s = min(took_s, sum(a * b for a, b in zip(known, running.inputs, strict=True)))
        if tokens is not None and tokens > 1:
            requests = (site.requests_s - running.requests_s) / took_s
            prompts = (site.prompts_s - running.prompts_s) / took_s
            fit.most = max(fit.most, requests)
            fit.learn(fit.tpot, (1.0, requests, prompts), (took_s - start_s) / (tokens - 1))

    def _learn_length(self, request: Request, tokens: int) -> None:
        lengths = self._lengths.pop(request.model, None) or AnswerLengths(self.options.answers)
        self._lengths[request.model] = lengths
        if len(self._lengths) > self.options.models_kept:
            del self._lengths[next(iter(self._lengths))]
        lengths.add(request.prompt_tokens or 0, tokens)


class _Others:
    """The mean law of those of which one is known, for those of which none is.

    Args:
        known: {worker: its law}.
        own: {worker: what it gets in place of the mean}.
    """

    __slots__ = ("_as_one", "_mean", "_own", "known")

    def __init__(
        self, known: Mapping[Worker, Coefficients], own: Mapping[Worker, Coefficients] | None = None
    ) -> None:
        self.known, self._own = known, own or {}
        self._mean: Coefficients | None = None
        self._as_one: Coefficients | None = None

    def law(self, worker: Worker) -> Coefficients | None:
        """Where its performance is known, and that of some of the others, they are taken to be as much slower or
        faster. None where nothing is known of anybody."""
        own = self._own.get(worker)
        if own is not None or not self.known:
            return own
        if performance := worker.performance:
            if self._as_one is None:
                rated = [(one.performance, law) for one, law in self.known.items() if one.performance]
                self._as_one = _mean([[part * rating for part in law] for rating, law in rated])
            if self._as_one:
                return tuple([part / performance for part in self._as_one])
        if self._mean is None:
            self._mean = _mean(list(self.known.values()))
        return self._mean


def _mean(laws: Sequence[Sequence[float]]) -> Coefficients:
    return tuple([sum(parts) / len(laws) for parts in zip(*laws, strict=True)])


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
