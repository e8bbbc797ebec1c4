"""Probes of simulated workers: when `control.probe` would look, and what it would be told.

`world` calls `look` when one is due. The schedule is that of `control.probe.Prober`, without its connections: a look
that is answered takes no time. What a worker tells depends on its engine, as in life: its load is as old as the last
look, and one whose engine has no such page tells none.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from rbeerouter.config.sections import Probes
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import BUSY, READY, Report
from rbeerouter.dialects.engines import ENGINES
from rbeerouter.dialects.engines.detect import AUTO, UNRECOGNISED, of_url
from rbeerouter.sim.site import NEVER, Site

_GLANCE_S = 0.1
_FULL_LOAD_S = 2.0
_SLOWEST_RETURN = 1 / 3
_MISSED_AT_ONCE = 32
"""As in `control.probe`, where they are explained."""

_QUEUE = frozenset({"running", "waiting"})
_COUNTERS = frozenset({"generated_tokens", "prompt_tokens"})
_START = frozenset({"started_at"})
TOLD: dict[str, frozenset[str]] = {
    "vllm": _QUEUE | _COUNTERS | _START | {"kv_usage", "cached_tokens", "kv_blocks", "block_size"},
    "sglang": _QUEUE | {"kv_usage", "slots"},
    "llamacpp": _QUEUE | _COUNTERS | _START | {"cached_tokens", "slots"},
    "ollama": frozenset({"loaded"}),
    "tgi": _QUEUE | _COUNTERS | {"slots"},
    "trtllm": _QUEUE | _START | {"kv_usage", "kv_blocks", "block_size"},
    "lmdeploy": _QUEUE | _COUNTERS | _START | {"kv_usage"},
    "lmstudio": frozenset({"loaded"}),
    "mlx": frozenset(),
    "sdwebui": frozenset({"running", "loaded"}),
    "openai": frozenset(),
    "openai-cloud": frozenset(),
    "anthropic": frozenset(),
    "xai": frozenset(),
    "data": frozenset(),
}
"""{engine: the fields of a `Report` that its pages fill, besides the list of models}: what the readers of
`dialects.engines` find on the pages of a newer version."""


_READERS: dict[str, Callable[[Site], Any]] = {
    "running": lambda site: site.engine.running,
    "waiting": lambda site: site.engine.waiting,
    "kv_usage": lambda site: site.engine.kv_usage,
    "prompt_tokens": lambda site: float(site.engine.prompt_tokens - site.told_before[0]),
    "cached_tokens": lambda site: float(site.engine.cached_tokens - site.told_before[1]),
    "generated_tokens": lambda site: float(site.engine.generated_tokens - site.told_before[2]),
    "started_at": lambda site: site.started_at,
    "kv_blocks": lambda site: site.sim.profile.kv_tokens // site.sim.profile.block_tokens,
    "block_size": lambda site: site.sim.profile.block_tokens,
    "loaded": lambda site: tuple(site.engine.loaded),
}
"""{field: from a worker to what it tells on its pages of load}"""
_LIES = ("running", "waiting", "kv_usage")


class _Watch:
    """What is remembered of a worker from look to look, as `control.probe._Watch` has it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        spec = site.sim.spec
        self.engine = spec.engine if spec.engine != AUTO else of_url(spec.url) or UNRECOGNISED
        self.spec = ENGINES[self.engine]
        self.told = TOLD[self.engine]
        self.readers = [(name, read) for name, read in _READERS.items() if name in self.told]
        self.has_load = any(page.load for page in self.spec.pages)
        self.busy = self.reachable = False
        self.failed = self.troubles = self.restarts = 0
        self.due = self.state_due = self.load_due = 0.0
        self.state: dict[str, Any] = {}
        self.load: dict[str, Any] = {}


class Looks:
    """The looks at all workers.

    Args:
        at: has a function called at a time, with one argument. catch_up: brings a worker's engine to the present.
    """

    def __init__(
        self, fleet: Fleet, sites: list[Site], probes: Probes, rng: random.Random, now: Callable[[], float],
        at: Callable[[float, Callable[[Any], None], Any], None], catch_up: Callable[[Site], None],
    ) -> None:  # fmt: skip
        self._fleet = fleet
        self._probes = probes
        self._rng = rng
        self._now = now
        self._at = at
        self._catch_up = catch_up
        self._watches = [_Watch(site) for site in sites]

    def look_at_all(self) -> None:
        """One full look at all workers, as at the start."""
        for watch in self._watches:
            self._look(watch)

    def failed(self, site: Site) -> None:
        """An attempt has failed there: is it to be looked at sooner?"""
        watch = self._watches[site.worker.index]
        if not watch.busy:
            soon = self._sooner(watch)
            if soon < watch.due:
                self._schedule(watch, soon)

    def _sooner(self, watch: _Watch) -> float:
        """When it is due by what requests have found out, which `control.probe` looks at ten times a second."""
        health, due = watch.site.worker.health, NEVER
        troubles = health.failures + health.connect_failures
        if (watch.reachable and not health.reachable) or troubles > watch.troubles:
            watch.reachable = watch.reachable and health.reachable
            watch.state_due = 0.0
            due = self._now() + self._spread(self._probes.down_interval_s)
        watch.troubles = troubles
        return due

    def shift(self, seconds: float) -> None:
        """Nothing happens for so long: the looks of that time are left out."""
        for watch in self._watches:
            watch.state_due += seconds
            watch.load_due += seconds
            self._schedule(watch, watch.due + seconds)

    def _schedule(self, watch: _Watch, due: float) -> None:
        """The glance comes at the next tenth of a second, and never before what is due: a look that finds nothing due
        yet would be planned again for the same moment, for ever."""
        watch.due = due
        self._at(max(due, math.ceil(round(due / _GLANCE_S, 6)) * _GLANCE_S), self.glance, (watch, due))

    def glance(self, planned: tuple[_Watch, float]) -> None:
        """A planned look; called by `at`."""
        watch, due = planned
        if due == watch.due and not watch.busy:                # else another time was set meanwhile
            self._look(watch)

    def _look(self, watch: _Watch) -> None:
        trouble, now = watch.site.trouble, self._now()
        if trouble.cut:                                        # a page of load that fails has those of state asked for
            seconds = self._probes.timeout_s * (1 if watch.state_due <= now or not watch.load else 2)
            watch.busy = True
            self._at(now + seconds, self._not_answered, watch)
        elif trouble.down:
            self._not_there(watch, now)
        else:
            self._answered(watch, now)

    def _not_answered(self, watch: _Watch) -> None:
        watch.busy = False
        self._not_there(watch, self._now())

    def _answered(self, watch: _Watch, now: float) -> None:
        site, probes, rng = watch.site, self._probes, self._rng
        worker = site.worker
        self._catch_up(site)
        if watch.state_due <= now:
            watch.state = self._state(watch)
        if watch.has_load and (watch.load_due <= now or not watch.load):
            least_s = watch.spec.least_load_s
            watch.load_due = now + max(least_s, max(probes.metrics_s, least_s) * (0.8 + 0.4 * rng.random()))
            load = self._load(watch)
            if _restarted(watch.load, load):
                watch.restarts += 1
                watch.state = self._state(watch)
            if watch.restarts and "started_at" not in load:
                load["started_at"] = float(watch.restarts)
            watch.load = load
        report = Report(worker.id, True, taken_at=now, engine=watch.engine, **{**watch.state, **watch.load})
        watch.reachable, watch.failed = True, 0
        if watch.state_due <= now:
            watch.state_due = now + self._spread(max(probes.interval_s, watch.spec.least_interval_s))
        due = min(watch.state_due, watch.load_due) if watch.has_load else watch.state_due
        self._fleet.apply(report)
        if worker.status == BUSY and worker.foreign and worker.in_flight < worker.capacity:
            watch.load_due = min(watch.load_due, now + max(watch.spec.least_load_s, _FULL_LOAD_S))
            due = min(due, watch.load_due)
        self._schedule(watch, min(due, self._sooner(watch)))

    def _not_there(self, watch: _Watch, now: float) -> None:
        probes = self._probes
        watch.reachable = False
        watch.failed += 1
        watch.state_due, watch.state, watch.load = 0.0, {}, {}
        pause_s = probes.down_interval_s * 2 ** min(watch.failed - 1, 20)
        if self._is_missed(watch.site):
            pause_s = min(pause_s, probes.down_interval_s * max(1.0, len(self._watches) / _MISSED_AT_ONCE))
        longest_s = max(probes.down_interval_s, _SLOWEST_RETURN * probes.interval_s)
        due = now + self._spread(min(pause_s, longest_s, probes.interval_s))
        self._fleet.apply(Report(watch.site.worker.id, False, None, now, engine=watch.engine))
        self._schedule(watch, due)

    def _is_missed(self, site: Site) -> bool:
        worker = site.worker
        return not any(
            other is not worker and other.standing in (READY, BUSY)
            and not (worker.models and other.models and worker.model_set.isdisjoint(other.model_set))
            for other in self._fleet.ordered
        )  # fmt: skip

    def _spread(self, seconds: float) -> float:
        return seconds * (0.8 + 0.4 * self._rng.random())

    # What it tells

    def _state(self, watch: _Watch) -> dict[str, Any]:
        spec, sim, told = watch.spec, watch.site.sim, watch.told
        models = tuple(name for name in sim.spec.models if name not in sim.spec.model_names)
        state: dict[str, Any] = {"speaks": spec.speaks, "models": models or None}
        if "slots" in told:
            state["slots"] = sim.profile.slots
        else:
            state["slots"], state["most"] = spec.usual_concurrency, spec.most_concurrency or spec.usual_concurrency
        if "loaded" in told:
            state["loaded"] = tuple(watch.site.engine.loaded)
        return state

    def _load(self, watch: _Watch) -> dict[str, Any]:
        site = watch.site
        load = {name: read(site) for name, read in watch.readers}
        if site.trouble.lying:
            load |= {name: 0 for name in _LIES if name in load}
        load["in_flight"] = site.worker.in_flight
        return load


def _restarted(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Does it tell of another start, or count from the beginning again?"""
    for name in ("generated_tokens", "prompt_tokens"):
        if name in now and now[name] < before.get(name, 0.0):
            return True
    started_at = now.get("started_at")
    return started_at is not None and abs(started_at - before.get("started_at", started_at)) > 1.0
