"""What the daemon does with routing scripts: loads them, lets new ones through the gate, and keeps the one before.

`server.daemon` owns one `Scripts`; the control plane asks it for explanations and params.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rbeerouter.config.sections import Config
from rbeerouter.control import script_file
from rbeerouter.core.chance import Chance
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.memory import Memories
from rbeerouter.core.mirror import Mirror
from rbeerouter.core.types import Env, WorkerSpec
from rbeerouter.routing.decide import Decider, as_configured
from rbeerouter.routing.panel import CONFIG
from rbeerouter.routing.replay import FollowedSplit
from rbeerouter.routing.sandbox import Abilities, Limits, Runtime, Sandbox
from rbeerouter.routing.script import Script, ScriptError, configured_abilities, configured_limits
from rbeerouter.routing.split import make_split
from rbeerouter.server import gate
from rbeerouter.workbench.explain import explain, read_request
from rbeerouter.workbench.suite import suite_path

if TYPE_CHECKING:
    from rbeerouter.control.script_process import ScriptProcesses

_MOST_LOOKS = 5


class Proposal(msgspec.Struct, frozen=True):
    """A text that is to be put over the configured script and loaded, if it may be.

    force: also over a file that was edited meanwhile, and though the gate refuses it.
    suites: tests that it must pass besides those of the configured script.
    """

    text: bytes
    force: bool = False
    suites: tuple[Path, ...] = ()


class Scripts:
    """Loads scripts as the configuration says.

    Attributes:
        loaded: what the configured file said as it was loaded last; None without a script. It decides, unless it was
            taken out of service since.
        in_force: (the strategy that decides under a configuration, who says so).
        memories: what strategies remember of traffic. Each decider gets them from the one before.
    """

    def __init__(self, env: Env) -> None:
        self.loaded: bytes | None = None
        self.in_force: Callable[[Config], tuple[str, str]] = lambda config: (config.routing.strategy, CONFIG)
        self.memories = Memories()
        self._env = env
        self._processes: ScriptProcesses | None = None
        self._resting: Script | None = None

    def close(self) -> None:
        if self._processes is not None:
            self._processes.close()

    @staticmethod
    def read(config: Config) -> bytes | None:
        """The configured script's text, None when there is none. Raises ScriptError."""
        return source_of(config.script) if config.script is not None else None

    async def examined(self, config: Config, decider: Decider) -> tuple[bytes | None, str | None]:
        """The configured script's text, and what the gate says of it when it is another one than what decides now.

        Raises:
            ScriptError: it cannot be read, or must not be loaded.
        """
        for _ in range(_MOST_LOOKS):
            source = self.read(config)
            if source is None or config.script is None or (decider.script and decider.script.source == source):
                return source, None
            routing = config.routing
            verdict = await gate.examine(config.script, config.source, routing.reload_gate, routing.gate_s)
            if self.read(config) != source:
                continue                                       # it was saved again meanwhile
            if not verdict.ok:
                raise ScriptError(f"{config.script}: {verdict.problem}")
            return source, verdict.told
        raise ScriptError(f"{config.script}: changes faster than it can be examined; reload again when it is complete")

    async def vetted(self, config: Config, proposal: Proposal) -> str:
        """What the gate says of a text that is to replace the configured script. Raises ScriptError."""
        script, routing = config.script, config.routing
        if script is None:
            raise ScriptError("no script is configured, so there is no file to write; set [routing] script")
        self.standing(script, proposal)
        if proposal.force:
            return "not examined: forced"
        suites = tuple(dict.fromkeys((suite_path(script), *proposal.suites)))
        verdict = await gate.examine_text(
            proposal.text, script.name, config.source, routing.reload_gate, routing.gate_s, suites
        )
        if not verdict.ok:
            raise ScriptError(f"{script.name}: {verdict.problem}")
        return verdict.told

    def standing(self, script: Path, proposal: Proposal) -> bytes | None:
        """What stands in the script's file now. Raises ScriptError where that is not what was loaded, as somebody has
        written it since, unless that is forced."""
        try:
            found = script_file.text_of(script)
        except script_file.NotWritten as error:
            raise ScriptError(str(error)) from None
        if found not in (None, self.loaded, proposal.text) and not proposal.force:
            raise ScriptError(
                f"{script}: was changed since it was loaded, and would be overwritten; reload it first, or use --force "
                "(it is kept as a version then)"
            )
        return found

    async def put(self, script: Path, proposal: Proposal, keep: Callable[[bytes], None]) -> None:
        """Puts a text into the script's file. What stands there is given to `keep` before. Raises ScriptError, and the
        file is as it was."""
        found = self.standing(script, proposal)
        if found == proposal.text:
            return
        if found is not None:
            keep(found)
        try:
            await asyncio.to_thread(script_file.put, script, proposal.text, found)
        except script_file.NotWritten as error:
            raise ScriptError(str(error)) from None

    def decider(self, config: Config, fleet: Fleet, source: bytes | None) -> Decider:
        """Loads the script and tries it on a made-up request. Raises ScriptError when it is broken."""
        routing = config.routing
        strategy, source_of_strategy = self.in_force(config)
        decider = Decider(
            fleet, None, strategy, self._env, routing.debug, routing.script_faults, models=config.models,
            split=make_split(routing.split, config.models), memories=self.memories, **as_configured(routing),
        )  # fmt: skip
        decider.panel.source = source_of_strategy
        if source is not None and config.script is not None:
            decider.script = self._tried(config, config.script, source, decider, fleet, self._env)
        return decider

    def shadow(self, config: Config, live: Decider, mirror: Mirror, source: bytes, script: Script | None) -> Decider:
        """One that decides by the shadow script on a fleet of its own. It draws the numbers that the live one draws,
        and the turns of strategy and split stand for it where they stood for the live one.

        Args:
            script: the loaded one, where it is loaded already.

        Raises:
            ScriptError: the script is broken.
        """
        routing, path = config.routing, config.shadow
        assert path is not None
        env = msgspec.structs.replace(self._env, chance=Chance(live.chance.base))
        decider = Decider(
            mirror, None, live.strategy.name, env, False, routing.script_faults, models=config.models,
            split=FollowedSplit(routing.split, config.models) if live.split is not None else None,
            memories=self.memories.to_read(), **as_configured(routing),
        )  # fmt: skip
        decider.script = script or self._tried(config, path, source, decider, live.fleet, env)
        return decider

    def _tried(self, config: Config, path: Path, source: bytes, decider: Decider, fleet: Fleet, env: Env) -> Script:
        """A script, loaded and tried on a made-up request. Raises ScriptError when it is broken."""
        script = self._load(config, source, path.name, decider.debug, env)
        fault = script.self_test(fleet if fleet.ordered else _somebody(), decider.choose_for_script)
        if fault is not None:
            script.close()
            raise ScriptError(f"{path}: the self-test request failed: {fault}")
        return script

    def _load(self, config: Config, source: bytes, name: str, explained: bool, env: Env) -> Script:
        routing = config.routing
        abilities = configured_abilities(routing, explained)
        return Script(source, name, env, configured_limits(routing), abilities, self._runtime(config))

    def _runtime(self, config: Config) -> Callable[[Limits, Abilities], Runtime]:
        if config.routing.isolation != "process":
            return Sandbox
        if self._processes is None:
            from rbeerouter.control.script_process import ScriptProcesses

            self._processes = ScriptProcesses()
        return self._processes

    def hand_over(self, old: Decider, new: Decider) -> None:
        """What scripts keep goes on, also over a time without one; the one that served is there to go back to. So
        do the turns of the split, and what strategies remember; what no strategy asks for any more is forgotten."""
        new.succeed(old)
        self.memories.keep(new.panel.remembered)
        script = new.script
        suspended = old.suspended[0] if old.suspended else None
        before = old.script or suspended or self._resting
        if script is not None and before is not None:
            script.adopt(before)
        same = script is not None and old.script is not None and script.hash == old.script.hash
        new.last_good = old.last_good if same else old.script
        resting, self._resting = self._resting, before if script is None else None
        for unused in {old.script, old.last_good, suspended, resting} - {None, new.last_good, self._resting}:
            unused.close()

    def explain(self, config: Config, decider: Decider, fleet: Fleet, text: bytes) -> dict[str, Any]:
        """Decides a request of JSON text on the live fleet without sending it. Raises RouterError, ScriptError."""
        script, routing = decider.script, config.routing
        request = read_request(text, config.limits, routing, config.models)
        copy = None
        try:
            if script is not None:
                copy = self._load(config, script.source, script.name, True, self._env)
                copy.adopt(script)
            return explain(request, decider.twin(fleet.shadow(), copy))
        finally:
            if copy is not None:
                copy.close()


def source_of(path: Path) -> bytes:
    """The text of a script's file, for a daemon that serves meanwhile. Raises ScriptError when it cannot be read."""
    try:
        text = script_file.text_of(path)
    except script_file.NotWritten as error:
        raise ScriptError(str(error)) from None
    if text is None:
        raise ScriptError(f"{path}: cannot be read: No such file or directory")
    return text


def _somebody() -> Fleet:
    """A fleet to try a script on while there are no workers yet: it may well take the first of them."""
    fleet = Fleet()
    fleet.configure([WorkerSpec("somebody", "http://127.0.0.1:1")])
    return fleet


def set_params(script: Script | None, given: dict[str, float]) -> None:
    """Gives params other values: all of them, or none. Raises ValueError."""
    known = script.params() if script is not None else {}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
            raise ValueError(f"{name}: the script has no such param; {hint}")
        low, high = known[name]["min"], known[name]["max"]
        if not low <= value <= high:
            raise ValueError(f"{name} = {value:g}: expected a number from {low:g} to {high:g}")
    for name, value in given.items():
        if script is not None:
            script.set_param(name, value)
