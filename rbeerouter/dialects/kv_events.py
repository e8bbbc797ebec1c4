"""Events of KV caches as vLLM and SGLang publish them, read in all the forms that their versions have.

`control.kv_events` hands in the payload of a message. A batch is an array or a map, and so is each event; hashes are
integers or bytes. What is not understood is counted and left out. Sources: vllm/distributed/kv_events.py, and
sglang/srt/disaggregation/kv_events.py, which says that it is the same encoding.
"""

from __future__ import annotations

from array import array
from typing import Any

import msgspec

from rbeerouter.core.kv_events import Batch, Cleared, Event, Removed, Stored

_decode = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.encode
_FIELDS = {
    "BlockStored": (
        "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name", "extra_keys",
    ),
    "BlockRemoved": ("block_hashes", "medium"),
    "AllBlocksCleared": (),
}  # fmt: skip
"""What an event is made of where it is an array, after its name."""
_MOST_HASH_BYTES = 64
_MOST_BLOCK_TOKENS = 1 << 16
_MOST_RANK = 1 << 16
_KEPT_MEDIA = ("GPU", "CPU")
"""Media that begin so are as good as a hit; what is read from disks or other machines may be slower than computing."""
_WHOLE_PROMPT = ("full", "mla")
"""Kinds of attention that need all blocks of a prompt. Of others, such as a sliding window, an engine frees the first
blocks while it still uses the prompt."""


def read_batch(payload: bytes) -> Batch:
    """What a message tells. Raises ValueError where it is none."""
    try:
        raw = _decode(payload)
        if isinstance(raw, dict):
            raw = [raw.get("ts"), raw.get("events"), raw.get("data_parallel_rank", raw.get("attn_dp_rank"))]
        at, events, rank = raw[0], raw[1], raw[2] if len(raw) > 2 else None
        if type(at) not in (int, float) or not isinstance(events, list):
            raise ValueError("expected [time, events, rank]")
        if rank is not None and (type(rank) is not int or not 0 <= rank < _MOST_RANK):
            raise ValueError("its rank is no number of an engine")
    except (msgspec.MsgspecError, RecursionError, TypeError, LookupError, OverflowError) as error:
        raise ValueError(f"no batch of events: {type(error).__name__}") from None
    told: list[Event] = []
    strange = 0
    for one in events:
        try:
            event = _read_event(one)
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError, msgspec.MsgspecError):
            strange += 1
        else:
            if event is not None:
                told.append(event)
    return Batch(float(at), tuple(told), rank, strange)


def _read_event(raw: Any) -> Event | None:
    """None: nothing of use here. Raises ValueError and what badly formed parts raise."""
    if isinstance(raw, list):
        name, fields = raw[0], dict(zip(_FIELDS[raw[0]], raw[1:], strict=False))
    else:
        name, fields = raw["type"], raw
    if name == "BlockStored":
        return _read_stored(fields)
    if name == "BlockRemoved":
        return Removed(_hashes(fields["block_hashes"]), _medium(fields), _group(fields))
    if name == "AllBlocksCleared":
        return Cleared()
    raise ValueError("an event of a kind that is not known")


def _read_stored(fields: dict[str, Any]) -> Stored | None:
    medium, kind = _medium(fields), fields.get("kv_cache_spec_kind")
    if medium is not None and not medium.startswith(_KEPT_MEDIA):
        return None
    if isinstance(kind, str) and not any(part in kind.lower() for part in _WHOLE_PROMPT):
        return None
    hashes, block_size, parent = _hashes(fields["block_hashes"]), fields["block_size"], fields["parent_block_hash"]
    tokens = array("I", fields["token_ids"])
    if type(block_size) is not int or not 0 < block_size <= _MOST_BLOCK_TOKENS:
        raise ValueError("expected a number of tokens for each block")
    if len(tokens) != block_size * len(hashes):
        raise ValueError("its blocks are not whole")
    adapter = _adapter(fields)
    return Stored(
        hashes, None if parent is None else _hashes([parent])[0], tokens.tobytes(), block_size, adapter,
        _extras(fields, adapter, parent is None, len(hashes)), medium, _group(fields),
    )  # fmt: skip


def _hashes(raw: Any) -> tuple[int | bytes, ...]:
    hashes = tuple(raw)
    for one in hashes:
        if type(one) is not int and (type(one) is not bytes or len(one) > _MOST_HASH_BYTES):
            raise ValueError("a hash is neither a number nor a few bytes")
    return hashes


def _medium(fields: dict[str, Any]) -> str | None:
    medium = fields.get("medium")
    if medium is not None and type(medium) is not str:
        raise ValueError("expected the name of a medium")
    return medium


def _group(fields: dict[str, Any]) -> int | None:
    group = fields.get("group_idx")
    if group is not None and type(group) is not int:
        raise ValueError("expected the number of a group")
    return group


def _adapter(fields: dict[str, Any]) -> str:
    """The adapter's name. Older releases tell only a number, which no request knows it by."""
    name, number = fields.get("lora_name"), fields.get("lora_id")
    if name is not None:
        if type(name) is not str:
            raise ValueError("expected the name of an adapter")
        return name
    return "" if number is None else f"\0{number!r}"


def _extras(fields: dict[str, Any], adapter: str, first: bool, count: int) -> tuple[bytes, ...]:
    """What each block depends on besides its tokens and its adapter. SGLang tells a salt for the event as a whole."""
    keys, salt = fields.get("extra_keys"), fields.get("cache_salt")
    if keys is None:
        return (_encode([salt]), *(b"",) * (count - 1)) if salt and first else ()
    if len(keys) != count:
        raise ValueError("expected extra keys for each block")
    extras = []
    for one in keys:
        rest = [key for key in one or () if key != adapter or not adapter]
        extras.append(_encode(rest) if rest else b"")
    return tuple(extras) if any(extras) else ()
