"""`--assert 'p95_ttft_s < 2 and rejected == 0'`: read, checked, and judged on the numbers of a result.

The commands read assertions before they simulate, so that a mistyped name is told at once and not after an hour. What
may stand in one is a short list; nothing else is ever evaluated. What there is to assert is in `metrics.METRICS`.
"""

from __future__ import annotations

import ast
import difflib
import operator
import warnings
from collections.abc import Callable, Collection

import msgspec

from rbeerouter.config.sections import ConfigError
from rbeerouter.sim.metrics import METRICS, is_count_of, keyed, metric_of

HELP = "help"
"""What is given in place of an assertion to see `metrics.listed()`."""
MOST_CHARS = 1000
"""Of one assertion: it is read by people, too."""
_MOST_DEPTH = 40

_CALCULATE: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_COMPARE: dict[type, Callable[[float, float], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}  # fmt: skip
_FUNCTIONS: dict[str, tuple[Callable[..., float], int, int]] = {
    "min": (min, 2, 20), "max": (max, 2, 20), "abs": (abs, 1, 1),
}  # fmt: skip
"""{name: (function, fewest arguments, most)}"""
_ALLOWED = "numbers, names, + - * /, min, max, abs, comparisons, and, or, not"


class Verdict(msgspec.Struct, frozen=True):
    """What an assertion came to.

    values: {name: its value}, of those that were looked at, in the order in which they were.
    problem: why it could not be judged, then it counts as failed; None when it could.
    """

    expression: str
    ok: bool
    values: dict[str, float | None]
    problem: str | None = None

    def __str__(self) -> str:
        shown = _values_text(self.values)
        told = f"{'holds' if self.ok else 'FAILED'}: {self.expression}"
        return f"{told}   ({self.problem or shown})" if self.problem or shown else told


class Assertion:
    """An assertion that can be judged.

    Args:
        expression: as the user wrote it.
        more: names that can be asserted beside those of METRICS.
        prefixes: words that may stand before a name, as in `before.p95_ttft_s`.

    Raises:
        ConfigError: it is no assertion, or has a name that nothing has.
    """

    def __init__(self, expression: str, more: Collection[str] = (), prefixes: Collection[str] = ()) -> None:
        self.expression = " ".join(expression.splitlines()).strip()
        self._more, self._prefixes = frozenset(more), tuple(prefixes)
        self._tree = self._parsed()
        if not self._checked(self._tree, 0):
            raise self._wrong(f"expected a comparison, as in {self.expression[:40]} < 2")

    def judge(self, values: dict[str, float | None]) -> Verdict:
        """Looks whether it holds of these numbers, as `metrics.metrics` gives them."""
        seen: dict[str, float | None] = {}
        try:
            return Verdict(self.expression, bool(self._value(self._tree, values, seen)), seen)
        except _NotKnown as error:
            return Verdict(self.expression, False, seen, str(error))
        except ZeroDivisionError:
            return Verdict(self.expression, False, seen, f"it divides by zero: {_values_text(seen)}")

    # Reading

    def _parsed(self) -> ast.expr:
        if len(self.expression) > MOST_CHARS:
            raise ConfigError(f"--assert: {len(self.expression)} characters; expected at most {MOST_CHARS}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")                # of odd spellings such as 1and 2
                return ast.parse(self.expression, mode="eval").body
        except SyntaxError as error:
            raise self._wrong(f"cannot be read at character {error.offset or 1}: {error.msg}") from None
        except (ValueError, RecursionError, MemoryError):
            raise self._wrong("cannot be read") from None

    def _checked(self, node: ast.expr, depth: int) -> bool:
        """Is it a truth? Else it is a number. Whatever else it is, is refused."""
        if depth > _MOST_DEPTH:
            raise self._wrong("is nested too deep")
        match node:
            case ast.BoolOp(values=parts):
                self._expect(parts, True, depth)
                return True
            case ast.UnaryOp(op=ast.Not(), operand=part):
                self._expect([part], True, depth)
                return True
            case ast.Compare(left=left, ops=ops, comparators=others):
                if not all(type(op) in _COMPARE for op in ops):
                    raise self._refused(node)
                self._expect([left, *others], False, depth)
                return True
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=part):
                self._expect([part], False, depth)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _CALCULATE:
                self._expect([left, right], False, depth)
            case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in _FUNCTIONS:
                _, fewest, most = _FUNCTIONS[name]
                if not fewest <= len(given) <= most:
                    raise self._wrong(f"{name}() has {len(given)} arguments; expected {fewest} to {most}")
                self._expect(given, False, depth)
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                if abs(value) > 1e300:
                    raise self._wrong("has a number that is too large")
            case ast.Name() | ast.Subscript() | ast.Attribute():
                self._known(self._name(node))
            case _:
                raise self._refused(node)
        return False

    def _expect(self, parts: list[ast.expr], truth: bool, depth: int) -> None:
        for part in parts:
            if self._checked(part, depth + 1) != truth:
                expected = "a comparison" if truth else "a number"
                raise self._wrong(f"{ast.unparse(part)!r}: expected {expected}")

    def _name(self, node: ast.expr) -> str:
        """`tier["premium"].p95_ttft_s` as `metrics` writes it, however it is quoted here."""
        match node:
            case ast.Name(id=name):
                return name
            case ast.Subscript(value=ast.Name() | ast.Attribute() as inner, slice=ast.Constant(value=str() as key)):
                return keyed(self._name(inner), key)
            case ast.Attribute(value=ast.Name() | ast.Subscript() as inner, attr=name):
                return f"{self._name(inner)}.{name}"
        raise self._refused(node)

    def _known(self, name: str) -> None:
        if name in self._more or metric_of(self._bare(name)) is not None:
            return
        raise self._wrong(unknown(name, self._more))

    def _bare(self, name: str) -> str:
        for prefix in self._prefixes:
            if name.startswith(prefix + "."):
                return name[len(prefix) + 1 :]
        return name

    def _refused(self, node: ast.expr) -> ConfigError:
        return self._wrong(f"{ast.unparse(node)!r} cannot be asserted; expected only {_ALLOWED}")

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"--assert {self.expression[:200]!r}: {what}")

    # Judging

    def _value(self, node: ast.expr, values: dict[str, float | None], seen: dict[str, float | None]) -> float:
        match node:
            case ast.BoolOp(op=op, values=parts):
                each = (bool(self._value(part, values, seen)) for part in parts)
                return all(each) if isinstance(op, ast.And) else any(each)
            case ast.Compare(left=left, ops=ops, comparators=others):
                numbers = [self._value(part, values, seen) for part in (left, *others)]
                pairs = zip(ops, numbers, numbers[1:], strict=False)
                return all(_COMPARE[type(op)](one, other) for op, one, other in pairs)
            case ast.UnaryOp(op=op, operand=part):
                value = self._value(part, values, seen)
                return not value if isinstance(op, ast.Not) else -value if isinstance(op, ast.USub) else value
            case ast.BinOp(left=left, op=op, right=right):
                return _CALCULATE[type(op)](self._value(left, values, seen), self._value(right, values, seen))
            case ast.Call(func=ast.Name(id=name), args=given):
                return _FUNCTIONS[name][0](*(self._value(part, values, seen) for part in given))
            case ast.Constant(value=int() | float() as number):
                return float(number)
        return self._looked_up(self._name(node), values, seen)

    def _looked_up(self, name: str, values: dict[str, float | None], seen: dict[str, float | None]) -> float:
        if name not in values and is_count_of(self._bare(name)):
            seen[name] = 0
            return 0
        if name not in values:
            head, dot, _ = name.rpartition(".")
            part = head if dot and "[" in head else name
            like = part.partition("[")[0] + "["
            there = dict.fromkeys(found[: found.rindex("]") + 1] for found in values if found.startswith(like))
            known = ", ".join(list(there)[:5]) + (", ..." if len(there) > 5 else "")
            raise _NotKnown(f"this result has no {part}{f'; it has {known}' if known else ''}")
        value = seen[name] = values[name]
        if value is None:
            raise _NotKnown(f"{name} has no value: nothing in this result has such a number")
        return float(value)


def unknown(name: str, more: Collection[str] = ()) -> str:
    """What to say of a name that no result has; `more` are others that could have been meant."""
    head, dot, tail = name.rpartition(".")
    near = difflib.get_close_matches(tail, [*METRICS, *more], 3, 0.6)
    hint = f"; did you mean {' or '.join(head + dot + match for match in near)}?" if near else ";"
    return f"no result has {name!r}{hint} `--assert {HELP}` lists what there is"


class _NotKnown(Exception):
    """A name without a number."""


def _values_text(seen: dict[str, float | None]) -> str:
    return ", ".join(f"{name} = {value:.6g}" for name, value in seen.items() if value is not None)


def judge_all(assertions: list[Assertion], values: dict[str, float | None]) -> list[Verdict]:
    """One verdict for each, in order; none is left out when one before it fails."""
    return [assertion.judge(values) for assertion in assertions]
