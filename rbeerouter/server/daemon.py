"""The daemon: builds every part once, owns the signals, reloads and stops.

`cli serve` runs `serve`. SIGHUP reloads, SIGTERM and SIGINT drain; a second one shortens the drain to 5 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import resource
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from rbeerouter import tasks
from rbeerouter.config.loading import load
from rbeerouter.config.sections import Config, ConfigError, health_rules, may_find_workers
from rbeerouter.config.values import split_bind
from rbeerouter.control.ollama_cards import OllamaCards
from rbeerouter.control.probe import Prober
from rbeerouter.core.chance import Chance
from rbeerouter.core.dispatch import Dispatcher, Job
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import DRAINING, OFFLINE, Env, Worker
from rbeerouter.dialects.engines import ENGINES
from rbeerouter.dialects.prompts import prompt_of
from rbeerouter.record import LogFile, Recorder, event_logger, open_log, timestamp, told_inputs
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.script import ScriptError
from rbeerouter.routing.strategies import NAMES
from rbeerouter.server import app, strategy
from rbeerouter.server.caches import Caches
from rbeerouter.server.control_plane import ControlPlane
from rbeerouter.server.discovery import Discovery
from rbeerouter.server.nightly import Ledgers
from rbeerouter.server.scripts import Proposal, Scripts
from rbeerouter.server.shadow import Shadowing
from rbeerouter.server.staff import Change, Staff
from rbeerouter.server.tape import Tape
from rbeerouter.wire.listener import Listener
from rbeerouter.wire.upstream import Pools

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
        self.tape = Tape(self)
        self.env = Env(
            time.monotonic, time.time, random.Random(), lambda: self.tape.utc_offset_s,
            Chance(secrets.randbits(64) if config.routing.seed is None else config.routing.seed),
        )  # fmt: skip
        self.scripts = Scripts(self.env)
        self.fleet = Fleet(health_rules(config), self.env.rng)
        self.log_file = _open_log_file(config)
        self.log = event_logger(self.log_file)
        self.discovery = Discovery(config, self.env, self.log.info)
        self.fleet.configure(self.discovery.roster.merged())
        self.strategy = strategy.InForce(self, self.discovery.setting(strategy.SETTING))
        self.scripts.in_force = self.strategy.of
        self.scripts.loaded = self.scripts.read(config)
        self.decider = self.scripts.decider(config, self.fleet, self.scripts.loaded)
        self.versions = self.discovery.versions(config.routing.versions_kept)
        pools = Pools(Pools.prepare(self.discovery.roster.merged(), config.limits, config.registration.allow))
        self.recorder = Recorder(self.log_file, config.routing.decisions_kept)
        self.recorder.models, self.recorder.inputs = config.models, told_inputs(config.routing)
        self.prober = Prober(self.fleet, config.probes, self.env)
        self.ollama_cards = OllamaCards(self.fleet, config.probes, self.env, config.models)
        self.prober.sessions.allow = config.registration.allow
        self.staff = Staff(self.fleet, pools, self.prober, self.discovery.drains)
        self.staff.apply_drains()
        self.shadowing = Shadowing(self)
        self.caches = Caches(self)
        self.caches.check(config)
        self.ledgers = Ledgers(self)
        self.app = app.build(self)
        self.listener = Listener(
            config.server, config.limits, Dispatcher(self.fleet, self.decider, self.env), pools, self.env,
            self.recorder.record, self.app, _most_connections(config), config.models,
        )  # fmt: skip
        self._watch_for_poison(config)
        self._begin_with_script()
        self.tape.begin()
        self.reloads: Counter[str] = Counter(ok=0, rejected=0)
        self._told: dict[str, tuple[str, str | None]] = {}
        self.loaded_at = timestamp(time.time())
        self._reloading = asyncio.Lock()
        self._reload_waits = False
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    async def run(self) -> None:
        """Serves until a signal says to stop."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unexpected)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        await self.discovery.first_look()
        await self.restaff()
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
            self.discovery.close()
            raise
        background = [
            tasks.start("probes", self.prober.run()), tasks.start("log flush", self._flush_log()),
            tasks.start("workers come and go", self._follow_roster()), tasks.start("names", self._resolve_names()),
            tasks.start("ledger", self.ledgers.run()),
        ]  # fmt: skip
        self.discovery.start()
        self._note_version("start", "start")
        self.shadowing.apply()
        self.caches.apply()
        self._announce(host, port)
        _quiet_collector()
        await self._stop.wait()
        await self._drain()
        for task in background:
            task.cancel()
        await control.close()
        await self.prober.close()
        self.listener.close()
        self.shadowing.close()
        self.caches.close()
        self.scripts.close()
        self.discovery.close()
        self.recorder.catch_up()
        self.log.info("stopped", requests=sum(self.recorder.outcomes.values()))
        self.log_file.close()

    def stop(self) -> None:
        """Called at SIGTERM and SIGINT."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    def _hang_up(self) -> None:
        """Called at SIGHUP. One more reload is enough for any number of signals that come before it begins."""
        if not self._reload_waits:
            self._reload_waits = True
            tasks.start("reload", self.reload("SIGHUP"))

    async def reload(
        self,
        asked_by: str,
        who: str | None = None,
        how: str = "reload",
        propose: Callable[[], Proposal] | None = None,
    ) -> dict[str, Any]:
        """Loads, compiles and tries the new configuration and script, then swaps both in; or changes nothing.

        Args:
            asked_by: "SIGHUP" or "control plane". who: the person behind it, where one says so.
            how: "reload", or what proposes: "rollback" or "promote".
            propose: makes a text that is put over the script's file if it may be loaded, and raises ScriptError where
                there is none; called when no other reload is under way.

        Returns:
            {"ok": bool, ...} with what is active now, or with the error.
        """
        async with self._reloading:
            if asked_by == "SIGHUP":
                self._reload_waits = False
            return await self._reload(asked_by, who or asked_by, how, propose)

    async def _reload(
        self, asked_by: str, who: str, how: str, propose: Callable[[], Proposal] | None
    ) -> dict[str, Any]:
        decider = None
        try:
            config, proposal = self._read_config(), propose() if propose is not None else None
            self.caches.check(config)
            if proposal is None:
                source, examined = await self.scripts.examined(config, self.decider)
            else:
                source, examined = proposal.text, await self.scripts.vetted(config, proposal)
            trial = Fleet(health_rules(config))
            specs = self.discovery.trial(config)
            trial.configure(specs)
            decider = self.scripts.decider(config, trial, source)
            pools = self.staff.pools(specs, config.limits, config.registration.allow, keep=False)
            if proposal is not None and config.script is not None:
                await self.scripts.put(config.script, proposal, lambda text: self._note_overwritten(text, who))
        except (ConfigError, ScriptError) as error:
            if decider is not None and decider.script is not None:
                decider.script.close()
            self.scripts.memories.keep(self.decider.panel.remembered)
            self.reloads["rejected"] += 1
            self.log.error("reload_rejected", asked_by=asked_by, who=who, how=how, error=str(error))
            return {"ok": False, "error": str(error), "active": app.describe_routing(self)}
        self._swap(config, decider, await self.staff.look(specs, pools))
        self.scripts.loaded = source
        self._note_version(who, how)
        if self.versions.kept is not None:
            await asyncio.wrap_future(self.versions.kept)
        self.reloads["ok"] += 1
        active = app.describe_routing(self)
        verdict = {"examined": examined} if examined else {}
        workers = len(self.fleet.ordered)
        self.log.info(
            "reload_ok", asked_by=asked_by, who=who, how=how, workers=workers, script=active["script"], **verdict
        )
        return {"ok": True, "active": active, "workers": workers, "notes": self._needs_restart(config), **verdict}

    def _note_version(self, who: str, how: str) -> None:
        if self.scripts.loaded is not None:
            self.versions.became_active(self.scripts.loaded, who, how, time.time())

    def _note_overwritten(self, text: bytes, who: str) -> None:
        self.versions.overwritten(text, who, time.time())

    async def restaff(self) -> None:
        """Brings fleet and pools in line with what the sources say now. Workers that are new are probed first."""
        async with self._reloading:
            specs = self.discovery.roster.merged()
            if not self.staff.differs(specs):
                self.staff.apply_drains()
                return
            try:
                pools = self.staff.pools(specs, self.config.limits, self.config.registration.allow)
            except ConfigError as error:
                self.log.error("workers_refused", error=str(error))
                return
            added, removed = self.staff.take(await self.staff.look(specs, pools))
            self.caches.apply()
            self.log.info("workers_changed", workers=len(specs), added=added, removed=removed)

    async def _follow_roster(self) -> None:
        changed = self.discovery.roster.changed
        while True:
            await changed.wait()
            changed.clear()
            await self.restaff()

    async def _resolve_names(self) -> None:
        while True:
            await asyncio.sleep(self.config.limits.resolve_s)
            await self.listener.pools.resolve()

    def _swap(self, config: Config, decider: Decider, change: Change) -> None:
        """One synchronous step: a request sees all of the old or all of the new."""
        self.fleet.rules = health_rules(config)
        self.staff.take(change)
        decider.fleet = self.fleet
        decider.use(*self.strategy.of(config))                 # it may have been changed since this one was made
        self.scripts.hand_over(self.decider, decider)
        self.decider = self.listener.dispatcher.decider = decider
        self._watch_for_poison(config)
        self.listener.apply(config.server, config.limits, config.models)
        self.prober.apply(config.probes)
        self.prober.sessions.allow = config.registration.allow
        self.ollama_cards.apply(config.probes, config.models)
        self.recorder.keep(config.routing.decisions_kept)
        self.versions.keep(config.routing.versions_kept)
        self.recorder.catch_up()
        self.recorder.models, self.recorder.inputs = config.models, told_inputs(config.routing)
        self.config, self.loaded_at = config, timestamp(time.time())
        self.tape.look_at_clock()
        self.discovery.apply(config)
        self.shadowing.apply()
        self.caches.apply()
        self._begin_with_script()

    def _watch_for_poison(self, config: Config) -> None:
        poison, health = self.listener.dispatcher.poison, config.health
        poison.strikes, poison.hold_s, poison.most = health.poison_strikes, health.poison_s, health.poison_kept

    def _script_suspended(self) -> None:
        """The alarm: a script was taken out of service because it failed too often in a row."""
        decider = self.decider
        assert decider.suspended is not None
        suspended, error = decider.suspended
        now = f"script {decider.script.hash}" if decider.script else f"strategy {decider.strategy.name}"
        self.log.error("script_suspended", script=suspended.hash, error=error, now=now)
        self._begin_with_script()
        asyncio.get_running_loop().call_soon(self.shadowing.apply)     # this is in the middle of a decision

    def _begin_with_script(self) -> None:
        """Tells what the script logged as it was loaded."""
        script = self.decider.script
        self.decider.on_suspended = self._script_suspended
        if script is not None and script.notes:
            self.log.info("script_log", lines=script.notes)
        self.show()

    def show(self) -> None:
        """From now on requests carry headers and prompt, if the script or its shadow looks at them."""
        routing = self.config.routing
        self.listener.client_header = (routing.client_ip_header or "").lower().encode(), routing.client_ip_hops
        scripts = [script for script in (self.decider.script, self.shadowing.decides) if script is not None]
        headers = any(script.reads_headers for script in scripts)
        prompt = routing.expose_prompt and any(script.reads_prompt for script in scripts)
        self.listener.show(
            tuple(name.lower() for name in routing.request_headers) if headers else (),
            routing.prompt_chars if prompt else 0,
        )
        self.listener.text_of = partial(prompt_of, routing.strategies)

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

    def _needs_restart(self, config: Config) -> list[str]:
        old = self._started_with
        changed = {
            "server.bind": old.server.bind != config.server.bind,
            "server.max_connections": old.server.max_connections != config.server.max_connections,
            "control.bind": old.control.bind != config.control.bind,
            "state.folder": old.state_folder != config.state_folder,
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
                self.tape.keep()
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
                why = self.why(worker)
            state = worker.status if worker.status in (OFFLINE, DRAINING) else "ready"
            self._told[worker.id] = (state, why)
            if told.get(worker.id) != (state, why):
                self.log.info("worker_status", worker=worker.id, status=state, **({"why": why} if why else {}))

    def why(self, worker: Worker) -> str:
        """Why a worker is offline."""
        problem = self.prober.problems.get(worker.id)
        return problem or ("its answers keep failing" if worker.health.reachable else "it refused a connection")

    def _announce(self, host: str, port: int) -> None:
        script = self.decider.script
        self.log.info(
            "serving", bind=f"{host}:{port}", control=self.config.control.bind,
            config=str(self.config.source or "none"), script=str(self.config.script) if script else "none",
            strategy=self.decider.strategy.name, source=self.decider.panel.source, log=str(self.config.log),
            workers={worker.id: worker.status for worker in self.fleet.ordered},
        )  # fmt: skip

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Whatever no one caught: one line, never silence."""
        error = context.get("exception")
        self.log.error("unexpected", message=context.get("message"), error=repr(error) if error else None)


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
    strategy.from_environment()
    config = load(
        path, workers=workers, script=script, bind=bind, strategies=NAMES, engines=tuple(ENGINES)
    )
    if not config.workers and not may_find_workers(config):
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
