"""The daemon: builds every part once, owns the signals, reloads and stops.

`cli serve` runs `serve`. SIGHUP reloads, SIGTERM and SIGINT drain; a second one shortens the drain to 5 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import difflib
import gc
import os
import random
import resource
import signal
import time
import zoneinfo
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from rbeerouter import config as configuration
from rbeerouter import tasks
from rbeerouter.config import Config, ConfigError, split_bind
from rbeerouter.control.probe import Prober
from rbeerouter.core.dispatch import Dispatcher, Job
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.health import HealthRules
from rbeerouter.core.types import OFFLINE, Env, Report
from rbeerouter.record import LogFile, Recorder, event_logger, open_log, timestamp
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.sandbox import Abilities, Sandbox
from rbeerouter.routing.sandbox import Limits as ScriptLimits
from rbeerouter.routing.script import Script, ScriptError, read_source
from rbeerouter.routing.strategies import STRATEGIES, strategy_name
from rbeerouter.server import app, gate
from rbeerouter.server.control_plane import ControlPlane
from rbeerouter.wire.listener import Listener
from rbeerouter.wire.upstream import Pool, Pools
from rbeerouter.workbench.explain import explain, read_request

if TYPE_CHECKING:
    from rbeerouter.control.script_process import ScriptProcesses

_FLUSH_S = 0.25
_SECOND_SIGNAL_S = 5.0


class Daemon:
    """Everything that serves, built from one configuration.

    Args:
        read_config: reads the configuration again, for a reload; raises ConfigError.

    Raises:
        ConfigError, ScriptError: it cannot start; the message says why.
    """

    def __init__(self, config: Config, read_config: Callable[[], Config]) -> None:
        self.config = self._started_with = config
        self._read_config = read_config
        self.env = Env(time.monotonic, time.time, random.Random(), self._utc_offset_s)
        self._script_processes: ScriptProcesses | None = None
        self.fleet = Fleet(HealthRules(fall=config.probes.fall))
        self.fleet.configure(config.workers)
        self.decider = self._build_decider(config, self.fleet, self._read_script(config))
        pools = Pools(Pools.prepare(config.workers, config.limits))
        self.log_file = _open_log_file(config)
        self.log = event_logger(self.log_file)
        self.recorder = Recorder(self.log_file, config.routing.decisions_kept)
        self.prober = Prober(self.fleet, config.probes, self.env)
        self.app = app.build(self)
        self.listener = Listener(
            config.server, config.limits, Dispatcher(self.fleet, self.decider, self.env, config.limits.attempts),
            pools, self.env, self.recorder.record, self.app, _most_connections(config),
        )  # fmt: skip
        self._show_to_script()
        self.reloads: Counter[str] = Counter(ok=0, rejected=0)
        self._told: dict[str, tuple[str, str | None]] = {}
        self._told_suspended: Script | None = None
        self.loaded_at = timestamp(time.time())
        self._reloading = asyncio.Lock()
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    async def run(self) -> None:
        """Serves until a signal says to stop."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unexpected)
        loop.add_signal_handler(signal.SIGHUP, lambda: tasks.start("reload", self.reload("SIGHUP")))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        await self.prober.probe_all()
        self._note_workers()
        host, port = split_bind(self.config.server.bind)
        try:
            control = ControlPlane(self.app, self.config.control.bind)
            try:
                port = await self.listener.open(host, port)
            except (OSError, UnicodeError) as error:
                await control.close()
                what = f"cannot listen: {getattr(error, 'strerror', None) or error}"
                raise ConfigError(f"server.bind = {self.config.server.bind!r}: {what}") from None
        except ConfigError:
            await self.prober.close()
            raise
        background = [tasks.start("probes", self.prober.run()), tasks.start("log flush", self._flush_log())]
        self._announce(host, port)
        _quiet_collector()
        await self._stop.wait()
        await self._drain()
        for task in background:
            task.cancel()
        await control.close()
        await self.prober.close()
        self.listener.close()
        if self._script_processes is not None:
            self._script_processes.close()
        self.recorder.catch_up()
        self.log.info("stopped", requests=sum(self.recorder.outcomes.values()))
        self.log_file.close()

    def stop(self) -> None:
        """Called at SIGTERM and SIGINT."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    async def reload(self, asked_by: str) -> dict[str, Any]:
        """Loads, compiles and tries the new configuration and script, then swaps both in; or changes nothing.

        Returns:
            {"ok": bool, ...} with what is active now, or with the error.
        """
        async with self._reloading:
            return await self._reload(asked_by)

    async def _reload(self, asked_by: str) -> dict[str, Any]:
        examined = None
        try:
            config = self._read_config()
            source = self._read_script(config)
            if source is not None and not self._is_active(source):
                examined = await self._examine(config)
                if self._read_script(config) != source:
                    raise ScriptError(f"{config.script}: was changed while it was examined; reload again")
            trial = Fleet(HealthRules(fall=config.probes.fall))
            trial.configure(config.workers)
            decider = self._build_decider(config, trial, source)
            pools = Pools.prepare(config.workers, config.limits)
        except (ConfigError, ScriptError) as error:
            self.reloads["rejected"] += 1
            self.log.error("reload_rejected", asked_by=asked_by, error=str(error))
            return {"ok": False, "error": str(error), "active": app.describe_routing(self)}
        known = {worker.id: worker.url for worker in self.fleet.ordered}
        reports = await self.prober.look(spec for spec in config.workers if known.get(spec.id) != spec.url)
        self._swap(config, decider, pools, reports)
        self.reloads["ok"] += 1
        active = app.describe_routing(self)
        verdict = {"examined": examined} if examined else {}
        workers = len(self.fleet.ordered)
        self.log.info("reload_ok", asked_by=asked_by, workers=workers, script=active["script"], **verdict)
        return {"ok": True, "active": active, "workers": workers, "notes": self._needs_restart(config), **verdict}

    async def _examine(self, config: Config) -> str:
        """What the gate says of a new script. Raises ScriptError when it must not be loaded."""
        assert config.script is not None
        routing = config.routing
        verdict = await gate.examine(config.script, config.source, routing.reload_gate, routing.gate_s)
        if not verdict.ok:
            raise ScriptError(f"{config.script}: {verdict.problem}")
        return verdict.told

    def _is_active(self, source: bytes) -> bool:
        script = self.decider.script
        return script is not None and script.source == source

    def _swap(self, config: Config, decider: Decider, pools: dict[str, Pool], reports: list[Report]) -> None:
        """One synchronous step: a request sees all of the old or all of the new."""
        self.fleet.rules = HealthRules(fall=config.probes.fall)
        self.fleet.configure(config.workers)
        for report in reports:
            self.fleet.apply(report)
        decider.fleet = self.fleet
        self._hand_over(self.decider, decider)
        dispatcher = self.listener.dispatcher
        self.decider = dispatcher.decider = decider
        dispatcher.attempts = config.limits.attempts
        self.listener.apply(config.server, config.limits)
        self.listener.pools.swap(pools)
        self.prober.apply(config.probes)
        self.recorder.keep(config.routing.decisions_kept)
        self.config, self.loaded_at = config, timestamp(time.time())
        self._told_suspended = None
        self._show_to_script()

    @staticmethod
    def _hand_over(old: Decider, new: Decider) -> None:
        """What scripts keep goes on, and the one that served until now is there to go back to."""
        script = new.script
        before = old.script or (old.suspended[0] if old.suspended else None)
        if script is not None and before is not None:
            script.adopt(before)
        same = script is not None and old.script is not None and script.hash == old.script.hash
        new.last_good = old.last_good if same else old.script
        for unused in {old.script, old.last_good, old.suspended[0] if old.suspended else None} - {None, new.last_good}:
            unused.close()

    def _show_to_script(self) -> None:
        """Requests carry headers and prompt only for a script that looks at them."""
        script, routing = self.decider.script, self.config.routing
        self.listener.show(
            tuple(name.lower() for name in routing.request_headers) if script and script.reads_headers else (),
            routing.prompt_chars if script and script.reads_prompt and routing.expose_prompt else 0,
        )

    def _utc_offset_s(self) -> int:
        zone = self.config.routing.timezone
        if zone is None:
            return time.localtime().tm_gmtoff
        offset = datetime.datetime.now(zoneinfo.ZoneInfo(zone)).utcoffset()
        return int(offset.total_seconds()) if offset else 0

    @staticmethod
    def _read_script(config: Config) -> bytes | None:
        return read_source(config.script) if config.script is not None else None

    def _build_decider(self, config: Config, fleet: Fleet, source: bytes | None) -> Decider:
        """Loads the script and tries it on a made-up request; raises ScriptError when it is broken."""
        script, routing = None, config.routing
        decider = Decider(
            fleet, None, strategy_name(routing.strategy) or routing.strategy, self.env, routing.debug,
            routing.script_faults,
        )  # fmt: skip
        if source is not None and config.script is not None:
            script = self._load(config, source, config.script.name, routing.debug)
            fault = script.self_test(fleet, decider.choose_for_script)
            if fault is not None:
                script.close()
                raise ScriptError(f"{config.script}: the self-test request failed: {fault}")
        decider.script = script
        return decider

    def _load(self, config: Config, source: bytes, name: str, explain: bool) -> Script:
        runtime: Any = Sandbox
        if config.routing.isolation == "process":
            from rbeerouter.control.script_process import ScriptProcesses

            if self._script_processes is None:
                self._script_processes = ScriptProcesses()
            runtime = self._script_processes
        return Script(source, name, self.env, script_limits(config), script_abilities(config, explain), runtime)

    # What the control plane asks

    def find_decision(self, request_id: str) -> Any:
        """The log line of a request that has ended lately, or what is known of one that is being served."""
        line = self.recorder.find(request_id)
        if line is not None:
            return line
        for job in self.listener.jobs():
            if job.request.id == request_id:
                return describe_job(job)
        return None

    def explain(self, text: bytes) -> dict[str, Any]:
        """Decides a request of JSON text without sending it. Raises RouterError."""
        config, script = self.config, self.decider.script
        routing = config.routing
        prompt_chars = routing.prompt_chars if routing.expose_prompt else 0
        request = read_request(text, config.limits, routing.request_headers, prompt_chars)
        copy = None
        try:
            if script is not None:
                copy = self._load(config, script.source, script.name, explain=True)
                copy.adopt(script)
            return explain(request, self.fleet.shadow(), copy, self.decider.strategy.name, self.env)
        finally:
            if copy is not None:
                copy.close()

    def set_params(self, given: dict[str, float]) -> None:
        """Gives params of the script other values: all of them, or none. Raises ValueError."""
        script = self.decider.script
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
            script.set_param(name, value)
        self.log.info("params_set", **given)

    def _needs_restart(self, config: Config) -> list[str]:
        old = self._started_with
        changed = {
            "server.bind": old.server.bind != config.server.bind,
            "server.max_connections": old.server.max_connections != config.server.max_connections,
            "control.bind": old.control != config.control,
            "routing.log": old.log != config.log,
            "limits.log_backlog_bytes": old.limits.log_backlog_bytes != config.limits.log_backlog_bytes,
        }
        return [f"{key} has changed: that needs a restart" for key, differs in changed.items() if differs]

    async def _drain(self) -> None:
        self.log.info("draining", in_flight=len(self.listener.jobs()))
        drain = tasks.start("drain", self.listener.drain(self.config.server.drain_s))
        hurry = tasks.start("second signal", self._stop_now.wait())
        await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not drain.done():
            await asyncio.wait({drain}, timeout=_SECOND_SIGNAL_S)
            drain.cancel()
            await self.listener.drain(0)
        hurry.cancel()

    async def _flush_log(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            try:
                self._note_workers()
                self._note_script()
                self.recorder.catch_up()
            except Exception as error:                          # a line that cannot be made must not end all others
                self.log.error("unexpected", message="a log line could not be made", error=repr(error))
            self.log_file.flush()

    def _note_workers(self) -> None:
        """Logs which workers went offline or came back, whoever found out: a probe or a request."""
        told, self._told = self._told, {}
        for worker in self.fleet.ordered:
            why = self.prober.problems.get(worker.id)
            if worker.status == OFFLINE:
                why = why or ("its answers keep failing" if worker.health.reachable else "it refused a connection")
            state = "offline" if worker.status == OFFLINE else "ready"
            self._told[worker.id] = (state, why)
            if told.get(worker.id) != (state, why):
                self.log.info("worker_status", worker=worker.id, status=state, **({"why": why} if why else {}))

    def _note_script(self) -> None:
        """The alarm: a script that failed too often in a row was taken out of service."""
        suspended = self.decider.suspended
        if suspended is None or suspended[0] is self._told_suspended:
            return
        self._told_suspended, error = suspended
        script = self.decider.script
        self.log.error(
            "script_suspended", script=suspended[0].hash, error=error,
            now=f"script {script.hash}" if script else f"strategy {self.decider.strategy.name}",
        )  # fmt: skip
        self._show_to_script()

    def _announce(self, host: str, port: int) -> None:
        script = self.decider.script
        self.log.info(
            "serving", bind=f"{host}:{port}", control=self.config.control.bind,
            config=str(self.config.source or "none"), script=str(self.config.script) if script else "none",
            strategy=self.decider.strategy.name, log=str(self.config.log),
            workers={worker.id: worker.status for worker in self.fleet.ordered},
        )  # fmt: skip

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Whatever no one caught: one line, never silence."""
        error = context.get("exception")
        self.log.error("unexpected", message=context.get("message"), error=repr(error) if error else None)


def script_limits(config: Config) -> ScriptLimits:
    """What a script may use, as configured."""
    routing = config.routing
    return ScriptLimits(
        routing.script_instructions, routing.script_cpu_s, routing.script_memory_bytes, routing.log_lines,
        routing.log_line_chars, routing.state_keys, routing.state_bytes, routing.state_value_bytes,
    )  # fmt: skip


def script_abilities(config: Config, explain: bool = False) -> Abilities:
    """What a script may see and set, as configured."""
    routing = config.routing
    return Abilities(
        tuple(name.lower() for name in routing.request_headers), tuple(name.lower() for name in routing.set_headers),
        routing.expose_prompt, explain,
    )  # fmt: skip


def describe_job(job: Job) -> dict[str, Any]:
    """A job that has not ended: where it is and why."""
    decision = job.decision
    return {
        "event": "request", "request_id": job.request.id, "path": job.request.path, "model": job.request.model,
        "outcome": job.state,
        **({"worker": job.worker.id} if job.worker else {}),
        **({"by": decision.by, "reason": decision.reason, "explanation": decision.explanation} if decision else {}),
    }  # fmt: skip


def serve(config: Config, read_config: Callable[[], Config]) -> None:
    """Runs the daemon until it is told to stop. Raises ConfigError, ScriptError."""
    async def run() -> None:
        await Daemon(config, read_config).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def read_config(path: Path | None, workers: tuple[str, ...], script: Path | None, bind: str | None) -> Config:
    """The configuration as the command line asks for it. Raises ConfigError, also where there is no worker."""
    config = configuration.load(path, workers=workers, script=script, bind=bind, strategies=tuple(STRATEGIES))
    if not config.workers:
        where = config.source or "the command line"
        raise ConfigError(f"{where}: no workers; add a [[workers]] block with a url, or pass --worker http://HOST:PORT")
    return config


def _open_log_file(config: Config) -> LogFile:
    """Refuses to start with a log that cannot be opened; later trouble with it never stops a request."""
    try:
        config.log.parent.mkdir(parents=True, exist_ok=True)
        os.close(open_log(config.log))
    except OSError as error:
        raise ConfigError(f"routing.log = {str(config.log)!r}: cannot be written: {error.strerror}") from None
    return LogFile(config.log, config.limits.log_backlog_bytes)


def _most_connections(config: Config) -> int:
    """server.max_connections, or what the limit on open files leaves room for: each client may need a worker's, too."""
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
            files = min(hard, 65536)
    return config.server.max_connections or max(16, min(10_000, (files - 256) // 2))


def _quiet_collector() -> None:
    """What was built at the start lives for ever; requests make next to no cycles, so collect seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
