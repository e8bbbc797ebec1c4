"""The user's own tests: NAME_test.lua beside NAME.lua, written with the words of routing/lua/testing.lua.

`trial` and the reload gate call `run`. The file of tests runs in a Lua state of its own; what it asks of the script
(`route{...}`) is done here, on a `Stage` with a freshly loaded script for each test. Each test has a budget, so a file
that does not end is stopped.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from rbeerouter.config.sections import Config
from rbeerouter.core.types import Request
from rbeerouter.dialects.model_sizes import model_size
from rbeerouter.dialects.surfaces import KINDS_OF_PATHS
from rbeerouter.routing.problem import Problem, explain
from rbeerouter.routing.sandbox import DELIBERATE, Abilities, Limits, SuiteSandbox
from rbeerouter.routing.script import REQUEST_FIELDS, WORKER_FIELDS, flat, parted, read_source, script_fields
from rbeerouter.workbench.fleets import Row
from rbeerouter.workbench.inputs import PATHS, PROMPT_TOKENS, Case, Inputs, as_lua
from rbeerouter.workbench.literals import literals
from rbeerouter.workbench.properties import perform
from rbeerouter.workbench.shrink import shrink
from rbeerouter.workbench.stage import NOON, Play, Stage, rules_of

LIMITS = Limits(instructions=100_000_000, cpu_s=20.0, memory_bytes=64 << 20, log_lines=200)
"""What one test may use, the work of the script that it asks included in the time."""

_ABILITIES = Abilities(worker_fields=WORKER_FIELDS, request_fields=REQUEST_FIELDS)
_BUDGET = -2
_DEFAULT_SEED = 1
_KEPT_NAME = 50


class Tested(msgspec.Struct, frozen=True):
    """What became of one test.

    line: where it begins
    problem: why it failed, None when it passed
    case, seed: for a rule of `always`, the smallest case that breaks it, and the seed that gives it
    log: what it wrote with log()
    """

    name: str
    line: int
    seconds: float
    problem: Problem | None = None
    case: str | None = None
    seed: int | None = None
    log: list[str] = []


class Suite(msgspec.Struct, frozen=True):
    """What became of a file of tests. `problem` tells why it could not be read to its end; true when all passed.

    covered: {line of the script: how often it ran}
    workers: the fleet that is set outside of tests
    """

    file: str
    tests: list[Tested] = []
    workers: tuple[Row, ...] = ()
    covered: dict[int, int] = {}
    problem: Problem | None = None

    def __bool__(self) -> bool:
        return self.problem is None and all(test.problem is None for test in self.tests)


def suite_path(script: Path) -> Path:
    """Where the tests of NAME.lua are looked for: NAME_test.lua in its folder."""
    return script.with_name(f"{script.stem}_test.lua")


def run(script: Path, test: Path, *, seed: int = 1, cases: int = 200, config: Config | None = None) -> Suite:
    """Reads both files and runs the tests. `cases` are tried for each rule of `always`, the first that of `seed`.

    Raises:
        ScriptError: the script cannot be used, or a file cannot be read.
    """
    source = read_source(script)
    play = rules_of(config, literals(source).texts)
    return run_suite(source, script.name, read_source(test), test.name, play, seed=seed, cases=cases)


def run_suite(
    source: bytes, name: str, test: bytes, test_name: str, play: Play, *, seed: int = 1, cases: int = 200
) -> Suite:
    """As `run`, of texts. Raises ScriptError when the script cannot be used."""
    return _Run(source, name, test, test_name, play).all(seed, cases)


class _Asked(msgspec.Struct):
    """route{...} as testing.lua sends it; it has checked the fields."""

    model: str | None = None
    model_size: float | None = None
    user_id: str | None = None
    session_id: str | None = None
    priority: str | int | None = None
    max_tokens: int | None = None
    stream: bool = False
    metadata: dict[str, Any] = {}
    path: str | None = None
    prompt_tokens: int = PROMPT_TOKENS
    type: str | None = None
    headers: dict[str, str] = {}
    prompt: str | None = None


class _Setting(msgspec.Struct, frozen=True):
    """What a test plays on."""

    workers: tuple[Row, ...] = ()
    wall: float = NOON
    seed: int = _DEFAULT_SEED
    failing: frozenset[str] = frozenset()
    params: tuple[tuple[str, float], ...] = ()


class _Run:
    """One run of one file of tests."""

    def __init__(self, source: bytes, name: str, test: bytes, test_name: str, play: Play) -> None:
        self._script = (source, name, play)
        self._test = test
        self._name = test_name if len(test_name.encode()) <= _KEPT_NAME else "..." + test_name[-20:]
        self._lua = SuiteSandbox(LIMITS, _ABILITIES)
        self._loaded = Stage(*self._script)                    # to be asked what the script has; no test plays on it
        self._stage: Stage | None = None
        self._setting = _Setting()
        self._covered: dict[int, int] = {}
        self._requests = 0

    def all(self, seed: int, cases: int) -> Suite:
        answer = self._settled(
            self._lua.perform("load_tests", self._test, self._name, LIMITS.instructions, NOON)
        )
        if answer != 0:
            return Suite(self._name, problem=self._problem(answer))
        defaults = self._setting
        tests = []
        for number, one in enumerate(msgspec.json.decode(self._lua.ask("tests")), 1):
            started = time.perf_counter()
            self._setting = defaults
            if one["kind"] == "test":
                problem, case, case_seed = self._one(number), None, None
            else:
                problem, case, case_seed = self._always(number, seed, cases)
            log = msgspec.json.decode(self._lua.ask("log"))
            seconds = time.perf_counter() - started
            tests.append(Tested(one["name"], one["line"], seconds, problem, case, case_seed, log))
        self._leave_stage()
        return Suite(self._name, tests, defaults.workers, self._covered)

    # One test

    def _one(self, number: int) -> Problem | None:
        self._fresh_stage(self._setting)
        self._lua.seed(self._setting.seed)
        answer = self._settled(self._lua.perform("run_test", number, self._setting.wall))
        return None if answer == 0 else self._problem(answer)

    def _fresh_stage(self, setting: _Setting) -> Stage:
        self._leave_stage()
        stage = self._stage = Stage(*self._script, seed=setting.seed, coverage=True)
        stage.wall = setting.wall
        stage.place(setting.workers)
        stage.seed(setting.seed)
        for name, value in setting.params:
            stage.script.set_param(name, value)
        return stage

    def _leave_stage(self) -> None:
        if self._stage is not None:
            for line, count in self._stage.script.covered().items():
                self._covered[line] = self._covered.get(line, 0) + count

    # A rule

    def _always(self, number: int, seed: int, cases: int) -> tuple[Problem | None, str | None, int | None]:
        source, _, play = self._script
        inputs = Inputs(source, play.abilities, (self._setting.workers,))
        stage = self._fresh_stage(self._setting)
        for case_seed in range(seed, seed + cases):
            # No worker fails here: a rule is about who was chosen.
            case = msgspec.structs.replace(inputs.case(case_seed), failing=())
            answer = self._rule(number, stage, case)
            if answer == 0:
                continue
            alone = self._alone(number, case) != 0
            if alone:
                case = shrink(case, lambda smaller: self._alone(number, smaller) != 0)
                answer = self._alone(number, case)
            return self._problem(answer), as_lua(case), case.seed if alone else seed
        return None, None, None

    def _alone(self, number: int, case: Case) -> Any:
        return self._rule(number, self._fresh_stage(self._setting), case)

    def _rule(self, number: int, stage: Stage, case: Case) -> Any:
        """Plays a case and asks the rule: 0 when it holds."""
        result = perform(stage, case)
        lua = self._lua
        for index, worker in enumerate(stage.fleet.ordered, 1):
            fields = script_fields(worker)
            lua.put(index, fields, *parted(fields))
        lua.finish_puts(len(stage.fleet.ordered))
        lua.seed(case.seed & 0x7FFFFFFF)
        return self._settled(lua.perform("run_always", number, case.wall, result.known(), *flat(case.request)))

    # What a test asks

    def _settled(self, answer: Any) -> Any:
        """Answers questions until there is an end."""
        while type(answer) is tuple and answer[0] == 1:
            try:
                reply = self._reply(answer[1], answer[2])
            except (ValueError, KeyError, msgspec.ValidationError) as error:
                reply = str(error.args[0]) if error.args else str(error)
            answer = self._lua.perform("answer", reply)
        return answer

    def _reply(self, kind: str, text: str) -> Any:
        """A dict, a text that tells what is wrong, or None. Outside of a test it sets what each test begins with."""
        change, stage = msgspec.structs.replace, self._stage
        if kind == "fleet":
            workers = () if text == "{}" else msgspec.json.decode(text, type=tuple[Row, ...])
            self._setting = change(self._setting, workers=workers)
            if stage is not None:
                stage.place(workers)
        elif kind == "at":
            wall = _wall(text)
            self._setting = change(self._setting, wall=wall)
            if stage is not None:
                stage.wall = wall
            return {"epoch": wall}
        elif kind == "seed":
            self._setting = change(self._setting, seed=int(text))
            if stage is not None:
                stage.seed(int(text))
        elif kind == "fails":
            self._fails(msgspec.json.decode(text, type=list[str]))
        elif kind == "param_set":
            self._set_param(**msgspec.json.decode(text))
        else:
            return self._route(msgspec.json.decode(text, type=_Asked))
        return None

    def _fails(self, ids: list[str]) -> None:
        known = {one.id for one in self._setting.workers}
        unknown = [name for name in ids if name not in known]
        if unknown:
            names = ", ".join(sorted(known)) or "none"
            raise ValueError(f"fails: the fleet has no worker {unknown[0]}; it has {names}")
        failing = self._setting.failing.union(ids) if ids else frozenset()
        self._setting = msgspec.structs.replace(self._setting, failing=failing)

    def _set_param(self, name: str, value: float) -> None:
        params = self._loaded.script.params()
        if name not in params:
            raise ValueError(f"param_set: the script has no param {name!r}; it has {', '.join(params) or 'none'}")
        self._loaded.script.set_param(name, value)
        if self._stage is not None:
            self._stage.script.set_param(name, value)
        self._setting = msgspec.structs.replace(self._setting, params=(*self._setting.params, (name, value)))

    def _route(self, asked: _Asked) -> Any:
        stage = self._stage
        if stage is None:
            raise ValueError("route{...} stands inside of test(...)")
        listed = (model for one in self._setting.workers for model in one.models)
        model = asked.model if asked.model is not None else next(listed, "m")
        kind = asked.type or asked.metadata.get("type")
        path = asked.path or (PATHS.get(kind) if isinstance(kind, str) else None) or PATHS["llm"]
        metadata = {**asked.metadata}
        metadata["type"] = kind if kind is not None else KINDS_OF_PATHS.get(path, "llm")
        allowed = self._script[2].abilities.request_headers
        headers = {name.lower(): value for name, value in asked.headers.items()}
        hidden = [name for name in headers if name not in allowed]
        if hidden:
            raise ValueError(f"route: the header {hidden[0]} is not in [routing] request_headers: {', '.join(allowed)}")
        self._requests += 1
        request = Request(
            id=f"r-{self._requests}", path=path, model=model,
            model_size=asked.model_size if asked.model_size is not None else model_size(model),
            user_id=asked.user_id, priority=asked.priority, max_tokens=asked.max_tokens, stream=asked.stream,
            metadata=metadata, session_id=asked.session_id, prompt_tokens=asked.prompt_tokens, headers=headers,
            prompt=asked.prompt if self._script[2].abilities.expose_prompt else None,
        )  # fmt: skip
        return stage.serve(request, self._setting.failing).known()

    # What went wrong

    def _problem(self, answer: tuple[int, str]) -> Problem:
        code, message = answer
        if code == _BUDGET:
            line = message.partition(": ")[0] if message.startswith(self._name) else self._name
            return self._told(
                f"{line}: stopped: it takes more than {LIMITS.cpu_s:.0f} s or {LIMITS.instructions:,} instructions"
            )
        return self._told(message, expectation=self._lua.ask("failure") is not None or code == DELIBERATE)

    def _told(self, message: str, expectation: bool = False) -> Problem:
        problem = explain(message, self._name, self._test)
        if not expectation:
            return problem
        before, found, _ = problem.source_line.partition("expect(")
        return msgspec.structs.replace(problem, hint=None, marker=" " * len(before) + "^" if found else "")


def _wall(text: str) -> float:
    """Unix seconds of a time of day, in UTC."""
    try:
        time_of_day = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f'at: expected a time such as "2026-03-01 14:00", got "{text}"') from None
    return (time_of_day if time_of_day.tzinfo else time_of_day.replace(tzinfo=UTC)).timestamp()
