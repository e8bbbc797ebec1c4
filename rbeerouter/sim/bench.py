"""`routing bench`: microseconds of a decision by the number of workers, and what of them is the script.

Measured on the stand of `workbench.cost`, with the machine as it is: the numbers are this machine's, and differ from
run to run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import msgspec

from rbeerouter.config.sections import ConfigError
from rbeerouter.routing.sandbox import Abilities
from rbeerouter.sim.tables import Table, table
from rbeerouter.sim.units import figure
from rbeerouter.workbench.cost import Stand

WORKERS = (1, 8, 64, 256, 512)
MOST_WORKERS = 4096
DECISIONS = 2000
"""That are timed, of each kind and number of workers: p99 is made of the 20 slowest."""
_WARM_UP = 200


class Cost(msgspec.Struct, frozen=True):
    """Microseconds of one decision before so many workers.

    script_us: the script's part of the median, crossing into Lua and back included; None without a script.
    strategy_us: the median without the script.
    """

    workers: int
    median_us: float
    p99_us: float
    script_us: float | None
    strategy_us: float


def bench(
    source: bytes | None,
    name: str,
    abilities: Abilities,
    workers: Sequence[int] = WORKERS,
    strategy: str = "least-request",
    decisions: int = DECISIONS,
) -> list[Cost]:
    """Measures. Raises ScriptError when the script does not load."""
    return [_cost(source, name, abilities, count, strategy, decisions) for count in workers]


def _cost(
    source: bytes | None, name: str, abilities: Abilities, count: int, strategy: str, decisions: int
) -> Cost:
    alone = Stand(None, name, abilities, count, strategy)
    strategy_us = median(_times(alone, lambda: alone.decider.decide(alone.request), decisions))
    stand = Stand(source, name, abilities, count, strategy) if source is not None else alone
    whole = _times(stand, lambda: stand.decider.decide(stand.request), decisions)
    script_us = None
    script = stand.script
    if script is not None:
        choose = stand.decider.choose_for_script
        script_us = median(_times(stand, lambda: script.route(stand.request, stand.fleet, choose), decisions))
    stand.close()
    return Cost(count, *(round(us, 1) for us in (median(whole), whole[int(len(whole) * 0.99)])),
                None if script_us is None else round(script_us, 1), round(strategy_us, 1))  # fmt: skip


def _times(stand: Stand, decide: Callable[[], object], decisions: int) -> list[float]:
    """Microseconds of each decision, the shortest first."""
    clock, taken = time.perf_counter, []
    for number in range(-min(_WARM_UP, decisions), decisions):
        stand.change(number)
        started = clock()
        decide()
        elapsed = clock() - started
        if number >= 0:
            taken.append(elapsed * 1e6)
    return sorted(taken)


def read_workers(text: str) -> tuple[int, ...]:
    """Of `--workers 1,8,64`. Raises ConfigError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= MOST_WORKERS for part in parts):
        raise ConfigError(f"--workers {text}: expected whole numbers from 1 to {MOST_WORKERS}, as in 1,8,64")
    return tuple(dict.fromkeys(int(part) for part in parts))


def shown(costs: Sequence[Cost], name: str) -> Table:
    """As a table; times in microseconds."""
    rows = [
        (str(cost.workers), *(figure(us) for us in (cost.median_us, cost.p99_us, cost.script_us, cost.strategy_us)))
        for cost in costs
    ]
    head = ("workers", "median", "p99", "of it the script", "strategy alone")
    note = f"Microseconds of {DECISIONS:,} decisions each, on this machine as busy as it is now."
    return table("bench", f"One decision of {name}", head, rows, note)
