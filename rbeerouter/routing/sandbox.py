"""One Lua 5.4 state with everything dangerous off: the only file that imports lupa.

Used by `routing.script` alone. It must never hand a Python object to Lua, never touch a Lua table while a memory limit
is set, and never be called from another thread than the one that made it.

The memory limit follows a protocol, because lupa pushes arguments and results outside of protected calls: a limit that
is always on lets a script fill memory to the brim and the *host's* next push then aborts the process. So the limit is
set around each call only, with headroom, and a state whose heap stays high afterwards is thrown away and built anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lupa.lua54 as lua
import msgspec

_FOLDER = Path(__file__).parent
_SANDBOX = (_FOLDER / "sandbox.lua").read_text()
_PRELUDE = (_FOLDER / "prelude.lua").read_text()

MEMORY = -4
CRASH = -3


class Limits(msgspec.Struct, frozen=True):
    """What one decision may use. Past any of these the strategy decides and the log says so.

    instructions: Lua instructions per decision; loading the script may use ten times as many
    cpu_s: processor seconds per decision, for work that instructions do not show
    memory_bytes: heap that one call may add; half of it may stay behind before the state is rebuilt
    """

    instructions: int = 2_000_000
    cpu_s: float = 0.02
    memory_bytes: int = 8 << 20


def _deny(*_: object) -> None:
    raise AttributeError("Python objects cannot be used in routing scripts")


class Sandbox:
    """A fresh Lua state. `explain` makes the helpers note why each worker dropped out (slower)."""

    def __init__(self, limits: Limits, explain: bool = False) -> None:
        self._limits = limits
        self._lua = lua.LuaRuntime(
            register_eval=False, register_builtins=False, attribute_handlers=(_deny, _deny), max_memory=0
        )
        run, table = self._lua.execute, self._lua.table_from
        guarded = run(_SANDBOX, table({"cpu_s": limits.cpu_s}), name="=sandbox.lua", mode="t")
        options = {
            "instructions": limits.instructions,
            "load_instructions": limits.instructions * 10,
            "explain": explain,
        }
        host = run(_PRELUDE, guarded, table(options), name="=prelude.lua", mode="t")
        self._route = host.route
        self._load = host.load
        self._put = host.put
        self._finish_puts = host.finish_puts
        self.touch = host.touch
        self.reasons = host.reasons
        self.seed = host.seed
        self._base = self._empty = self._used()
        self._put_bytes = self._workers_bytes = 0

    def put(self, index: int, fields: dict[str, Any], models: tuple[str, ...], metadata: dict[str, Any]) -> None:
        """Registers worker `index` (from 1). Values are plain; None is left out."""
        before = self._used()
        table = self._lua.table_from
        given = {key: value for key, value in fields.items() if value is not None}
        self._put(index, table(given), table(list(models)), table(metadata))
        self._put_bytes += max(0, self._used() - before)

    def finish_puts(self, count: int) -> None:
        """Ends a round of puts: what the workers take is not the script's doing, so it is added to the base."""
        self._finish_puts(count)
        self._workers_bytes = max(self._workers_bytes, self._put_bytes)
        self._base, self._put_bytes = self._empty + self._workers_bytes, 0

    def load(self, source: bytes, name: str) -> tuple[int, str]:
        """Compiles and runs a script's text. Returns (0, "") or a code of prelude.lua and what is wrong."""
        answer = self._limited(self._load, source, name.encode(errors="replace"))
        if answer != 0:
            return answer
        self._lua.gccollect()
        self._base = self._empty = self._used()                # tables that the script begins with are not a leak
        return 0, ""

    def route(self, *arguments: Any) -> Any:
        """Calls route_request: an integer, or (negative code, text). See host.route in prelude.lua."""
        return self._limited(self._route, *arguments)

    def swollen(self) -> bool:
        """Does the heap stay high even after a collection? Then this state should be replaced."""
        if self._used() <= self._base + (self._limits.memory_bytes >> 1):
            return False
        self._lua.gccollect()
        return self._used() > self._base + (self._limits.memory_bytes >> 1)

    def _used(self) -> int:
        return self._lua.get_memory_used(True)               # all of it, not less a base

    def _limited(self, function: Any, *arguments: Any) -> Any:
        set_limit = self._lua.set_max_memory
        set_limit(self._base + self._limits.memory_bytes, True)
        try:
            return function(*arguments)
        except lua.LuaMemoryError:
            return MEMORY, "not enough memory"
        except (lua.LuaError, UnicodeError, OverflowError) as error:
            return CRASH, str(error)[:400]
        finally:
            set_limit(0)
