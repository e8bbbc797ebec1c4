"""What a process that holds a script may answer, and what is nonsense."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.control.script_answers import Nonsense, Reader
from rbeerouter.routing.sandbox import Abilities, Limits
from tests.support.builders import quick

ABILITIES = Abilities(strategies=("least-request", "random"), set_headers=("x-tier",))


def reader(workers: int = 3) -> Reader:
    made = Reader(Limits(log_lines=2, log_line_chars=200), ABILITIES)
    made.count = workers
    return made


def reply(answer: Any, swollen: Any = False) -> bytes:
    return msgspec.msgpack.encode((swollen, answer))


def rich(**fields: Any) -> str:
    return json.dumps({"line": 4, **fields})


@pytest.mark.parametrize("swollen", [True, False])
def test_a_plain_answer_comes_with_the_sandbox_state(swollen: bool) -> None:
    assert reader().decision(reply(3 << 16 | 7, swollen)) == (swollen, 3 << 16 | 7)


GOOD = [
    0, 65535, 3 << 16, (-3, "routing.lua:2: boo"), (-7, "no"), (1, "strategy", "random 1,3"),
    rich(), rich(workers=[3, 1]), rich(action="wait", timeout_s=0, priority=-1000),
    rich(action="reject", status=429, message="later", retry_after=60), rich(action="give_up"),
    rich(model="m", headers=[["x-tier", "gold"]], reason="because", log=["one", "two", "left out"]),
]  # fmt: skip
BAD = [
    4 << 16, -1, 1 << 63, True, None, 1.5, b"x", [], [1], [1, 2], {"a": 1}, "", "x", "{}", "[]", "null",
    (0, "fine"), (-8, "unknown"), (2, "x"), (-3, "x" * 1001), (-3, "x", "y"), (1, "strategy"), (1, "strategy", ""),
    (1, "strategy", "random"), (1, "strategy", "random 0"), (1, "strategy", "random 1,4"), (1, "strategy", "random 1,x"),
    (1, "strategy", "os.system 1"), (-3, "x", "y", "z"),
    rich(workers=[0]), rich(workers=[-1]), rich(workers=[4]), rich(workers="1"), rich(line=-1), rich(line=1 << 16),
    rich(action="run"), rich(action="reject", status=200), rich(action="reject", retry_after=-1),
    rich(action="reject", message="x" * 1001), rich(action="wait", timeout_s=1e9), rich(action="wait", priority=1001),
    rich(model=""), rich(model="m" * 1001), rich(reason="x" * 1001), rich(headers=[["host", "x"]]),
    rich(headers=[["x-tier", "a\r\nb: c"]]), rich(headers=[["x-tier", "\u00e9"]]), rich(headers=[["x-tier", "x" * 1025]]),
    rich(headers=[["x-tier", "x"]] * 33), rich(log=["x"] * 4), rich(log=["x" * 204]), rich(log=[1]),
    '{"line": 1, "workers": [' + "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("answer", GOOD)
def test_an_answer_of_a_sandbox_is_taken_as_it_is(answer: Any) -> None:
    assert reader().decision(reply(answer)) == (False, answer)


@pytest.mark.parametrize("answer", BAD)
def test_an_answer_that_no_sandbox_gives_is_nonsense(answer: Any) -> None:
    with pytest.raises(Nonsense):
        reader().decision(reply(answer))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x92\xc2", reply(0, 0), reply(0) + b"\0", b"\x92\xc2\xa1\xff", b"\x93\xc2\0\0"])
def test_a_reply_of_another_shape_is_nonsense(data: bytes) -> None:
    with pytest.raises(Nonsense):
        reader().decision(data)


@pytest.mark.parametrize(
    ("what", "good", "bad"),
    [
        ("hooks", [0, 3], [4, -1, "0", (0, "")]),
        ("log", ["[]", '["a", "b"]'], ["{}", "[1]", '["a", "b", "c", "d"]', 0]),
        ("state", ["{}", '[["a", 1, false], ["b", "x", 1.5], ["c", true, 7]]'],
         ['{"a": 1}', '[["a", 1]]', '[[1, 2, 3]]', '[["a", 1, "soon"]]', '[["a", 1, 2, 3]]', '[["a", null, 1]]', "[1]", "null",
          '[["a", 1, true]]']),
        ("params", ["{}", '{"p": [1, 0, 2.5]}'], ['{"p": 1}', '{"p": [1, 2]}', '{"p": [1, "x", 2]}']),
        ("steps", ["{}", '{"w1": [{"by": "filter"}]}'], ["[1]", '{"w1": 1}']),
        ("covered", ["{}", '{"2": 5}'], ['{"a": 5}', "[1, 2]", '{"2": "x"}']),
        ("names", ['{"globals": ["a"]}'], ["[]", '{"globals": 1}']),
    ],
)  # fmt: skip
def test_what_is_asked_for_has_its_type(what: str, good: list[Any], bad: list[Any]) -> None:
    read = reader().asked[what]
    assert [read(reply(answer)) for answer in good] == [(False, answer) for answer in good]
    for answer in bad:
        with pytest.raises(Nonsense):
            read(reply(answer))


def test_a_load_is_told_by_a_code_and_a_text() -> None:
    assert [reader().load(reply(answer)) for answer in ((0, ""), (-1, "x"))] == [(False, (0, "")), (False, (-1, "x"))]
    for answer in (0, 1, "x", (1, "strategy", "random 1"), (1, ""), (0, "", "x"), (-1, "x" * 1001)):
        with pytest.raises(Nonsense):
            reader().load(reply(answer))


def test_on_complete_answers_nothing_but_its_log() -> None:
    good = [0, '["a"]', (-3, "boo"), (1, "strategy", "random 1")]
    assert [reader().completion(reply(answer)) for answer in good] == [(False, answer) for answer in good]
    for answer in (1, 1 << 16, "x", rich(), '["a", "b", "c", "d"]'):
        with pytest.raises(Nonsense):
            reader().completion(reply(answer))


def _nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=6
    )


_texts = _nested(st.none() | st.booleans() | st.integers() | st.floats() | st.text()).map(json.dumps)
_values = _nested(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary() | _texts
)


@quick(max_examples=500)
@given(st.binary() | _values.map(msgspec.msgpack.encode) | _values.map(reply))
def test_whatever_bytes_come_are_an_answer_or_nonsense(data: bytes) -> None:
    made = reader()
    for read in (made.load, made.decision, made.completion, *made.asked.values()):
        try:
            swollen, _ = read(data)
        except Nonsense:
            continue
        assert type(swollen) is bool
