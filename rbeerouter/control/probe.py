"""Active probes: is each worker there, what does it run and hold, how much has it to do?

`server.daemon` starts one `Prober`. What is asked of which engine, and how it is read, stands in `dialects.engines`;
here is when, and over which connection. Each worker has its own times, and at most one look at it is under way: one
that hangs delays no other, and no engine is read by two at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

import aiohttp

from rbeerouter import tasks
from rbeerouter.config.sections import Probes
from rbeerouter.control.sessions import Sessions, read_up_to
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import BUSY, READY, Env, Report, WorkerSpec
from rbeerouter.dialects.engines import ENGINES
from rbeerouter.dialects.engines.detect import AUTO, STEPS, UNRECOGNISED, of_url, recognise
from rbeerouter.dialects.engines.spec import Answer, EngineSpec, Facts, Page

_GLANCE_S = 0.1
"""How often it is looked who is due. It costs a comparison for each worker."""
_SLOWEST_LOOK = 4
"""A look at a worker asks for several pages; it may take so many times the time limit of one."""
_HEAD_BYTES = 64 << 10
"""So much of a page gives an engine away, or nothing does."""
_REFUSED_KEY = "its api_key was refused"
_FULL_LOAD_S = 2.0
"""How soon it is asked whether a worker that others fill has room again: somebody may wait for it."""
_SLOWEST_RETURN = 1 / 3
"""A worker that stays away is asked three times as often as one that is well."""
_MISSED_AT_ONCE = 32
"""So many that nobody can stand in for are asked every `down_interval_s`; more of them more slowly."""


class _Watch:
    """What is remembered of one worker from look to look.

    Attributes:
        engine: the one it was found to run; None: to be found out.
        places: {page: the page that is asked in its place, None for no such page}, where its own was not there.
        troubles: requests that had failed on it when it was last looked at, since one succeeded.
        state, load: what it told last, of what seldom changes and of what changes with each request.
        due, state_due, load_due: when to look, and for what.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.busy = False
        self.reachable = False
        self.failed = self.troubles = 0
        self.due = self.state_due = self.load_due = 0.0
        self.restarts = 0
        self.forget()

    def forget(self) -> None:
        """It is, or may be, another program than before."""
        self.engine: str | None = self.spec.engine if self.spec.engine != AUTO else of_url(self.spec.url)
        self.places: dict[Page, Page | None] = {}
        self.state: Facts = {}
        self.load: Facts = {}
        self.state_due = 0.0

    def restarted(self, load: Facts) -> bool:
        """Does the worker tell of another start, or count its tokens from the beginning again?"""
        before = self.load
        for name in ("generated_tokens", "prompt_tokens"):
            now, then = load.get(name), before.get(name)
            if now is not None and then is not None and now < then:
                return True
        now, then = load.get("started_at"), before.get("started_at")
        return now is not None and then is not None and abs(now - then) > 1.0


class Prober:
    """Looks at each worker at its own times (give or take a fifth, so that looks spread out).

    Attributes:
        problems: {worker id: what the last look at it found wrong}.
        sessions: by which workers are asked.
    """

    def __init__(self, fleet: Fleet, probes: Probes, env: Env) -> None:
        self.problems: dict[str, str] = {}
        self._fleet = fleet
        self._env = env
        self._watches: dict[str, _Watch] = {}
        self.sessions = Sessions()
        self.apply(probes)

    def apply(self, probes: Probes) -> None:
        """Takes new settings, and reads CA files again."""
        self._probes = probes
        self.sessions.forget_certificates()
        self._room = asyncio.Semaphore(probes.at_once)
        now = self._env.now()
        for watch in self._watches.values():
            watch.state_due = min(watch.state_due, now + probes.interval_s)
            watch.load_due = min(watch.load_due, now + probes.metrics_s)
            watch.due = min(watch.due, watch.state_due, watch.load_due if watch.load else watch.state_due)

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            self._look_at_those_due()
            await asyncio.sleep(_GLANCE_S)

    async def probe_all(self) -> None:
        """One full look at all workers at once."""
        watches = [self._watch(worker.spec) for worker in self._fleet.ordered]
        await asyncio.gather(*(self._look(watch, full=True) for watch in watches if not watch.busy))

    async def look(self, specs: Iterable[WorkerSpec]) -> list[Report]:
        """Looks at workers that are not in the fleet yet, and reports without telling it.

        It takes no longer than one look may: a list with hundreds that do not answer must not hold up a reload for
        minutes. Those that were not come to are offline until their turn.
        """
        reports: list[Report] = []

        async def one(watch: _Watch) -> None:
            async with self._room:
                reports.append(await self._report(watch))

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SLOWEST_LOOK * self._probes.timeout_s):
                await asyncio.gather(*(one(self._watch(spec)) for spec in specs))
        for report in reports:
            self._note(report)
        return reports

    async def close(self) -> None:
        await self.sessions.close()

    # When to look.

    def _watch(self, spec: WorkerSpec) -> _Watch:
        watch = self._watches.get(spec.id)
        if watch is None or (watch.spec is not spec and watch.spec != spec):
            watch = self._watches[spec.id] = _Watch(spec)
        return watch

    def _look_at_those_due(self) -> None:
        now = self._env.now()
        for worker in self._fleet.ordered:
            watch = self._watch(worker.spec)
            if watch.busy:
                continue
            if watch.reachable and not worker.health.reachable:
                # A request found out that it is gone. When it is back, only a look can tell.
                watch.reachable = False
                watch.state_due = 0.0
                watch.due = min(watch.due, now + self._spread(self._probes.down_interval_s))
            troubles = worker.health.failures + worker.health.connect_failures
            if troubles > watch.troubles:                      # it may be gone, which a look shows sooner than requests
                watch.state_due = 0.0
                watch.due = min(watch.due, now + self._spread(self._probes.down_interval_s))
            watch.troubles = troubles
            if watch.due <= now:
                watch.busy = True
                watch.due = now + self._probes.interval_s      # however the look ends
                tasks.start(f"probe of {worker.id}", self._look(watch))
        if len(self._watches) > len(self._fleet.workers):
            gone = [name for name, watch in self._watches.items() if name not in self._fleet.workers and not watch.busy]
            for name in gone:
                del self._watches[name]
                self.problems.pop(name, None)

    async def _look(self, watch: _Watch, full: bool = False) -> None:
        """Looks at a worker of the fleet, and tells it."""
        watch.busy = True
        try:
            if full:
                watch.state_due = 0.0
            async with self._room:
                report = await self._report(watch)
        finally:
            watch.busy = False
        worker = self._fleet.workers.get(watch.spec.id)
        if worker is None or (worker.spec is not watch.spec and worker.spec != watch.spec):
            return
        self._fleet.apply(report)
        self._note(report)
        if worker.status == BUSY and worker.foreign and worker.in_flight < worker.capacity:
            least_s = ENGINES[watch.engine or UNRECOGNISED].least_load_s
            watch.load_due = min(watch.load_due, self._env.now() + max(least_s, _FULL_LOAD_S))
            watch.due = min(watch.due, watch.load_due)

    def _note(self, report: Report) -> None:
        self.problems.pop(report.worker_id, None)
        if report.problem:
            self.problems[report.worker_id] = report.problem

    def _plan(self, watch: _Watch, spec: EngineSpec, report: Report) -> None:
        """When to look again, after a look that ended like this."""
        now, probes = self._env.now(), self._probes
        interval_s = max(probes.interval_s, spec.least_interval_s)
        watch.reachable = report.reachable
        if report.reachable:
            watch.failed = 0
            if watch.state_due <= now:
                watch.state_due = now + self._spread(interval_s)
            loads = any(page.load and watch.places.get(page, page) is not None for page in spec.pages)
            watch.due = min(watch.state_due, watch.load_due) if loads else watch.state_due
            return
        watch.failed += 1
        watch.state_due = 0.0
        problem = report.problem or ""
        if problem.startswith(_REFUSED_KEY):
            watch.due = now + self._spread(interval_s)         # nothing will change before somebody changes the key
        elif "loading" in problem:
            watch.due = now + self._spread(min(probes.down_interval_s, interval_s))
        else:
            pause_s = probes.down_interval_s * 2 ** min(watch.failed - 1, 20)
            if self._is_missed(watch):
                pause_s = min(pause_s, probes.down_interval_s * max(1.0, len(self._fleet.ordered) / _MISSED_AT_ONCE))
            longest_s = max(probes.down_interval_s, _SLOWEST_RETURN * probes.interval_s)
            watch.due = now + self._spread(min(pause_s, longest_s, probes.interval_s))

    def _is_missed(self, watch: _Watch) -> bool:
        """Is there no other that serves its models? Then requests are refused until it is back."""
        worker = self._fleet.workers.get(watch.spec.id)
        return worker is not None and not any(
            other is not worker and other.standing in (READY, BUSY)
            and not (worker.models and other.models and worker.model_set.isdisjoint(other.model_set))
            for other in self._fleet.ordered
        )  # fmt: skip

    def _spread(self, seconds: float) -> float:
        return seconds * (0.8 + 0.4 * self._env.rng.random())

    # What to ask, and what it means.

    async def _report(self, watch: _Watch) -> Report:
        """Asks a worker for what is due, and puts it together with what it told before."""
        facts: Facts
        try:
            async with asyncio.timeout(_SLOWEST_LOOK * self._probes.timeout_s):
                facts = await self._ask(watch)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            facts = {"reachable": False, "problem": _in_words(error)}
        now = self._env.now()
        reachable, engine = facts.pop("reachable", False), watch.engine
        spec = ENGINES[engine or UNRECOGNISED]
        if not reachable:
            known = engine if engine != UNRECOGNISED or watch.spec.engine != AUTO else None
            report = Report(watch.spec.id, False, None, now, problem=facts.get("problem"), engine=known)
            self._plan(watch, spec, report)
            watch.forget()
            return report
        ranks = facts.pop("ranks", None) or 1
        if not facts.get("slots"):
            facts["slots"] = ranks * spec.usual_concurrency
            facts["most"] = ranks * (spec.most_concurrency or spec.usual_concurrency)
        report = Report(
            worker_id=watch.spec.id, reachable=True, models=facts.pop("models", None), taken_at=now, engine=engine,
            speaks=spec.speaks, **facts,
        )  # fmt: skip
        self._plan(watch, spec, report)
        return report

    async def _ask(self, watch: _Watch) -> Facts:
        """All facts of a worker; raises what a connection may raise."""
        answers: dict[str, Answer] = {}
        if watch.engine is None:
            watch.engine = await self._recognise(watch, answers)
        spec = ENGINES[watch.engine]
        asked_for_state = watch.state_due <= self._env.now()
        if asked_for_state:
            watch.places.clear()                               # a page may be there by now
            watch.state = await self._ask_for_state(watch, spec, answers)
            if self._may_be_another(watch, spec, answers):
                engine = await self._recognise(watch, answers)
                if engine != watch.engine:
                    watch.forget()
                    watch.engine, spec = engine, ENGINES[engine]
                    watch.state = await self._ask_for_state(watch, spec, answers)
        if watch.state.get("reachable") is False:
            return dict(watch.state)
        try:
            load = await self._ask_for_load(watch, spec, answers)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # It may be too busy for this page alone.
            if not asked_for_state:
                watch.state = await self._ask_for_state(watch, spec, answers)
            load = {"problem": _in_words(error)}
        if watch.restarted(load):
            watch.restarts += 1
            watch.forget()
            watch.load = load                                  # which must not be asked for again so soon
            return await self._ask(watch)
        watch.load = load
        if watch.restarts and load.get("started_at") is None:
            load = {**load, "started_at": float(watch.restarts)}
        return _joined(watch.state, load)

    def _may_be_another(self, watch: _Watch, spec: EngineSpec, answers: dict[str, Answer]) -> bool:
        """Does what it has answered look like another engine than the one that it was found to run? One may be started
        in another's place between two looks."""
        if watch.spec.engine != AUTO or of_url(watch.spec.url) is not None:
            return False
        first, models = spec.pages[0], answers.get(STEPS[0])
        if first.otherwise is None and first.path in answers and answers[first.path].missing:
            return True
        return models is not None and recognise(models) not in (None, watch.engine)

    async def _recognise(self, watch: _Watch, answers: dict[str, Answer]) -> str:
        for path in STEPS:
            most_bytes = self._probes.page_bytes if path == STEPS[0] else _HEAD_BYTES
            answer = answers.get(path)
            if answer is None:
                try:
                    answer = await self._get(watch, path, most_bytes)
                except (aiohttp.ClientError, OSError, ValueError):
                    if not answers:
                        raise
                    break                                      # it is there, and may have no such page to answer with
                if len(answer.body) < most_bytes:
                    answers[path] = answer
            engine = recognise(answer)
            if engine is not None:
                return engine
        return UNRECOGNISED

    async def _ask_for_state(self, watch: _Watch, spec: EngineSpec, answers: dict[str, Answer]) -> Facts:
        """The pages that change seldom, until one says that the worker cannot be used."""
        facts: Facts = {"reachable": True}
        for page in spec.pages:
            if not page.load:
                facts = _joined(facts, await self._ask_for(page, watch, answers))
            if facts["reachable"] is False:
                break
        return facts

    async def _ask_for_load(self, watch: _Watch, spec: EngineSpec, answers: dict[str, Answer]) -> Facts:
        """The pages that change with each request; what they told last, where they must not be asked again yet."""
        now = self._env.now()
        if watch.load_due > now and watch.load:
            return watch.load
        facts: Facts = {}
        least_s = max(self._probes.metrics_s, spec.least_load_s)
        watch.load_due = now + max(spec.least_load_s, self._spread(least_s))
        before = self._ours(watch)
        for page in spec.pages:
            if page.load:
                facts = _joined(facts, await self._ask_for(page, watch, answers))
        # Requests that came or went meanwhile may be in what it told, and are not somebody else's.
        return {**facts, "in_flight": max(before, self._ours(watch))} if facts else facts

    def _ours(self, watch: _Watch) -> int:
        worker = self._fleet.workers.get(watch.spec.id)
        return 0 if worker is None else worker.in_flight

    async def _ask_for(self, page: Page, watch: _Watch, answers: dict[str, Answer]) -> Facts:
        """One page, or what there is in its place. Which one it is is remembered."""
        place = watch.places.get(page, page)
        while place is not None:
            answer = answers.get(place.path)
            if answer is None:
                answer = answers[place.path] = await self._get(watch, place.path, self._probes.page_bytes)
            if not answer.missing:
                return place.read(answer)
            if place.otherwise is None:
                if page.load:
                    watch.places[page] = None
                    return {}
                return place.read(answer)
            place = watch.places[page] = place.otherwise
        return {}

    async def _get(self, watch: _Watch, path: str, most_bytes: int) -> Answer:
        spec = watch.spec
        headers = ENGINES[watch.engine or UNRECOGNISED].key_headers(spec.api_key) if spec.api_key else {}
        async with self.sessions.of(spec).get(
            spec.url + path, headers=headers, timeout=aiohttp.ClientTimeout(total=self._probes.timeout_s),
            allow_redirects=False, ssl=self.sessions.tls(spec),
        ) as answer:  # fmt: skip
            body = await read_up_to(answer.content, most_bytes)
            return Answer(path, answer.status, answer.headers, body)


def _joined(one: Facts, other: dict[str, Any]) -> Facts:
    """Both; what is told last counts, but the first problem stays, unless a later one makes the worker useless."""
    facts = {**one, **{name: value for name, value in other.items() if value is not None}}
    if "problem" in one and other.get("reachable") is not False:
        facts["problem"] = one["problem"]
    if one.get("reachable") is False:
        facts["reachable"] = False
    return facts


def _in_words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
