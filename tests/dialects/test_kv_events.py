"""Tests of events of KV caches: every form that an engine's versions give them, and bytes that are none.

Run by pytest. What is built from them is in tests/routing/test_exact.py.
"""

from __future__ import annotations

import contextlib
from array import array
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.kv_events import Batch, Cleared, Removed, Stored
from rbeerouter.dialects.kv_events import read_batch
from tests.support.builders import quick
from tests.support.kv_publisher import CLEARED, as_array, removed, stored

encode = msgspec.msgpack.encode


def batch(*events: Any) -> Batch:
    return read_batch(encode([1.5, list(events), 3]))


def tokens(*ids: int) -> bytes:
    return array("I", ids).tobytes()


def test_a_batch_of_this_years_vllm() -> None:
    event = stored([7, 8, 9, 10], block_size=2, parent=None)
    first, second = event["block_hashes"]

    read = batch(event, removed([first]), CLEARED)

    assert read == Batch(
        1.5,
        (
            Stored((first, second), None, tokens(7, 8, 9, 10), 2, "", (), "GPU", 0),
            Removed((first,), "GPU", 0),
            Cleared(),
        ),
        3,
    )


def test_events_of_older_releases_are_arrays() -> None:
    event = stored([7, 8], block_size=2, parent=5)

    assert batch(as_array(event), as_array(removed([1])), as_array(CLEARED)).events == (
        Stored(tuple(event["block_hashes"]), 5, tokens(7, 8), 2, "", (), "GPU", None),
        Removed((1,), "GPU", None),
        Cleared(),
    )


def test_the_oldest_and_sglangs_arrays_end_earlier() -> None:
    assert batch(["BlockStored", [4], None, [7, 8], 2, None], ["BlockRemoved", [4]]).events == (
        Stored((4,), None, tokens(7, 8), 2), Removed((4,)),
    )  # fmt: skip


def test_a_batch_may_be_a_map() -> None:
    for name in ("data_parallel_rank", "attn_dp_rank"):
        assert read_batch(encode({"ts": 2, "events": [CLEARED], name: 1})) == Batch(2.0, (Cleared(),), 1)
    assert read_batch(encode([2.0, []])) == Batch(2.0, ())


def test_hashes_may_be_bytes() -> None:
    event = {**stored([7, 8], 2), "block_hashes": [b"\x01" * 32], "parent_block_hash": b"\x02" * 32}

    (read,) = batch(event).events

    assert (read.hashes, read.parent) == ((b"\x01" * 32,), b"\x02" * 32)


def test_an_adapter_is_told_by_name_and_else_by_a_number_that_no_request_has() -> None:
    named = {**stored([7, 8], 2), "lora_id": 1, "lora_name": "law", "extra_keys": [["law"]]}
    numbered = {**stored([7, 8], 2), "lora_id": 1}

    assert [(one.adapter, one.extras) for one in batch(named, numbered).events] == [("law", ()), ("\0001", ())]


def test_salts_and_images_stay_with_their_block() -> None:
    event = {**stored([7, 8, 9, 10], 2), "extra_keys": [["salt"], [["image", 3]]]}

    assert [one.extras for one in batch(event).events] == [(encode(["salt"]), encode([["image", 3]]))]


def test_sglang_tells_a_salt_for_the_whole_event() -> None:
    first = {**stored([7, 8, 9, 10], 2), "extra_keys": None, "cache_salt": "salt"}
    later = {**first, "parent_block_hash": 1}

    assert [one.extras for one in batch(first, later).events] == [(encode(["salt"]), b""), ()]


@pytest.mark.parametrize(
    "fields",
    [
        {"medium": "DISK"}, {"medium": "EXTERNAL"},
        {"kv_cache_spec_kind": "sliding_window"}, {"kv_cache_spec_kind": "mamba"},
    ],
)  # fmt: skip
def test_what_is_no_hit_for_a_whole_prompt_is_left_out(fields: dict[str, Any]) -> None:
    assert batch({**stored([7, 8], 2), **fields}) == Batch(1.5, (), 3)


@pytest.mark.parametrize(
    "event",
    [
        5, [], {}, ["BlockStored"], ["Unknown", 1], {"type": "BlockStored"},
        {**stored([7, 8], 2), "block_size": 0}, {**stored([7, 8], 2), "block_size": True},
        {**stored([7, 8], 2), "token_ids": [7]}, {**stored([7, 8], 2), "token_ids": [-1, 8]},
        {**stored([7, 8], 2), "token_ids": [1 << 32, 8]}, {**stored([7, 8], 2), "token_ids": [[1, 2], [2, 3]]},
        {**stored([7, 8], 2), "block_hashes": ["x"]}, {**stored([7, 8], 2), "block_hashes": [bytes(65)]},
        {**stored([7, 8], 2), "medium": 4}, {**stored([7, 8], 2), "extra_keys": []},
        {**stored([7, 8], 2), "lora_name": 4}, {**stored([7, 8], 2), "group_idx": "x"},
        {"type": "BlockRemoved", "block_hashes": 4},
    ],
)  # fmt: skip
def test_a_strange_event_is_counted_and_the_others_are_read(event: Any) -> None:
    assert batch(event, CLEARED) == Batch(1.5, (Cleared(),), 3, strange=1)


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\xc1", encode(5), encode([]), encode([1.0]), encode(["now", []]), encode([1.0, 5]),
        encode([1.0, [], "x"]), encode([1.0, [], -1]), encode({}), b"\x91" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_batch_is_a_value_error(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"batch|time|rank"):
        read_batch(payload)


@quick(max_examples=300)
@given(st.binary(max_size=80) | st.recursive(st.none() | st.integers(-5, 5) | st.text(max_size=3), st.lists).map(encode))
def test_no_bytes_do_more_than_a_value_error(payload: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(read_batch(payload), Batch)
