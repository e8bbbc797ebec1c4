"""Script, then strategy, then fallback: the one place that decides who gets a request.

The script sees every worker with its status and may answer with any of them; its answer is checked afterwards. A
strategy sees only the eligible ones. Nothing here waits, and nothing here changes a worker: counting is the
dispatcher's.
"""

from __future__ import annotations

from typing import Protocol

from rbeerouter.config import strategy_spelling
from rbeerouter.core.errors import RouterError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import BUSY, OFFLINE, READY, Decision, Env, Request, Worker
from rbeerouter.routing.script import Script
from rbeerouter.routing.strategies.balance import LeastRequest, RoundRobin


class Strategy(Protocol):
    """Chooses one of `workers` (never empty, all eligible) and changes nothing but its own memory."""

    name: str

    def choose(self, request: Request, workers: list[Worker]) -> Worker: ...


STRATEGIES = {strategy.name: strategy for strategy in (RoundRobin, LeastRequest)}


def strategy_name(name: str) -> str | None:
    """The table's spelling of a strategy's name (`_` and `-` are alike), or None when there is none of that name."""
    spelled = strategy_spelling(name)
    return spelled if spelled in STRATEGIES else None


class Decider:
    """Decides for one fleet. A reload builds a new one and swaps it in whole.

    Args:
        script: the loaded routing script, None to use the strategy alone.
        strategy: a name in STRATEGIES.
        debug: say for each other worker why it was not taken.
    """

    def __init__(self, fleet: Fleet, script: Script | None, strategy: str, env: Env, debug: bool = False) -> None:
        self.fleet = fleet
        self.script = script
        self.strategy: Strategy = STRATEGIES[strategy](env.rng)
        self.debug = debug

    def decide(self, request: Request) -> Decision:
        """Chooses a worker.

        1. The script names a worker that is not offline: it gets the request, under its own model's name if it does
           not serve the one that was asked for.
        2. The script returns nil, or there is none: the strategy chooses.
        3. The script fails, or names no worker of ours, or an offline one: the strategy chooses; the fault is logged.

        Raises:
            RouterError: model_not_found, no_healthy_worker.
        """
        script = self.script
        if script is None:
            return self._by_strategy(request, "strategy", self.strategy.name, None)
        choice = script.route(request, self.fleet)
        worker = choice.worker
        if worker is not None:
            if worker.status != OFFLINE:
                excluded = script.excluded(worker, choice.line, self.fleet) if self.debug else None
                return Decision(worker, "script", script.place(choice.line), _rewrite(request, worker), None, excluded)
            error = f"{script.place(choice.line)}: the script chose {worker.id}, which is offline"
        elif choice.error is None:
            return self._by_strategy(
                request, "strategy", f"{self.strategy.name}; {script.place(choice.line)} returned nil", None
            )
        else:
            error = choice.error
        return self._by_strategy(request, "fallback", self.strategy.name, error)

    def another(self, request: Request, tried: list[str], model: str) -> Decision | None:
        """The next best worker for a request whose first ones failed, or None when none is left."""
        eligible = self._eligible(model, tried)
        if not eligible:
            return None
        worker = self.strategy.choose(request, eligible)
        reason = f"{self.strategy.name} after {tried[-1]} failed"
        return Decision(worker, "failover", reason, model if model != request.model else None)

    def _by_strategy(self, request: Request, by: str, reason: str, error: str | None) -> Decision:
        eligible = self._eligible(request.model)
        if not eligible:
            raise self._nobody(request.model)
        worker = self.strategy.choose(request, eligible)
        excluded = self._why_not(request, worker) if self.debug else None
        return Decision(worker, by, reason, None, error, excluded)

    def _eligible(self, model: str, tried: list[str] | tuple[()] = ()) -> list[Worker]:
        """Ready workers that serve the model; when all of those are full, the busy ones: engines have queues.

        When there is none of either, those that were ejected but can be reached: refusing everybody because of some
        failures would make one bad prompt an outage.
        """
        serving = [
            worker
            for worker in self.fleet.ordered
            if (not worker.models or model in worker.model_set) and worker.id not in tried
        ]
        ready = [worker for worker in serving if worker.status == READY]
        return (
            ready
            or [worker for worker in serving if worker.status == BUSY]
            or [worker for worker in serving if worker.health.reachable]
        )

    def _nobody(self, model: str) -> RouterError:
        if any(worker.serves(model) for worker in self.fleet.ordered):
            return RouterError("no_healthy_worker", "no worker that serves this model can be reached at the moment")
        if not self.fleet.ordered:
            return RouterError("no_healthy_worker", "no worker is configured")
        return RouterError("model_not_found", f"the model {_shown(model)} does not exist on any worker", "model")

    def _why_not(self, request: Request, chosen: Worker) -> dict[str, str]:
        return {
            worker.id: self._reason_against(request, worker, chosen)
            for worker in self.fleet.ordered
            if worker is not chosen
        }

    def _reason_against(self, request: Request, worker: Worker, chosen: Worker) -> str:
        if not worker.serves(request.model):
            return f"does not serve {_shown(request.model)}"
        if worker.status == OFFLINE or (worker.status == BUSY and chosen.status == READY):
            return worker.status
        return f"{self.strategy.name} chose {chosen.id} (load {worker.load:.2f} against {chosen.load:.2f})"


def _rewrite(request: Request, worker: Worker) -> str | None:
    """The model name to write into the body when the chosen worker does not serve the one asked for."""
    if not worker.models or request.model in worker.model_set:
        return None
    return worker.models[0]


def _shown(model: str) -> str:
    return repr(model if len(model) <= 100 else model[:100] + "...")
