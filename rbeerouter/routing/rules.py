"""Hard rules: which workers may have a request at all, whatever script, strategy or a failure would have it do.

`routing.decide` asks before it gives a request to anybody. Rules come from [[models]] (workers, deployment) and from
the request itself (`Request.deployment`, and its protocol: not every worker speaks every one). Nothing here chooses.
"""

from __future__ import annotations

import msgspec

from rbeerouter.core.fleet import Fleet
from rbeerouter.core.models import NO_MODELS, Models
from rbeerouter.core.types import ANTHROPIC, DATA, OLLAMA, OPENAI, Request, Worker

_NAMES = {OPENAI: "OpenAI's API", ANTHROPIC: "Anthropic's API", OLLAMA: "Ollama's API", DATA: "the data API"}


class _Allowed(msgspec.Struct, frozen=True):
    """Those that a model's rules leave, and whether they are all of one side."""

    workers: frozenset[Worker]
    one_sided: bool


class Rules:
    """The rules of one configuration.

    Attributes:
        any: are there models with rules? If not, only a request's own can forbid anything.
    """

    def __init__(self, models: Models = NO_MODELS) -> None:
        self.models = models
        self._heard = -1
        self._strange: frozenset[str] = frozenset()
        self.any = bool(models.restricted)
        self._version = -1
        self._found: dict[str, _Allowed] = {}

    def hold_for(self, fleet: Fleet, request: Request) -> bool:
        """Can there be a worker that may not have this request? To be asked before all that costs more."""
        if fleet.version != self._heard:
            self._hear(fleet)
        return self.any or request.deployment is not None or request.protocol in self._strange

    def _hear(self, fleet: Fleet) -> None:
        """Which protocols are strange to some worker? Once for each list of workers."""
        self._heard = fleet.version
        known = (OPENAI, ANTHROPIC, OLLAMA, DATA)
        self._strange = frozenset(one for one in known if not all(worker.can(one) for worker in fleet.ordered))

    def allowed(self, fleet: Fleet, request: Request, model: str, workers: list[Worker]) -> list[Worker]:
        """Those of the workers that may have the request when it is sent for this model."""
        if request.protocol in self._strange:
            workers = [worker for worker in workers if worker.can(request.protocol)]
        if request.deployment is not None:
            workers = [worker for worker in workers if worker.deployment == request.deployment]
        for name in {request.model, model} if self.any else ():
            left = self._allowed(fleet, name)
            if left is not None:
                workers = [worker for worker in workers if worker in left.workers]
        return workers

    def leave_one_side(self, fleet: Fleet, request: Request, model: str) -> bool:
        """Is local or remote settled by the rules?"""
        if request.deployment is not None:
            return True
        rules = [self._allowed(fleet, name) for name in {request.model, model}] if self.any else ()
        return any(rule is not None and rule.one_sided for rule in rules)

    def against(self, fleet: Fleet, request: Request, model: str, worker: Worker) -> str | None:
        """The rule that forbids a worker, in words; None when it may have the request."""
        if not worker.can(request.protocol):
            return f"{request.path} is for workers that speak {_NAMES[request.protocol]}"
        if request.deployment is not None and worker.deployment != request.deployment:
            return f"the request is for {request.deployment} workers only"
        for name in (request.model, model):
            left = self._allowed(fleet, name)
            if left is not None and worker not in left.workers:
                rule = self.models.restricted[self.models.canonical(name)]
                if rule.deployment is not None and worker.deployment != rule.deployment:
                    return f"the model {rule.name!r} is for {rule.deployment} workers only"
                return f"the model {rule.name!r} is for {', '.join(rule.workers)} only"
        return None

    def _allowed(self, fleet: Fleet, name: str) -> _Allowed | None:
        """Worked out once for each model and list of workers; None for a model without rules."""
        model = self.models.restricted.get(self.models.canonical(name))
        if model is None:
            return None
        if self._version != fleet.version:
            self._version, self._found = fleet.version, {}
        found = self._found.get(model.name)
        if found is None:
            workers = frozenset(worker for worker in fleet.ordered if model.allows(worker))
            one_sided = len({worker.deployment for worker in workers}) < 2
            found = self._found[model.name] = _Allowed(workers, one_sided)
        return found
