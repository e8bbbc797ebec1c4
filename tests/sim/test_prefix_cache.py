"""What a prompt finds in the cache, and what has to go first."""

from __future__ import annotations

from rbeerouter.sim.prefix_cache import PrefixCache


def test_a_prompt_finds_its_beginning_up_to_the_first_gap() -> None:
    cache = PrefixCache()
    assert cache.look((1, 2, 3)) == (0, 0)
    cache.pin((1, 2, 3))
    assert cache.look((1, 2, 9, 3)) == (2, 2)
    assert cache.look((9, 1, 2)) == (0, 0)
    cache.unpin((1, 2, 3), 3)
    assert cache.look((1, 2)) == (2, 0)


def test_the_end_of_the_prompt_unused_for_longest_goes_first() -> None:
    cache = PrefixCache()
    for blocks in ((1, 2, 3), (1, 2, 4), (5,)):
        cache.pin(blocks)
        cache.unpin(blocks, len(blocks))
    gone = []
    for most in range(4, -1, -1):
        before = list(cache.users)
        cache.shrink(most)
        gone += [block for block in before if block not in cache.users]
    assert gone == [3, 4, 2, 1, 5]


def test_what_a_running_sequence_uses_stays() -> None:
    cache = PrefixCache()
    cache.pin((1, 2))
    cache.pin((1, 3))
    assert cache.unpin((1, 3), 2) == 1
    cache.shrink(0)
    assert list(cache.users) == [1, 2]
    assert cache.unpin((1, 2), 2) == 2
    assert list(cache.idle) == [2, 1]


def test_blocks_that_were_never_computed_are_not_kept() -> None:
    cache = PrefixCache()
    cache.pin((1, 2, 3))
    assert cache.unpin((1, 2, 3), 1) == 3
    assert (list(cache.users), list(cache.idle)) == ([1], [1])
    cache.clear()
    assert cache.look((1,)) == (0, 0)
