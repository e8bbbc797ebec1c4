"""One script on a made-up fleet, asked through the real decider and the real dispatcher: nothing is sent to anybody.

`properties` and `suite` call it. The fleet is as it was set before each request: what a request does to it (a failed
worker goes offline, times are measured) is undone. What the script keeps in `state` stays.
"""

from __future__ import annotations

import random
import time
from typing import Any

import msgspec

from rbeerouter.config.sections import Config, Routing
from rbeerouter.core.dispatch import Dispatcher, Fail, Job, Send, Wait
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.retry import RetryRules
from rbeerouter.core.types import DRAINING, OFFLINE, Env, Outcome, Request
from rbeerouter.routing.decide import Decider, as_configured
from rbeerouter.routing.sandbox import Abilities, Limits
from rbeerouter.routing.script import Choice, Script, configured_abilities, configured_limits
from rbeerouter.workbench.fleets import Row, fleet_of

NOON = 1_772_452_800.0
"""2026-03-02 12:00 UTC, a Monday: when tests play unless they say otherwise."""

class Result(msgspec.Struct, frozen=True):
    """What became of one request, as a test reads it; docs/testing-scripts.md tells each field."""

    action: str
    by: str
    reason: str
    worker: str | None = None
    line: int | None = None
    error: str | None = None
    status: int | None = None
    message: str | None = None
    model: str | None = None
    headers: dict[str, str] = {}
    order: list[str] | None = None
    log: list[str] = []
    tried: list[str] = []
    retry_after: float | None = None
    timeout_s: float | None = None

    def known(self) -> dict[str, Any]:
        """The fields that have a value."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class Asked(msgspec.Struct, frozen=True):
    """One call of a hook: what it answered, and what that took.

    offline: the workers that it named, when all of them were offline at that time
    """

    hook: str
    choice: Choice
    seconds: float
    instructions: int
    offline: tuple[str, ...] = ()


class Recorded(Script):
    """A script that notes each call of its hooks in `asked`."""

    asked: list[Asked]

    def route(self, *arguments: Any) -> Choice:
        return self._noted("route_request", super().route, *arguments)

    def after_failure(self, *arguments: Any) -> Choice:
        return self._noted("on_failure", super().after_failure, *arguments)

    def completed(self, *arguments: Any) -> Choice:
        return self._noted("on_complete", super().completed, *arguments)

    def _noted(self, hook: str, call: Any, *arguments: Any) -> Choice:
        started = time.perf_counter()
        choice: Choice = call(*arguments)
        seconds = time.perf_counter() - started
        named = choice.workers or ((choice.worker,) if choice.worker else ())
        out = all(one.status in (OFFLINE, DRAINING) for one in named)
        offline = tuple(worker.id for worker in named) if out else ()
        self.asked.append(Asked(hook, choice, seconds, self._runtime.ask("spent"), offline))
        return choice

    def look_at(self, fleet: Fleet) -> None:
        """Takes in another fleet now, so that the next decision is not charged with it, and no number is drawn."""
        chance = self.chance
        decided = chance.n
        self._seen_version = -1
        self._bring_up_to_date(fleet, None)
        chance.begin(chance.base)
        chance.n = decided

    def reseed(self, seed: int) -> None:
        """What rand() gives from now on."""
        self.chance.begin(seed)


class Play(msgspec.Struct, frozen=True):
    """The rules under which a script is tried: the configuration's, or those of a daemon that has none.

    ids: workers that the script may name though a made-up fleet does not have them
    routing: what strategies are told
    """

    limits: Limits = Limits()
    abilities: Abilities = Abilities()
    strategy: str = "least-request"
    attempts: int = 3
    ids: frozenset[str] = frozenset()
    routing: Routing = Routing()


class Stage:
    """A freshly loaded script.

    Attributes:
        wall: Unix seconds of its clock, which stands still until somebody sets it.

    Raises:
        ScriptError: it cannot be used.
    """

    def __init__(self, source: bytes, name: str, play: Play, seed: int = 1, coverage: bool = False) -> None:
        abilities, limits = play.abilities, play.limits
        if coverage:                                           # counting the lines takes a multiple of the time
            abilities = msgspec.structs.replace(abilities, coverage=True)
            limits = msgspec.structs.replace(limits, cpu_s=limits.cpu_s * 20)
        self.wall = NOON
        self._rng = random.Random(seed)
        self._env = Env(lambda: 0.0, lambda: self.wall, self._rng)
        self.script = Recorded(source, name, self._env, limits, abilities)
        self.script.asked = []
        self._attempts = play.attempts
        self._placed: tuple[Row, ...] = ()
        self._fleet = Fleet()
        self._decider = Decider(
            self._fleet, self.script, play.strategy, self._env, **as_configured(play.routing)
        )

    @property
    def fleet(self) -> Fleet:
        """To be read only."""
        return self._fleet

    def place(self, placed: tuple[Row, ...]) -> None:
        """Puts other workers in place of those that are there."""
        self._placed = placed
        self._fleet = self._decider.fleet = fleet_of(list(placed))
        self.script.look_at(self._fleet)

    def seed(self, seed: int) -> None:
        """Chance from now on: the script's, and that of strategies which break ties."""
        self._rng.seed(seed)
        self.script.reseed(seed & 0x7FFFFFFF)

    def serve(
        self, request: Request, failing: frozenset[str] = frozenset(), code: str = "upstream_connect_failed"
    ) -> Result:
        """Lets a request live its life. Those of the workers in `failing` that it is sent to fail it, with `code`."""
        self.script.asked.clear()
        dispatcher = Dispatcher(self._fleet, self._decider, self._env)
        dispatcher.retries.rules = RetryRules(self._attempts)
        job = Job(request, 0.0, self.wall)
        effect = dispatcher.on_request(job)
        while isinstance(effect, Send) and effect.worker.id in failing:
            effect = dispatcher.on_outcome(job, Outcome(FAILURES[code]))
        if isinstance(effect, Send):
            job.tokens_in, job.tokens_out = request.prompt_tokens, 16
            if request.stream:
                job.first_content = 0.0
            dispatcher.on_outcome(job, Outcome(None, 200, True, True))
            before = self._placed[effect.worker.index]
            effect.worker.latency_ms, effect.worker.ttft_ms = before.latency_ms, before.ttft_ms
        if len(job.attempts) > isinstance(effect, Send):
            self.place(self._placed)
        return self._result(job, effect)

    def _result(self, job: Job, effect: Any) -> Result:
        decision, tried = job.decision, list(job.tried)
        choices = [asked.choice for asked in reversed(self.script.asked) if asked.hook != "on_complete"]
        choice, orders = choices[0], [one.workers for one in choices if one.workers]
        if decision is None:
            return Result(
                "fail", "strategy" if choice.error is None else "fallback", effect.message, error=choice.error,
                status=effect.failure.status, message=effect.message, log=list(choice.log),
            )  # fmt: skip
        result = Result(
            "send", decision.by, decision.reason, line=choice.line or None, error=decision.error,
            headers=dict(decision.headers), log=list(decision.log), tried=tried,
            order=next(([worker.id for worker in order] for order in orders), None),
        )  # fmt: skip
        change = msgspec.structs.replace
        if isinstance(effect, Send):
            model = effect.model or job.request.model
            return change(result, worker=effect.worker.id, status=200, model=model)
        if isinstance(effect, Wait):
            patience, worker = decision.patience, decision.worker
            return change(
                result, action="wait", worker=worker.id if worker else None,
                timeout_s=patience.timeout_s if patience else None,
            )  # fmt: skip
        assert isinstance(effect, Fail)
        failure = effect.failure
        return change(
            result, action="reject" if failure.code == "script_rejected" else "fail", status=failure.status,
            message=effect.message, retry_after=failure.retry_after or None,
        )  # fmt: skip


def rules_of(config: Config | None, texts: set[str] = frozenset()) -> Play:
    """What a script may use and see, as configured. Without a configuration it may see whatever it asks for.

    Args:
        texts: those of the script, among which are the names of the headers that it reads, and of its workers.
    """
    if config is None:
        names = {text.lower() for text in texts if text.isascii() and text.replace("-", "").isalnum()}
        headers = tuple(sorted({"user-agent", "x-session-id", "accept-language", "x-priority"} | names))
        return Play(abilities=Abilities(headers, headers, True), ids=frozenset(texts))
    routing = config.routing
    return Play(
        configured_limits(routing), configured_abilities(routing), routing.strategy, config.limits.attempts,
        frozenset(spec.id for spec in config.workers), routing,
    )  # fmt: skip
