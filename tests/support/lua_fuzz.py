"""Makes Lua programs that use, misuse and abuse what a routing script can call.

Called by scripts/fuzz. `program(seed)` gives the same text for the same seed: half of them grow from a grammar that
knows the kinds of values and keeps to them nine times in ten, the others are known scripts with tokens changed. It
only writes text; it runs nothing and imports nothing of rbeerouter.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

NUMBERS = [
    "0", "1", "2", "3", "-1", "0.5", "1e300", "-0.0", "0/0", "1/0", "-1/0", "1<<53", "1<<62", "math.maxinteger",
    "math.mininteger", "math.huge", "2^53", "255", "65536", "1e-300", "100",
]  # fmt: skip
TEXTS = [
    '""', '"w1"', '"w2"', '"m"', '"load"', '"status"', '"ready"', '"models"', '"id"', '"nothing"', '"\\0"', '"\\255"',
    '"a,b,,c"', '"  x  "', '"üñ"', '"%s"', '".-.-b"', '"x-route"', '"least-request"', '"round_robin"', "('x'):rep(5000)",
    "('ab '):rep(300)", '"[["', '"1"', '"0x10"', '"region"', '"\\r\\n"', '"laod"',
]  # fmt: skip
WORKER_FIELDS = [
    "id", "status", "backend", "vram", "load", "load", "models", "performance", "metadata", "capacity", "in_flight",
    "in_flight", "id", "status", "capacity", "latency_ms", "role", "loras", "waiting", "id", "load", "laod",
]  # fmt: skip
METHODS = [
    "filter", "sort_by", "min_by", "max_by", "map", "any", "all", "group_by", "first", "last", "len", "is_empty",
    "contains", "sample", "weighted", "pick_by_hash", "get", "set", "incr", "split", "trim", "rep", "gsub",
]  # fmt: skip
REQUEST_FIELDS = [
    "model", "model_size", "user_id", "session_id", "priority", "max_tokens", "stream", "metadata", "path", "type",
    "prompt_tokens", "headers", "model", "path", "type", "user_id", "modle",
]  # fmt: skip
SIMPLE = re.compile(r"[\w.]+|\w+\[-?\w+\]")
TOKEN = re.compile(r"--[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|\d[\w.]*|\w+|\.\.\.?|[~=<>]=|<<|>>|//|\s+|.", re.S)


class Grammar:
    """One program. Each method of a kind of value gives an expression of that kind, or of any other for a change."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.depth = 0
        self.names: dict[str, list[str]] = {"list": ["workers"], "worker": [], "number": [], "text": [], "table": []}
        self.deepest = rng.choice((1, 2, 2, 3, 5))
        self.items = 0
        self.count = 0
        self.wild = rng.choice((0.0, 0.0, 0.01, 0.08))          # how often a value of another kind stands in a place

    # Expressions

    def one(self, *ways: Callable[[], str] | str) -> str:
        way = self.rng.choice(ways)
        return way if isinstance(way, str) else way()

    def deep(self, shallow: Sequence[str], *ways: Callable[[], str]) -> str:
        """One of the ways, or a short one where the expression is deep already."""
        if self.depth > self.deepest or self.rng.random() < 0.15:
            return self.rng.choice(shallow)
        self.depth += 1
        text = self.rng.choice(ways)()
        self.depth -= 1
        return text

    def any(self) -> str:
        return self.one(self.number, self.text, self.boolean, self.worker, self.list, self.table, self.function, "nil")

    def of(self, kind: Callable[[], str]) -> str:
        text = kind() if self.rng.random() >= self.wild else self.any()
        return text if SIMPLE.fullmatch(text) else f"({text})"

    def named(self, kind: str, otherwise: str) -> str:
        return self.rng.choice(self.names[kind]) if self.names[kind] else otherwise

    def number(self) -> str:
        n, t = lambda: self.of(self.number), lambda: self.of(self.text)
        return self.deep(
            NUMBERS,
            lambda: f"({n()} {self.rng.choice(['+', '-', '*', '/', '//', '%', '^', '&', '<<', '>>', '~'])} {n()})",
            lambda: f"#{self.of(self.list)}", lambda: f"{self.of(self.list)}:len()", lambda: "rand()",
            lambda: f"hash_str({t()})", lambda: f"{self.of(self.worker)}.{self.rng.choice(['load', 'vram', 'capacity'])}",
            lambda: f"timestamp():{self.rng.choice(['hour', 'day', 'month', 'year', 'weekday', 'epoch', 'huor'])}()",
            lambda: f"param({t()}, {n()}, {n()}, {n()})", lambda: "param('p', 25, 0, 100)",
            lambda: f"state:incr({t()}, {n()}, {n()})", lambda: f"state:get({t()}, {n()})",
            lambda: f"tonumber({t()})", lambda: f"math.random({n()})", lambda: f"math.floor({n()})",
            lambda: f"select('#', {self.any()}, {self.any()})", lambda: f"({t()}):byte({n()})", lambda: f"#{t()}",
            lambda: self.named("number", "1"), lambda: f"request.{self.rng.choice(['max_tokens', 'prompt_tokens'])}",
        )  # fmt: skip

    def text(self) -> str:
        n, t = lambda: self.of(self.number), lambda: self.of(self.text)
        method = self.rng.choice(["upper", "lower", "reverse", "trim"])
        pair = self.rng.choice(["find", "match", "gsub", "rep", "sub"])
        return self.deep(
            TEXTS,
            lambda: f"({t()} .. {t()})", lambda: f"tostring({self.any()})", lambda: f"({t()}):{method}()",
            lambda: f"({t()}):{pair}({t()}, {self.any()})", lambda: f"({t()}):rep({n()})", lambda: f"({t()}):sub({n()}, {n()})",
            lambda: f"({t()}):gsub({t()}, {self.of(self.function)})", lambda: f"string.format({t()}, {self.any()})",
            lambda: f"request.{self.rng.choice(REQUEST_FIELDS)}", lambda: f"request.metadata:get({t()}, {t()})",
            lambda: f"{self.of(self.worker)}.{self.rng.choice(WORKER_FIELDS)}", lambda: "timestamp():iso()",
            lambda: f"table.concat({self.of(self.list)}, {t()})", lambda: f"request.headers[{t()}]", lambda: f"type({self.any()})",
            lambda: f"{self.of(self.worker)}.metadata[{t()}]", lambda: self.named("text", "'x'"), lambda: f"utf8.char({n()})",
        )  # fmt: skip

    def boolean(self) -> str:
        return self.deep(
            ["true", "false", "request.stream"],
            lambda: f"{self.of(self.number)} {self.rng.choice(['<', '>', '<=', '>=', '==', '~='])} {self.of(self.number)}",
            lambda: f"({self.of(self.text)}):{self.rng.choice(['starts_with', 'ends_with', 'contains'])}({self.of(self.text)})",
            lambda: f"{self.of(self.list)}:{self.rng.choice(['any', 'all'])}({self.of(self.function)})",
            lambda: f"{self.of(self.list)}:contains({self.any()})", lambda: f"{self.of(self.list)}:is_empty()",
            lambda: f"not {self.any()}", lambda: f"({self.of(self.boolean)} and {self.of(self.boolean)})",
            lambda: f"{self.of(self.worker)}.models:contains({self.of(self.text)})",
            lambda: f"{self.of(self.worker)} == {self.of(self.worker)}",
        )  # fmt: skip

    def worker(self) -> str:
        ls, key = (lambda: self.of(self.list)), (lambda: self.one(self.function, lambda: self.rng.choice(TEXTS)))
        pick = self.rng.choice(["min_by", "max_by", "weighted"])
        return self.deep(
            ["workers[1]", "workers[-1]", "workers[2]", self.named("worker", "workers[3]")],
            lambda: f"{ls()}[{self.of(self.number)}]", lambda: f"{ls()}:{pick}({key()})", lambda: f"{ls()}:first()",
            lambda: f"{ls()}:last()", lambda: f"{ls()}:sample()", lambda: f"{ls()}:pick_by_hash({self.of(self.text)})",
            lambda: f"strategy({self.of(self.text)})(request, {ls()})", lambda: f"strategy('least-request')(request, {ls()})",
            lambda: f"({self.of(self.boolean)} and {self.of(self.worker)} or {self.of(self.worker)})",
            lambda: self.named("worker", "workers[1]"), lambda: self.named("worker", "workers[1]"),
        )  # fmt: skip

    def list(self) -> str:
        ls = lambda: self.of(self.list)  # noqa: E731
        key = lambda: self.one(self.comparator, self.comparator, lambda: self.rng.choice(TEXTS))  # noqa: E731
        return self.deep(
            ["workers", "workers", self.named("list", "workers")],
            lambda: f"{ls()}:filter({self.of(self.function)})", lambda: f"{ls()}:filter({self.of(self.function)})",
            lambda: f"{ls()}:sort_by({key()})", lambda: f"{ls()}:sort_by({key()})", lambda: f"{ls()}:map({self.of(self.function)})",
            lambda: f"{ls()}:sample({self.of(self.number)})", lambda: f"{ls()}:group_by({key()})[{self.any()}]",
            lambda: f"{self.of(self.worker)}.{self.rng.choice(['models', 'loras'])}", lambda: f"({self.of(self.text)}):split({self.of(self.text)})",
            lambda: f"{{ {self.worker()}, {self.worker()}, {self.any()} }}", lambda: self.named("list", "workers"),
        )  # fmt: skip

    def table(self) -> str:
        a = self.any
        return self.deep(
            ["{}", "request", "request.metadata", "state", "string", "timestamp()", self.named("table", "{}")],
            lambda: f"{{ {a()}, {a()} }}", lambda: f"{{ [{a()}] = {a()}, x = {a()} }}", lambda: f"queue({a()}, {a()})",
            lambda: f"reject({a()})", lambda: f"reject {{ status = {self.of(self.number)}, message = {self.of(self.text)} }}",
            lambda: f"queue({self.of(self.worker)}, {{ timeout_s = {self.of(self.number)}, priority = {self.of(self.number)} }})",
            lambda: f"{{ worker = {self.of(self.worker)}, model = {self.of(self.text)}, headers = {a()}, reason = {self.of(self.text)} }}",
            lambda: f"{{ worker = {self.of(self.list)}, headers = {{ ['x-route'] = {self.of(self.text)} }} }}",
            lambda: f"table.pack({a()}, {a()})", lambda: f"{self.of(self.list)}:group_by({self.of(self.function)})",
        )  # fmt: skip

    def function(self) -> str:
        self.items += 1
        name = f"w{self.items}"
        self.names["worker"].append(name)
        body = self.block(1) if self.depth < self.deepest and self.rng.random() < 0.2 else ""
        text = f"function({name}) {body} return {self.of(self.one_of_values)} end"
        self.names["worker"].remove(name)
        return text

    def comparator(self) -> str:
        if self.rng.random() < 0.5:
            sign, field = self.rng.choice("<>"), self.rng.choice(WORKER_FIELDS)
            return f"function(a, b) return a.{field} {sign} b.{field} end"
        return f"function(a, b) {self.block(1) if self.depth < self.deepest and self.rng.random() < 0.2 else ''} return {self.any()} end"

    def one_of_values(self) -> str:
        return self.one(self.boolean, self.boolean, self.number, self.text, self.worker, self.list)

    # Statements

    def block(self, most: int) -> str:
        held = {kind: list(names) for kind, names in self.names.items()}
        self.depth += 1
        text = "\n".join(self.statement() for _ in range(self.rng.randint(0, most)))
        self.depth -= 1
        self.names = held
        return text

    def local(self) -> str:
        kind = self.rng.choice(list(self.names))
        self.count += 1
        name, value = f"v{self.count}", self.of(getattr(self, kind))
        self.names[kind].append(name)
        return f"local {name} = {value}"

    def statement(self) -> str:
        if self.depth > self.deepest + 1:
            return self.local()
        n = self.rng.choice(["3", "10", "100", "1e9"]) if self.rng.random() < 0.3 else "3"
        return self.one(
            self.local, self.local, self.local,
            lambda: f"if {self.of(self.boolean)} then {self.block(2)} end",
            lambda: f"for i = 1, {n} do {self.block(2)} end",
            lambda: f"for k, v in {self.one('pairs', 'ipairs', 'next,')}({self.any()}) do {self.block(2)} end",
            lambda: f"for k, v in next, {self.any()} do {self.block(1)} if rand() < 0.5 then {self.named('table', 'request')}[k] = {self.any()} end end",
            lambda: f"while {self.of(self.boolean)} do {self.block(1)} end",
            lambda: f"log({self.any()}, {self.any()})", lambda: f"state:set({self.of(self.text)}, {self.any()}, {self.any()})",
            lambda: f"{self.named('table', 'request')}[{self.any()}] = {self.any()}",
            lambda: f"{self.one('workers', 'workers[1]', 'request.metadata', 'state', 'string')}[{self.any()}] = {self.any()}",
            lambda: f"{self.one('table.insert', 'table.sort', 'table.remove', 'log', 'kept.f')}({self.any()}, {self.any()})",
            lambda: f"kept[{self.any()}] = {self.any()}",
            lambda: f"if {self.of(self.boolean)} then return {self.answer()} end",
            lambda: f"if rand() < 0.1 then error({self.any()}) end",
        )  # fmt: skip

    def answer(self) -> str:
        plain = self.one(self.worker, self.worker, self.worker, self.list, self.table, self.text, self.any)
        return plain if self.rng.random() < 0.8 else f"{plain}, {self.any()}"

    def hook(self, head: str) -> str:
        self.names["table"] = [name for name in ("attempt", "outcome") if name in head]
        if "workers" not in head:
            self.names["list"] = ["attempt.tried" if "attempt" in head else "{}"]
        return f"function {head}\n{self.block(3)}\nreturn {self.answer()}\nend\n"

    def program(self) -> str:
        parts = ["kept = {}\n"]
        if self.rng.random() < 0.2:
            self.names["list"] = ["{}"]
            parts.append(self.block(2) + "\n")
        self.names = {"list": ["workers"], "worker": [], "number": [], "text": [], "table": ["kept"]}
        parts.append(f"function route_request(request, workers)\n{self.block(6)}\nreturn {self.answer()}\nend\n")
        if self.rng.random() < 0.25:
            parts.append(self.hook("on_failure(request, attempt, workers)"))
        if self.rng.random() < 0.25:
            parts.append(self.hook("on_complete(request, outcome)"))
        return "".join(parts)


def mutated(rng: random.Random, sources: Sequence[str]) -> str:
    """A known script with tokens left out, doubled, swapped, replaced, or with pieces of another one in it."""
    tokens, others = TOKEN.findall(rng.choice(sources)), TOKEN.findall(rng.choice(sources))
    for _ in range(rng.randint(1, 5)):
        if not tokens:
            break
        at, to = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        way = rng.choice((0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4))
        if way == 0:
            del tokens[at : at + rng.randint(1, 3)]
        elif way == 1:
            tokens[at:at] = tokens[to : to + rng.randint(1, 8)]
        elif way == 2:
            tokens[at], tokens[to] = tokens[to], tokens[at]
        elif way == 3 and others:
            start = rng.randrange(len(others))
            tokens[at : at + 1] = others[start : start + rng.randint(1, 20)]
        else:
            tokens[at] = replacement(rng, tokens[at], tokens[to])
    return "".join(tokens)[:30_000]


KEYWORDS = {
    "and", "break", "do", "else", "elseif", "end", "for", "function", "goto", "if", "in", "local", "not", "or", "repeat",
    "return", "then", "until", "while", "route_request",
}  # fmt: skip


def replacement(rng: random.Random, token: str, other: str) -> str:
    """Another token of the same sort, so that the program still compiles more often than not."""
    if token[0].isdigit():
        return rng.choice(NUMBERS)
    if token[0] in "\"'":
        return rng.choice(TEXTS)
    if token in "+-*/%<>" or token in ("==", "~=", "<=", ">=", ".."):
        return rng.choice(["+", "-", "*", "<", ">", "==", "~=", ".."])
    if not token.isidentifier() or token in KEYWORDS:
        return token
    if other.isidentifier() and other not in KEYWORDS and rng.random() < 0.4:
        return other
    return rng.choice([*WORKER_FIELDS, *REQUEST_FIELDS, *METHODS, "workers", "request", "state", "kept", "nil", "next", "log"])


def program(seed: str, sources: Sequence[str]) -> str:
    rng = random.Random(seed)
    return mutated(rng, sources) if sources and rng.random() < 0.5 else Grammar(rng).program()
