"""The index of blocks against a picture of it that is too simple to be wrong."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.routing.strategies.index import BlockIndex
from tests.support.builders import quick

NAMES = ("a", "b", "c", "d")


class Lists:
    """The same by lists, the least recently used first. It looks at everything each time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bounds: dict[str, int] = {}
        self.held: dict[str, list[int]] = {}

    def bound(self, worker: str, most: int) -> None:
        self.bounds[worker] = most
        if worker in self.held:
            self.held[worker] = self.newest(self.held[worker], most)

    def stored(self, worker: str, hashes: list[int]) -> None:
        left = [block for block in self.held.get(worker, []) if block not in hashes]
        new = [block for place, block in enumerate(hashes) if block not in hashes[:place]]
        self.held[worker] = self.newest(left + new[::-1], self.bounds.get(worker, self.most))

    def removed(self, worker: str, hashes: list[int]) -> None:
        if worker in self.held:
            self.held[worker] = [block for block in self.held[worker] if block not in hashes]

    def cleared(self, worker: str) -> None:
        if worker in self.held:
            self.held[worker] = []

    def forget(self, worker: str) -> None:
        self.held.pop(worker, None)
        self.bounds.pop(worker, None)

    def match(self, hashes: list[int]) -> dict[str, int]:
        found = {}
        for worker, held in self.held.items():
            missing = (place for place, block in enumerate(hashes) if block not in held)
            found[worker] = next(missing, len(hashes))
        return {worker: count for worker, count in found.items() if count}

    def newest(self, held: list[int], most: int) -> list[int]:
        return held[len(held) - most :] if len(held) > most else held


WORKER = st.sampled_from(NAMES)
BLOCKS = st.lists(st.integers(0, 12), max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("stored"), WORKER, BLOCKS),
        st.tuples(st.just("removed"), WORKER, BLOCKS),
        st.tuples(st.just("bound"), WORKER, st.integers(0, 5)),
        st.tuples(st.just("cleared"), WORKER),
        st.tuples(st.just("forget"), WORKER),
    ),
    max_size=30,
)


@quick(max_examples=300)
@given(STEPS, st.lists(BLOCKS, min_size=1, max_size=4), st.integers(0, 8))
def test_it_is_what_lists_would_be(steps: list[tuple], asked: list[list[int]], most: int) -> None:
    index, lists = BlockIndex(most), Lists(most)
    for name, *arguments in steps:
        for one in (index, lists):
            act: Callable[..., None] = getattr(one, name)
            act(*arguments)
        for hashes in asked:
            assert index.match(hashes) == lists.match(hashes)
        assert {name: index.count(name) for name in NAMES} == {name: len(lists.held.get(name, [])) for name in NAMES}
        assert len(index) == len({block for held in lists.held.values() for block in held})
        assert sorted(index.workers()) == sorted(lists.held)


CHAINS = st.lists(
    st.tuples(WORKER, st.integers(0, 2), st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=20
)


@quick(max_examples=200)
@given(CHAINS, st.integers(1, 9))
def test_what_is_left_of_a_prompt_is_its_beginning(chains: list[tuple[str, int, int, int]], most: int) -> None:
    index = BlockIndex(most)
    prompts = []
    for worker, start, shared, own in chains:
        prompt = [start * 100 + place for place in range(shared)] + [1000 * (shared + 10 * start) + i for i in range(own)]
        prompts.append(prompt)
        index.stored(worker, prompt)
        for name in NAMES:
            assert index.count(name) <= most
    for prompt in prompts:
        for name in NAMES:
            held = [name in index.match([block]) for block in prompt]
            assert held == sorted(held, reverse=True)


def test_a_prompt_that_is_longer_than_the_bound_keeps_its_beginning() -> None:
    index = BlockIndex(3)
    index.stored("a", [1, 2, 3, 4, 5])
    assert index.match([1, 2, 3, 4, 5]) == {"a": 3}


def test_a_worker_that_comes_gets_nothing_of_the_one_whose_place_it_takes() -> None:
    index = BlockIndex()
    for name in NAMES:
        index.stored(name, [1, 2])
    index.forget("b")
    index.stored("e", [1])
    index.stored("f", [1, 2, 3])
    assert index.match([1, 2, 3]) == {"a": 2, "c": 2, "d": 2, "e": 1, "f": 3}
    assert sorted(index.workers()) == ["a", "c", "d", "e", "f"]


def test_more_workers_than_a_machine_word_has_bits_are_told_apart() -> None:
    index = BlockIndex()
    for number in range(200):
        index.stored(f"w{number}", list(range(number + 1)))
    assert index.match(list(range(200))) == {f"w{number}": number + 1 for number in range(200)}


def test_nothing_matches_no_prompt() -> None:
    index = BlockIndex()
    assert index.match([]) == {}
    index.stored("a", [])
    assert (index.match([]), index.match([1]), index.workers()) == ({}, {}, ["a"])
