"""What the process that holds a script answers, read without believing it.

Called by `control.script_process` only. Answers are decoded by type, and checked against what was asked: whoever took
over the process through a hole in Lua can choose among the workers and say what any script may say, and no more. The
checks are those of lua/answers.lua; they must not be looser than what the rest of the daemon relies on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from rbeerouter.config.strategies import Names
from rbeerouter.routing.sandbox import DELIBERATE, Abilities, Limits
from rbeerouter.routing.script import Answer

_MOST_TEXT = 1000
"""Characters of an error, a message, a reason; the sandbox cuts them at 400 to 1000 bytes."""
_MOST_HEADERS = 32
_SHORTEST_LINE = 100
"""The log's own remark that lines were left out has its length, whatever the limit on lines is."""

Read = Callable[[memoryview | bytes], tuple[bool, Any]]
"""Reads one answer: is the sandbox swollen, and what it said, in the types of `routing.sandbox.Runtime`."""


class Nonsense(Exception):
    """An answer that no sandbox gives."""


class Told(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """An answer of several parts: a code and a text, or 1, the kind of a question and its text."""

    code: int
    text: str
    more: str | None = None


class Reply(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What the process sends."""

    swollen: bool
    answer: int | str | Told


_Said = int | str | Told
_decode_reply = msgspec.msgpack.Decoder(Reply).decode
_decode_answer = msgspec.json.Decoder(Answer).decode
_decode_lines = msgspec.json.Decoder(list[str]).decode
_LISTS = {
    "state": list[tuple[str, str | int | float | bool, float | bool]] | dict[str, None],
    "params": dict[str, tuple[float, float, float]],
    "steps": dict[str, list[dict[str, Any]]],
    "covered": dict[int, int],
    "names": dict[str, list[str]],
}
"""What `ask` may ask for besides `hooks` and `log`. Lua cannot tell an empty list from an empty object."""


def _names(abilities: Abilities) -> Names:
    return Names((*abilities.strategies, *abilities.aliases), scored=frozenset(abilities.scored))


class Reader:
    """Reads the answers of one script. Each way of reading raises Nonsense.

    Attributes:
        count: how many workers the script was told of.
        load, decision, completion: for `Runtime.load`, `route` and `failed`, `completed`, and `resume` after these.
        asked: for `Runtime.ask`, by what is asked.
    """

    def __init__(self, limits: Limits, abilities: Abilities) -> None:
        self.count = 0
        self._strategies, self._headers = _names(abilities), set(abilities.set_headers)
        self._most_lines = limits.log_lines + 1
        self._longest_line = max(limits.log_line_chars + len("..."), _SHORTEST_LINE)

    def load(self, data: memoryview | bytes) -> tuple[bool, tuple[int, str]]:
        swollen, said = _reply(data)
        if type(said) is not Told or said.more is not None or said.code > 0 or len(said.text) > _MOST_TEXT:
            raise Nonsense
        return swollen, (said.code, said.text)

    def decision(self, data: memoryview | bytes) -> tuple[bool, Any]:
        swollen, said = _reply(data)
        if type(said) is int:
            _need(0 <= said >> 16 <= self.count)
            return swollen, said
        if type(said) is str:
            self._check_rich(_json(_decode_answer, said))
            return swollen, said
        return swollen, self._told(said)

    def completion(self, data: memoryview | bytes) -> tuple[bool, Any]:
        swollen, said = _reply(data)
        if type(said) is int:
            _need(said == 0)
            return swollen, said
        if type(said) is str:
            self._check_log(_json(_decode_lines, said))
            return swollen, said
        return swollen, self._told(said)

    @property
    def asked(self) -> dict[str, Read]:
        return {"hooks": _hooks, "log": self._log} | _ASKED

    def _log(self, data: memoryview | bytes) -> tuple[bool, str]:
        swollen, said = _reply(data)
        if type(said) is not str:
            raise Nonsense
        self._check_log(_json(_decode_lines, said))
        return swollen, said

    def _told(self, told: Any) -> tuple[int, str] | tuple[int, str, str]:
        """A fault, or a question."""
        if told.more is None:
            _need(DELIBERATE <= told.code < 0 and len(told.text) <= _MOST_TEXT)
            return told.code, told.text
        strategy, _, indexes = told.more.partition(" ")
        _need(told.code == 1)
        try:
            self._strategies.read(strategy)
            self._check_indexes([int(index) for index in indexes.split(",")])
        except ValueError:
            raise Nonsense from None
        return told.code, told.text, told.more

    def _check_rich(self, rich: Answer) -> None:
        self._check_indexes(rich.workers)
        self._check_log(rich.log)
        _need(0 <= rich.line <= 65535)
        _need(rich.action in (None, "reject", "wait", "give_up"))
        _need(rich.status is None or 400 <= rich.status <= 599)
        _need(rich.retry_after is None or 0 <= rich.retry_after <= 60)
        _need(rich.timeout_s is None or 0 <= rich.timeout_s <= 86400)
        _need(rich.priority is None or -1000 <= rich.priority <= 1000)
        _need(rich.model != "")
        _need(all(len(text or "") <= _MOST_TEXT for text in (rich.reason, rich.model, rich.message)))
        _need(len(rich.headers) <= _MOST_HEADERS)
        for name, value in rich.headers:
            _need(name in self._headers and len(value) <= 1024 and value.isascii() and value.isprintable())

    def _check_indexes(self, indexes: list[int]) -> None:
        _need(all(0 < index <= self.count for index in indexes))

    def _check_log(self, lines: list[str]) -> None:
        _need(len(lines) <= self._most_lines and all(len(line) <= self._longest_line for line in lines))


def _need(fine: bool) -> None:
    if not fine:
        raise Nonsense


def _reply(data: memoryview | bytes) -> tuple[bool, _Said]:
    try:
        reply = _decode_reply(data)
    except (msgspec.MsgspecError, UnicodeError):
        raise Nonsense from None
    return reply.swollen, reply.answer


def _json(decode: Callable[[str], Any], text: str) -> Any:
    try:
        return decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Nonsense from None


def _hooks(data: memoryview | bytes) -> tuple[bool, int]:
    swollen, said = _reply(data)
    if type(said) is not int or not 0 <= said <= 3:
        raise Nonsense
    return swollen, said


def _listing(decode: Callable[[str], Any], data: memoryview | bytes) -> tuple[bool, str]:
    swollen, said = _reply(data)
    if type(said) is not str:
        raise Nonsense
    found = _json(decode, said)
    _need(type(found) is not list or all(expiry is not True for _, _, expiry in found))
    return swollen, said


_ASKED: dict[str, Read] = {
    what: partial(_listing, msgspec.json.Decoder(kind).decode) for what, kind in _LISTS.items()
}
