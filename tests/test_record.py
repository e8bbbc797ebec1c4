"""The log: one line for each job whatever its end, and a file that loses nothing it need not and never raises."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.sections import Routing
from rbeerouter.core.dispatch import Dispatcher, Job, Send, refused_job
from rbeerouter.core.errors import FAILURES, RouterError, refusal
from rbeerouter.core.models import Model, Models, name_to_send
from rbeerouter.core.types import REJECT, WAIT, Decision, Outcome, Report, Request
from rbeerouter.record import Histogram, Inputs, LogFile, Recorder, event_logger, timestamp, told_inputs
from rbeerouter.routing.decide import Decider
from tests.support.builders import Clock, down, env, fleet, quick, request, script, worker

SERVED = Outcome(None, 200, committed=True, delivered=True)
SETTLE_S = 5.0


class Lines:
    """A sink in the log file's place; each line must be one JSON object, the last one without its end."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def msg(self, lines: bytes) -> None:
        assert not lines.endswith(b"\n")
        self.rows += [json.loads(line) for line in lines.split(b"\n")]


class Story:
    """Workers w1 and w2, of which w2 is down until it is needed, a dispatcher, a recorder and one job."""

    def __init__(self, source: str | None = None, *, debug: bool = False, **asked: Any) -> None:
        self.clock = Clock()
        self.fleet = fleet("w1", "w2", worker("w3", models=("tiny",)))
        down(self.fleet, "w2")
        self.fleet.touched.clear()
        self.fleet.altered.clear()
        loaded = None if source is None else script(source, explain=debug)
        made_env = env(self.clock)
        self.dispatcher = Dispatcher(
            self.fleet, Decider(self.fleet, loaded, "least-request", made_env, debug), made_env
        )
        self.job = Job(request(user_id="ann@example.com", **asked), self.clock.now_s, self.clock.wall_s)
        self.sink = Lines()
        self.recorder = Recorder(self.sink)  # type: ignore[arg-type]

    def begin(self) -> object:
        effect = self.dispatcher.on_request(self.job)
        if isinstance(effect, Send):                          # as the exchange does
            self.job.sent_model = name_to_send(self.job.request, effect.worker, effect.model)
        return effect

    def end(self, outcome: Outcome, seconds: float = 0.5) -> object:
        self.clock.advance(seconds)
        return self.dispatcher.on_outcome(self.job, outcome)

    def line(self) -> dict[str, Any]:
        """The one line of the job."""
        self.recorder.record(self.job)
        self.recorder.catch_up()
        self.recorder.catch_up()
        (row,) = self.sink.rows
        return row


COMMON = {
    "time": "2026-03-01T12:00:05.250Z", "event": "request", "request_id": "r-1", "path": "/v1/chat/completions",
    "model": "m",
    "user": "71d4f55f",
}  # fmt: skip
"""What is the same in every line; the user is the beginning of the SHA-256 of ann@example.com."""


# A line for each end.


def test_a_request_that_was_served_is_told_whole() -> None:
    story = Story("return workers[3]", stream=True)
    story.begin()
    story.job.decision_s = 0.0000123
    story.clock.advance(0.125)
    story.job.first_content = story.clock.now_s
    story.job.tokens_in, story.job.tokens_out, story.job.bytes_out = 11, 7, 1234
    story.end(SERVED, 0.375)
    assert story.line() == {
        **COMMON, "outcome": "ok", "status": 200, "stream": True, "worker": "w3", "by": "script",
        "reason": "routing.lua:2",
        "sent_model": "tiny", "attempts": 1, "decision_us": 12.3, "queue_ms": 0.0, "ttft_ms": 125.0, "total_ms": 500.0,
        "tokens_in": 11, "tokens_out": 7, "bytes_out": 1234, "n": 1,
    }  # fmt: skip


def test_a_request_in_its_shortest_form() -> None:
    story = Story()
    story.begin()
    story.end(SERVED)
    assert story.line() == {
        **COMMON, "outcome": "ok", "status": 200, "worker": "w1", "by": "strategy", "reason": "least-request",
        "attempts": 1,
        "decision_us": 0.0, "queue_ms": 0.0, "total_ms": 500.0, "n": 1,
    }  # fmt: skip


def test_a_body_that_was_not_understood_is_told_too() -> None:
    story = Story()
    refusal = RouterError("invalid_json", "the body is not valid JSON: secret")
    story.job = refused_job(request(model=""), refusal, 100.0, story.clock.wall_s, 100.001)
    assert story.line() == {
        **{key: value for key, value in COMMON.items() if key != "user"}, "model": "", "outcome": "rejected",
        "status": 400,
        "error": "invalid_json", "total_ms": 1.0,
    }  # fmt: skip


def test_a_request_that_no_worker_could_take_is_told() -> None:
    story = Story(model="gpt-4")
    story.begin()
    assert story.line() == {
        **COMMON, "model": "gpt-4", "outcome": "rejected", "status": 404, "error": "model_not_found", "total_ms": 0.0,
        "n": 1,
    }  # fmt: skip


def test_a_request_whose_script_failed_says_what_was_wrong() -> None:
    story = Story("error('no')")
    story.begin()
    story.end(SERVED)
    line = story.line()
    assert (line["by"], line["reason"], line["script_error"], line["outcome"]) == (
        "fallback", "least-request", "routing.lua:2: no", "ok",
    )  # fmt: skip
    assert story.recorder.script_errors == 1


def test_a_failed_worker_and_its_replacement_are_both_told() -> None:
    story = Story()
    story.begin()
    story.fleet.workers["w2"].health.reachable = True
    story.fleet.workers["w2"].status = "ready"
    story.end(Outcome(FAILURES["upstream_connect_failed"]), 0.25)
    story.end(SERVED)
    assert story.line() == {
        **COMMON, "outcome": "ok", "status": 200, "worker": "w2", "by": "failover",
        "reason": "least-request; then least-request after w1 failed", "attempts": 2,
        "tries": [
            {"worker_id": "w1", "result": "upstream_connect_failed", "duration_ms": 250.0},
            {"worker_id": "w2", "result": "ok", "duration_ms": 500.0},
        ],
        "decision_us": 0.0, "queue_ms": 0.0, "total_ms": 750.0, "n": 1,
        "decided": {"action": "send", "reason": "least-request", "by": "strategy", "worker": "w1"},
    }  # fmt: skip


@pytest.mark.parametrize("committed", [False, True])
def test_a_request_that_its_worker_failed_is_told(committed: bool) -> None:
    story = Story()
    story.begin()
    story.end(Outcome(FAILURES["upstream_stalled"], 200 if committed else 0, committed=committed))
    line = story.line()
    assert (line["outcome"], line["status"], line["error"], line["worker"], line["attempts"]) == (
        "upstream_failed", 504, "upstream_stalled", "w1", 1,
    )  # fmt: skip


def test_an_error_of_the_workers_own_is_told_as_its_answer() -> None:
    story = Story()
    story.begin()
    story.end(Outcome(FAILURES["upstream_error_status"], 503, committed=True, delivered=True))
    line = story.line()
    assert (line["outcome"], line["status"], "error" in line) == ("worker_error", 503, False)


@pytest.mark.parametrize(
    ("code", "outcome", "status"),
    [("client_gone", "client_gone", 499), ("client_stalled", "client_stalled", 499), ("draining", "drained", 503)],
)
@pytest.mark.parametrize("begun", [False, True])
def test_a_request_that_was_cancelled_is_told(code: str, outcome: str, status: int, begun: bool) -> None:
    story = Story()
    if begun:
        assert isinstance(story.begin(), Send)
    story.dispatcher.on_cancel(story.job, code)
    line = story.line()
    assert (line["outcome"], line["status"], line["error"], line.get("worker")) == (
        outcome, status, code, "w1" if begun else None,
    )  # fmt: skip


class Says(Decider):
    """A decider that says what the test has told it to."""

    decision: Decision

    def decide(self, request: Request, wall: float | None = None) -> Decision:
        return self.decision


def told(decision: Decision) -> Story:
    """A story in which this is decided."""
    story = Story()
    decider = Says(story.fleet, None, "least-request", story.dispatcher.env)
    decider.decision = decision
    story.dispatcher.decider = decider
    return story


def test_what_the_script_wrote_and_what_became_of_each_worker_are_told() -> None:
    story = Story()
    rows = [{"id": "w1", "chosen": True}, {"id": "w2", "status": "offline"}]
    story = told(Decision(story.fleet.workers["w1"], "script", "x", explanation=rows, log=("one", "two")))
    story.begin()
    story.end(SERVED)
    line = story.line()
    assert (line["explanation"], line["log"]) == (rows, ["one", "two"])


def test_a_request_that_the_script_turned_away_is_told_without_a_worker() -> None:
    story = told(
        Decision(None, "script", "routing.lua:3", action=REJECT, refusal=refusal(429, "no", 5), log=("too many",))
    )
    story.begin()
    assert story.line() == {
        **COMMON, "outcome": "rejected", "status": 429, "error": "script_rejected", "by": "script",
        "reason": "routing.lua:3", "log": ["too many"], "decision_us": 0.0, "queue_ms": 0.0, "total_ms": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("leaves", [False, True])
def test_a_request_that_waited_is_told_with_its_time_and_its_worker_only_if_it_got_it(leaves: bool) -> None:
    story = Story()
    one = story.fleet.workers["w1"]
    for _ in range(one.capacity):
        story.fleet.sent(one, 0.0)
    story.dispatcher.decider = told(Decision(one, "script", "routing.lua:3", action=WAIT)).dispatcher.decider
    story.begin()
    story.clock.advance(1.25)
    if leaves:
        story.dispatcher.on_cancel(story.job)
    else:
        story.fleet.finished(one, None, 0.0)
        assert len(story.dispatcher.on_tick(story.clock.now_s)) == 1
        story.end(SERVED)
    line = story.line()
    assert (line["queue_ms"], line.get("worker"), line["outcome"], line["reason"]) == (
        1250.0, None if leaves else "w1", "client_gone" if leaves else "ok", "routing.lua:3",
    )  # fmt: skip


# Lines that are kept.


def ended(story: Story, *names: str) -> None:
    for name in names:
        story.job = Job(request(id=name), 100.0, 0.0)
        story.begin()
        story.end(SERVED)
        story.recorder.record(story.job)


def kept(story: Story, *names: str) -> list[bool]:
    return [story.recorder.find(name) is not None for name in names]


def test_the_newest_lines_are_found_by_their_requests_names() -> None:
    story = Story()
    story.recorder = Recorder(story.sink, kept=2)  # type: ignore[arg-type]
    ended(story, "a", "b", "a", "c")
    found = story.recorder.find("a")
    assert found is not None and (found["request_id"], found["outcome"]) == ("a", "ok")
    assert kept(story, "a", "b", "c", "d") == [True, False, True, False]
    assert len(story.sink.rows) == 4, "looking for a line writes those that wait"
    story.recorder.keep(1)
    assert kept(story, "a", "c") == [False, True]
    story.recorder.keep(0)
    ended(story, "e")
    assert kept(story, "c", "e") == [False, False]


def test_no_line_holds_the_user_or_what_the_client_sent_besides() -> None:
    story = Story(metadata={"type": "llm", "note": "SECRET"}, priority="SECRET")
    story.begin()
    story.end(SERVED)
    story.recorder.inputs = Inputs(kept=False)
    text = json.dumps(story.line())
    assert "ann@example.com" not in text and "SECRET" not in text


def test_a_line_tells_the_request_as_the_decision_knew_it_and_the_user_by_a_hash() -> None:
    asked = {
        "prompt_tokens": 12, "max_tokens": 64, "model_size": 8.0, "session_id": "s-1", "priority": "high",
        "metadata": {"type": "llm", "tier": "gold"}, "headers": {"user-agent": "x"}, "timeout_s": 2.5,
        "deployment": "local",
    }  # fmt: skip
    story = Story(**asked)
    story.begin()
    story.end(SERVED)
    row = story.line()
    names = {"session_id": "session", "metadata": "meta"}
    assert {name: row[names.get(name, name)] for name in asked} == asked and row["user"] == COMMON["user"]


def test_users_are_told_by_name_where_that_is_wanted() -> None:
    story = Story()
    story.recorder.inputs = Inputs(plain_users=True)
    story.begin()
    story.end(SERVED)
    assert story.line()["user"] == "ann@example.com"


def test_metadata_that_is_longer_than_the_limit_is_cut_and_says_so() -> None:
    story = Story(metadata={"type": "llm", "a": "x" * 10, "b": "y" * 30, "c": 1})
    story.recorder.inputs = Inputs(metadata_chars=20)
    story.begin()
    story.end(SERVED)
    row = story.line()
    assert (row["meta"], row["meta_cut"]) == ({"type": "llm", "a": "x" * 10}, True)


def test_metadata_that_says_nothing_beyond_the_path_is_left_out_and_none_at_all_is_told() -> None:
    found = []
    for metadata in ({"type": "llm"}, {}, {"type": "other"}):
        story = Story(metadata=metadata)
        story.begin()
        story.end(SERVED)
        found.append(story.line().get("meta"))
    assert found == [None, {}, {"type": "other"}]


def test_a_user_without_a_name_is_still_told_apart_from_none() -> None:
    story = Story()
    story.job.request = request(user_id="")
    assert story.line()["user"] == "e3b0c442"


@pytest.mark.parametrize("name", ['"', "\\", "\n", "\r\n", "\u2028", "\x00", "grün 日本"])
def test_any_model_name_is_one_line_of_json(name: str) -> None:
    story = Story(model=name)
    story.begin()
    assert story.line()["model"] == name


# The counters.


def test_the_counters_add_up_to_the_lines() -> None:
    story = Story("if request.stream then error('x') end")
    for number in range(150):
        one = Job(request(id=f"r-{number}", stream=number % 3 == 0, model="m" if number % 5 else "gpt-4"), 100.0, 0.0)
        story.dispatcher.on_request(one)
        if one.worker is not None:
            story.clock.advance(0.5)
            one.first_content = story.clock.now_s
            story.dispatcher.on_outcome(one, SERVED if number % 7 else Outcome(FAILURES["upstream_stalled"]))
        story.recorder.record(one)
    story.recorder.catch_up()
    recorder, rows = story.recorder, story.sink.rows
    assert [row["request_id"] for row in rows] == [f"r-{number}" for number in range(150)]
    assert recorder.outcomes == {
        outcome: sum(row["outcome"] == outcome for row in rows) for outcome in ("ok", "rejected", "upstream_failed")
    }
    assert recorder.outcomes == {"ok": 103, "rejected": 30, "upstream_failed": 17}
    assert recorder.decided_by == {"strategy": 80, "fallback": 50}, "a script that failed is told of, worker or not"
    assert recorder.script_errors == 50
    assert recorder.attempts == {("w1", "ok"): 103, ("w1", "upstream_stalled"): 17}
    assert [sum(one.counts) for one in (recorder.decision_s, recorder.ttft_s, recorder.total_s)] == [130, 120, 150]


# Times.


@pytest.mark.parametrize(
    ("wall", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"), (1.0009, "1970-01-01T00:00:01.000Z"), (1.9999, "1970-01-01T00:00:01.999Z"),
        (1_772_366_405.25, "2026-03-01T12:00:05.250Z"), (1_709_208_000.5, "2024-02-29T12:00:00.500Z"),
        (4_102_444_799.0, "2099-12-31T23:59:59.000Z"),
    ],
)  # fmt: skip
def test_times_are_utc_with_milliseconds(wall: float, text: str) -> None:
    assert timestamp(wall) == text


@quick(max_examples=100)
@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=5))
def test_times_are_right_in_any_order(walls: list[float]) -> None:
    for wall in walls:
        found = datetime.datetime.fromisoformat(timestamp(wall)).timestamp()
        assert -1e-6 <= wall - found < 0.0011


# Histograms.


def test_durations_fall_into_buckets_that_double() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.9e-6, 1e-6, 1.9e-6, 2e-6, 3e-6, 1.0, 2000.0, 3000.0, 1e9):
        histogram.add(seconds)
    rows = histogram.cumulative()
    assert (len(rows), rows[-1], histogram.sum_s) == (33, ("+Inf", 10), pytest.approx(1e9 + 5001.0))
    assert [count for _, count in rows[:4]] == [2, 4, 6, 6]
    assert [float(bound) for bound, _ in rows[:4]] == [1e-6, 2e-6, 4e-6, 8e-6]
    assert (float(rows[31][0]), rows[31][1]) == (pytest.approx(2147.483648), 8)


@quick(max_examples=100)
@given(st.lists(st.floats(0, 2000), max_size=20))
def test_every_duration_is_counted_once_and_below_its_bound(durations: list[float]) -> None:
    histogram = Histogram()
    for seconds in durations:
        histogram.add(seconds)
    rows = histogram.cumulative()
    counts = [count for _, count in rows]
    assert counts == sorted(counts) and counts[-1] == len(durations)
    for bound, count in rows:
        assert count <= sum(seconds <= float(bound) for seconds in durations)
    for lower, (_, count) in zip([0.0, *(float(bound) for bound, _ in rows)], rows, strict=False):
        assert count >= sum(seconds < lower for seconds in durations)


# The file.


def settle(log: LogFile, lines: int) -> None:
    """Hands over what was gathered and waits for the thread, which nobody hears, to have dealt with all of it."""
    log.flush()
    deadline = time.monotonic() + SETTLE_S
    while log.written + log.lost < lines:
        assert time.monotonic() < deadline, f"{log.written} written and {log.lost} lost of {lines}"
        os.sched_yield()


def put(log: LogFile, *lines: str) -> None:
    """Writes some lines and waits until they are written or lost."""
    known = log.written + log.lost
    for line in lines:
        log.msg(line.encode())
    settle(log, known + len(lines))


@pytest.fixture
def log(tmp_path: Path) -> Any:
    made = LogFile(tmp_path / "routing.log", 1 << 20)
    yield made
    made.close()


def test_lines_are_written_in_order_and_appended_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "routing.log"
    path.write_text("old\n")
    log = LogFile(path, 1 << 20)
    for number in range(1000):
        log.msg(b"%d" % number)
        if number % 7 == 0:
            log.flush()
    log.close()
    assert path.read_text() == "old\n" + "".join(f"{number}\n" for number in range(1000))
    assert (log.written, log.lost) == (1000, 0)


def test_a_new_log_is_not_readable_by_others(tmp_path: Path, log: LogFile) -> None:
    put(log, "a")
    assert log.path.stat().st_mode & 0o007 == 0


def test_nothing_is_written_before_a_flush_and_everything_at_the_close(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "routing.log", 1 << 20)
    log.msg(b"a")
    assert not log.path.exists()
    log.close()
    assert log.path.read_text() == "a\n"


def test_rotation_by_renaming_loses_nothing(log: LogFile) -> None:
    for number in range(5):
        put(log, f"{number}a", f"{number}b")
        log.path.rename(log.path.with_suffix(f".{number}"))
    put(log, "last")
    assert [log.path.with_suffix(f".{number}").read_text() for number in range(5)] == [
        f"{number}a\n{number}b\n" for number in range(5)
    ]
    assert (log.path.read_text(), log.written, log.lost) == ("last\n", 11, 0)


def test_rotation_by_copying_and_truncating_loses_nothing_and_leaves_no_hole(log: LogFile) -> None:
    kept = ""
    for number in range(5):
        put(log, f"{number}a", f"{number}b")
        kept += log.path.read_text()
        os.truncate(log.path, 0)
    put(log, "last")
    assert kept == "".join(f"{number}a\n{number}b\n" for number in range(5))
    assert (log.path.read_bytes(), log.written, log.lost) == (b"last\n", 11, 0)


def test_another_file_put_in_its_place_is_appended_to(log: LogFile) -> None:
    put(log, "a")
    log.path.rename(log.path.with_suffix(".1"))
    log.path.write_text("new: ")
    put(log, "b")
    assert log.path.read_text() == "new: b\n"


needs_dev_full = pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="there is no /dev/full to write to")


@needs_dev_full
def test_a_full_disk_costs_lines_that_are_counted_and_told_when_there_is_room_again(
    log: LogFile, capsys: pytest.CaptureFixture[str]
) -> None:
    log.path.symlink_to("/dev/full")
    put(log, "a", "b")
    put(log, "c")
    assert (log.written, log.unwritten, log.dropped, log.lost) == (0, 3, 0, 3)
    complaint = f"rbeerouter: {log.path}: No space left on device; lines are lost until it can be written\n"
    assert capsys.readouterr().err == complaint
    log.path.unlink()
    put(log, "d")
    put(log, "e")
    note, *rest = log.path.read_text().splitlines()
    assert json.loads(note) == {"time": json.loads(note)["time"], "event": "log_lines_lost", "lost": 3}
    assert (rest, log.written, log.lost) == (["d", "e"], 2, 3)
    log.path.unlink()
    log.path.symlink_to("/dev/full")
    put(log, "f")
    assert capsys.readouterr().err == complaint, "a second outage is told as the first was"
    log.path.unlink()
    put(log, "g")
    assert [json.loads(line).get("lost") for line in log.path.read_text().splitlines()[:1]] == [1]


def test_half_a_line_on_a_disk_that_was_full_does_not_spoil_the_next_one(
    log: LogFile, capsys: pytest.CaptureFixture[str]
) -> None:
    size = 64 << 20
    log.path.touch()
    os.truncate(log.path, size)
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 15, allowed[1]))
    try:
        put(log, "0123456789", "0123456789")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert (log.written, log.lost, "File too large" in capsys.readouterr().err) == (0, 2, True)
    put(log, "next")
    with log.path.open("rb") as file:
        file.seek(size)
        first, half, note, following = file.read().splitlines()
    assert (first, half, json.loads(note)["lost"], following) == (b"0123456789", b"0123", 2, b"next")


def test_a_folder_that_is_not_there_costs_lines_and_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = LogFile(tmp_path / "no" / "routing.log", 1 << 20)
    put(log, "a")
    assert log.lost == 1
    assert "No such file or directory" in capsys.readouterr().err
    (tmp_path / "no").mkdir()
    put(log, "b")
    log.close()
    assert [line for line in log.path.read_text().splitlines() if "lost" not in line] == ["b"]


def test_a_folder_that_is_moved_away_and_made_again_is_written_to_again(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = LogFile(tmp_path / "logs" / "routing.log", 1 << 20)
    put(log, "a")
    (tmp_path / "logs").rename(tmp_path / "old")
    put(log, "b")
    (tmp_path / "logs").mkdir()
    put(log, "c")
    assert (log.written, log.lost) == (2, 1)


def test_the_log_never_closes_a_file_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = LogFile(tmp_path / "logs" / "routing.log", 1 << 20)
    put(log, "a")
    (tmp_path / "logs").rename(tmp_path / "old")
    put(log, "b")
    with (tmp_path / "other").open("wb") as other:
        mine = os.fstat(other.fileno()).st_ino
        (tmp_path / "logs").mkdir()
        put(log, "c")
        after = os.fstat(other.fileno()).st_ino
    assert after == mine


def test_a_disk_that_does_not_answer_holds_nobody_up_and_what_waits_for_it_has_a_limit(tmp_path: Path) -> None:
    """A pipe that nobody reads: opening it blocks the thread of the log."""
    path = tmp_path / "routing.log"
    os.mkfifo(path)
    log = LogFile(path, backlog_bytes=100)
    started = time.monotonic()
    for _ in range(50):
        log.msg(b"123456789")
        log.flush()
    assert time.monotonic() - started < 1.0
    assert (log.written, log.dropped, log.lost) == (0, 39, 39)
    reader = os.open(path, os.O_RDONLY)
    settle(log, 50)
    log.msg(b"afterwards")
    log.close()
    with open(reader, "rb") as pipe:
        rows = pipe.read().splitlines()
    assert [row for row in rows if b"lost" not in row] == [b"123456789"] * 11 + [b"afterwards"]
    assert sum(json.loads(row)["lost"] for row in rows if b"lost" in row) == 39
    assert (log.written, log.lost) == (12, 39)


def test_closing_does_not_wait_for_ever_for_a_disk_that_does_not_answer(tmp_path: Path) -> None:
    path = tmp_path / "routing.log"
    os.mkfifo(path)
    log = LogFile(path, 1 << 20)
    log.msg(b"a")
    log.close(timeout_s=0.01)
    with open(path, "rb") as pipe:
        assert pipe.read() == b"a\n"


# Events of the daemon itself.


def test_an_event_is_a_line_of_the_log_and_a_line_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    sink = Lines()
    event_logger(sink).warning("worker_status", worker="w1", status="offline")  # type: ignore[arg-type]
    (row,) = sink.rows
    assert row == {
        "time": row["time"],
        "event": "worker_status",
        "worker": "w1",
        "status": "offline",
        "level": "warning",
    }
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert all(word in shown for word in ("worker_status", "worker=w1", "status=offline"))


def test_a_quiet_event_is_in_the_log_only(capsys: pytest.CaptureFixture[str]) -> None:
    sink = Lines()
    event_logger(sink, verbose=False).info("reload_ok", workers=3)  # type: ignore[arg-type]
    assert [(row["event"], row["workers"], row["level"]) for row in sink.rows] == [("reload_ok", 3, "info")]
    event_logger(None).info("only_shown")
    shown = capsys.readouterr().err
    assert "reload_ok" not in shown and "only_shown" in shown


def test_lines_and_events_share_a_file(log: LogFile) -> None:
    recorder, story = Recorder(log), Story()
    story.begin()
    story.end(SERVED)
    recorder.record(story.job)
    recorder.catch_up()
    event_logger(log, verbose=False).info("stopped")
    settle(log, 2)
    assert [json.loads(line)["event"] for line in log.path.read_text().splitlines()] == ["request", "stopped"]


# Names and cost.


def priced(story: Story, tokens: tuple[int | None, int | None], **asked: Any) -> dict[str, Any]:
    """The line of a job whose answer stated these tokens, with a price for the model m."""
    story.recorder.models = Models([Model("m", price_in=0.5, price_out=2.0)])
    story.begin()
    story.job.tokens_in, story.job.tokens_out = tokens
    story.end(SERVED)
    return story.line()


def test_tokens_with_a_price_have_a_cost_that_their_worker_is_charged_for() -> None:
    story = Story()
    assert priced(story, (1000, 250))["cost"] == 0.001
    assert story.recorder.costs == {"w1": 0.001}


def test_an_answer_that_states_no_tokens_or_whose_model_has_no_price_has_no_cost() -> None:
    story, other = Story(), Story(model="tiny")
    assert "cost" not in priced(story, (None, None))
    assert "cost" not in priced(other, (1000, 250))
    assert story.recorder.costs == other.recorder.costs == {}


def test_the_cost_is_that_of_the_model_and_the_worker_that_answered() -> None:
    story = Story("return workers:filter(function(w) return w.id == 'w3' end):first()")
    story.fleet.configure([worker("w1"), worker("w3", models=("tiny",), price_in=4.0)])
    story.fleet.apply(Report("w3", True, None, 0.0))
    line = priced(story, (1000, 250))
    assert (line["sent_model"], line["cost"]) == ("tiny", 0.004)
    assert story.recorder.costs == {"w3": 0.004}


def test_an_alias_and_the_name_that_was_sent_stand_in_the_line() -> None:
    story = Story(asked_model="default")
    line = priced(story, (None, None))
    assert (line["model"], line["asked_model"], line["sent_model"]) == ("m", "default", "m")


def test_sessions_are_told_by_hash_where_that_is_wanted_and_so_is_their_header() -> None:
    story = Story(session_id="of alice", headers={"x-session-id": "of alice", "x-team": "a"})
    story.recorder.inputs = Inputs(plain_sessions=False)
    story.begin()
    story.end(SERVED)
    line = story.line()
    told = "~" + hashlib.sha256(b"of alice").hexdigest()[:8]
    assert (line["session"], line["headers"]) == (told, {"x-session-id": told, "x-team": "a"})
    assert told_inputs(Routing(log_sessions="hashed")).plain_sessions is False
