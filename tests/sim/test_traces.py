"""A file's traffic as a workload: cut, scaled, repeated, and filled in where the file does not tell."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.config.sections import ConfigError
from rbeerouter.sim.traces import Cut, Trace
from rbeerouter.sim.types import Arrival
from rbeerouter.sim.workload import Traffic

DATA = Path(__file__).parent / "data"
FILL = Traffic(models={"llama-3-8b": 1.0, "llama-3-70b": 1.0})


def trace(name: str | Path, models: dict[str, str] | None = None, seed: int = 1, fill: Traffic = FILL, **cut: Any) -> Trace:
    return Trace(DATA / name, None, Cut(**cut), fill, models or {}, seed)


def times(made: Trace) -> list[float]:
    return [round(one.at_s, 6) for one in made]


def written(folder: Path, *seconds: float) -> Path:
    path = folder / "t.csv"
    lines = "".join(f"{at},m,{index + 1},10\n" for index, at in enumerate(seconds))
    path.write_text("Timestamp,Model,Request tokens,Response tokens\n" + lines)
    return path


def test_times_begin_at_the_first_request() -> None:
    made = trace("azure_2023.csv")
    assert times(made) == [0.0, 4.314579, 4.541877, 60.0]
    assert [(one.tokens_in, one.tokens_out) for one in made] == [(374, 44), (396, 109), (879, 55), (91, 16)]
    assert (made.count, made.name, made.block_tokens) == (4, "Azure LLM inference trace azure_2023.csv", 512)
    assert made.start_wall == pytest.approx(1700158546.68059)
    assert made.requests_per_s == pytest.approx(4 / 80)                      # three gaps of 20 s, and one until it begins again


def test_it_is_the_same_each_time_and_another_seed_fills_in_other_things() -> None:
    made = trace("mooncake.jsonl", requests=200)
    assert list(made) == list(made)
    assert [one.request for one in made] != [one.request for one in trace("mooncake.jsonl", requests=200, seed=2)]


def test_what_the_file_does_not_tell_is_drawn_by_the_weights() -> None:
    found = list(trace("azure_2023.csv", requests=4000))
    assert Counter(one.request.model for one in found)["llama-3-70b"] / 4000 == pytest.approx(0.5, abs=0.03)
    assert Counter(one.request.metadata["tier"] for one in found)["premium"] / 4000 == pytest.approx(0.2, abs=0.03)
    assert len({one.request.id for one in found}) == 4000
    assert trace("azure_2023.csv").start_wall is not None and trace("mooncake.jsonl").start_wall is None


def test_models_are_mapped_by_name_and_by_a_star() -> None:
    def asked(models: dict[str, str]) -> list[str]:
        return [one.request.model for one in trace("burstgpt.csv", models)]

    assert asked({}) == ["ChatGPT", "ChatGPT", "GPT-4"]
    assert asked({"GPT-4": "llama-3-70b"}) == ["ChatGPT", "ChatGPT", "llama-3-70b"]
    assert asked({"GPT-4": "llama-3-70b", "*": "llama-3-8b"}) == ["llama-3-8b", "llama-3-8b", "llama-3-70b"]
    assert {one.request.model_size for one in trace("burstgpt.csv", {"*": "llama-3-8b"})} == {8.0}


def test_requests_that_failed_where_they_were_recorded_are_left_out() -> None:
    assert trace("burstgpt.csv").count == 3 and trace("azure_2024.csv").count == 2


def test_who_has_a_session_is_one_user_in_all_of_it() -> None:
    first, alone, third = trace("burstgpt_sessions.csv", {"*": "m"})
    assert (first.request.session_id, alone.request.session_id) == ("1722ac82", None)
    assert (first.request.session_id, first.request.user_id, first.request.metadata) == (
        third.request.session_id, third.request.user_id, third.request.metadata,
    )  # fmt: skip


def test_a_log_of_ours_comes_in_the_order_of_arrival_with_its_own_requests() -> None:
    found = list(trace("routing.log"))
    assert [(one.at_s, one.request.id, one.request.model) for one in found] == [
        (0.0, "r-1", "llama-3-70b"), (1.5, "r-2", "llama-3-8b"), (4.0, "r-3", "bge-m3"),
    ]  # fmt: skip
    assert found[1].request.metadata == {"tier": "premium", "type": "llm"} and found[1].request.user_id == "ab12cd34"
    assert [(one.tokens_in, one.tokens_out) for one in found] == [(700, 90), (40, 12), (20, 51)]   # refused: the mean so far
    assert trace("routing.log", {"bge-m3": "llama-3-8b"}).count == 3
    assert [one.request.model_size for one in trace("routing.log", {"bge-m3": "llama-3-8b"})][2] == 8.0


# Cutting.


def test_a_piece_is_cut_by_time(tmp_path: Path) -> None:
    path = written(tmp_path, 100, 110, 120, 130, 140)
    assert times(trace(path, from_s=10, to_s=30)) == [0.0, 10.0]
    assert times(trace(path, from_s=15)) == [5.0, 15.0, 25.0]
    assert [one.tokens_in for one in trace(path, to_s=10)] == [1]


def test_a_piece_is_cut_by_requests(tmp_path: Path) -> None:
    path = written(tmp_path, 100, 110, 120, 130, 140)
    assert [one.tokens_in for one in trace(path, skip=1, requests=2)] == [2, 3]
    assert [one.tokens_in for one in trace(path, skip=1, from_s=20)] == [4, 5]


def test_the_clock_of_scripts_begins_where_the_piece_does() -> None:
    whole, piece = trace("azure_2023.csv"), trace("azure_2023.csv", from_s=10)
    assert piece.start_wall - whole.start_wall == pytest.approx(10.0)
    assert times(piece) == [50.0]


def test_an_empty_piece_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, 100, 110)
    for cut, said in (
        ({"from_s": 60.0}, "no requests from 60 s after skipping 0"),
        ({"from_s": 2.0, "to_s": 5.0}, "no requests from 2 s to 5 s after skipping 0"),
        ({"skip": 2}, "no requests from 0 s after skipping 2"),
    ):
        with pytest.raises(ConfigError, match=f"t.csv: {said}"):
            trace(path, **cut)


@pytest.mark.parametrize("text", ["Timestamp,Model,Request tokens,Response tokens\n", '{"time":"2026-01-31T12:00:00Z","event":"started"}\n'])
def test_a_file_without_requests_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(ConfigError, match="t: has no requests"):
        trace(tmp_path / "t")


def test_a_trace_out_of_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"t\.csv: request 3 came 15 s before the one above it; expected lines in order"):
        trace(written(tmp_path, 100, 110, 95))


# Scaling.


def test_speed_makes_all_gaps_shorter(tmp_path: Path) -> None:
    made = trace(written(tmp_path, 100, 110, 130), speed=2)
    assert times(made) == [0.0, 5.0, 15.0]
    assert made.requests_per_s == pytest.approx(3 / 22.5)
    assert made.name == "BurstGPT trace t.csv, 2 times as fast"


def test_scale_brings_more_or_fewer_requests_in_the_same_time(tmp_path: Path) -> None:
    path = written(tmp_path, *range(100, 3100))
    fewer, more = list(trace(path, scale=0.25)), list(trace(path, scale=2.5))
    assert len(fewer) / 3000 == pytest.approx(0.25, abs=0.02)
    assert len(more) / 3000 == pytest.approx(2.5, abs=0.03)
    assert (trace(path, scale=0.25).count, trace(path, scale=2.5).count) == (len(fewer), len(more))
    assert fewer[-1].at_s < 3000 and more[-1].at_s < 3010
    assert all(one.at_s <= other.at_s for one, other in itertools.pairwise(more))
    first_half = sum(one.at_s < 1500 for one in more) / len(more)
    assert first_half == pytest.approx(0.5, abs=0.01)


def test_a_request_that_comes_again_is_another_conversation() -> None:
    found = list(trace("mooncake.jsonl", scale=2.0))
    blocks = Counter(one.blocks for one in found if one.blocks)
    assert sum(blocks.values()) == 4 and set(blocks.values()) == {2}         # the first two share theirs, the copies theirs
    firsts = {one.blocks[0] for one in found if one.blocks}
    assert len(firsts) == 2 and 0 in firsts


def test_a_file_is_gone_through_again_for_more_requests(tmp_path: Path) -> None:
    made = trace(written(tmp_path, 100, 110, 120), requests=7)
    assert times(made) == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    assert [one.tokens_in for one in made] == [1, 2, 3, 1, 2, 3, 1]
    assert made.count == 7
    again = list(trace("mooncake.jsonl", requests=6))
    assert again[0].blocks == (0, 1) and len(again[3].blocks) == 2 and not set(again[3].blocks) & {0, 1}


def test_passes_do_not_overlap_when_requests_come_again(tmp_path: Path) -> None:
    found = list(trace(written(tmp_path, *range(100, 150)), scale=1.7, requests=400))
    assert len(found) == 400
    assert all(one.at_s <= other.at_s for one, other in itertools.pairwise(found))
    assert found[-1].at_s == pytest.approx(400 / 1.7, rel=0.15)


def test_ids_of_a_log_that_comes_again_differ() -> None:
    assert len({one.request.id for one in trace("routing.log", requests=9)}) == 9


# The real files, where they are.


def test_mooncake_s_prefixes_are_shared_as_its_authors_say() -> None:
    path = DATA.parents[3] / "shared" / "data" / "mooncake_conversation.jsonl"
    if not path.exists():
        pytest.skip("../shared/data/mooncake_conversation.jsonl is not there")
    seen: set[int] = set()
    hits = asked = 0

    def look(one: Arrival) -> None:
        nonlocal hits, asked
        hits += sum(block in seen for block in one.blocks)
        asked += len(one.blocks)
        seen.update(one.blocks)

    for one in trace(path):
        look(one)
    assert hits / asked == pytest.approx(0.4, abs=0.05)                      # FAST'25, table 1: 40 % at most
