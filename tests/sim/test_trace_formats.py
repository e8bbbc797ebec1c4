"""Each kind of file is found by what is in it and read line by line; what is no such line is told with its place."""

from __future__ import annotations

import datetime
import gzip
from pathlib import Path

import pytest

from rbeerouter.config.sections import ConfigError
from rbeerouter.core.types import Request
from rbeerouter.sim.trace_formats import FORMATS, Row, format_of

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def rows(path: Path) -> list[Row]:
    return list(FORMATS[format_of(path)].read(path))


def unix(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("azure_2023.csv", "azure"), ("azure_2024.csv", "azure"), ("burstgpt.csv", "burstgpt"),
        ("burstgpt_sessions.csv", "burstgpt"), ("mooncake.jsonl", "mooncake"), ("routing.log", "log"),
    ],
)  # fmt: skip
def test_the_kind_is_found_by_the_content(name: str, kind: str, tmp_path: Path) -> None:
    renamed = tmp_path / "file"
    renamed.write_bytes((DATA / name).read_bytes())
    assert format_of(renamed) == kind
    renamed.write_bytes(b"\xef\xbb\xbf" + (DATA / name).read_bytes())
    assert format_of(renamed) == kind or kind == "log"


def test_azure_s_trace_of_2023() -> None:
    found = rows(DATA / "azure_2023.csv")
    assert [(row.tokens_in, row.tokens_out) for row in found] == [(374, 44), (396, 109), (879, 55), (91, 16)]
    assert found[0].at_s == unix("2023-11-16T18:15:46.680590+00:00")
    assert found[3].at_s - found[0].at_s == 60.0
    assert {(row.model, row.session, row.blocks, row.request) for row in found} == {(None, None, (), None)}


def test_azure_s_trace_of_2024_has_times_with_a_zone_and_with_or_without_a_fraction() -> None:
    found = rows(DATA / "azure_2024.csv")
    assert [row.at_s for row in found] == [
        unix("2024-05-12T00:00:00.003163+00:00"), unix("2024-05-12T00:00:10+00:00"), unix("2024-05-12T00:00:20+00:00"),
    ]  # fmt: skip
    assert [(row.tokens_in, row.tokens_out) for row in found] == [(1452, 3), (634, 47), (2399, 0)]


def test_burstgpt_s_trace_names_models() -> None:
    assert rows(DATA / "burstgpt.csv") == [
        Row(5.0, 472, 18, "ChatGPT"), Row(45.0, 1087, 230, "ChatGPT"), Row(118.0, 417, 276, "GPT-4"),
        Row(120.0, 300, 0, "GPT-4"),
    ]  # fmt: skip


def test_burstgpt_s_newer_trace_names_sessions() -> None:
    assert rows(DATA / "burstgpt_sessions.csv") == [
        Row(19440110.0, 906, 446, "GPT-4", "1722ac82"), Row(19440161.0, 36, 29, "ChatGPT"),
        Row(19440192.5, 1400, 20, "GPT-4", "1722ac82"),
    ]  # fmt: skip


def test_mooncake_s_hash_ids_are_blocks_as_far_as_they_are_full() -> None:
    assert rows(DATA / "mooncake.jsonl") == [
        Row(0.0, 1024, 10, blocks=(0, 1)), Row(1.5, 1030, 20, blocks=(0, 1)), Row(3.0, 100, 30),
    ]  # fmt: skip


def test_a_log_of_ours_tells_the_request_itself() -> None:
    second, first, third = rows(DATA / "routing.log")
    assert (first.at_s, first.tokens_in, first.tokens_out) == (unix("2026-01-31T12:00:00+00:00"), 700, 90)
    assert second.request == Request(
        "r-2", "/v1/chat/completions", "llama-3-8b", None, "ab12cd34", "high", 100, True,
        {"tier": "premium", "type": "llm"}, "s1", 55,
    )  # fmt: skip
    assert (third.tokens_in, third.tokens_out, third.model) == (20, None, "bge-m3")


@pytest.mark.parametrize("name", [path.name for path in sorted(DATA.iterdir())])
def test_gzipped_files_are_read_as_well(name: str, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress((DATA / name).read_bytes()))
    assert rows(packed) == rows(DATA / name)


AZURE, BURST = "TIMESTAMP,ContextTokens,GeneratedTokens\n", "Timestamp,Model,Request tokens,Response tokens\n"
COOL = '{"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": []}\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ": is empty; expected a trace or a routing.log"),
        ("a,b\n1,2\n", ":1: 'a,b\\n': is no trace that is known; expected the columns TIMESTAMP,ContextTokens,"),
        ("{}\n", ":1: '{}\\n': is no trace that is known"),
        (AZURE + "yesterday,1,2\n", ":2: TIMESTAMP = 'yesterday': expected a time such as 2023-11-16 18:15:46.6805900"),
        (AZURE + "\n2023-11-16 18:15:46,many,2\n", ":3: ContextTokens = 'many': expected a whole number of tokens"),
        (AZURE + "2023-11-16 18:15:46,1,-2\n", ":2: GeneratedTokens = '-2': expected a whole number of tokens"),
        (AZURE + "2023-11-16 18:15:46,1,99999999999\n", ":2: GeneratedTokens = '99999999999': expected a whole number"),
        (AZURE + "2023-11-16 18:15:46,1\n", ":2: '2023-11-16 18:15:46,1': expected 3 columns, got 2"),
        (BURST + "soon,GPT-4,1,2\n", ":2: Timestamp = 'soon': expected seconds from 0 on"),
        (BURST + "-5,GPT-4,1,2\n", ":2: Timestamp = '-5': expected seconds from 0 on"),
        (BURST + "nan,GPT-4,1,2\n", ":2: Timestamp = 'nan': expected seconds from 0 on"),
        (BURST + "1,,1,2\n", ":2: Model = '': expected the name of a model"),
        (BURST + "1,GPT-4,x,2\n", ":2: Request tokens = 'x': expected a whole number of tokens"),
        (BURST + "1,GPT-4,2,1.5\n", ":2: Response tokens = '1.5': expected a whole number of tokens"),
        (COOL + "{", ":2: '{': input data was truncated; expected timestamp (ms), input_length, output_length and hash_ids"),
        (COOL + "{nonsense\n", ":2: '{nonsense': JSON is malformed: "),
        (COOL + '{"timestamp": 1, "input_length": 1}\n', "object missing required field `output_length`"),
        (COOL + '{"timestamp": 1, "input_length": "1", "output_length": 1}\n', "expected `int`, got `str` - at `$.input_length`"),
        (COOL + '{"timestamp": -1, "input_length": 1, "output_length": 1}\n', ":2: timestamp = -1.0: expected 0 or more"),
        (COOL + '{"timestamp": 1, "input_length": -1, "output_length": 1}\n', ":2: input_length = -1: expected 0 or more"),
        (COOL + " " * (1 << 20) + "\n", ":2: is longer than 1048576 characters; expected less"),
        ('{"time":"2026-01-31T12:00:00.000Z","event":"request","request_id":"r","path":"/","model":"' + "m" * 200_000
         + '","outcome":"ok","status":200}\n', ": request r: names of a size that no request has"),
    ],
)  # fmt: skip
def test_what_is_no_such_line_is_told_with_file_line_value_and_what_was_expected(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        rows(path)
    assert str(refused.value).startswith(str(path))
    assert said in str(refused.value)


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    for content, said in (
        (b"TIMESTAMP,\xff\n", "is not UTF-8 text"),
        (gzip.compress((DATA / "azure_2023.csv").read_bytes())[:-10], "is no whole gzip file"),
        (b"\x1f\x8bnothing", "is no whole gzip file"),
    ):
        (tmp_path / "t").write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            rows(tmp_path / "t")
    with pytest.raises(ConfigError, match="none: cannot be read: No such file or directory"):
        rows(tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        rows(tmp_path)


def test_a_kind_that_was_said_and_does_not_fit_is_told() -> None:
    with pytest.raises(ConfigError, match=r"mooncake\.jsonl:1: has no column 'TIMESTAMP'; expected TIMESTAMP,Context"):
        list(FORMATS["azure"].read(DATA / "mooncake.jsonl"))
    with pytest.raises(ConfigError, match=r"azure_2023\.csv:1: .*expected timestamp \(ms\)"):
        list(FORMATS["mooncake"].read(DATA / "azure_2023.csv"))


# The real files, where they are.


@pytest.mark.parametrize(
    ("name", "requests", "tokens_in", "tokens_out", "lasts_s"),
    [
        ("azure_llm_inference_2023_conv.csv", 19_366, 22_361_870, 4_088_665, 3501.72),
        ("mooncake_conversation.jsonl", 12_031, 144_793_823, 4_122_048, 3537.00),
    ],
)
def test_the_public_traces_are_read_whole(name: str, requests: int, tokens_in: int, tokens_out: int, lasts_s: float) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"../shared/data/{name} is not there")
    found = rows(path)
    assert (len(found), sum(row.tokens_in for row in found), sum(row.tokens_out for row in found)) == (requests, tokens_in, tokens_out)
    assert found[-1].at_s - found[0].at_s == pytest.approx(lasts_s, abs=0.01)
    assert all(len(row.blocks) <= row.tokens_in // 512 for row in found)
