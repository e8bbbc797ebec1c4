"""Script, then strategy, then fallback: the one place that decides who gets a request.

The script sees every worker with its status and may answer with any of them; its answer is checked afterwards. A
strategy sees only the eligible ones. Nothing here waits, and nothing here changes a worker: counting is the
dispatcher's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

import msgspec

from rbeerouter.config.sections import Routing, Strategies
from rbeerouter.core.chance import Chance
from rbeerouter.core.errors import FULL, Failure, Refusal, RouterError, refusal
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.memory import Memories
from rbeerouter.core.models import NO_MODELS, Models
from rbeerouter.core.seen import Call, Listener, Seen, Watch, whole_ms
from rbeerouter.core.types import (
    BUSY,
    DRAINING,
    OFFLINE,
    READY,
    REJECT,
    SEND,
    WAIT,
    Decision,
    Env,
    Patience,
    Request,
    Worker,
)
from rbeerouter.routing.eligible import Eligible, renamed, shown, with_room
from rbeerouter.routing.panel import CONFIG, Panel
from rbeerouter.routing.script import Answer, Choice, Script
from rbeerouter.routing.split import Split, same_side, weights
from rbeerouter.routing.strategies.base import Context, Hold, Strategy

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Job
    from rbeerouter.core.queue import Shares

_OUT = (OFFLINE, DRAINING)
"""Workers that get no request, whoever names them."""
_NO_OPTIONS = Strategies()
_PRIORITIES = {"high": 1, "normal": 0, "low": -1}


def as_configured(routing: Routing) -> dict[str, Any]:
    """What a `Decider` is told of strategies beside the one in force."""
    return {"fallback": routing.fallback, "options": routing.strategies, "header": routing.strategy_header}


class Decider:
    """Decides for one fleet. A reload builds a new one and swaps it in whole.

    Args:
        script: the loaded routing script, None to use the strategy alone.
        strategy: a name or a list, as `NAMES` reads it. Raises StrategyError for others, as `fallback` does.
        debug: say for each worker what became of it; needs a script that was loaded with `explain`.
        faults: how many decisions in a row may fail by the script's fault until it is taken out of service; 0: any.
        last_good: the script to go back to then.
        models: what the configuration says of models.
        split: shares requests between the sides; None shares nothing.
        fallback: the strategies that are asked in turn where the chosen one has nothing to go by.
        options: what strategies are told.
        memories: what strategies remember of traffic; None begins anew.
        header: may clients choose a strategy?

    Attributes:
        panel: its strategies.
        reads_prompt, reads_client, reads_caller, reads_request: as `Decide` has them.
        seen: what the last decision saw; None before the first.
        watch: looks at the fleet; goes from one decider to the next, as decisions are counted on.
        listener: hears of each decision (`listen`); None costs nothing.
        reloads: how many deciders were before this one.
        figures: those of seen.FIGURES that script and strategies go by, and who listens.
        suspended: the script that was taken out of service, with what it did last; None as long as none was.
        on_suspended: called when that happens.
    """

    def __init__(
        self,
        fleet: Fleet,
        script: Script | None,
        strategy: str,
        env: Env,
        debug: bool = False,
        faults: int = 0,
        last_good: Script | None = None,
        models: Models = NO_MODELS,
        split: Split | None = None,
        fallback: Sequence[str] = ("least-request",),
        options: Strategies = _NO_OPTIONS,
        memories: Memories | None = None,
        header: bool = True,
    ) -> None:
        self._fleet = fleet
        self.debug = debug
        self.last_good = last_good
        self.reloads = 0
        self.figures: tuple[str, ...] = ()
        self.suspended: tuple[Script, str] | None = None
        self.on_suspended: Callable[[], None] = lambda: None
        self.models = models
        self.split = split
        self._eligible = Eligible(fleet, models)
        self._env = env
        self._most_faults = faults
        self._faults: dict[str, int] = {}
        self.reads_prompt = self.reads_client = self.reads_caller = self.reads_request = False
        self.chance = env.chance or Chance(env.rng.getrandbits(64))
        self.memories = memories if memories is not None else Memories()
        self._context = Context(self.chance, env.now, options, models, self.memories)
        self.watch = Watch(self.chance)
        self.seen: Seen | None = None
        self._told: dict[Worker, tuple[tuple[str, str], ...]] = {}   # by strategies that the script has asked
        self.listener: Listener | None = None
        self._script: Script | None = None
        note = WeakMethod(self._note_strategies)               # else each would keep the other, and Lua's memory
        self.panel = Panel(self._context, strategy, fallback, header, lambda: (note() or _nothing)())
        self._note_strategies()
        self.script = script

    @property
    def fleet(self) -> Fleet:
        return self._fleet

    @fleet.setter
    def fleet(self, fleet: Fleet) -> None:
        self._fleet = self._eligible.fleet = fleet

    @property
    def script(self) -> Script | None:
        return self._script

    @script.setter
    def script(self, script: Script | None) -> None:
        """What it reads and draws is known from here on."""
        self._script = script
        self._choose_figures()
        if script is not None:
            script.chance = self.chance
            for name in script.asks:                           # their turns must be known before they are asked
                self.panel.of(name)
        self.watch.tell_all()

    def goes_by_tokens(self, request: Request) -> bool:
        """May the tokens of its prompt decide who gets this request?"""
        if self._script is not None and any(self.panel.of(name).reads_tokens for name in self._script.asks):
            return True
        try:
            return self.panel.selected(request).reads_tokens
        except RouterError:
            return False

    def listen(self, listener: Listener | None) -> None:
        """From now on somebody hears of each decision, and with the next one of all workers; None: nobody."""
        self.listener = listener
        self._choose_figures()
        if listener is not None:
            self.watch.tell_all()

    def succeed(self, old: Decider) -> None:
        """Goes on after the one before it, once a reload has made this one. Decisions are counted on."""
        self.watch, self.listener, self.reloads = old.watch, old.listener, old.reloads + 1
        if self.split is not None and old.split is not None:
            self.split.adopt(old.split)
        self.panel.succeed(old.panel)
        self.watch.tell_all()

    def use(self, strategy: str, source: str = CONFIG) -> None:
        """From now on this one is in force: a name or a list. Raises StrategyError."""
        self.panel.use(strategy, source)
        self.watch.tell_all()

    @property
    def strategy(self) -> Strategy:
        """The one in force, where neither the model nor the client says anything."""
        return self.panel.strategy

    def _note_strategies(self) -> None:
        """There is one more: what it reads is known from here on."""
        made = self.panel.by_name.values()
        self.reads_prompt = any(strategy.reads_prompt for strategy in made)
        self.reads_client = any(strategy.reads_client for strategy in made)
        self.reads_caller = any(strategy.reads_caller for strategy in made)
        self.reads_request = self.reads_prompt or self.reads_client or self.reads_caller
        figures = self.figures
        self._choose_figures()
        if figures != self.figures:
            self.watch.tell_all()

    def _choose_figures(self) -> None:
        read = self._script.figures if self._script is not None else ()
        wanted = self.listener.figures if self.listener is not None else ()
        goes_by = (name for strategy in self.panel.by_name.values() for name in strategy.figures)
        self.figures = tuple(dict.fromkeys((*read, *wanted, *goes_by)))

    def decide(self, request: Request, wall: float | None = None) -> Decision:
        """Looks at the fleet and chooses a worker, as `choose` tells. Raises RouterError.

        Args:
            wall: Unix seconds of the request's arrival, None: now. The script is told of it in whole milliseconds.
        """
        if wall is None:
            wall = self._env.wall()
        self.seen = seen = self.watch.look(self.fleet, wall, self.figures)
        if self.panel.standing:
            seen.turns = self.panel.turns()
        if self.listener is None:
            return self.choose(request, seen)
        try:
            decision = self.choose(request, seen)
        except RouterError:
            self.listener.decided(seen, request, None)
            raise
        self.listener.decided(seen, request, decision)
        return decision

    def _look(self) -> Seen:
        """What a hook sees. `seen` stays that of the decision before."""
        seen = self.watch.look(self.fleet, self._env.wall(), self.figures)
        if self.panel.standing:
            seen.turns = self.panel.turns()
        return seen

    def choose(self, request: Request, seen: Seen) -> Decision:
        """Chooses a worker by what was seen.

        1. The script names a worker that is ready: it gets the request, under its own model's name if it does not serve
           the one that was asked for. Of a list, the first that is ready; the others come after it.
        2. The script names a busy worker: the request waits for that one.
        3. The script lets the request wait, or refuses it: so it is.
        4. The script returns nil, or there is none: the strategy chooses among the ready ones; if there is none, the
           request waits for any that serves its model.
        5. The script fails, or names no worker of ours, or only offline ones or such as may not have the request: the
           strategy chooses; the fault is logged.

        Raises:
            RouterError: model_not_found, no_healthy_worker; invalid_header for a strategy that there is not.
        """
        if request.wishes is not None:
            self.panel.selected(request)
        script = self._script
        if script is None:
            return self._by_strategy(request, "strategy")
        if self._told:
            self._told = {}
        choice = script.route(request, self.fleet, self.choose_for_script, seen)
        if self._told:
            return self._with_told(self._by_choice(request, script, choice))
        return self._by_choice(request, script, choice)

    def _by_choice(self, request: Request, script: Script, choice: Choice) -> Decision:
        if choice.error is None:
            if self._faults:
                self._faults.pop("route_request", None)
            worker = choice.worker
            if (
                worker is not None and choice.answer is None and worker.status == READY
                and not self._eligible.rules.hold_for(self.fleet, request)
            ):
                explanation = self.explain(script, worker) if self.debug else None
                return Decision(
                    worker, "script", script.place(choice.line), renamed(request, worker), None, explanation
                )
            return self._by_answer(request, script, choice)
        self._count_fault(script, "route_request", choice)
        return self._by_strategy(request, "fallback", error=choice.error, log=choice.log)

    def another(self, job: Job, failure: Failure) -> Decision | None:
        """What comes after a failed attempt: what on_failure says, else the script's list, else the strategy."""
        request, first = job.request, job.decision
        assert first is not None
        error: str | None = None
        log: tuple[str, ...] = ()
        script = self.script
        if script is None or not script.has_on_failure:
            if self.listener is not None and self.listener.on_failure:
                self.listener.called(Call(self._nothing_new(), _attempt_of(job, failure), tuple(job.tried)), request)
        else:
            call = Call(self._look(), _attempt_of(job, failure), tuple(job.tried))
            self._told = {}
            self._note(job, call)
            choice = self.asked_after_failure(script, request, call)
            answer, error, log = choice.answer, choice.error, choice.log
            if error is None and (choice.worker is not None or answer is not None):
                if answer is not None and answer.action == "give_up":
                    job.decision = _with(first, None, log)
                    return None
                decision = self._after_failure(request, script, choice, first)
                if decision is not None:
                    return self._with_told(decision)
                error = self._forbidden_choice(request, script, choice, first)
        self._context.arrived = job.arrived
        decision = self._next_in_line(job, first, failure)
        self._context.arrived = None
        if error is None and not log:
            return decision
        if decision is None:
            job.decision = _with(first, error, log)
            return None
        return _with(decision, error, log)

    def twin(self, fleet: Fleet, script: Script | None) -> Decider:
        """One that decides as this one would next, with explanations, and changes nothing of it."""
        chance = copy.copy(self.chance)
        env = msgspec.structs.replace(self._env, chance=chance)
        fallback = [one.name for one in self.panel.fallback]
        options = self._context.options
        twin = Decider(
            fleet, script, self.strategy.name, env, debug=True, models=self.models, fallback=fallback, options=options,
            memories=self.memories.to_read(), header=self.panel.header,
        )  # fmt: skip
        twin.split = copy.deepcopy(self.split)
        twin.panel.go_on_from(self.panel)
        return twin

    def goes_by_memory(self, request: Request, decision: Decision | None) -> bool:
        """May what strategies remember of traffic, which no log has, have a part in this decision?"""
        if self._script is not None and any(self.panel.of(name).remembers for name in self._script.asks):
            return True
        if decision is not None and decision.by == "script":
            return False
        asked = self.panel.selected(request)
        fell_back = decision is not None and decision.strategy != asked.name
        return asked.remembers or (fell_back and any(strategy.remembers for strategy in self.panel.fallback))

    def hashed_of(self, request: Request, decision: Decision | None) -> list[str]:
        """What strategies took the hash of in this decision. A log may have the hash of that in its place."""
        names = [*(self._script.asks if self._script is not None else ())]
        if decision is not None and decision.strategy is not None:
            names.append(decision.strategy)
        return [key for name in names if (key := self.panel.of(name).key(request)) is not None]

    def serving(self, job: Job) -> list[Worker]:
        """Those that serve what a job wants and may have it, reachable or not. One that has failed it is none of them,
        unless it only had no room."""
        return self._eligible.serving(job.request, _wanted_by(job), job.failed_on() if job.attempts else ())

    def may_have(self, request: Request) -> list[Worker]:
        """The same for a request about which nothing is decided yet. Not to be changed."""
        return self._eligible.serving(request, request.model)

    def room_for(self, job: Job) -> Decision | None:
        """The decision that a waiting job goes with: the strategy's choice among the ready workers that serve what it
        wants. Raises RouterError when nobody ever will."""
        serving = self.serving(job)
        if not serving and not job.attempts:
            raise self._eligible.nobody(job.request, _wanted_by(job))
        ready = with_room(serving)
        if not ready:
            return None
        request, before, wanted = job.request, job.decision, _wanted_by(job)
        assert before is not None, "a job waits that nothing was decided about"
        self._context.arrived = job.arrived
        strategy = self.panel.selected(request, wanted)
        choice, asked = self.panel.pick(strategy, _for_model(request, wanted), ready, bool(self.fleet.ramping))
        self._context.arrived = None
        if isinstance(choice, Hold):
            return None
        reason = before.reason
        if before.strategy is not None and before.strategy != asked.name:
            reason = f"{reason}; then {asked.name}"
        told = self.panel.told(strategy, asked, choice, request, wanted)
        return msgspec.structs.replace(before, worker=choice, reason=reason, strategy=asked.name, told=told)

    @property
    def shares(self) -> Shares | None:
        """By whom those who wait are put in order: the strategy in force, where it keeps account."""
        return self.strategy.shares

    def utc_offset_s(self) -> int:
        """What scripts add to the time for local time."""
        return self._env.utc_offset_s()

    def weights(self) -> dict[str, float]:
        """{worker id: the share of requests that it can expect from the strategy now}."""
        share = self.split.overall if self.split is not None else None
        fraction = share.local_fraction if share is not None else None
        return weights(self.fleet.ordered, self.strategy.by_load, fraction, self.strategy.by_weight)

    def completed(self, job: Job) -> None:
        """Tells the script's on_complete how a job ended. Its faults are noted on the job's decision."""
        script = self.script
        if script is None or not script.has_on_complete:
            if self.listener is not None and self.listener.on_complete:
                self.listener.called(Call(self._nothing_new(), outcome=outcome_fields(job)), job.request)
            return
        call = Call(self._look(), outcome=outcome_fields(job))
        self._note(job, call)
        choice = self.told_completed(script, job.request, call)
        if choice.error is not None or choice.log:
            decision = job.decision or Decision(None, "strategy", self.strategy.name)   # nobody could be had
            job.decision = _with(decision, choice.error, choice.log)

    def asked_after_failure(self, script: Script, request: Request, call: Call) -> Choice:
        """What on_failure says, by what the call saw."""
        assert call.attempt is not None
        attempt = dict(call.attempt)                           # Lua's side changes what it is given
        choice = script.after_failure(request, attempt, call.tried, self.fleet, self.choose_for_script, call.seen)
        answer = choice.answer
        if answer is not None and answer.action == "wait":
            wrong = "on_failure returned queue(...); expected a worker, a list, nil, false or reject{...}"
            choice = msgspec.structs.replace(choice, error=script.fault_at(choice.line, wrong))
        self._count_fault(script, "on_failure", choice)
        return choice

    def told_completed(self, script: Script, request: Request, call: Call) -> Choice:
        """Tells on_complete of an outcome."""
        assert call.outcome is not None
        choice = script.completed(request, dict(call.outcome), self.fleet, call.seen)
        self._count_fault(script, "on_complete", choice)
        return choice

    def _nothing_new(self) -> Seen:
        """For a call that the script itself does not get: what has changed is left for its next decision."""
        return Seen(self.chance.n, whole_ms(self._env.wall()) / 1000, self.fleet.ordered, [])

    def _note(self, job: Job, call: Call) -> None:
        job.calls += (call,)
        if self.listener is not None:
            self.listener.called(call, job.request)

    def explain(self, script: Script | None, chosen: Worker | None) -> list[dict[str, Any]]:
        """What became of each worker in the decision just made, in fleet order.

        Each table has id, status, load, `chosen`, and the steps that the script took with it: by (filter, sort_by,
        ...), line, read (the fields that were looked at there), taken (the worker that was preferred) and place.
        """
        steps = script.steps() if script is not None else {}
        rows = []
        for worker in self.fleet.ordered:
            row: dict[str, Any] = {"id": worker.id, "status": worker.status, "load": round(worker.load, 4)}
            if worker is chosen:
                row["chosen"] = True
            if worker.id in steps:
                row["steps"] = [_in_order(step) for step in steps[worker.id]]
            rows.append(row)
        return rows

    # What the script said

    def _by_answer(self, request: Request, script: Script, choice: Choice) -> Decision:
        """A decision of an answer that is not just a worker that can be used."""
        answer, place = choice.answer, script.place(choice.line)
        reason = f"{place}: {answer.reason}" if answer is not None and answer.reason else place
        if answer is not None and answer.action == "reject":
            return self._rejected(script, answer, reason, choice)
        if answer is not None and answer.action == "wait":
            return self._waiting(request, script, answer, reason, choice)
        if answer is not None and answer.action == "give_up":
            error = script.fault_at(choice.line, "route_request returned false, expected a worker, nil or reject{...}")
            return self._by_strategy(request, "fallback", error=error, log=choice.log)
        if choice.worker is None:
            model = self._wanted(answer)
            headers = tuple(answer.headers) if answer is not None else ()
            given = answer is not None and answer.reason
            return self._by_strategy(
                request, "strategy", reason if given else None, "" if given else f"; {reason} returned nil", None,
                choice.log, model, headers,
            )  # fmt: skip
        named, wanted = choice.workers or (choice.worker,), self._wanted(answer)
        permitted = self._eligible.permitted(request, wanted, named)
        order = [worker for worker in permitted if worker.status in (READY, BUSY)]
        if not order:
            error = script.fault_at(choice.line, self._not_usable(request, wanted, named))
            return self._by_strategy(request, "fallback", error=error, log=choice.log)
        worker = next((worker for worker in order if worker.status == READY), order[0])
        order.remove(worker)
        patience = None if worker.status == READY else Patience(None, _priority(request))
        return Decision(
            worker, "script", reason, renamed(request, worker, wanted), None,
            self.explain(script, worker) if self.debug else None,
            SEND if worker.status == READY else WAIT, tuple(order) if choice.workers is not None else None,
            tuple(answer.headers) if answer else (), patience, log=choice.log, wanted=wanted,
        )  # fmt: skip

    def _wanted(self, answer: Answer | None) -> str | None:
        """The model that the script asked for by name."""
        return self.models.canonical(answer.model) if answer is not None and answer.model else None

    def _not_usable(self, request: Request, wanted: str | None, named: Sequence[Worker]) -> str:
        """Why none of the workers that a script named can have the request."""
        why = {self._eligible.forbidden(request, wanted, worker) or worker.status for worker in named}
        chose = f"the script chose {', '.join(worker.id for worker in named)}"
        if why <= set(_OUT):
            return f"{chose}, which is {' or '.join(sorted(why, reverse=True))}"
        return f"{chose}, which may not have this request: {', '.join(sorted(why))}"

    def _forbidden_choice(self, request: Request, script: Script, choice: Choice, first: Decision) -> str | None:
        """The fault of an on_failure that named only workers that may not have the request; None for other answers."""
        named = [worker for worker in choice.workers or (choice.worker,) if worker is not None]
        wanted = self._wanted(choice.answer) or first.wanted
        if not named or self._eligible.permitted(request, wanted, named):
            return None
        return script.fault_at(choice.line, self._not_usable(request, wanted, named))

    def _rejected(self, script: Script, answer: Answer, reason: str, choice: Choice) -> Decision:
        status = answer.status or 403
        message = answer.message or "the routing script rejected this request"
        return Decision(
            None, "script", reason, action=REJECT, refusal=refusal(status, message, answer.retry_after),
            explanation=self.explain(script, None) if self.debug else None, log=choice.log,
        )  # fmt: skip

    def _waiting(self, request: Request, script: Script, answer: Answer, reason: str, choice: Choice) -> Decision:
        worker = choice.worker
        priority = answer.priority if answer.priority is not None else _priority(request)
        if worker is None and not self._eligible.serving(request, request.model):
            return self._refused(request, request.model, "script", reason, None, choice.log)
        if worker is not None and not self._eligible.permitted(request, None, (worker,)):
            error = script.fault_at(choice.line, self._not_usable(request, None, (worker,)))
            return self._by_strategy(request, "fallback", error=error, log=choice.log)
        return Decision(
            worker, "script", reason, renamed(request, worker) if worker is not None else None, action=WAIT,
            patience=Patience(answer.timeout_s, priority),
            explanation=self.explain(script, worker) if self.debug else None, log=choice.log,
        )  # fmt: skip

    def _after_failure(self, request: Request, script: Script, choice: Choice, first: Decision) -> Decision | None:
        """What on_failure said, None where it left the choice to others or named only workers that are offline."""
        answer, place = choice.answer, script.place(choice.line)
        reason = f"on_failure {place}: {answer.reason}" if answer and answer.reason else f"on_failure {place}"
        if answer is not None and answer.action == "reject":
            return self._rejected(script, answer, reason, choice)
        model = self._wanted(answer) or first.wanted
        named = [worker for worker in choice.workers or (choice.worker,) if worker is not None]
        order = [worker for worker in self._eligible.permitted(request, model, named) if worker.status in (READY, BUSY)]
        if not order:
            return None
        return Decision(
            order[0], "failover", reason, renamed(request, order[0], model),
            then=tuple(order[1:]) if choice.workers is not None else None,
            headers=tuple(answer.headers) if answer else (), log=choice.log, wanted=model,
        )  # fmt: skip

    def _next_in_line(self, job: Job, first: Decision, failure: Failure) -> Decision | None:
        """Who is asked after a failure, or that the job waits, when only workers without room are left."""
        request, tried = job.request, job.tried
        if first.then is not None:
            for worker in self._eligible.permitted(request, first.wanted, first.then):
                if worker.id not in tried and worker.status in (READY, BUSY) and worker.index >= 0:
                    reason = f"next in the script's list after {tried[-1]} failed"
                    return Decision(worker, "failover", reason, renamed(request, worker, first.wanted))
            return None
        # A worker of another model was chosen: others of that model, else those that serve what was asked for.
        model = first.wanted or first.model or request.model
        eligible = self._eligible.usable(request, model, tried)
        if not eligible and first.wanted is None:
            model = request.model
            eligible = self._eligible.usable(request, model, tried)
        if not eligible:
            left = self._eligible.serving(request, model, () if failure.retry == FULL else tried)
            if any(worker.status == BUSY for worker in left):
                why = f"no worker has room after {tried[-1]} failed"
                return Decision(None, "failover", why, action=WAIT, patience=Patience(None, _priority(request)))
            return None
        if self.split is not None and first.worker is not None:
            eligible = same_side(first.worker, eligible)
        selected = self.panel.selected(request, model)
        choice, strategy = self.panel.pick(selected, _for_model(request, model), eligible, bool(self.fleet.ramping))
        sent = model if model != request.model else None
        reason = f"{strategy.name} after {tried[-1]} failed"
        if isinstance(choice, Hold):
            return Decision(
                None, "failover", f"{reason}{_because(choice)}", sent, action=WAIT, patience=_patience(choice, request),
                strategy=strategy.name,
            )  # fmt: skip
        told = self.panel.told(selected, strategy, choice, request, model)
        return Decision(choice, "failover", reason, sent, strategy=strategy.name, told=told)

    def choose_for_script(self, name: str, request: Request, workers: list[Worker]) -> Worker | None:
        """What `strategy(name)(request, workers)` gives: of the workers that can be used, those that serve the model if
        any does, ready ones before busy ones."""
        usable = [worker for worker in self._eligible.permitted(request, None, workers) if worker.status not in _OUT]
        serving = [worker for worker in usable if worker.serves(request.model)] or usable
        able = [worker for worker in serving if worker.status == READY] or serving
        if not able:
            return None
        strategy = self.panel.asked(name)
        choice, _ = self.panel.pick(strategy, request, able, bool(self.fleet.ramping))
        if not isinstance(choice, Worker):
            return None
        if headers := strategy.headers(choice):
            self._told[choice] = headers
        return choice

    def _with_told(self, decision: Decision) -> Decision:
        """A decision of the script, with what the client is told by the strategy that it had from the worker."""
        told, self._told = self._told, {}
        if decision.by not in ("script", "failover") or decision.worker not in told:
            return decision
        return msgspec.structs.replace(decision, told=told[decision.worker])

    # Faults

    def _count_fault(self, script: Script, function: str, choice: Choice) -> None:
        """A script of which a function only fails is taken out of service: the one before comes back, else the strategy
        decides. An error that the script raised itself is no fault; a call that went well ends the row."""
        if choice.error is None:
            self._faults.pop(function, None)
            return
        if choice.deliberate:
            return
        row = self._faults[function] = self._faults.get(function, 0) + 1
        if not self._most_faults or row < self._most_faults or script is not self.script:
            return
        self._faults.clear()
        self.suspended = (script, choice.error)
        self.script, self.last_good = self.last_good, None
        if self.script is not None:
            self.script.adopt(script)
        self.on_suspended()

    # The strategy

    def _by_strategy(
        self,
        request: Request,
        by: str,
        reason: str | None = None,
        addition: str = "",
        error: str | None = None,
        log: tuple[str, ...] = (),
        model: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> Decision:
        """reason: the script's own; None for the name of the strategy that chose, and `addition`."""
        wanted = model or request.model
        eligible = self._eligible.usable(request, wanted)
        sent = wanted if wanted != request.model else None
        strategy = self.panel.selected(request, model)
        if not eligible:
            reason = reason or f"{strategy.name}{addition}"
            if any(worker.status == BUSY for worker in self._eligible.serving(request, wanted)):
                explanation = self.explain(self.script, None) if self.debug else None
                return Decision(
                    None, by, f"{reason}; no worker has room", sent, error, explanation, WAIT, None, headers,
                    Patience(None, _priority(request)), log=log, wanted=model, strategy=strategy.name,
                )  # fmt: skip
            if error is None and not log:
                raise self._eligible.nobody(request, wanted)
            return self._refused(request, wanted, by, reason, error, log)
        if self.split is not None and not self._eligible.rules.leave_one_side(self.fleet, request, wanted):
            eligible = self._narrowed(self.split, wanted, eligible)
        choice, asked = self.panel.pick(strategy, _for_model(request, wanted), eligible, bool(self.fleet.ramping))
        if reason is None:
            reason = asked.name if asked is strategy else f"{asked.name}, as {strategy.name} knows too little"
            reason += addition
            if asked.reads_tokens:
                reason += asked.note(request)
        if isinstance(choice, Hold):
            explanation = self.explain(self.script, None) if self.debug else None
            return Decision(
                None, by, f"{reason}{_because(choice)}", sent, error, explanation, WAIT, None, headers,
                _patience(choice, request), log=log, wanted=model, strategy=asked.name,
            )  # fmt: skip
        explanation = self._strategy_explained(request, wanted, choice, asked) if self.debug else None
        return Decision(
            choice, by, reason, sent, error, explanation, headers=headers, log=log, wanted=model, strategy=asked.name,
            told=self.panel.told(strategy, asked, choice, request, wanted),
        )  # fmt: skip

    def _narrowed(self, split: Split, model: str, eligible: list[Worker]) -> list[Worker]:
        """Those of the side whose turn it is. Where the turns stood is part of what the decision saw."""
        share = split.share(model)
        if share is not None and self.seen is not None:
            self.seen.owed = (model if model in split.of_models else "", share.owed)
        return split.narrowed(model, eligible)

    def _refused(
        self, request: Request, model: str, by: str, reason: str, error: str | None, log: tuple[str, ...]
    ) -> Decision:
        """Nobody can serve it, and what the script said must not be lost with the request."""
        nobody = self._eligible.nobody(request, model)
        told = Refusal(nobody.failure, nobody.message, nobody.param)
        return Decision(None, by, reason, None, error, action=REJECT, refusal=told, log=log)

    def _strategy_explained(
        self, request: Request, model: str, chosen: Worker, strategy: Strategy
    ) -> list[dict[str, Any]]:
        rows = self.explain(self.script, chosen)
        for row, worker in zip(rows, self.fleet.ordered, strict=True):
            if worker is not chosen:
                why = self._reason_against(request, model, worker, chosen, strategy)
                row.setdefault("steps", []).append({"by": strategy.name, "why": why})
        return rows

    def _reason_against(self, request: Request, model: str, worker: Worker, chosen: Worker, strategy: Strategy) -> str:
        if not worker.serves(model):
            return f"does not serve {shown(model)}"
        forbidden = self._eligible.rules.against(self.fleet, request, model, worker)
        if forbidden is not None:
            return forbidden
        if worker.status in _OUT or (worker.status == BUSY and chosen.status == READY):
            return worker.status
        if self.split is not None and worker.deployment != chosen.deployment:
            return f"it was the turn of the {chosen.deployment} side"
        if worker.weight < 1.0:
            return f"in slow start, at {worker.weight:.0%} of its share"
        return f"{strategy.name} chose {chosen.id} (load {worker.load:.2f} against {chosen.load:.2f})"


def _nothing() -> None:
    pass


def _in_order(step: dict[str, Any]) -> dict[str, Any]:
    """A step as people read it; Lua knows no order of keys."""
    ordered = {key: step[key] for key in ("by", "line", "place", "taken") if key in step}
    return ordered | ({"read": dict(sorted(step["read"].items()))} if step.get("read") else {})


def _attempt_of(job: Job, failure: Failure) -> dict[str, Any]:
    """The attempt that failed, as on_failure reads it."""
    return {
        "worker_id": job.tried[-1], "error": failure.code, "duration_ms": job.attempts[-1].duration_ms,
        "number": len(job.tried),
    }  # fmt: skip


def outcome_fields(job: Job) -> dict[str, Any]:
    """How a job ended, as on_complete reads it; "" where a value is not known."""
    ended = job.finished if job.finished is not None else job.arrived
    first = job.first_content
    known = {
        "worker_id": job.tried[-1] if job.tried else None,
        "ok": job.failure is None and job.status < 400,
        "status": job.status,
        "outcome": job.state,
        "error": job.failure.code if job.failure else None,
        "ttft_ms": (first - job.arrived) * 1000 if first is not None else None,
        "total_ms": (ended - job.arrived) * 1000,
        "tokens_in": job.tokens_in,
        "tokens_out": job.tokens_out,
        "attempts": len(job.attempts),
    }
    return {name: "" if value is None else value for name, value in known.items()}


def _with(decision: Decision, error: str | None, log: tuple[str, ...]) -> Decision:
    """The decision with what a hook of the script added."""
    if error is not None and decision.error is not None:
        error = f"{decision.error}; {error}"
    return msgspec.structs.replace(decision, error=error or decision.error, log=decision.log + log)


def _for_model(request: Request, model: str) -> Request:
    """The request as strategies see it when another model is to answer it."""
    return request if model == request.model else msgspec.structs.replace(request, model=model)


def _wanted_by(job: Job) -> str:
    decision = job.decision
    return decision.wanted if decision is not None and decision.wanted else job.request.model


def _priority(request: Request) -> int:
    given = request.priority
    if isinstance(given, str):
        return _PRIORITIES.get(given.lower(), 0)
    return max(-1000, min(1000, given)) if given is not None else 0


def _because(hold: Hold) -> str:
    return f"; {hold.why}" if hold.why else ""


def _patience(hold: Hold, request: Request) -> Patience:
    return Patience(hold.timeout_s, hold.priority or _priority(request), hold.due)
