"""Every name that a routing script can use, in one table.

The Lua side (routing/lua) gives these names; this table tells them to whoever reads a script without running it: the
checker of `workbench`, and the documentation's tests. tests/routing/test_language.py holds it against the real sandbox.
It decides nothing at run time.

Kinds are words: "text", "number", "boolean", "any" (not known), "worker", "workers" (a list of them), "texts" (a list
of text), "metadata", "headers", "list", "table", "function". A "?" behind a kind tells that it may be nil.
"""

from __future__ import annotations

import msgspec

from rbeerouter.core.types import BUSY, DRAINING, OFFLINE, READY
from rbeerouter.routing.strategies import NAMES


class Call(msgspec.Struct, frozen=True):
    """A function or method.

    takes: for each argument the kinds it may have, divided by "|"; empty when nobody checks them
    least, most: how many arguments; most is None for any number
    gives: the kind of what it returns. Of lists also "same" (a list of the same items), "item?", "mapped", "groups" and
        "sampled" (an item without an argument, else a list)
    callback: with how many items a function given to it is called
    """

    takes: tuple[str, ...] = ()
    least: int = 0
    most: int | None = None
    gives: str = "any"
    callback: int = 0


class Language(msgspec.Struct, frozen=True):
    """`records`: fields and their kinds. `methods`: what may be called with a colon. `hooks`: kinds of the parameters.

    `libraries`: string, table, ... and what each name in them gives. `unavailable`: names of Lua that raise an error.
    `options`: keys of the tables that `queue` and `reject` take. `answer`: keys of the table that a hook may return,
    and the kinds that each may have, divided by "|".
    """

    records: dict[str, dict[str, str]]
    methods: dict[str, dict[str, Call]]
    functions: dict[str, Call]
    libraries: dict[str, dict[str, str]]
    unavailable: frozenset[str]
    hooks: dict[str, tuple[str, ...]]
    options: dict[str, frozenset[str]]
    answer: dict[str, str]
    statuses: tuple[str, ...]
    strategies: tuple[str, ...]

    @property
    def globals(self) -> set[str]:
        return {*self.functions, *self.libraries, "state"}


def _one(takes: str, gives: str, callback: int = 0) -> Call:
    return Call((takes,), 1, 1, gives, callback)


_REQUEST = {
    "model": "text", "model_size": "number?", "user_id": "text?", "session_id": "text?", "priority": "any?",
    "max_tokens": "number?", "stream": "boolean", "metadata": "metadata", "path": "text", "prompt_tokens": "number?",
    "type": "text", "headers": "headers", "prompt": "text?", "protocol": "text",
}  # fmt: skip
_WORKER = {
    "id": "text", "status": "text", "backend": "text?", "vram": "number?", "vram_used": "number?", "load": "number",
    "models": "texts", "performance": "number?", "cost_per_hour": "number?", "metadata": "metadata", "engine": "text",
    "capacity": "number", "in_flight": "number", "waiting": "number?", "kv_usage": "number?", "latency_ms": "number?",
    "ttft_ms": "number?", "role": "text?", "loras": "texts", "deployment": "text", "loaded": "texts",
    "running": "number?", "load_age_s": "number?", "tokens_per_s": "number?", "inter_token_ms": "number?",
    "error_rate": "number?", "temperature_c": "number?", "watts": "number?", "owner_active": "boolean?",
    "price_in": "number?", "price_out": "number?",
}  # fmt: skip
_OUTCOME = {
    "worker_id": "text?", "ok": "boolean", "status": "number", "outcome": "text", "error": "text?",
    "ttft_ms": "number?", "total_ms": "number", "tokens_in": "number?", "tokens_out": "number?", "attempts": "number",
}  # fmt: skip
_ATTEMPT = {
    "worker_id": "text", "error": "text", "duration_ms": "number", "number": "number", "tried": "texts",
}  # fmt: skip

_LIST = {
    "filter": _one("function", "same", 1),
    "sort_by": Call(("function|text",), 0, 1, "same", 2),
    "min_by": _one("function|text", "item?", 1),
    "max_by": _one("function|text", "item?", 1),
    "map": _one("function", "mapped", 1),
    "any": _one("function", "boolean", 1),
    "all": _one("function", "boolean", 1),
    "group_by": _one("function|text", "groups", 1),
    "first": Call((), 0, 0, "item?"),
    "last": Call((), 0, 0, "item?"),
    "len": Call((), 0, 0, "number"),
    "is_empty": Call((), 0, 0, "boolean"),
    "contains": Call((), 1, 1, "boolean"),
    "sample": Call(("number",), 0, 1, "sampled"),
    "weighted": _one("function|text", "item?", 1),
    "pick_by_hash": _one("text", "item?"),
}
_STANDARD_TEXT = {
    "byte": "number?", "char": "text", "find": "number?", "format": "text", "gmatch": "function", "gsub": "text",
    "len": "number", "lower": "text", "match": "any?", "rep": "text", "reverse": "text", "sub": "text", "upper": "text",
}  # fmt: skip
_OUR_TEXT = {
    "starts_with": _one("text", "boolean"),
    "ends_with": _one("text", "boolean"),
    "contains": _one("text", "boolean"),
    "split": Call(("text",), 0, 1, "texts"),
    "trim": Call((), 0, 0, "text"),
}
_TEXT = {name: Call((), 0, None, gives) for name, gives in _STANDARD_TEXT.items()} | _OUR_TEXT
_CLOCK = {
    **{name: Call((), 0, 0, "number") for name in ("hour", "minute", "day", "weekday", "month", "year", "epoch")},
    "iso": Call((), 0, 0, "text"),
}
_STATE = {
    "get": Call(("text",), 1, 2, "any?"),
    "set": Call(("text", "text|number|boolean|nil", "number|nil"), 2, 3, "nil"),
    "incr": Call(("text", "number|nil", "number|nil"), 1, 3, "number"),
}
_FUNCTIONS = {
    "assert": Call((), 1), "error": Call(), "ipairs": Call((), 1), "next": Call((), 1), "pairs": Call((), 1),
    "select": Call((), 1), "tonumber": Call((), 1, None, "number?"), "tostring": Call((), 1, None, "text"),
    "type": Call((), 1, None, "text"), "unpack": Call((), 1),
    "log": Call(gives="nil"), "print": Call(gives="nil"),
    "rand": Call((), 0, 0, "number"),
    "hash_str": _one("text", "number"),
    "timestamp": Call((), 0, 0, "clock"),
    "strategy": _one("text", "strategy"),
    "param": Call(("text", "number", "number", "number"), 4, 4, "number"),
    "queue": Call(("worker|text|nil", "table|nil"), 0, 2),
    "reject": Call(("table|text",), 0, 1),
}  # fmt: skip
_MATH = {
    "abs", "acos", "asin", "atan", "ceil", "cos", "deg", "exp", "floor", "fmod", "huge", "log", "max", "maxinteger",
    "min", "mininteger", "modf", "pi", "rad", "random", "sin", "sqrt", "tan",
}  # fmt: skip
_UNAVAILABLE = {
    "pcall", "xpcall", "setmetatable", "getmetatable", "rawget", "rawset", "rawequal", "rawlen", "require", "load",
    "loadfile", "dofile", "collectgarbage", "coroutine", "debug", "io", "os", "package", "_G", "_VERSION", "warn",
}  # fmt: skip

LANGUAGE = Language(
    records={"request": _REQUEST, "worker": _WORKER, "outcome": _OUTCOME, "attempt": _ATTEMPT},
    methods={
        "list": _LIST,
        "metadata": {"get": Call(("text",), 1, 2, "any?")},
        "text": _TEXT,
        "clock": _CLOCK,
        "state": _STATE,
    },
    functions=_FUNCTIONS,
    libraries={
        "string": _STANDARD_TEXT | {name: call.gives for name, call in _OUR_TEXT.items()},
        "table": {"concat": "text", "insert": "nil", "pack": "table", "remove": "any?", "sort": "nil", "unpack": "any"},
        "math": dict.fromkeys(_MATH, "number") | {"tointeger": "number?", "type": "any?", "ult": "boolean"},
        "utf8": {"char": "text", "charpattern": "text", "codepoint": "any", "len": "any"},
    },
    unavailable=frozenset(_UNAVAILABLE),
    hooks={
        "route_request": ("request", "workers"),
        "on_complete": ("request", "outcome"),
        "on_failure": ("request", "attempt", "workers"),
    },
    options={
        "queue": frozenset({"timeout_s", "priority"}),
        "reject": frozenset({"status", "message", "retry_after"}),
    },
    answer={"worker": "worker|text|list", "model": "text", "headers": "table", "reason": "text"},
    statuses=(READY, BUSY, OFFLINE, DRAINING),
    strategies=NAMES.known,
)
"""What the daemon of this version offers."""
