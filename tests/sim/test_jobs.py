"""Tests of running many things at once."""

from __future__ import annotations

import os

import pytest

from rbeerouter.config.sections import ConfigError
from rbeerouter.sim.jobs import cores, each


@pytest.mark.parametrize("jobs", [1, 2, 9])
def test_what_is_found_comes_in_the_order_in_which_it_was_asked_for(jobs: int) -> None:
    held = [3]
    assert list(each(lambda item: item * held[0], [5, 1, 4], jobs)) == [15, 3, 12]


def test_several_jobs_are_several_processes_and_one_is_this_one() -> None:
    assert os.getpid() not in list(each(lambda item: os.getpid(), [1, 2], 2))
    assert list(each(lambda item: os.getpid(), [1, 2], 1)) == [os.getpid()] * 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_goes_wrong_is_told_here(jobs: int) -> None:
    def work(item: int) -> int:
        raise ConfigError(f"no {item}")

    with pytest.raises(ConfigError, match="no 7"):
        list(each(work, [7, 8], jobs))


def test_nothing_is_done_of_nothing_and_there_is_a_core() -> None:
    assert list(each(lambda item: item, [], 4)) == []
    assert cores() >= 1
