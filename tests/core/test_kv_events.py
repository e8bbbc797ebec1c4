"""Tests of the names of token blocks: alike for alike prompts, and different for all others."""

from __future__ import annotations

from array import array

import pytest

from rbeerouter.core.kv_events import PromptTokens, named_after, root, salted


def blocks(ids: list[int], size: int = 2, adapter: str = "", salt: str | None = None) -> list[int]:
    return PromptTokens(ids, salt).blocks(adapter, size)


def test_prompts_that_begin_alike_have_the_same_first_blocks() -> None:
    one, other = blocks([1, 2, 3, 4, 5, 6]), blocks([1, 2, 3, 4, 6, 5])

    assert (one[:2], one[2] == other[2]) == (other[:2], False)


def test_a_block_is_named_after_all_that_stands_before_it() -> None:
    assert len({*blocks([1, 2, 1, 2, 1, 2])}) == 3
    assert blocks([9, 2, 3, 4])[1] != blocks([1, 2, 3, 4])[1]
    assert blocks([1, 2]) == [named_after(root(""), array("I", [1, 2]).tobytes())]


def test_only_whole_blocks_have_names() -> None:
    assert [len(blocks([1, 2, 3, 4, 5], size)) for size in (1, 2, 3, 5, 6)] == [5, 2, 1, 1, 0]
    assert blocks([]) == []


def test_adapters_salts_and_sizes_make_other_names() -> None:
    names = [blocks([1, 2, 3, 4]), blocks([1, 2, 3, 4], adapter="law"), blocks([1, 2, 3, 4], salt="s")]

    assert len({name for kind in names for name in kind}) == 6
    assert set(blocks([1, 2, 3, 4], size=4)).isdisjoint(blocks([1, 2, 3, 4], size=2))
    assert (salted(None), salted("")) == (b"", b"")


def test_names_are_made_once() -> None:
    tokens = PromptTokens(range(100))

    assert tokens.blocks("", 10) is tokens.blocks("", 10)
    assert (len(tokens), tokens[3], list(tokens) == list(range(100))) == (100, 3, True)


@pytest.mark.parametrize("ids", [[-1], [1 << 32], ["x"], [1.5], [None], [[1]]])
def test_what_is_no_token_is_refused(ids: list[object]) -> None:
    with pytest.raises((OverflowError, TypeError)):
        PromptTokens(ids)  # type: ignore[arg-type]
