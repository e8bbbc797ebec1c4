"""What strategies remember: one memory of a kind, told by the dispatcher of every job."""

from __future__ import annotations

import msgspec

from rbeerouter.core.memory import Memories, Memory


class Size(msgspec.Struct, frozen=True):
    most: int = 1


class Kind(Memory):
    pass


def test_two_who_ask_for_the_same_share_one_and_other_options_are_another() -> None:
    memories = Memories()
    one = memories.of(Kind, Size(2))
    assert memories.of(Kind, Size(2)) is one
    other = memories.of(Kind, Size(3))
    assert other is not one
    assert memories.all == (one, other)
    assert other.options == Size(3)


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    memories = Memories()
    one, other = memories.of(Kind, Size(2)), memories.of(Kind, Size(3))
    memories.keep([(Kind, Size(3)), (Kind, Size(4))])
    assert memories.all == (other,)
    assert memories.of(Kind, Size(2)) is not one


def test_who_reads_along_sees_what_there_is_and_leaves_nothing_behind() -> None:
    memories = Memories()
    one = memories.of(Kind, Size(2))
    reader = memories.to_read()
    assert reader.of(Kind, Size(2)) is one
    assert reader.of(Kind, Size(3)) is reader.of(Kind, Size(3))
    assert memories.all == (one,)
