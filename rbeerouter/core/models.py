"""The models that the configuration names: aliases, sizes, prices, and which workers may have a request at all.

`config` builds one `Models`; `wire` resolves the name in a request once, `routing.decide` asks who may have it, and
`record` what it cost. Nothing here chooses a worker or changes one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from rbeerouter.core.errors import RouterError
from rbeerouter.core.types import LOCAL, NO_WISHES, REMOTE, Request, Wishes, Worker, WorkerSpec

_LATEST = ":latest"
_TOKENS_PRICED = 1_000_000
OWN_TARGETS = ("slo_ttft_ms", "slo_tpot_ms", "slo_e2e_ms")
"""What a model's clients get for wishes that they do not say."""
OWN_LIMITS = ("first_content_s", "gap_s", "request_s", "stream_s")
"""What a model may have in place of what holds for all."""


class Profile(msgspec.Struct, frozen=True):
    """One way to route a model's requests. None: not said.

    strategy: a name or a list; None leaves it to whatever is in force.
    prompt_tokens_gte, prompt_tokens_lt, max_tokens_gte, max_tokens_lt: the sizes that it is for, where clients leave
    the choice to us.
    """

    name: str
    strategy: str | None = None
    prompt_tokens_gte: int | None = None
    prompt_tokens_lt: int | None = None
    max_tokens_gte: int | None = None
    max_tokens_lt: int | None = None

    @property
    def hints(self) -> int:
        """How many sizes it names."""
        sizes = (self.prompt_tokens_gte, self.prompt_tokens_lt, self.max_tokens_gte, self.max_tokens_lt)
        return sum(size is not None for size in sizes)


class Model(msgspec.Struct, frozen=True):
    """One model, as the operator describes it. None: not said, so what holds for all models holds.

    size: billions of parameters.
    workers: ids or patterns with `*` of the only workers that may have its requests; empty for any.
    deployment: the only side that may have them.
    local_fraction: the share of its requests that stays local, in place of the split's.
    price_in, price_out: per million tokens; a worker's own prices go before these.
    continuation: may another worker go on with an answer that broke off?
    first_content_s, gap_s, request_s, stream_s: in place of the limits of the same names.
    slo_ttft_ms, slo_tpot_ms, slo_e2e_ms: the wishes of those who do not say.
    locked_strategy: the one that its requests have whatever anybody else says.
    default_profile: of the requests that name none, None for the one of that name; profiles: all of them.
    """

    name: str
    size: float | None = None
    aliases: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    deployment: str | None = None
    local_fraction: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    continuation: bool = False
    first_content_s: float | None = None
    gap_s: float | None = None
    request_s: float | None = None
    stream_s: float | None = None
    slo_ttft_ms: float | None = None
    slo_tpot_ms: float | None = None
    slo_e2e_ms: float | None = None
    locked_strategy: str | None = None
    default_profile: str | None = None
    profiles: tuple[Profile, ...] = ()

    @property
    def has_targets(self) -> bool:
        """Does it say how fast its requests are to be answered?"""
        return any(getattr(self, name) is not None for name in OWN_TARGETS)

    @property
    def chooses(self) -> bool:
        """Does it say something of strategies?"""
        return self.locked_strategy is not None or bool(self.profiles)

    @property
    def restricted(self) -> bool:
        """Are there workers that may never have its requests?"""
        return bool(self.workers) or self.deployment is not None

    def allows(self, worker: Worker) -> bool:
        """May this worker have a request for this model?"""
        if self.deployment is not None and worker.deployment != self.deployment:
            return False
        return not self.workers or any(matches(pattern, worker.id) for pattern in self.workers)


class Models:
    """The configured models by their names and aliases. Never changes; a reload makes another one.

    Ollama's `name:latest` and `name` are the same model, unless both are configured.

    Attributes:
        restricted: {name: model} of those that not every worker may have.
        priced: does any of them have a price?
        targeted: does any of them say how fast its requests are to be answered?
        choose: does any of them say something of strategies?
    """

    def __init__(self, models: Iterable[Model] = ()) -> None:
        self.all = tuple(models)
        self.restricted = {model.name: model for model in self.all if model.restricted}
        self.priced = any(model.price_in is not None or model.price_out is not None for model in self.all)
        self.targeted = any(model.has_targets for model in self.all)
        self.choose = any(model.chooses for model in self.all)
        self._by_name = {model.name: model for model in self.all}
        for model in self.all:
            for alias in model.aliases:
                self._by_name.setdefault(alias, model)
        for name, model in list(self._by_name.items()):
            if name.endswith(_LATEST):
                self._by_name.setdefault(name.removesuffix(_LATEST), model)
            elif ":" not in name:
                self._by_name.setdefault(name + _LATEST, model)

    def __bool__(self) -> bool:
        return bool(self.all)

    def __iter__(self) -> Iterator[Model]:
        return iter(self.all)

    def resolve(self, name: str) -> Model | None:
        """The model that has this name or alias."""
        return self._by_name.get(name)

    def canonical(self, name: str) -> str:
        """What a model is called here; a name that is not configured stands for itself."""
        model = self._by_name.get(name)
        return model.name if model is not None else name

    def resolved(self, request: Request) -> Request:
        """The request for the model that its name stands for, with that model's wishes where the client says none."""
        model = self._by_name.get(request.model)
        if model is None:
            return request
        targeted = self.targeted and model.has_targets
        if model.name == request.model and model.size is None and not targeted:
            return request
        return msgspec.structs.replace(
            request,
            model=model.name,
            asked_model=request.model if request.model != model.name else None,
            model_size=request.model_size if model.size is None else model.size,
            wishes=with_targets(request.wishes, model) if targeted else request.wishes,
        )

    def cost(self, spec: WorkerSpec, name: str, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """What the tokens cost on that worker; None when no token has a price."""
        model = self._by_name.get(name)
        price_in, price_out = spec.price_in, spec.price_out
        if model is not None:
            price_in = model.price_in if price_in is None else price_in
            price_out = model.price_out if price_out is None else price_out
        parts = [
            tokens * price
            for tokens, price in ((tokens_in, price_in), (tokens_out, price_out))
            if tokens is not None and price is not None
        ]
        return round(sum(parts) / _TOKENS_PRICED, 6) if parts else None


NO_MODELS = Models()


def with_targets(wishes: Wishes | None, targets: Model | Wishes) -> Wishes:
    """The wishes with these targets where they say none."""
    known = wishes or NO_WISHES
    missing = {name: getattr(targets, name) for name in OWN_TARGETS if getattr(known, name) is None}
    return msgspec.structs.replace(known, **missing)


def for_side(request: Request, wanted: bytes) -> Request:
    """The request for workers of one side only, as the header x-rbee-deployment says. Raises RouterError."""
    side = wanted.decode("latin-1").strip().lower()
    if side not in (LOCAL, REMOTE):
        raise RouterError("bad_request", f"x-rbee-deployment: {side[:20]!r}: expected local or remote")
    return msgspec.structs.replace(request, deployment=side)


def name_to_send(request: Request, worker: Worker, chosen: str | None) -> str | None:
    """The model name to write into the body for this worker, None to leave the body as it came.

    Args:
        chosen: the model that was decided on in place of the one asked for, if any.
    """
    model = chosen if chosen is not None else request.model
    sent = worker.spec.model_names.get(model, model)
    return sent if sent != (request.asked_model or request.model) else None


def matches(pattern: str, worker_id: str) -> bool:
    """Does a worker's id fit a pattern, in which `*` stands for any text?"""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), worker_id) is not None
