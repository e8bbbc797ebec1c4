"""Who can have a request: those that serve its model, may have it by the rules, and have room.

`decide` asks, for strategies and for whatever a script names.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rbeerouter.core.errors import RouterError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.models import Models
from rbeerouter.core.types import BUSY, READY, Request, Worker
from rbeerouter.routing.rules import Rules

_MOST_MODELS = 256
"""Names of models of which it is kept who serves them."""


class Eligible:
    """The workers of one fleet, as requests may have them.

    Attributes:
        fleet: may be replaced.
        rules: of [[models]] and of requests.
    """

    def __init__(self, fleet: Fleet, models: Models) -> None:
        self.fleet = fleet
        self.rules = Rules(models)
        self._by_model: dict[str, list[Worker]] = {}           # as long as the list of workers is the same
        self._version = -1

    def serving(self, request: Request, model: str, tried: Collection[str] = ()) -> list[Worker]:
        """Those that serve the model and may have the request, in whatever state they are. Not to be changed."""
        fleet, known = self.fleet, self._by_model
        if fleet.version != self._version:
            self._version = fleet.version
            known.clear()
        serving = known.get(model)
        if serving is None:
            if len(known) >= _MOST_MODELS:                     # clients may ask for anything
                known.clear()
            serving = known[model] = [worker for worker in fleet.ordered if worker.serves(model)]
        if tried:
            serving = [worker for worker in serving if worker.id not in tried]
        if self.rules.hold_for(fleet, request):
            return self.rules.allowed(fleet, request, model, serving)
        return serving

    def usable(self, request: Request, model: str, tried: Collection[str] = ()) -> list[Worker]:
        """Those with room that serve the model and may have the request. When all of them are offline, those that were
        ejected but can be reached: refusing everybody because of some failures would make one bad prompt an outage.
        """
        serving = self.serving(request, model, tried)
        usable = with_room(serving)
        if usable or any(worker.status == BUSY for worker in serving):
            return usable
        return [worker for worker in serving if worker.health.reachable and not worker.draining]

    def permitted(self, request: Request, wanted: str | None, named: Sequence[Worker]) -> list[Worker]:
        """Those of the workers that a script named which may have the request."""
        if not self.rules.hold_for(self.fleet, request):
            return list(named)
        return [worker for worker in named if self.forbidden(request, wanted, worker) is None]

    def forbidden(self, request: Request, wanted: str | None, worker: Worker) -> str | None:
        """Why a worker may not have the request."""
        model = renamed(request, worker, wanted) or request.model
        return self.rules.against(self.fleet, request, model, worker)

    def nobody(self, request: Request, model: str) -> RouterError:
        """Why nobody can have the request."""
        if self.serving(request, model):
            return RouterError("no_healthy_worker", "no worker that serves this model can be reached at the moment")
        if not self.fleet.ordered:
            return RouterError("no_healthy_worker", "no worker is configured")
        for worker in self.fleet.ordered:
            why = self.rules.against(self.fleet, request, model, worker) if worker.serves(model) else None
            if why is not None:
                what = f"the model {shown(model)} does not exist on any worker that may have this request: {why}"
                return RouterError("model_not_found", what, "model")
        return RouterError("model_not_found", f"the model {shown(model)} does not exist on any worker", "model")


def with_room(serving: list[Worker]) -> list[Worker]:
    """The ready ones; else the busy ones that take more. When there is neither one of those nor one that will be
    ready, those whose owner sits at them."""
    ready = [worker for worker in serving if worker.status == READY]
    if ready:
        return ready
    busy = [worker for worker in serving if worker.status == BUSY]
    taking = [one for one in busy if one.in_flight < one.most and one.takes_more]        # the first is part of it
    if taking or not busy:
        return taking
    if any(not worker.held or worker.cooling for worker in busy):
        return []
    return [worker for worker in busy if worker.load < 1]


def renamed(request: Request, worker: Worker, wanted: str | None = None) -> str | None:
    """The model name to write into the body, None to leave it: the one that the script wants, or the chosen worker's
    own when it does not serve the one asked for."""
    if wanted is not None:
        return wanted if wanted != request.model else None
    if not worker.models or request.model in worker.model_set:
        return None
    return worker.models[0]


def shown(model: str) -> str:
    """A model's name in a message."""
    return repr(model if len(model) <= 100 else model[:100] + "...")
