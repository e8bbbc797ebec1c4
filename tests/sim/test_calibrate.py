"""Tests of calibration: what made a log is found again, and what a log does not show is said.

The logs are made by the simulated engine, so these tests say nothing about real ones; tests/sim/test_llama_truth.py does.
"""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec
import pytest

from rbeerouter.config.sections import ConfigError
from rbeerouter.sim.calibrate import FEWEST, Known, calibrate, errors, from_logs, mismatch, quantile, simulated
from rbeerouter.sim.fitted import Fitted
from rbeerouter.sim.observe import Record, Seen
from rbeerouter.sim.types import Profile
from tests.sim.logged import FAST, SLOW, line_of, seen_of, write_log

NOTHING = Known()


def fit(seen: list[Seen], known: Known = NOTHING, **record: object) -> Fitted:
    return calibrate("gpu", Record(seen, **record), known)


@functools.cache
def usual_fit() -> Fitted:
    return fit(seen_of(SLOW, 300, 2.5, noise=0.05))


def within(found: Fitted, profile: Profile, **tolerances: float) -> None:
    assert found.profile is not None
    for name, tolerance in tolerances.items():
        assert getattr(found.profile, name) == pytest.approx(getattr(profile, name), rel=tolerance), name


def test_a_noisy_log_gives_back_the_profile_that_made_it() -> None:
    found = usual_fit()
    within(found, SLOW, step_s=0.2, prefill_s=0.1, sequence_s=0.2, context_s=0.5)
    assert found.profile is not None
    # What a step costs by itself and for each sequence can be taken one for the other, but not both together.
    assert found.profile.step_s + 3 * found.profile.sequence_s == pytest.approx(0.0055, rel=0.05)


def test_a_worker_that_runs_many_sequences_is_found_again() -> None:
    found = fit(seen_of(FAST, 300, 2.0, noise=0.05, usual_in=6.5, usual_out=5.0), Known(slots=64))
    within(found, FAST, step_s=0.1, prefill_s=0.1)


def test_it_predicts_the_part_that_it_has_not_seen() -> None:
    held_back = usual_fit().held_back
    assert held_back is not None
    for error in (held_back.ttft_p50, held_back.ttft_p95, held_back.e2e_p50, held_back.e2e_p95):
        assert error is not None
        assert abs(error) < 0.1
    assert held_back.typical is not None
    assert 0.01 < held_back.typical < 0.1                     # the noise itself


def test_the_number_of_slots_shows_in_how_the_waiting_grows() -> None:
    found = fit(seen_of(SLOW, 300, 4.0, noise=0.02))
    within(found, SLOW, slots=0.0)
    assert any("slots: 4 explains" in note for note in found.notes)


def test_slots_that_were_never_all_in_use_cannot_be_told() -> None:
    notes = " ".join(usual_fit().notes)
    found = fit(seen_of(FAST, 100, 0.5))
    assert found.profile is not None
    assert found.profile.slots < FAST.slots
    assert "do not show in the log" in " ".join(found.notes)
    assert "do not show" not in notes


def test_what_is_known_is_not_guessed() -> None:
    found = fit(seen_of(SLOW, 60, 2.0), Known(slots=7, batch_tokens=512, kv_tokens=9000))
    assert found.profile is not None
    assert (found.profile.slots, found.profile.batch_tokens, found.profile.kv_tokens) == (7, 512, 9000)
    assert found.notes == []


def test_load_that_does_not_count_is_there_all_the_same() -> None:
    """Half of the requests are known only as load. Without them, the others would look slow for no reason."""
    seen = seen_of(SLOW, 400, 3.0)
    half = [msgspec.structs.replace(one, counts=at % 2 == 0) for at, one in enumerate(seen)]
    found = fit(half, Known(slots=4))
    assert found.counting == 200
    within(found, SLOW, step_s=0.1, prefill_s=0.1)


def test_requests_too_short_to_overlap_and_a_log_that_ends_with_mere_load_are_taken_as_they_are() -> None:
    short = [Seen(float(at), 0.001, 0.001, 5, 1, at < 200) for at in range(600)]
    found = fit(short)
    assert found.profile is not None
    assert found.profile.slots == 1


def test_too_few_requests_are_refused_with_the_number() -> None:
    found = fit(seen_of(SLOW, FEWEST - 1, 2.0))
    assert (found.profile, found.fit) == (None, None)
    assert found.notes[0] == f"not fitted: {FEWEST - 1} requests count, expected {FEWEST} or more"


def test_with_just_enough_nothing_is_held_back_and_that_is_said() -> None:
    found = fit(seen_of(SLOW, FEWEST, 2.0))
    assert found.profile is not None
    assert found.held_back is None
    assert "nothing tells how well it predicts others" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"left_out": 3}, "3 lines without any content"),
        ({"without_tokens": 8}, "8 answers without token counts"),
        ({"older": 5}, "5 older lines were not used"),
        ({"models": {"a": 1, "b": 1}}, "2 models in one profile, as if they were alike: a, b"),
    ],
)
def test_what_the_log_lacks_is_said(change: dict[str, object], said: str) -> None:
    assert said in " ".join(fit([], **change).notes)


def test_without_streams_it_is_said_that_reading_and_writing_can_hardly_be_told_apart() -> None:
    whole = [msgspec.structs.replace(one, first_s=None) for one in seen_of(SLOW, 60, 2.0)]
    found = fit(whole)
    assert "no streams" in " ".join(found.notes)
    assert found.fit is not None
    assert (found.fit.ttft_p50, found.fit.ttft_p95) == (None, None)
    assert found.fit.e2e_p50 is not None


def test_one_request_at_a_time_tells_nothing_about_many() -> None:
    seen = [msgspec.structs.replace(one, sent_s=10.0 * at) for at, one in enumerate(seen_of(SLOW, 40, 0.01))]
    assert "never two requests at once" in " ".join(fit(seen, Known(slots=4)).notes)


def test_work_that_did_not_come_through_the_router_is_noticed() -> None:
    seen = seen_of(SLOW, 200, 1.0)
    slowed = [
        msgspec.structs.replace(one, first_s=(one.first_s or 0) * 4, end_s=one.end_s * 4) if at % 8 == 0 else one
        for at, one in enumerate(seen)
    ]
    assert "took more than twice as long" in " ".join(fit(slowed, Known(slots=4)).notes)


@pytest.mark.parametrize(("begin", "end", "said"), [(1.0, 2.0, "slower"), (2.0, 1.0, "faster")])
def test_a_worker_whose_pace_changes_is_noticed(begin: float, end: float, said: str) -> None:
    changing = []
    for at, one in enumerate(seen_of(SLOW, 200, 1.0)):
        times = begin + (end - begin) * at / 200
        changing.append(msgspec.structs.replace(one, first_s=(one.first_s or 0) * times, end_s=one.end_s * times))
    assert f"% {said} in the course of the log" in " ".join(fit(changing, Known(slots=4)).notes)


def test_simulated_times_count_from_the_sending_and_have_the_overhead() -> None:
    profile = Profile(step_s=0.1, sequence_s=0.0, prefill_s=0.01, context_s=0.0, overhead_s=0.5)
    ((first_s, end_s),) = simulated([Seen(3.0, None, 0.0, 20, 4, True)], profile)
    assert (first_s, end_s) == pytest.approx((0.5 + 0.1 + 0.2, 0.5 + 0.1 + 0.2 + 3 * 0.1))


def test_the_errors_are_relative_and_of_those_that_count() -> None:
    seen = [Seen(0.0, 1.0, 2.0, 1, 1, True), Seen(0.0, 9.0, 9.0, 1, 1, False)]
    found = errors(seen, [(1.1, 1.5), (1.0, 1.0)])
    assert (found.ttft_p50, found.e2e_p95, found.typical) == pytest.approx((0.1, -0.25, 0.25))


def test_the_mismatch_is_nothing_for_equal_times_and_hardly_moved_by_a_wild_one() -> None:
    seen = [Seen(0.0, 1.0, 2.0, 1, 1, True) for _ in range(100)]
    assert mismatch(seen, [(1.0, 2.0)] * 100) == 0.0
    assert mismatch(seen, [*[(1.0, 2.0)] * 99, (1000.0, 2000.0)]) < 0.1 < mismatch(seen, [(1.2, 2.4)] * 100)


def test_quantiles_lie_between_their_neighbours() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([0.0, 10.0], 0.95) == 9.5


def test_logs_are_read_the_configured_slots_known_and_only_wanted_workers_fitted(tmp_path: Path) -> None:
    seen = seen_of(SLOW, 40, 2.0)
    lines = [line_of(one, at, worker) for worker in ("gpu", "other") for at, one in enumerate(seen)]
    log = write_log(tmp_path / "routing.log", lines)
    config = tmp_path / "config.toml"
    config.write_text(f'[routing]\nlog = "{log}"\n[[workers]]\nid = "gpu"\nurl = "http://127.0.0.1:1"\nmax_concurrency = 6\n')
    (found,), source = from_logs([], config, ["gpu"], 1000, Known(), None)
    assert (found.worker, source) == ("gpu", str(log))
    assert found.profile is not None
    assert found.profile.slots == 6


def test_the_configuration_at_home_tells_of_slots_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (home := tmp_path / ".config" / "rbee").mkdir(parents=True)
    (home / "config.toml").write_text('[[workers]]\nid = "gpu"\nurl = "http://127.0.0.1:1"\nmax_concurrency = 6\n')
    log = write_log(tmp_path / "routing.log", [line_of(one, at, "gpu") for at, one in enumerate(seen_of(SLOW, 40, 2.0))])
    (found,), _ = from_logs([log], None, [], 1000, Known(), None)
    assert found.profile is not None and found.profile.slots == 6


def test_a_log_that_says_nothing_of_a_worker_is_refused(tmp_path: Path) -> None:
    log = write_log(tmp_path / "routing.log", [line_of(Seen(0.0, 0.1, 0.2, 1, 1, True))])
    with pytest.raises(ConfigError, match="--worker cpu: is not in the log; there are gpu"):
        from_logs([log], None, ["cpu"], 1000, Known(), None)
    log.write_text('{"time":"2026-01-01T00:00:00.000Z","event":"serving"}\nrubbish\n')
    with pytest.raises(ConfigError, match="has no request that a worker got"):
        from_logs([log], None, [], 1000, Known(), None)
    with pytest.raises(ConfigError, match="cannot be read"):
        from_logs([tmp_path / "none"], None, [], 1000, Known(), None)
