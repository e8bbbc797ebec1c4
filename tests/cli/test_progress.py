"""A bar is drawn on a terminal, for what takes longer than a second, and taken away in the end."""

from __future__ import annotations

import io

import pytest

from rbeerouter.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(name="clock")
def have_a_clock() -> Clock:
    return Clock()


def test_what_is_done_within_a_second_shows_nothing(clock: Clock) -> None:
    out = Terminal()
    with Progress(1000, out=out, now=clock) as told:
        clock.now += 0.9
        told(500, 30.0)
    assert out.getvalue() == ""


def test_the_bar_tells_share_speed_and_what_is_left_and_goes_away(clock: Clock) -> None:
    out = Terminal()
    with Progress(1000, out=out, now=clock) as told:
        clock.now += 2.0
        told(250, 3700.0)
        shown = out.getvalue()
        told(251, 3701.0)
        assert out.getvalue() == shown                                       # ten times a second are enough
    assert shown == "\r\x1b[Ksimulating [######..................] 25%, 125 requests/s, 1:01:40 simulated, 0:06 to go"
    assert out.getvalue() == shown + "\r\x1b[K"


def test_without_a_count_it_tells_what_has_come(clock: Clock) -> None:
    out = Terminal()
    with Progress(None, "replaying", out, clock) as told:
        clock.now += 2.0
        told(1500, 62.0)
    assert "replaying: 1,500 requests, 750 requests/s, 1:02 simulated" in out.getvalue()


def test_it_goes_away_when_somebody_interrupts(clock: Clock) -> None:
    out = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress(10, out=out, now=clock) as told:
        clock.now += 2.0
        told(5, 1.0)
        raise KeyboardInterrupt
    assert out.getvalue().endswith("\r\x1b[K")


def test_a_file_gets_none_of_it(clock: Clock) -> None:
    out = io.StringIO()
    with Progress(10, out=out, now=clock) as told:
        clock.now += 5.0
        told(5, 1.0)
    assert out.getvalue() == ""
