"""Reading the log: what was written comes back as it was, and nothing that a log can hold stops the reader."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.dispatch import Send
from rbeerouter.core.seen import whole_ms
from rbeerouter.core.types import Request
from rbeerouter.dialects.surfaces import SURFACES
from rbeerouter.record import Line, timestamp
from rbeerouter.recorded import LogError, Tally, in_order, protocol_of, read_all, read_log, request_of, seconds
from tests.support.builders import request
from tests.test_record import SERVED, Story


def recorded(**asked: Any) -> tuple[Request, bytes]:
    """A request, and the line that is written of it."""
    story = Story(**asked)
    if isinstance(story.begin(), Send):
        story.end(SERVED)
    return story.job.request, json.dumps(story.line()).encode()


def write(path: Path, *texts: bytes) -> Path:
    path.write_bytes(b"".join(text + b"\n" for text in texts))
    return path


def line(name: str, time: str = "2026-03-01T12:00:05.250Z") -> bytes:
    row = {"time": time, "event": "request", "request_id": name, "path": "/x", "model": "m", "outcome": "ok", "status": 200}
    return json.dumps(row, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"metadata": {"type": "llm", "tier": "gold", "n": 2, "spot": True, "price": 0.5}},
        {"metadata": {}},
        {"path": "/v1/embeddings", "metadata": {"type": "embedding"}},
        {"path": "/api/chat", "protocol": "ollama"},
        {"path": "/v1/messages", "protocol": "anthropic", "stream": True},
        {"path": "/somewhere", "metadata": {}},
        {
            "prompt_tokens": 12, "max_tokens": 64, "model_size": 8.0, "session_id": "s", "priority": 3,
            "headers": {"user-agent": "curl"}, "timeout_s": 2.5, "deployment": "remote", "asked_model": "alias",
        },
    ],
)  # fmt: skip
def test_a_request_comes_back_as_the_decision_knew_it_but_for_the_users_name(asked: dict[str, Any], tmp_path: Path) -> None:
    made, text = recorded(**asked)
    (found,) = map(request_of, read_log(write(tmp_path / "log", text.replace(b": ", b":").replace(b", ", b","))))
    assert found.user_id == "71d4f55f"
    assert found == request(**{**asked, "user_id": "71d4f55f", "id": made.id})


def test_cut_lines_events_and_foreign_text_are_got_over_and_counted(tmp_path: Path) -> None:
    events = [
        b'{"time":"2026-03-01T12:00:06.000Z","event":"reload_ok","workers":2}',
        b'{"time":"2026-03-01T12:00:06.000Z","event":"log_lines_lost","lost":7}',
    ]
    bad = [line("cut")[:60], b"", b"\x00\xff\xfe", b"{}", b"[]", b'{"event":"request"}', b'{"time":3,"event":"x"}', b"warning: x"]
    tally = Tally()
    path = write(tmp_path / "log", line("a"), *bad, *events, line("b"))
    found = list(read_all(path, tally))
    assert [one.request_id for one in found if isinstance(one, Line)] == ["a", "b"]
    assert [one["event"] for one in found if isinstance(one, dict)] == ["reload_ok", "log_lines_lost"]
    assert tally == Tally(lines=2, events=2, unreadable=len(bad) - 1, lost=7)


def test_fields_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "log", line("a")[:-1] + b',"invented_later":[1]}')
    assert [one.request_id for one in read_log(path)] == ["a"]


def test_rotated_and_packed_parts_are_read_in_the_order_of_their_time(tmp_path: Path) -> None:
    newest = write(tmp_path / "routing.log", line("c", "2026-03-03T00:00:00.000Z"))
    middle = write(tmp_path / "routing.log.1", b"cut", line("b", "2026-03-02T00:00:00.000Z"))
    oldest = tmp_path / "routing.log.2.gz"
    oldest.write_bytes(gzip.compress(line("a", "2026-03-01T00:00:00.000Z") + b"\n"))
    empty = write(tmp_path / "routing.log.3")
    paths = [newest, oldest, empty, middle]
    assert in_order(paths) == [empty, oldest, middle, newest]
    assert [one.request_id for one in read_log(paths)] == ["a", "b", "c"]


def test_a_packed_file_that_ends_too_early_gives_what_it_has(tmp_path: Path) -> None:
    path, tally = tmp_path / "log.gz", Tally()
    whole = gzip.compress(b"".join(line(f"r{number}") + b"\n" for number in range(5000)))
    path.write_bytes(whole[: len(whole) // 2])
    found = list(read_log(path, tally))
    assert 0 < len(found) < 5000 and tally.broken == [str(path)]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"nowhere\.log: cannot be read: No such file"):
        list(read_log(tmp_path / "nowhere.log"))


@given(st.integers(0, 4_102_444_800_000))
def test_the_time_of_a_line_comes_back_to_the_millisecond_and_to_the_last_bit(milliseconds: int) -> None:
    wall = milliseconds / 1000
    assert whole_ms(wall) == milliseconds and seconds(timestamp(wall)) == wall


@given(st.floats(0, 4_102_444_800))
def test_a_time_is_rounded_down_once_and_never_again(wall: float) -> None:
    floored = whole_ms(wall) / 1000
    assert timestamp(floored) == timestamp(wall) and whole_ms(floored) == whole_ms(wall)


def test_the_protocol_of_a_path_is_that_of_its_surface() -> None:
    assert {surface.name: protocol_of(surface.name) for surface in SURFACES.values()} == {
        surface.name: surface.protocol for surface in SURFACES.values()
    }
    assert [protocol_of(path) for path in ("/v1/messages/x", "/api/x", "/api/v1/x", "/x")] == [
        "anthropic", "ollama", "data", "openai",
    ]  # fmt: skip
