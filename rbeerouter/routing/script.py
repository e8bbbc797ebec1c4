"""The user's routing.lua: read, compiled, checked and called. Errors carry the Lua line.

`Decider` asks `route` once per request. The script sees a mirror of the fleet that is updated in place: only workers
whose load or status changed since the last decision cross into Lua.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from rbeerouter.config.sections import Routing
from rbeerouter.config.values import strategy_spelling
from rbeerouter.core.chance import Chance
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.seen import FIGURES, Seen, Watch, whole_ms
from rbeerouter.core.types import READY, Env, Request, Worker
from rbeerouter.routing.language import LANGUAGE
from rbeerouter.routing.problem import Problem, explain
from rbeerouter.routing.returns import mark_returns
from rbeerouter.routing.sandbox import DELIBERATE, SYNTAX, Abilities, Limits, Runtime, RuntimeLost, Sandbox
from rbeerouter.routing.strategies import ALIASES, NAMES, STRATEGIES
from rbeerouter.routing.syntax import params as literal_params
from rbeerouter.routing.syntax import without_comments

MAX_SOURCE_BYTES = 32 * 1024
"""Compiling cannot be interrupted, and chained `or`s make it quadratic: 32 KiB compile in well under 100 ms."""

Choose = Callable[[str, Request, list[Worker]], Worker | None]
"""(strategy, request, workers) -> one of them or None: what `strategy("name")(request, workers)` in a script asks."""

_SCORED = tuple(name for name in (*NAMES.known, *NAMES.aliases) if NAMES.aliases.get(name, name) in NAMES.scored)
_WORD = re.compile(r"(?<![\w.:])[a-z]+(?:-[a-z]+)*(?![\w(])")
"""What may be a strategy's name: no field, no method and no part of a longer word."""
_CHANCE = (b"rand", b"sample", b"weighted")
"""Words without which a script cannot draw a number."""
_LISTS = ("models", "loras", "loaded")
_ON_COMPLETE, _ON_FAILURE = 1, 2
_NOT_RUN = b"do return end "
"""Before a script: it is compiled whole, with its lines where they are, and does nothing."""
_TEST_MODEL = "self-test"
_MOST_NAME = 50
"""Lua cuts names of chunks at 60 bytes, and messages must begin with the whole name."""
_MOST_PROBLEMS = 64


class ScriptError(Exception):
    """A script that cannot be used. The message begins with file and line where they are known.

    `problem` has the same in parts, with the source line and a hint; None when it is about no text of the script.
    `compiles`: Lua accepts the text, and something else is wrong.
    """

    def __init__(self, message: str, problem: Problem | None = None, compiles: bool = True) -> None:
        super().__init__(message)
        self.problem = problem
        self.compiles = compiles


class Answer(msgspec.Struct, gc=False):
    """A rich answer as answers.lua writes it. `action` None: `workers` by index, or nil when there are none.

    `is_list`: the workers are a failover order, be it of one, rather than one worker.
    """

    line: int
    action: str | None = None
    workers: list[int] = []
    is_list: bool = False
    reason: str | None = None
    model: str | None = None
    headers: list[tuple[str, str]] = []
    status: int | None = None
    message: str | None = None
    retry_after: float | None = None
    timeout_s: float | None = None
    priority: int | None = None
    log: list[str] = []


class Choice(msgspec.Struct, frozen=True, gc=False):
    """What the script answered: a worker, or None with the fault, or neither when it returned nil.

    line: the script line whose `return` gave the answer, 0 when unknown
    deliberate: the script itself raised the error, as in `error("No workers available")`
    workers: the failover order that the script gave, the first included; None when it gave one worker
    answer: what it said beyond that, None for a plain answer
    log: what it wrote with log()
    """

    worker: Worker | None
    line: int
    error: str | None = None
    deliberate: bool = False
    workers: tuple[Worker, ...] | None = None
    answer: Answer | None = None
    log: tuple[str, ...] = ()


_LOST = (RuntimeLost, ScriptError, msgspec.MsgspecError)
"""After these nothing that the runtime says is to be trusted any more."""
_decode_answer = msgspec.json.Decoder(Answer).decode
_decode_lines = msgspec.json.Decoder(list[str]).decode


class Script:
    """A loaded script.

    Args:
        source: the text of the file, as bytes.
        name: the file's name, as errors and reasons show it.
        runtime: what holds it: `Sandbox`, or one in a process of its own.

    Attributes:
        notes: what it wrote with log() while it was loaded.
        overrides: params that were given other values.
        figures: those of seen.FIGURES that its text has. asks: strategies that it may
            ask, as far as its text tells.
        chance, draws: what seeds it before each decision, if it draws numbers; whoever decides sets its own.

    Raises:
        ScriptError: it is too long, does not compile, fails while loading, or defines no route_request.
    """

    def __init__(
        self,
        source: bytes,
        name: str,
        env: Env,
        limits: Limits | None = None,
        abilities: Abilities | None = None,
        runtime: Callable[[Limits, Abilities], Runtime] = Sandbox,
    ) -> None:
        self.name = name if len(name.encode(errors="replace")) <= _MOST_NAME else "..." + name[-12:]
        self.hash = hashlib.sha256(source).hexdigest()[:12]
        self.source = source
        self.notes: list[str] = []
        self.reads_headers = b"headers" in source
        self.reads_prompt = b"prompt" in source
        self._env = env
        self._limits = limits or Limits()
        given = abilities or Abilities()
        self._abilities = msgspec.structs.replace(
            given, strategies=NAMES.known, aliases=tuple(NAMES.aliases), scored=_SCORED, worker_fields=WORKER_FIELDS,
            request_fields=REQUEST_FIELDS,
        )
        self._make_runtime = runtime
        self._places: dict[int, str] = {}
        self._problems: dict[str, str] = {}
        self.overrides: dict[str, float] = {}
        self._seen_version = -1
        self._wall_minute = -1.0
        self._utc_offset_s = 0
        self.chance = env.chance or Chance(env.rng.getrandbits(64))
        self._watch: Watch | None = None
        self._marked: bytes | None = None
        self.has_on_complete = self.has_on_failure = False
        self._runtime = self._build()
        code = without_comments(source)                        # of a text that Lua accepts: others can take seconds
        self.figures = tuple(field for field in FIGURES if field.encode() in code)
        self.asks = _asks(code)
        self.draws = any(word in code for word in _CHANCE)

    def _build(self) -> Runtime:
        if len(self.source) > MAX_SOURCE_BYTES:
            raise ScriptError(f"{self.name}: {len(self.source)} bytes; a script may have at most {MAX_SOURCE_BYTES}")
        try:
            return self._fill(self._make_runtime(self._limits, self._abilities))
        except RuntimeLost as error:
            raise ScriptError(f"{self.name}: {error}") from None

    def _fill(self, runtime: Runtime) -> Runtime:
        runtime.seed(self.chance.loading())
        for name, value in self.overrides.items():
            runtime.set_param(name, value)
        if self._marked is None:
            # Lua is asked first: text that it does not accept can keep the parser of the marks for seconds.
            compiles = runtime.load(_NOT_RUN + self.source, self.name)[0] != SYNTAX
            self._marked = without_comments(mark_returns(self.source)) if compiles else self.source
        answer = runtime.load(self._marked, self.name)
        if answer[0] == SYNTAX and self._marked is not self.source:
            # An error in the file as it was written is told in its own words; the marks must never be to blame.
            self._marked = self.source
            answer = runtime.load(self.source, self.name)
        if answer[0]:
            runtime.close()
            problem = explain(self._named(answer[1]), self.name, self.source)
            raise ScriptError(str(problem), problem, answer[0] != SYNTAX)
        self.notes = _decode_lines(runtime.ask("log"))
        hooks = runtime.ask("hooks")
        self.has_on_complete, self.has_on_failure = bool(hooks & _ON_COMPLETE), bool(hooks & _ON_FAILURE)
        return runtime

    def close(self) -> None:
        """Gives back what it holds."""
        self._runtime.close()

    def place(self, line: int) -> str:
        place = self._places.get(line)
        if place is None:
            place = self._places[line] = f"{self.name}:{line}" if line else self.name
        return place

    # Decisions

    def route(
        self, request: Request, fleet: Fleet, choose: Choose | None = None, seen: Seen | None = None
    ) -> Choice:
        """Asks route_request. Never raises: whatever goes wrong is in the choice.

        Args:
            seen: what whoever decides saw of the fleet; None: the script looks itself.
        """
        runtime = self._runtime
        try:
            if runtime.swollen():
                runtime = self._rebuild()
            if seen is None:
                seen = self._look(fleet)
            if fleet.version != self._seen_version:
                self._mirror(fleet)
            if seen.figures:
                self._measure(seen, fleet)
            packed = seen.packed
            count = len(packed)
            if count > 2:
                for one in packed[2:]:
                    runtime.touch(one)
            first = packed[0] if count else 0                  # usually two: one sent, one finished
            second = packed[1] if count > 1 else 0
            wall = seen.wall
            if not 0 <= wall - self._wall_minute < 60:
                self._look_at_clock(wall)
            if self.draws:
                runtime.seed(self.chance.bits() >> 1)
            metadata, headers = request.metadata, request.headers
            answer = runtime.route(
                first, second, wall, self._utc_offset_s, request.model, request.model_size, request.user_id,
                request.session_id, request.priority, request.max_tokens, request.stream, request.path,
                request.prompt_tokens, request.prompt, len(metadata), *chain.from_iterable(metadata.items()),
                *(chain.from_iterable(headers.items()) if headers else ()),
            )  # fmt: skip
            if type(answer) is int:
                index = answer >> 16
                return Choice(fleet.ordered[index - 1] if index else None, answer & 0xFFFF)
            return self._read(answer, request, fleet, choose)
        except _LOST as error:
            return self._lost(error)

    def after_failure(
        self,
        request: Request,
        attempt: dict[str, Any],
        tried: Sequence[str],
        fleet: Fleet,
        choose: Choose | None = None,
        seen: Seen | None = None,
    ) -> Choice:
        """Asks on_failure, as `route` does route_request. `attempt` has "" where a value is not known."""
        try:
            now = self._bring_up_to_date(fleet, seen)
            answer = self._runtime.failed(attempt, list(tried), *now, *flat(request))
            return self._read(answer, request, fleet, choose)
        except _LOST as error:
            return self._lost(error)

    def completed(self, request: Request, outcome: dict[str, Any], fleet: Fleet, seen: Seen | None = None) -> Choice:
        """Tells on_complete; the choice has only an error, if there was one, and the log."""
        try:
            now = self._bring_up_to_date(fleet, seen)
            answer = self._runtime.completed(outcome, *now, *flat(request))
            if answer == 0:
                return Choice(None, 0)
            if type(answer) is str:
                return Choice(None, 0, log=tuple(_decode_lines(answer)))
            return self._read(answer, request, fleet, None)
        except _LOST as error:
            return self._lost(error)

    def _read(self, answer: Any, request: Request, fleet: Fleet, choose: Choose | None) -> Choice:
        """Makes a choice of an answer that is more than an integer, after answering the script's own questions."""
        while type(answer) is tuple and answer[0] == 1:
            answer = self._runtime.resume(self._chosen(answer[2], request, fleet, choose))
        if type(answer) is int:
            index = answer >> 16
            return Choice(fleet.ordered[index - 1] if index else None, answer & 0xFFFF)
        if type(answer) is tuple:
            code, problem = answer
            log = tuple(_decode_lines(self._runtime.ask("log")))
            return Choice(None, 0, self._told(problem), code == DELIBERATE, log=log)
        rich = _decode_answer(answer)
        workers = tuple(fleet.ordered[index - 1] for index in rich.workers)
        order = workers if rich.is_list and workers else None
        return Choice(workers[0] if workers else None, rich.line, None, False, order, rich, tuple(rich.log))

    def _chosen(self, question: str, request: Request, fleet: Fleet, choose: Choose | None) -> int | None:
        strategy, _, indexes = question.partition(" ")
        workers = [fleet.ordered[int(index) - 1] for index in indexes.split(",")]
        worker = choose(strategy, request, workers) if choose else None
        return None if worker is None else worker.index + 1

    def _lost(self, error: Exception) -> Choice:
        """The runtime is gone, or could not be built again: another one is made for the next decision."""
        try:
            self._runtime = self._build()
        except (RuntimeLost, ScriptError) as again:
            error = again
        self._seen_version = -1
        return Choice(None, 0, self._told(str(error)))

    # What the script knows

    def _look(self, fleet: Fleet) -> Seen:
        """For those who ask the script itself, as nobody looks for them."""
        if self._watch is None:
            self._watch = Watch(self.chance)
        return self._watch.look(fleet, self._env.wall(), self.figures)

    def _bring_up_to_date(self, fleet: Fleet, seen: Seen | None) -> tuple[float, int]:
        """Shows the script what was seen; returns its time and what must be added for local time."""
        if self._runtime.swollen():
            self._rebuild()
        if seen is None:
            seen = self._look(fleet)
        if fleet.version != self._seen_version:
            self._mirror(fleet)
        if seen.figures:
            self._measure(seen, fleet)
        for packed in seen.packed:
            self._runtime.touch(packed)
        if not 0 <= seen.wall - self._wall_minute < 60:
            self._look_at_clock(seen.wall)
        if self.draws:
            self._runtime.seed(self.chance.bits() >> 1)
        return seen.wall, self._utc_offset_s

    def look_at_clock_again(self) -> None:
        """The clocks have changed: with the next decision local time is another one."""
        self._wall_minute = -1.0

    def _look_at_clock(self, wall: float) -> None:
        self._wall_minute = wall // 60 * 60
        self._utc_offset_s = self._env.utc_offset_s()

    def _measure(self, seen: Seen, fleet: Fleet) -> None:
        for index, _ in seen.figures:
            self._runtime.measured(index + 1, *_figures_of(fleet.ordered[index]))

    def _mirror(self, fleet: Fleet, pretend_ready: bool = False) -> None:
        """Puts the whole fleet into Lua."""
        put = self._runtime.put
        for index, worker in enumerate(fleet.ordered, 1):
            fields = script_fields(worker)
            lists, metadata = parted(fields)
            if pretend_ready:
                lists["models"] = lists["models"] or (_TEST_MODEL,)
                fields |= {"status": READY, "load": 0.0, "in_flight": 0}
            put(index, fields, lists, metadata)
        self._runtime.finish_puts(len(fleet.ordered))
        self._seen_version = fleet.version

    def _rebuild(self) -> Runtime:
        """A fresh runtime in place of one whose heap stays high; `state` is carried over."""
        entries = self.state()
        self._runtime.close()
        self._runtime = self._build()
        self._restore(entries)
        self._seen_version = -1
        return self._runtime

    def state(self) -> list[list[Any]]:
        """The entries of `state`: [key, value, Unix time at which it expires or False]."""
        return self._asked("state") or []                      # Lua cannot tell an empty list from an empty object

    def _restore(self, entries: list[list[Any]]) -> None:
        self._runtime.clear_state()
        for key, value, expiry in entries:
            self._runtime.restore(key, value, expiry or None)
        self._runtime.settle()

    def adopt(self, other: Script) -> None:
        """Takes over what another script kept in `state`, and the params that were set. Whatever it saw of the fleet
        before is old: the other one took the changes."""
        self.overrides |= other.overrides
        self._seen_version = -1
        self.look_at_clock_again()
        with contextlib.suppress(RuntimeLost):                 # a new one will be made for the next decision
            self._restore(other.state())
            for name, value in other.overrides.items():
                self._runtime.set_param(name, value)

    def params(self) -> dict[str, dict[str, float]]:
        """{name: {value, default, min, max}} of every param() in the file, and of those that were reached."""
        found = {name: (default, low, high) for name, default, low, high, _ in literal_params(self.source)}
        found |= self._asked("params")
        return {
            name: {
                "value": min(max(self.overrides.get(name, default), low), high),
                "default": default, "min": low, "max": high,
            }
            for name, (default, low, high) in sorted(found.items())
        }  # fmt: skip

    def set_param(self, name: str, value: float) -> None:
        """Gives a param another value, from the next decision on. Raises KeyError, ValueError."""
        known = self.params()[name]
        if not known["min"] <= value <= known["max"]:
            raise ValueError(f"{name} = {value!r}: expected a number from {known['min']} to {known['max']}")
        if isinstance(known["default"], int) and float(value).is_integer():
            value = int(value)                                 # "w" .. 2 and "w" .. 2.0 are not the same
        self.overrides[name] = value
        with contextlib.suppress(RuntimeLost):
            self._runtime.set_param(name, value)

    def _asked(self, what: str) -> Any:
        """What the runtime says in JSON; empty when it is gone, as nothing is left then."""
        try:
            return msgspec.json.decode(self._runtime.ask(what))
        except RuntimeLost:
            return {}

    # Looking at it

    def steps(self) -> dict[str, list[dict[str, Any]]]:
        """{worker id: what became of it, step by step} in the last decision; filled only with `explain`."""
        return self._asked("steps")

    def covered(self) -> dict[int, int]:
        """{line: how often it ran}; filled only with `coverage`."""
        return {int(line): count for line, count in self._asked("covered").items()}

    def self_test(self, fleet: Fleet, choose: Choose | None = None) -> str | None:
        """Runs the script once on a made-up request with every worker ready and idle.

        Returns what is wrong, or None. A script that raises an error of its own (`error("No workers available")`) is
        not broken; one that indexes nil, misuses a helper, exceeds its budget or returns no worker of ours is. What
        the trial left behind in the script is thrown away.
        """
        self._mirror(fleet, pretend_ready=True)
        model = next(iter(fleet.models()), _TEST_MODEL)
        request = Request(
            id="self-test", path="/v1/chat/completions", model=model, model_size=None, user_id="self-test",
            priority=None, max_tokens=16, stream=False, metadata={"type": "llm"}, prompt_tokens=8,
        )  # fmt: skip
        fault = None
        for choice in self._trials(request, fleet, choose):
            if choice.error is not None and not choice.deliberate:
                fault = choice.error
                break
        self._runtime.close()
        self._runtime = self._build()
        self._seen_version, self._wall_minute = -1, -1.0
        return fault

    def _trials(self, request: Request, fleet: Fleet, choose: Choose | None) -> Any:
        seen = Seen(0, whole_ms(self._env.wall()) / 1000, fleet.ordered, [])       # nothing but what was put
        yield self.route(request, fleet, choose, seen)
        if not fleet.ordered:
            return
        worker_id = fleet.ordered[0].id
        if self.has_on_failure:
            attempt = {"worker_id": worker_id, "error": "upstream_connect_failed", "duration_ms": 1.0, "number": 1}
            yield self.after_failure(request, attempt, [worker_id], fleet, choose, seen)
        if self.has_on_complete:
            yield self.completed(request, TRIAL_OUTCOME | {"worker_id": worker_id}, fleet, seen)

    def fault_at(self, line: int, problem: str) -> str:
        """A fault of the answer that the line gave, in one line."""
        return f"{self.place(line)}: {problem}"

    def _told(self, problem: str) -> str:
        """A problem in one line, with its place and a hint."""
        told = self._problems.get(problem)
        if told is None:
            if len(self._problems) >= _MOST_PROBLEMS:
                self._problems.clear()
            told = self._problems[problem] = str(explain(self._named(problem), self.name, self.source))
        return told

    def _named(self, problem: str) -> str:
        return problem if problem.startswith(self.name) else f"{self.name}: {problem}"


def _asks(code: bytes) -> tuple[str, ...]:
    """The strategies that a text names, and one whose turn is worth knowing even where the name is put together."""
    if b"strategy" not in code:
        return ()
    words = set(_WORD.findall(strategy_spelling(code.decode(errors="replace"))))
    names = {ALIASES.get(name, name) for name in (*STRATEGIES, *ALIASES) if name in words}
    return tuple(name for name in STRATEGIES if name in names or name == "round-robin")


def configured_limits(routing: Routing) -> Limits:
    """What a script may use."""
    return Limits(
        routing.script_instructions, routing.script_cpu_s, routing.script_memory_bytes, routing.log_lines,
        routing.log_line_chars, routing.state_keys, routing.state_bytes, routing.state_value_bytes,
    )  # fmt: skip


def configured_abilities(routing: Routing, explain: bool = False) -> Abilities:
    """What a script may see and set."""
    return Abilities(
        tuple(name.lower() for name in routing.request_headers), tuple(name.lower() for name in routing.set_headers),
        routing.expose_prompt, explain,
    )  # fmt: skip


def read_source(path: Path) -> bytes:
    """The text of a script's file. Raises ScriptError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ScriptError(f"{path}: cannot be read: {error.strerror}") from None


def flat(request: Request) -> tuple[Any, ...]:
    """A request as request_of in prelude.lua takes it; `Script.route` has the same inline, for speed."""
    return (
        request.model, request.model_size, request.user_id, request.session_id, request.priority, request.max_tokens,
        request.stream, request.path, request.prompt_tokens, request.prompt, len(request.metadata),
        *chain.from_iterable(request.metadata.items()), *chain.from_iterable(request.headers.items()),
    )  # fmt: skip


_figures_of = attrgetter(*FIGURES)


def parted(fields: dict[str, Any]) -> tuple[dict[str, tuple[str, ...]], dict[str, Any]]:
    """Takes those of a worker's fields that are lists, and its metadata, out of the plain ones: Lua gets each as its
    own table."""
    return {name: fields.pop(name) for name in _LISTS}, fields.pop("metadata")


def script_fields(worker: Worker) -> dict[str, Any]:
    """All that a script can read of a worker; the control plane shows the same."""
    return {field: getattr(worker, field) for field in WORKER_FIELDS}


WORKER_FIELDS = tuple(LANGUAGE.records["worker"])
REQUEST_FIELDS = tuple(LANGUAGE.records["request"])
TRIAL_OUTCOME: dict[str, Any] = {
    "ok": True, "status": 200, "outcome": "done", "error": "", "ttft_ms": 10.0, "total_ms": 20.0, "tokens_in": 8,
    "tokens_out": 16, "attempts": 1,
}  # fmt: skip
"""What on_complete is told of the self-test; the names are those of every outcome."""
