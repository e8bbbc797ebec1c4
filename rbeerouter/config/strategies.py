"""How strategies are named in a configuration, a header, the environment and a script: `least-request`,
`Least_Request`, an alias, or a weighted list such as `least-request:2,prefix-cache:1`.

`routing.strategies.NAMES` holds the names that there are. Everybody who takes a name from outside reads it by
`Names.read`, so that all of them take and refuse the same.
"""

from __future__ import annotations

import difflib
import re

import msgspec

from rbeerouter.config.values import strategy_spelling

MOST_WEIGHT = 1_000_000
_MOST_CHARS = 1000
"""No list of sense is longer, and clients may send one."""
_SHOWN_CHARS = 60
_WEIGHT = re.compile(r"[0-9]{1,7}")

Part = tuple[str, int]
"""A strategy's name and its weight."""


class StrategyError(ValueError):
    """A name that no strategy has; the message says what was expected, and not where the name was found."""


class Names(msgspec.Struct, frozen=True):
    """The names that may be given.

    known: of the strategies. aliases: {other name: name in known}. reserved: {name: why there is no such strategy yet}.
    scored: of those that may be part of a list.
    """

    known: tuple[str, ...]
    aliases: dict[str, str] = {}
    reserved: dict[str, str] = {}
    scored: frozenset[str] = frozenset()

    def name(self, text: str) -> str:
        """The name in `known` that one name stands for. Raises StrategyError."""
        spelled = strategy_spelling(text.strip())
        spelled = self.aliases.get(spelled, spelled)
        if spelled in self.known:
            return spelled
        shown = repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")
        if spelled in self.reserved:
            raise StrategyError(f"{shown}: {self.reserved[spelled]}")
        near = difflib.get_close_matches(spelled[:_SHOWN_CHARS], (*self.known, *self.aliases), 1, 0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise StrategyError(f"{shown}: {hint}expected one of {', '.join(self.known)}")

    def read(self, text: str) -> tuple[Part, ...]:
        """The strategies of a name or a list, each with its weight: one alone, or at least two that are all scored.

        A weight of 0 takes an item out. Of a list with a strategy that keeps requests waiting (slo-*) that one is left
        alone, the first of them: its choice cannot be put into a number. Raises StrategyError.
        """
        if ":" not in text and "," not in text:
            return ((self.name(text), 1),)
        if len(text) > _MOST_CHARS:
            raise StrategyError(f"a list of {len(text)} characters: expected at most {_MOST_CHARS}")
        parts: dict[str, int] = {}
        for item in text.split(","):
            name, weight = self._item(item)
            if weight:
                parts[name] = parts.get(name, 0) + weight
        if not parts:
            raise StrategyError(f"{text!r}: every weight is 0; expected at least one strategy")
        alone = next((name for name in parts if name.startswith("slo") or name == "pd"), None)
        if alone is not None:
            return ((alone, 1),)
        if len(parts) == 1:
            return tuple((name, 1) for name in parts)
        unscored = [name for name in parts if name not in self.scored]
        if unscored:
            which = ", ".join(name for name in self.known if name in self.scored)
            verb = "gives" if len(unscored) == 1 else "give"
            raise StrategyError(
                f"{text!r}: {', '.join(unscored)} {verb} no scores, and cannot be part of a list; "
                f"those that can: {which}"
            )
        return tuple(parts.items())

    def _item(self, item: str) -> Part:
        name, colon, weight = item.partition(":")
        if not name.strip():
            raise StrategyError(f"{item.strip()!r}: expected NAME:WEIGHT, such as least-request:2,prefix-cache:1")
        if not colon:
            return self.name(name), 1
        weight = weight.strip()
        if not _WEIGHT.fullmatch(weight) or int(weight) > MOST_WEIGHT:
            shown = item.strip()[:_SHOWN_CHARS]
            expected = f"expected a whole number from 0 to {MOST_WEIGHT}"
            raise StrategyError(f"{shown!r}: the weight {weight[:20]!r}: {expected}")
        return self.name(name), int(weight)

    def spelled(self, text: str) -> str:
        """A name or a list as logs and answers show it. Raises StrategyError."""
        return spelled(self.read(text))


def spelled(parts: tuple[Part, ...]) -> str:
    """`least-request:2,prefix-cache:1`; a strategy alone has no weight."""
    return parts[0][0] if len(parts) == 1 else ",".join(f"{name}:{weight}" for name, weight in parts)
