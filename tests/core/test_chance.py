"""Each decision has numbers of its own, the same ones whenever they are drawn."""

from __future__ import annotations

from collections import Counter

from rbeerouter.core.chance import Chance


def drawn(base: int, n: int, count: int = 3) -> list[int]:
    chance = Chance(base)
    chance.n = n
    return [chance.bits() for _ in range(count)]


def test_the_numbers_of_a_decision_do_not_depend_on_what_was_drawn_before() -> None:
    chance = Chance(7)
    chance.n = 1
    for _ in range(5):
        chance.bits()
    chance.n = 2
    assert [chance.bits() for _ in range(3)] == drawn(7, 2)


def test_no_two_decisions_and_no_two_bases_share_numbers() -> None:
    found = [bits for base in range(5) for n in range(1, 200) for bits in drawn(base, n, 5)]
    assert len(set(found)) == len(found)


def test_the_first_numbers_of_the_decisions_are_those_of_splitmix64() -> None:
    """As published for the seed 1234567 (Vigna, splitmix64.c)."""
    assert [drawn(1234567, n, 1) for n in (1, 2, 3)] == [
        [6457827717110365317], [3203168211198807973], [9817491932198370423],
    ]  # fmt: skip


def test_random_numbers_lie_from_0_to_1_and_choices_are_even() -> None:
    chance, counted = Chance(3), Counter[str]()
    for chance.n in range(3000):
        assert 0 <= chance.random() < 1
        counted[chance.choice("abc")] += 1
    assert sum((count - 1000) ** 2 / 1000 for count in counted.values()) < 13.82


def test_what_is_loaded_before_any_decision_begins_alike_for_a_base_and_not_for_another() -> None:
    chance = Chance(5)
    before = chance.loading()
    chance.n = 9
    chance.bits()
    assert before == chance.loading() == Chance(5).loading() != Chance(6).loading() and before < 1 << 63


def test_it_can_begin_again() -> None:
    chance = Chance(1)
    first = [chance.bits() for _ in range(3)]
    chance.begin(1)
    assert [chance.bits() for _ in range(3)] == first
