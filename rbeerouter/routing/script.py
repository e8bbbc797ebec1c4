"""The user's routing.lua: read, compiled, checked and called. Errors carry the Lua line.

`Decider` asks `route` once per request. The script sees a mirror of the fleet that is updated in place: only workers
whose load or status changed since the last decision cross into Lua.
"""

from __future__ import annotations

import hashlib
from itertools import chain
from pathlib import Path

import msgspec

from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import BUSY, OFFLINE, READY, Env, Request, Worker
from rbeerouter.routing.returns import mark_returns
from rbeerouter.routing.sandbox import Limits, Sandbox

MAX_SOURCE_BYTES = 32 * 1024
"""Compiling cannot be interrupted, and chained `or`s make it quadratic: 32 KiB compile in well under 100 ms."""

_STATUS_CODES = {READY: 0, BUSY: 1, OFFLINE: 2}
_DELIBERATE = -7
_TEST_MODEL = "self-test"
_MOST_NAME = 50
"""Lua cuts names of chunks at 60 bytes, and messages must begin with the whole name."""


class ScriptError(Exception):
    """A script that cannot be used. The message begins with file and line where they are known."""


class Choice(msgspec.Struct, frozen=True, gc=False):
    """What the script answered: a worker, or None with the fault, or neither when it returned nil.

    `line` is the script line whose `return` gave the answer, 0 when unknown. `deliberate` marks an error that the
    script itself raised, as in `error("No workers available")`.
    """

    worker: Worker | None
    line: int
    error: str | None = None
    deliberate: bool = False


class Script:
    """A loaded script.

    Args:
        source: the text of the file, as bytes.
        name: the file's name, as errors and reasons show it.

    Raises:
        ScriptError: it is too long, does not compile, fails while loading, or defines no route_request.
    """

    def __init__(self, source: bytes, name: str, env: Env, limits: Limits | None = None, explain: bool = False) -> None:
        self.name = name if len(name.encode(errors="replace")) <= _MOST_NAME else "..." + name[-12:]
        self.hash = hashlib.sha256(source).hexdigest()[:12]
        self.source = source
        self._env = env
        self._limits = limits or Limits()
        self._explain = explain
        self._places: dict[int, str] = {}
        self._seen_version = -1
        self._wall_minute = -1.0
        self._utc_offset_s = 0
        self._marked = mark_returns(source)
        self._sandbox = self._build()

    @classmethod
    def read(cls, path: Path, env: Env, limits: Limits | None = None, explain: bool = False) -> Script:
        """Loads a file. Raises ScriptError also when it cannot be read."""
        try:
            source = path.read_bytes()
        except OSError as error:
            raise ScriptError(f"{path}: cannot be read: {error.strerror}") from None
        return cls(source, path.name, env, limits, explain)

    def _build(self) -> Sandbox:
        if len(self.source) > MAX_SOURCE_BYTES:
            raise ScriptError(f"{self.name}: {len(self.source)} bytes; a script may have at most {MAX_SOURCE_BYTES}")
        sandbox = Sandbox(self._limits, self._explain)
        sandbox.seed(self._env.rng.getrandbits(31))
        code, problem = sandbox.load(self._marked, self.name)
        if code == 1 and self._marked is not self.source:
            # An error in the file as it was written is told in its own words; the marks must never be to blame.
            self._marked = self.source
            code, problem = sandbox.load(self.source, self.name)
        if code:
            raise ScriptError(self._told(problem))
        return sandbox

    def place(self, line: int) -> str:
        place = self._places.get(line)
        if place is None:
            place = self._places[line] = f"{self.name}:{line}" if line else self.name
        return place

    def route(self, request: Request, fleet: Fleet) -> Choice:
        """Asks the script. Never raises: whatever goes wrong is in the choice."""
        sandbox = self._sandbox
        if sandbox.swollen():
            try:
                sandbox = self._sandbox = self._build()
            except ScriptError as error:
                return Choice(None, 0, str(error))
            self._seen_version = -1
        if fleet.version != self._seen_version:
            self._mirror(fleet)
        touched = fleet.touched
        while len(touched) > 2:
            sandbox.touch(_packed(touched.pop()))
        first = _packed(touched.pop()) if touched else 0         # usually all there is: one sent, one finished
        second = _packed(touched.pop()) if touched else 0
        wall = self._env.wall()
        if not 0 <= wall - self._wall_minute < 60:
            self._wall_minute = wall // 60 * 60
            self._utc_offset_s = self._env.utc_offset_s()
        answer = sandbox.route(
            first, second, wall, self._utc_offset_s, request.model, request.model_size, request.user_id,
            request.priority, request.max_tokens, request.stream, *chain.from_iterable(request.metadata.items()),
        )  # fmt: skip
        if type(answer) is int and answer >= 0:
            index = answer >> 16
            return Choice(fleet.ordered[index - 1] if index else None, answer & 0xFFFF)
        code, problem = answer
        return Choice(None, 0, self._told(problem), code == _DELIBERATE)

    def excluded(self, chosen: Worker, line: int, fleet: Fleet) -> dict[str, str]:
        """Why each other worker was not taken in the last decision; filled only when built with `explain`."""
        noted = {}
        for row in self._sandbox.reasons().splitlines():
            worker_id, _, reason = row.partition("\t")
            noted[worker_id] = reason
        default = f"{self.place(line)} returned {chosen.id}"
        return {worker.id: noted.get(worker.id, default) for worker in fleet.ordered if worker is not chosen}

    def self_test(self, fleet: Fleet) -> str | None:
        """Runs the script once on a made-up request with every worker ready and idle.

        Returns what is wrong, or None. A script that raises an error of its own (`error("No workers available")`) is
        not broken; one that indexes nil, misuses a helper, exceeds its budget or returns no worker of ours is.
        """
        self._mirror(fleet, pretend_ready=True)
        model = next(iter(fleet.models()), _TEST_MODEL)
        request = Request(
            id="self-test", path="/v1/chat/completions", model=model, model_size=None, user_id="self-test",
            priority=None, max_tokens=16, stream=False, metadata={"type": "llm"},
        )  # fmt: skip
        choice = self.route(request, fleet)
        self._seen_version = -1
        return None if choice.deliberate else choice.error

    def _mirror(self, fleet: Fleet, pretend_ready: bool = False) -> None:
        """Puts the whole fleet into Lua."""
        put = self._sandbox.put
        for index, worker in enumerate(fleet.ordered, 1):
            fields = script_fields(worker)
            models, metadata = fields.pop("models"), fields.pop("metadata")
            if pretend_ready:
                models = models or (_TEST_MODEL,)
                fields |= {"status": READY, "load": 0.0, "in_flight": 0}
            put(index, fields, models, metadata)
        self._sandbox.finish_puts(len(fleet.ordered))
        self._seen_version = fleet.version
        fleet.touched.clear()

    def _told(self, problem: str) -> str:
        return problem if problem.startswith(self.name) else f"{self.name}: {problem}"


def _packed(worker: Worker) -> int:
    """A worker's changing state as host.touch in prelude.lua reads it."""
    return (worker.index + 1) << 32 | worker.in_flight << 2 | _STATUS_CODES[worker.status]


def script_fields(worker: Worker) -> dict:
    """All that a script can read of a worker; the control plane shows the same."""
    return {
        "id": worker.id,
        "status": worker.status,
        "backend": worker.backend,
        "vram": worker.vram,
        "vram_used": worker.vram_used,
        "load": worker.load,
        "models": worker.models,
        "performance": worker.performance,
        "cost_per_hour": worker.cost_per_hour,
        "metadata": worker.metadata,
        "engine": worker.engine,
        "capacity": worker.capacity,
        "in_flight": worker.in_flight,
    }
