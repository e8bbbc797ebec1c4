"""One Lua 5.4 state with everything dangerous off: the only file that imports lupa.

Used by `routing.script`, and by the process that holds a script under `isolation = "process"`. It must never hand a
Python object to Lua, never touch a Lua table while a memory limit is set, and never be called from another thread than
the one that made it.

The memory limit follows a protocol, because lupa pushes arguments and results outside of protected calls: a limit that
is always on lets a script fill memory to the brim and the *host's* next push then aborts the process. So the limit is
set around each call only, with headroom, and a state whose heap stays high afterwards is thrown away and built anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import lupa.lua54 as lua
import msgspec

_FOLDER = Path(__file__).parent / "lua"
_SANDBOX, *_OTHERS, _PRELUDE = (
    (f"={name}.lua", (_FOLDER / f"{name}.lua").read_text())
    for name in ("sandbox", "lists", "helpers", "answers", "prelude")
)

_TESTING = ("=testing.lua", (_FOLDER / "testing.lua").read_text())

SYNTAX, CRASH, MEMORY, DELIBERATE = -1, -3, -4, -7
"""Codes of answers that are none; prelude.lua tells them all."""


_LOAD_TIMES = 10
"""How much more than a decision loading may use: tables of data are filled then."""


class RuntimeLost(Exception):
    """What held the script is gone: its process was killed or crashed."""


class Limits(msgspec.Struct, frozen=True):
    """What a script may use. Past any of the first three the strategy decides and the log says so.

    instructions: Lua instructions per decision
    cpu_s: processor seconds per decision, for work that instructions do not show
    memory_bytes: heap that one call may add; half of it may stay behind before the state is rebuilt
    (loading the script may use ten times as much of these three)
    log_lines, log_line_chars: what log() may write in one decision
    state_keys, state_bytes, state_value_bytes: what `state` may keep
    """

    instructions: int = 2_000_000
    cpu_s: float = 0.02
    memory_bytes: int = 2 << 20
    log_lines: int = 20
    log_line_chars: int = 1000
    state_keys: int = 10_000
    state_bytes: int = 1 << 20
    state_value_bytes: int = 16 << 10


class Abilities(msgspec.Struct, frozen=True):
    """What a script may see and do beyond its limits. Names are in lower case.

    explain: note why each worker dropped out (slower)
    coverage: count how often each line runs (much slower)
    strategies, aliases: names that it may ask. scored: those of both that can be part of a list.
    """

    request_headers: tuple[str, ...] = ()
    set_headers: tuple[str, ...] = ()
    expose_prompt: bool = False
    explain: bool = False
    coverage: bool = False
    strategies: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    scored: tuple[str, ...] = ()
    worker_fields: tuple[str, ...] = ()
    request_fields: tuple[str, ...] = ()


class Runtime(Protocol):
    """What holds a script: `Sandbox` in this process, or one in a process of its own. Arguments are plain values.

    `load`, `route`, `failed`, `completed` and `resume` give an integer or text, or a tuple: (negative code, text), or
    (1, kind, text) for a question to be answered by `resume`.
    """

    def load(self, source: bytes, name: str) -> Any: ...
    def put(self, index: int, fields: dict[str, Any], lists: dict[str, tuple], metadata: dict[str, Any]) -> None: ...
    def finish_puts(self, count: int) -> None: ...
    def touch(self, packed: int) -> None: ...
    def measured(self, index: int, *figures: float | bool | None) -> None: ...
    def route(self, *arguments: Any) -> Any: ...
    def failed(self, attempt: dict[str, Any], tried: list[str], *arguments: Any) -> Any: ...
    def completed(self, outcome: dict[str, Any], *arguments: Any) -> Any: ...
    def resume(self, answer: int | None) -> Any: ...
    def ask(self, what: str) -> Any: ...
    def seed(self, value: int) -> None: ...
    def set_param(self, name: str, value: float) -> None: ...
    def clear_state(self) -> None: ...
    def restore(self, key: str, value: Any, expiry: float | None) -> None: ...
    def settle(self) -> None: ...
    def swollen(self) -> bool: ...
    def close(self) -> None: ...


def _deny(*_: object) -> None:
    raise AttributeError("Python objects cannot be used in routing scripts")


class Sandbox:
    """A fresh Lua state."""

    def __init__(self, limits: Limits, abilities: Abilities) -> None:
        self._lua = lua.LuaRuntime(
            register_eval=False, register_builtins=False, attribute_handlers=(_deny, _deny), max_memory=0
        )
        run, table = self._lua.execute, self._lua.table_from
        given = msgspec.structs.asdict(limits) | msgspec.structs.asdict(abilities)
        options = {name: ",".join(value) if type(value) is tuple else value for name, value in given.items()}
        options["load_instructions"] = limits.instructions * _LOAD_TIMES
        options["load_cpu_s"] = limits.cpu_s * _LOAD_TIMES
        name, text = _SANDBOX
        kit = run(text, table(options), name=name, mode="t")
        for name, text in _OTHERS:
            run(text, kit, name=name, mode="t")
        name, text = _PRELUDE
        self._kit = kit
        self._host = host = run(text, kit, name=name, mode="t")
        self._route, self._resume, self._load = host.route, host.resume, host.load
        self._failed, self._completed, self._stop = host.failed, host.completed, host.stop
        self._put, self._finish_puts = host.put, host.finish_puts
        self.touch, self.measured = host.touch, host.measured
        self.seed, self.set_param = host.seed, host.set_param
        self.clear_state, self.restore = host.clear_state, host.restore
        self._used, self._set_limit = self._lua.get_memory_used, self._lua.set_max_memory    # True: all of it
        self._memory, self._half = limits.memory_bytes, limits.memory_bytes >> 1
        self._base = self._empty = self._used(True)
        self._put_bytes = self._workers_bytes = self._state_bytes = 0

    def put(self, index: int, fields: dict[str, Any], lists: dict[str, tuple], metadata: dict[str, Any]) -> None:
        """Registers worker `index` (from 1). Values are plain; None is left out."""
        before = self._used(True)
        table = self._lua.table_from
        given = {key: value for key, value in fields.items() if value is not None}
        names = table({name: table(list(texts)) for name, texts in lists.items()})
        self._put(index, table(given), names, table(metadata))
        self._put_bytes += max(0, self._used(True) - before)

    def finish_puts(self, count: int) -> None:
        """Ends a round of puts: what the workers take is not the script's doing, so it is added to the base."""
        self._finish_puts(count)
        self._workers_bytes = max(self._workers_bytes, self._put_bytes)
        self._base, self._put_bytes = self._empty + self._workers_bytes, 0

    def load(self, source: bytes, name: str) -> Any:
        """Compiles and runs a script's text. Returns (0, "") or a code of prelude.lua and what is wrong."""
        answer = self._limited(self._load, source, name.encode(errors="replace"), times=_LOAD_TIMES)
        if answer != 0:
            return answer
        self.settle()
        return 0, ""

    def settle(self) -> None:
        """What the script holds now (tables it begins with, restored state) is not a leak."""
        self._lua.gccollect()
        self._state_bytes = self._host.state_heap()
        self._empty = self._used(True) - self._workers_bytes
        self._base = self._empty + self._workers_bytes

    def route(self, *arguments: Any) -> Any:
        """Calls route_request. See host.route in prelude.lua."""
        return self._limited(self._route, *arguments)

    def failed(self, attempt: dict[str, Any], tried: list[str], *arguments: Any) -> Any:
        """Calls on_failure. See host.failed in prelude.lua."""
        table = self._lua.table_from
        return self._limited(self._failed, table(attempt), table(tried), *arguments)

    def completed(self, outcome: dict[str, Any], *arguments: Any) -> Any:
        """Calls on_complete. See host.completed in prelude.lua."""
        return self._limited(self._completed, self._lua.table_from(outcome), *arguments)

    def resume(self, answer: int | None) -> Any:
        """Answers the question that the last call returned."""
        return self._limited(self._resume, answer)

    def ask(self, what: str) -> Any:
        """An integer, or JSON text: `hooks`, `steps`, `log`, `state`, `params`, `covered`, `names` of prelude.lua."""
        return self._host[what]()

    def swollen(self) -> bool:
        """Does the heap stay high even after a collection, and not for what `state` keeps? Then this Lua state should
        be replaced."""
        if self._used(True) <= self._base + self._half:
            return False
        self._lua.gccollect()
        kept = max(0, self._host.state_heap() - self._state_bytes)
        if self._used(True) > self._base + kept + self._half:
            return True
        self._base, self._empty, self._state_bytes = self._base + kept, self._empty + kept, self._state_bytes + kept
        return False

    def close(self) -> None:
        """Nothing to do: the state goes with the object."""

    def _limited(self, function: Any, *arguments: Any, times: int = 1) -> Any:
        set_limit = self._set_limit
        set_limit(self._base + self._memory * times, True)
        try:
            return function(*arguments)
        except lua.LuaMemoryError:
            self._stop()                                       # it ended outside of what the prelude guards
            return MEMORY, "not enough memory"
        except (lua.LuaError, UnicodeError, OverflowError) as error:
            self._stop()
            return CRASH, str(error)[:400]
        finally:
            set_limit(0)


class SuiteSandbox(Sandbox):
    """A Lua state for a file of tests, which has the words of testing.lua in place of what scripts ask and answer."""

    def __init__(self, limits: Limits, abilities: Abilities) -> None:
        super().__init__(limits, abilities)
        name, text = _TESTING
        self._lua.execute(text, self._kit, self._host, name=name, mode="t")
        self.settle()

    def perform(self, what: str, *arguments: Any) -> Any:
        """Calls a function of testing.lua; dicts and lists go in as tables. It may answer with a question, which is
        answered by `perform("answer", ...)`."""
        table = self._lua.table_from
        given = [table(value, recursive=True) if type(value) in (dict, list) else value for value in arguments]
        return self._limited(self._host[what], *given)
