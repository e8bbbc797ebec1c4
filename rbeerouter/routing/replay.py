"""Makes decisions again, from what they saw: with the script that made them, or with another one.

Two use it. `sim.replay` reads what was seen from routing.log. A shadow script inside of the daemon takes it from
memory, off the critical path, and needs no text of the log:

    replayer = Replayer(load)
    decider.listener = Listener(decided, called)     # put (seen, request, decision) and (call, request) into a queue
    decider.watch.tell_all()                         # the next decision tells the whole list of workers

and later, in the same order, for what stands in the queue:

    decision = replayer.decide(seen, request)        # raises RouterError where nobody could be had
    replayer.call(call, request)                     # on_failure and on_complete, for scripts that keep state

Whoever has to leave something out of the queue calls `tell_all` again and goes on with the next decision that has a
roll; `state` of the script then lacks what was left out. A `Seen` is never changed here, it belongs to its job.

Nothing here reads a clock: time, chance and the turns of strategy and split come out of what was seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from rbeerouter.config.sections import Routing
from rbeerouter.core.chance import Chance
from rbeerouter.core.mirror import Mirror
from rbeerouter.core.models import NO_MODELS, Models
from rbeerouter.core.seen import Call, Roll, Seen
from rbeerouter.core.types import Decision, Env, Request, Worker
from rbeerouter.routing.decide import Decider, as_configured
from rbeerouter.routing.script import Script
from rbeerouter.routing.split import Split

_DEFAULTS = Routing()
Load = Callable[[Env], Script | None]
"""Loads the script anew, with this time and chance; None: the strategy decides alone. May raise ScriptError."""


class FollowedSplit(Split):
    """A split whose turns stand where they stood.

    Attributes:
        owed: as `Seen` has it; None lets the turns go on by themselves.
    """

    owed: tuple[str, float] | None = None

    def narrowed(self, model: str, eligible: list[Worker]) -> list[Worker]:
        share = self.share(model)
        if share is not None and self.owed is not None and self.owed[0] == (model if model in self.of_models else ""):
            share.owed = self.owed[1]
        return super().narrowed(model, eligible)


class Replayer:
    """One script (or none) that decides again.

    Args:
        load: called for each run of decisions, since chance begins anew with it.
        routing: what strategies and script are told; its strategy decides until another one is in force (`use`).
        split: makes the split, None where nothing is shared.

    Attributes:
        run: the counting of decisions that is followed; None before the first roll.
        mirror: the fleet as it was seen.
        decider: what decides now.
    """

    def __init__(
        self,
        load: Load,
        routing: Routing = _DEFAULTS,
        models: Models = NO_MODELS,
        split: Callable[[], FollowedSplit | None] = lambda: None,
    ) -> None:
        self._load, self._routing, self._models, self._make_split = load, routing, models, split
        self._strategy = routing.strategy
        self._wall = 0.0
        self._utc_offset_s = 0
        self.run: str | None = None
        self._base = 0
        self.script: Script | None = None
        self._begin("", 0)
        self.run = None

    def decide(self, seen: Seen, request: Request) -> Decision:
        """What is decided of this request by what was seen. Raises RouterError as `Decider.decide` does."""
        self._follow(seen)
        return self.decider.choose(request, seen)

    def call(self, call: Call, request: Request) -> None:
        """Calls the script's hook again, if it has it. What it answers is not compared: it is about a worker that has
        failed already."""
        self._follow(call.seen)
        script = self.decider.script
        if script is None:
            return
        if call.attempt is not None and script.has_on_failure:
            self.decider.asked_after_failure(script, request, call)
        elif call.outcome is not None and script.has_on_complete:
            self.decider.told_completed(script, request, call)

    def enroll(self, roll: Roll) -> None:
        """Takes a list of workers ahead of the decision that saw it first. A new run begins everything anew."""
        if roll.run != self.run or roll.base != self._base:
            self._begin(roll.run, roll.base)
        self.mirror.enroll(roll)

    def use(self, strategy: str) -> None:
        """From the next decision on this one is in force. Raises StrategyError."""
        if strategy != self._strategy:
            self.decider.use(strategy)
            self._strategy = strategy

    def set_utc_offset(self, seconds: int) -> None:
        """From the next decision on local time is this."""
        if seconds != self._utc_offset_s:
            self._utc_offset_s = seconds
            if self.script is not None:
                self.script.look_at_clock_again()

    def reload(self) -> None:
        """Loads the script anew, as the daemon did: it keeps `state` and params, but no variables of its own."""
        before, old = self.decider, self.script
        self.script = self._load(self._env)
        if self.script is not None and old is not None:
            self.script.adopt(old)
            old.close()
        self.decider = self._decider()
        self.decider.succeed(before)

    def reinstate(self) -> None:
        """Puts the script back that was taken out of service: whoever served put it back as well."""
        if self.decider.script is None and self.script is not None:
            self.decider.script = self.script

    def close(self) -> None:
        if self.script is not None:
            self.script.close()

    def _follow(self, seen: Seen) -> None:
        if seen.roll is not None:
            self.enroll(seen.roll)
        self.mirror.follow(seen)
        self._wall = seen.wall
        decider = self.decider
        decider.chance.n = seen.n
        if seen.turns is not None:
            decider.panel.stand_at(seen.turns)
        split = decider.split
        if isinstance(split, FollowedSplit):
            split.owed = seen.owed

    def _begin(self, run: str, base: int) -> None:
        self.run, self._base = run, base
        self._env = Env(lambda: 0.0, lambda: self._wall, random.Random(0), lambda: self._utc_offset_s, Chance(base))
        self.close()
        self.script = self._load(self._env)
        self.mirror = Mirror()
        self.decider = self._decider()

    def _decider(self) -> Decider:
        return Decider(
            self.mirror, self.script, self._strategy, self._env, faults=self._routing.script_faults,
            models=self._models, split=self._make_split(), **as_configured(self._routing),
        )  # fmt: skip
