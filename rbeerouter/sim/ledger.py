"""The savings ledger: what the same traffic would have cost, and waited, under rules that think less.

`routing simulate` and the nightly look at the log show it beside their result. Each rule is simulated on the same
arrivals, faults and seed as the policy itself, by the same world; the ledger only chooses the scenarios and subtracts.
It must not judge: more machine cost for less waiting may be just what was wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from math import isclose

import msgspec

from rbeerouter.config.sections import Config, ConfigError
from rbeerouter.core.models import Models
from rbeerouter.core.types import REMOTE, WorkerSpec
from rbeerouter.sim.hardware import CLOUD_PROFILE
from rbeerouter.sim.metrics import metrics
from rbeerouter.sim.types import Arrival, Result, Scenario, SimWorker, Workload

MOST_REQUESTS = 20_000
"""So many requests tell enough, and a ledger should take seconds."""
METRICS = (
    "cost", "machine_cost", "energy_wh", "p50_ttft_s", "p95_ttft_s", "p50_e2e_s", "p95_e2e_s", "p95_queue_s",
    "rejected", "failed", "goodput",
)  # fmt: skip
"""What the ledger has of each rule."""
YOURS = "yours"

Run = Callable[[Scenario], Result]
"""What simulates: `world.run`."""


class Entry(msgspec.Struct, frozen=True):
    """What came of one rule.

    values: {name in METRICS: number}, None where nothing is known. spent: cost of tokens and of machines together,
    of what is known. saved: what the rule would have spent beyond yours, None where either is not known. Machines are
    paid under each rule for as long as yours took: they run on, and one late answer more or less costs nothing.
    """

    name: str
    about: str
    values: dict[str, float | None]
    spent: float | None
    saved: float | None = None


class Ledger(msgspec.Struct, frozen=True):
    """The entries, yours first. requests: how many were simulated for it; sampled: there were more."""

    requests: int
    sampled: bool
    entries: tuple[Entry, ...]


class Beginning(msgspec.Struct, frozen=True):
    """The first requests of a workload, in their own time: thinning them out would change the load."""

    whole: Workload
    most: int

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def count(self) -> int | None:
        return None if self.whole.count is None else min(self.whole.count, self.most)

    @property
    def block_tokens(self) -> int:
        return self.whole.block_tokens

    def __iter__(self) -> Iterator[Arrival]:
        return islice(iter(self.whole), self.most)


def ledger(
    scenario: Scenario,
    run: Run,
    result: Result | None = None,
    most: int = MOST_REQUESTS,
    remote_price: tuple[float, float] | None = None,
) -> Ledger:
    """Simulates the baselines of a scenario, and the scenario itself where `result` is not its own already.

    Args:
        result: what came of the scenario; used when it has no more than `most` requests.
        most: requests that are simulated, from the beginning; the ledger says when that were not all.
        remote_price: (in, out) per million tokens of a made-up remote worker, where there is none.
    """
    count = scenario.workload.count
    sampled = count > most if count is not None else result is None or result.all.requests > most
    if sampled:
        scenario = msgspec.structs.replace(scenario, workload=Beginning(scenario.workload, most))
    yours = result if result is not None and not sampled else run(scenario)
    first = _entry(YOURS, yours.script or yours.strategy, yours, None, yours.simulated_s)
    others = [
        _entry(name, about, run(baseline), first.spent, yours.simulated_s)
        for name, about, baseline in baselines(scenario, remote_price)
    ]
    return Ledger(yours.all.requests, sampled and yours.all.requests >= most, (first, *others))


def baselines(
    scenario: Scenario, remote_price: tuple[float, float] | None = None
) -> list[tuple[str, str, Scenario]]:
    """(name, what it is, scenario) of each rule that the policy is held against."""
    plain = msgspec.structs.replace(scenario, script=None, params={}, config=_without_split(scenario))
    found = [
        (name, f"the strategy {name} alone", msgspec.structs.replace(plain, strategy=name))
        for name in ("round-robin", "least-request")
    ]
    remote = tuple(worker for worker in scenario.workers if worker.spec.deployment == REMOTE)
    about = "every request to the remote workers, no machine at home"
    if not remote and remote_price is not None:
        remote = (cloud_worker(scenario, remote_price),)
        about = f"every request to a made-up service, {remote_price[0]:g} and {remote_price[1]:g} per million tokens"
    if remote:
        names = {worker.spec.id for worker in remote}
        faults = tuple(fault for fault in scenario.faults if fault.worker in names)
        config = msgspec.structs.replace(plain.config, models=_anywhere(plain.config.models))
        away = msgspec.structs.replace(plain, workers=remote, faults=faults, config=config, strategy="least-request")
        found.append(("all-remote", about, away))
    return found


def read_price(text: str) -> tuple[float, float]:
    """(in, out) of `--remote-price 0.5,1.5`. Raises ConfigError."""
    try:
        price_in, price_out = (float(part) for part in text.split(","))
    except ValueError:
        price_in = price_out = -1.0
    if not (0 <= price_in <= 1e9 and 0 <= price_out <= 1e9):
        raise ConfigError(f"--remote-price {text}: expected IN,OUT per million tokens, as in 0.5,1.5")
    return price_in, price_out


def cloud_worker(scenario: Scenario, price: tuple[float, float]) -> SimWorker:
    """A remote worker that serves whatever the others do, at this price per million tokens."""
    models = dict.fromkeys(model for worker in scenario.workers for model in worker.spec.models)
    spec = WorkerSpec(
        id="made-up-service", url="https://service.invalid", engine="openai", models=tuple(models),
        max_concurrency=CLOUD_PROFILE.slots, deployment=REMOTE, price_in=price[0], price_out=price[1],
    )  # fmt: skip
    return SimWorker(spec, CLOUD_PROFILE)


def _without_split(scenario: Scenario) -> Config:
    config = scenario.config
    models = Models(msgspec.structs.replace(model, local_fraction=None) for model in config.models)
    return msgspec.structs.replace(config, routing=msgspec.structs.replace(config.routing, split=None), models=models)


def _anywhere(models: Models) -> Models:
    """The models without the rules that keep their requests in the house: what would it cost if they might leave it?"""
    return Models(msgspec.structs.replace(model, workers=(), deployment=None) for model in models)


def _entry(name: str, about: str, result: Result, yours: float | None, lasts_s: float) -> Entry:
    found = metrics(result)
    if result.machine_cost is not None and result.simulated_s > 0:
        found["machine_cost"] = result.machine_cost / result.simulated_s * lasts_s
    known = [cost for cost in (found["machine_cost"], result.all.cost) if cost is not None]
    spent = sum(known) if known else None
    saved = None if name == YOURS or spent is None or yours is None else spent - yours
    if saved and isclose(spent, yours, rel_tol=1e-9):           # type: ignore[arg-type]
        saved = 0.0                                             # machines' hours alone, which were divided
    return Entry(name, about, {metric: found[metric] for metric in METRICS}, spent, saved)
