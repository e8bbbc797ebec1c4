"""The strategies of one decider: which one a request is to have, and what they choose, one after the other.

`decide` asks for the strategy of a request and lets it pick among the workers that can be used. Strategies are made at
their first use, whoever names them, and keep what they remember of their own choices from one panel to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rbeerouter.config.strategies import StrategyError, spelled
from rbeerouter.core.errors import RouterError
from rbeerouter.core.memory import Kind
from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.selection import chosen_name, profile_of
from rbeerouter.routing.strategies import NAMES, STRATEGIES
from rbeerouter.routing.strategies.base import Context, Hold, Strategy
from rbeerouter.routing.strategies.combined import Combined

PROFILE_HEADER = "x-rbee-profile"
CONFIG = "config"
_MOST_TEXTS = 256
"""Ways to write a strategy that are kept with what they mean: clients may write anything."""
_LAST_RESORT = "least-request"
"""Asked when none of the fallbacks has anything to go by. It always has."""


class Panel:
    """Strategies by name, and lists of them by what was written.

    Args:
        strategy: a name or a list, as `NAMES` reads it. Raises StrategyError for others, as `fallback` does.
        fallback: those that are asked in turn where the chosen one has nothing to go by.
        on_new: called when one has been made later.

    Attributes:
        header: may clients choose one?
        strategy: the one in force, where neither the model nor the client says anything.
        source: who said so: "config", "environment", "persisted" or "runtime".
        by_name: those that have been made; standing: those of them that remember their own choices.
    """

    def __init__(
        self, context: Context, strategy: str, fallback: Sequence[str], header: bool, on_new: Callable[[], None]
    ) -> None:
        self.context = context
        self.by_name: dict[str, Strategy] = {}
        self._lists: dict[str, Strategy] = {}                  # by what was written
        self.header = header
        self._models = context.models
        self._models_choose = context.models.choose
        self._on_new: Callable[[], None] = lambda: None
        self.standing: tuple[Strategy, ...] = ()
        self._states: dict[str, Any] = {}                      # where those of the panel before stood
        self.strategy, self.source = self.of(strategy), CONFIG
        self.fallback = tuple(self.of(name) for name in fallback)
        for model in self._models if self._models_choose else ():
            for text in (model.locked_strategy, *(profile.strategy for profile in model.profiles)):
                if text is not None:
                    self.of(text)
        self._asked: set[str] = set()                          # names, by clients and scripts
        self._on_new = on_new

    def of(self, text: str) -> Strategy:
        """What a name or a list stands for, made at its first use. Raises StrategyError."""
        strategy = self.by_name.get(text) or self._lists.get(text)
        if strategy is None:
            parts = NAMES.read(text)
            strategy = self.named(parts[0][0]) if len(parts) == 1 else self._combined(parts)
            if len(self._lists) >= _MOST_TEXTS:
                self._lists.clear()
            self._lists[text] = strategy
        return strategy

    def asked(self, text: str) -> Strategy:
        """The same, where a client or a script asks for it. Raises StrategyError."""
        strategy = self.of(text)
        self._asked.update(strategy.names)
        return strategy

    def named(self, name: str) -> Strategy:
        """A strategy by its own name."""
        strategy = self.by_name.get(name)
        if strategy is None:
            asked = len(self.context.remembered)
            strategy = self.by_name[name] = STRATEGIES[name](self.context)
            strategy.remembers = len(self.context.remembered) > asked
            if strategy.state() is not None:
                self.standing = (*self.standing, strategy)
                if name in self._states:
                    strategy.stand_at(self._states[name])
            self._on_new()
        return strategy

    def _combined(self, parts: tuple[tuple[str, int], ...]) -> Combined:
        """Lists that mean the same are one, as long as it is kept."""
        name = spelled(parts)
        known = self._lists.get(name)
        if isinstance(known, Combined):
            return known
        return Combined(self.context, [(self.named(one), weight) for one, weight in parts])

    # In force

    def use(self, strategy: str, source: str) -> None:
        """From now on this one is in force: a name or a list. Raises StrategyError."""
        self.strategy, self.source = self.of(strategy), source

    def succeed(self, old: Panel) -> None:
        """Goes on after the one before it. What clients and scripts have asked for since that began, they will ask for
        again; what it had from others, or from the panel before it, need not be kept."""
        self.go_on_from(old)
        for name in sorted(old._asked):
            self.named(name)

    def go_on_from(self, old: Panel) -> None:
        """Whose turn it was for the other one, it is for this one."""
        self._states = old._states | old.turns()
        self.stand_at(self._states)

    def turns(self) -> dict[str, Any]:
        """{strategy: where it stands} of those that remember their own choices."""
        return {strategy.name: strategy.state() for strategy in self.standing}

    def stand_at(self, turns: dict[str, Any]) -> None:
        """Strategies go on from here, as far as there are such to be asked."""
        for strategy in self.standing:
            if strategy.name in turns:
                strategy.stand_at(turns[strategy.name])

    @property
    def remembered(self) -> frozenset[Kind]:
        """The memories that they have asked for."""
        return frozenset(self.context.remembered)

    # Choosing

    def selected(self, request: Request, wanted: str | None = None) -> Strategy:
        """The strategy that this request is to have. Raises RouterError where the client names none that there is.

        Args:
            wanted: the model that is chosen in place of the request's.
        """
        if request.wishes is None and not self._models_choose:
            return self.strategy
        text = chosen_name(request, self._models.resolve(wanted or request.model), self.header)
        if text is None:
            return self.strategy
        try:
            return self.asked(text)
        except StrategyError as error:
            raise RouterError("invalid_header", f"routing-strategy: {error}") from None

    def pick(
        self, strategy: Strategy, request: Request, eligible: list[Worker], slow: bool
    ) -> tuple[Worker | Hold, Strategy]:
        """(what is chosen, by whom): the strategy, or where it has nothing to go by, one of the fallbacks in turn.

        Args:
            slow: are there workers in slow start? Such a one is kept from strategies all but as often as its weight
                says.
        """
        choice = strategy.choose(request, self._thinned(strategy.by_load, eligible) if slow else eligible)
        if choice is None:
            for strategy in (*self.fallback, self.named(_LAST_RESORT)):
                choice = strategy.choose(request, self._thinned(strategy.by_load, eligible) if slow else eligible)
                if choice is not None:
                    break
            assert choice is not None, "the last resort knows nothing"
        if choice.__class__ is Worker:
            strategy.taken(request, choice)
        return choice, strategy

    def _thinned(self, by_load: bool, eligible: list[Worker]) -> list[Worker]:
        """A strategy that goes by load would give nearly all to a worker that comes back idle, so for it the chance is
        that of being chosen, not of being seen: its weight times a fair share."""
        slow = [worker for worker in eligible if worker.weight < 1.0]
        if not slow or len(slow) == len(eligible):
            return eligible
        random = self.context.chance.random
        if by_load:
            room = sum(worker.capacity for worker in eligible)
            for worker in slow:
                if random() * room < worker.weight * worker.capacity:
                    return [worker]
            return [worker for worker in eligible if worker.weight >= 1.0]
        return [worker for worker in eligible if worker.weight >= 1.0 or random() < worker.weight]

    def told(
        self, strategy: Strategy, asked: Strategy, worker: Worker, request: Request, wanted: str
    ) -> tuple[tuple[str, str], ...]:
        """What the client is told of how its worker was chosen: by `strategy`, which may have left it to `asked`."""
        told = asked.headers(worker)
        if asked is not strategy:
            told = (*strategy.headers(worker), *told)
        if self._models_choose:
            model = self._models.resolve(wanted)
            profile = profile_of(request, model) if model is not None else None
            if profile is not None:
                return (*told, (PROFILE_HEADER, profile.name))
        return told
