"""What a simulation begins with: a scenario that can be, its script loaded as the daemon loads it, a quiet collector.

`world` calls these once for each run.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from rbeerouter.config.sections import ConfigError
from rbeerouter.config.strategies import StrategyError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Env
from rbeerouter.routing.decide import Decider, as_configured
from rbeerouter.routing.script import Script, ScriptError, configured_abilities, configured_limits
from rbeerouter.routing.split import make_split
from rbeerouter.routing.strategies import NAMES
from rbeerouter.sim.faults import check_faults
from rbeerouter.sim.paste import loaded_with
from rbeerouter.sim.types import Scenario

_NO_CPU_LIMIT_S = 3600.0
"""Of a script's decision. What a machine has to do besides must not change a result; instructions are limited."""


def check(scenario: Scenario) -> None:
    """Raises ConfigError for a scenario that cannot be."""
    ids = [worker.spec.id for worker in scenario.workers]
    if not ids:
        raise ConfigError("no workers to simulate")
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"worker {twice!r}: there are two with this id; expected each once")
    try:
        NAMES.read(scenario.strategy)
    except StrategyError as error:
        raise ConfigError(f"strategy = {error}") from None
    check_faults(scenario.faults, ids)


def make_decider(scenario: Scenario, fleet: Fleet, env: Env) -> Decider:
    """As `server.scripts.Scripts.decider` makes it. Raises ScriptError, ConfigError."""
    config, routing = scenario.config, scenario.config.routing
    decider = Decider(
        fleet, None, scenario.strategy, env, False, routing.script_faults, models=config.models,
        split=make_split(routing.split, config.models), **as_configured(routing),
    )  # fmt: skip
    if scenario.script is not None:
        limits = msgspec.structs.replace(configured_limits(routing), cpu_s=_NO_CPU_LIMIT_S)
        try:
            source = loaded_with(scenario.script, scenario.params) if scenario.params else scenario.script
        except ValueError as error:
            raise ConfigError(f"{scenario.script_name}: {error}") from None
        script = Script(source, scenario.script_name, env, limits, configured_abilities(routing))
        fault = script.self_test(fleet, decider.choose_for_script)
        if fault is not None:
            raise ScriptError(f"{scenario.script_name}: the self-test request failed: {fault}")
        decider.script = script
    known = decider.script.params() if decider.script is not None else {}
    for name, value in scenario.params.items():
        if name not in known:
            raise ConfigError(f"param {name}: the script has no such param; known: {', '.join(known) or 'none'}")
        try:
            decider.script.set_param(name, value)  # type: ignore[union-attr]
        except ValueError as error:
            raise ConfigError(f"param {name}: {error}") from None
    return decider


def run_name(scenario: Scenario) -> str:
    """Names the decisions of a scenario, where logs of several ones are read together."""
    workload, ids = scenario.workload, [worker.spec.id for worker in scenario.workers]
    parts = (
        scenario.seed, scenario.script, scenario.strategy, sorted(scenario.params.items()), workload.name,
        workload.count, scenario.start_wall, scenario.stop_after_s, ids, scenario.faults,
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Requests make no cycles, so the collector would look at everything for nothing."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
