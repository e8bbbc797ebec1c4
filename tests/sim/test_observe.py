"""Tests of what is taken from the lines of a log, and of what is not."""

from __future__ import annotations

import msgspec
import pytest

from rbeerouter.core.types import Attempt
from rbeerouter.record import Line
from rbeerouter.sim.observe import Record, Seen, records
from tests.sim.logged import line_of

ONE = Seen(0.0, 0.1, 0.5, 40, 21, True)


def line(sent_s: float = 0.0, **changes: object) -> Line:
    return msgspec.structs.replace(line_of(msgspec.structs.replace(ONE, sent_s=sent_s)), **changes)


def record(*lines: Line, most: int = 100) -> Record:
    return records(lines, most)["gpu"]


def test_times_count_from_the_sending_and_not_from_the_arrival() -> None:
    waited = line(10.0, queue_ms=200.0, ttft_ms=300.0, total_ms=700.0)
    seen = record(line(1.0), waited).seen
    assert [one.sent_s for one in seen] == pytest.approx([0.0, 9.2])
    assert (seen[1].first_s, seen[1].end_s) == pytest.approx((0.1, 0.5))


def test_lines_stand_in_the_order_of_sending_whatever_order_they_ended_in() -> None:
    seen = record(line(5.0, tokens_in=2), line(1.0, tokens_in=1)).seen
    assert [one.tokens_in for one in seen] == [1, 2]


def test_an_answer_in_one_piece_has_no_first_token() -> None:
    assert record(line(stream=False, ttft_ms=500.0)).seen[0].first_s is None


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "client_gone"},
        {"outcome": "worker_error"},
        {"attempts": 2, "tries": [Attempt("other", "upstream_disconnected", 50.0), Attempt("gpu", "ok", 500.0)]},
        {"attempts": 2, "continued": True},
        {"tokens_out": None},
        {"tokens_in": None},
    ],
)
def test_what_is_not_a_clean_answer_of_known_lengths_is_load_and_does_not_count(changes: dict[str, object]) -> None:
    found = record(line(1.0), line(2.0, **changes))
    assert [one.counts for one in found.seen] == [True, False]
    assert found.counting == 1


def test_a_request_that_was_elsewhere_before_came_later() -> None:
    tries = [Attempt("other", "upstream_disconnected", 50.0), Attempt("gpu", "ok", 450.0)]
    seen = record(line(1.0), line(2.0, attempts=2, tries=tries)).seen
    assert seen[1].sent_s == pytest.approx(1.05)
    assert seen[1].end_s == pytest.approx(0.45)


def test_unknown_lengths_are_estimated_from_how_long_it_wrote() -> None:
    found = record(line(1.0), line(2.0, tokens_in=None, tokens_out=None, total_ms=1100.0))
    assert (found.seen[1].tokens_in, found.seen[1].tokens_out) == (40, 50)
    assert found.without_tokens == 1


def test_refusals_are_no_load() -> None:
    found = record(line(1.0), line(2.0, ttft_ms=None, outcome="upstream_failed"))
    assert (len(found.seen), found.left_out) == (1, 1)


def test_only_the_newest_lines_are_kept() -> None:
    found = record(*(line(float(at), tokens_in=at + 1) for at in range(10)), most=4)
    assert ([one.tokens_in for one in found.seen], found.older) == ([7, 8, 9, 10], 6)


def test_workers_are_told_apart_and_lines_without_one_are_nobody_s() -> None:
    found = records([line(worker="b"), line(worker="a"), line(worker=None)], 100)
    assert list(found) == ["a", "b"]
