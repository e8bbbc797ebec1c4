"""Who got how much service in which interval, and how even that is."""

from __future__ import annotations

import pytest

from rbeerouter.core.dispatch import DONE, FAILED, Job
from tests.support.builders import job
from tests.support.service import Service


def ended(user: str, first: float, last: float, tokens_in: int, tokens_out: int, state: str = DONE) -> Job:
    made = job(user_id=user)
    made.state, made.first_content, made.finished = state, first, last
    made.tokens_in, made.tokens_out = tokens_in, tokens_out
    return made


def test_a_prompt_counts_at_the_first_content_and_an_answer_evenly_until_its_end() -> None:
    service = Service(10.0)
    service.ended(ended("anna", 5.0, 25.0, 100, 40))
    assert [service.of("anna", number) for number in range(4)] == pytest.approx([100 + 20, 40, 20, 0])


def test_an_answer_in_one_piece_counts_at_its_end() -> None:
    service = Service(10.0)
    service.ended(ended("anna", 12.0, 12.0, 100, 40))
    assert [service.of("anna", number) for number in range(3)] == [0.0, 180.0, 0.0]


def test_what_failed_is_no_service_and_intervals_without_service_have_no_index() -> None:
    service = Service(10.0)
    service.ended(ended("anna", 5.0, 5.0, 100, 40, FAILED))
    service.ended(ended("bob", 25.0, 25.0, 100, 40))
    assert service.jain(["anna", "bob"], range(4)) == [0.5]
