"""The files that tell of traffic which really was: public traces and routing.log, read one request at a time.

`traces` makes a workload of the rows. Each reader goes through its file from the beginning and keeps one line; whatever
is no such line is refused with the file, the line, the value and what was expected. What the files look like:
docs/simulate.md, with where to get them.

Sources: Azure/AzurePublicDataset (AzureLLMInferenceDataset2023.md and 2024.md), HPMLL/BurstGPT, kvcache-ai/Mooncake
(FAST25-release); routing.log is ours.
"""

from __future__ import annotations

import csv
import datetime
import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from rbeerouter import recorded
from rbeerouter.config.sections import ConfigError
from rbeerouter.core.types import Request

_MOST_LINE_CHARS = 1 << 20
_MOST_TOKENS = 1 << 31


class Row(msgspec.Struct, gc=False):
    """A request of a file.

    at_s: by the file's own clock. tokens_in, tokens_out: None where the file does not know. blocks: names of the
    prompt's full blocks, see `types.Arrival`. request: what the client asked, where the file tells it.
    """

    at_s: float
    tokens_in: int | None
    tokens_out: int | None
    model: str | None = None
    session: str | None = None
    blocks: tuple[int, ...] = ()
    request: Request | None = None


class Format(msgspec.Struct, frozen=True):
    """A kind of file.

    about: in words. wall: is `Row.at_s` Unix time? in_order: do its lines stand in the order of arrival?
    """

    about: str
    read: Callable[[Path], Iterator[Row]]
    wall: bool = False
    in_order: bool = True
    block_tokens: int = 512


def format_of(path: Path) -> str:
    """The name in FORMATS of a file, by its first line. Raises ConfigError."""
    first = next((line for _, line in _lines(path)), None)
    if first is None:
        raise ConfigError(f"{path}: is empty; expected a trace or a routing.log")
    if first.startswith("{"):
        if '"hash_ids"' in first or '"input_length"' in first:
            return "mooncake"
        if '"event"' in first:
            return "log"
    columns = {column.strip() for column in first.split(",")}
    if set(_AZURE) <= columns:
        return "azure"
    if set(_BURSTGPT) <= columns:
        return "burstgpt"
    raise ConfigError(
        f"{path}:1: {first[:60]!r}: is no trace that is known; expected the columns {','.join(_AZURE)} (azure), or "
        f"{','.join(_BURSTGPT)} (burstgpt), or JSON lines with hash_ids (mooncake) or of a routing.log (log)"
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that hold something. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        open_it = gzip.open if packed else open
        with open_it(path, "rt", encoding="utf-8-sig") as text:
            number = 0
            while line := text.readline(_MOST_LINE_CHARS):
                number += 1
                if len(line) == _MOST_LINE_CHARS:
                    raise ConfigError(f"{path}:{number}: is longer than {_MOST_LINE_CHARS} characters; expected less")
                if not line.isspace():
                    yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ConfigError(f"{path}: is no whole gzip file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start} of a part)") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None


_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BURSTGPT = ("Timestamp", "Model", "Request tokens", "Response tokens")
_SESSION = "Session ID"


def _cells(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, list[str], dict[str, int]]]:
    """(where, cells, {column: place}) of the lines of a CSV file after the head. Raises ConfigError."""
    lines = _lines(path)
    _, head = next(lines, (0, ""))
    place = {name.strip(): index for index, name in enumerate(next(csv.reader([head])))} if head else {}
    for name in wanted:
        if name not in place:
            raise ConfigError(f"{path}:1: has no column {name!r}; expected {','.join(wanted)}")
    for number, line in lines:
        where = f"{path}:{number}"
        cells = line.rstrip("\r\n").split(",") if '"' not in line else next(csv.reader([line]))
        if len(cells) < len(place):
            raise ConfigError(f"{where}: {line.strip()[:60]!r}: expected {len(place)} columns, got {len(cells)}")
        yield where, cells, place


def _tokens(text: str, where: str, column: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < _MOST_TOKENS:
        raise ConfigError(f"{where}: {column} = {text[:40]!r}: expected a whole number of tokens")
    return value


def read_azure(path: Path) -> Iterator[Row]:
    """The CSV files of Azure's LLM inference traces of 2023 and 2024. Raises ConfigError."""
    for where, cells, place in _cells(path, _AZURE):
        text = cells[place["TIMESTAMP"]]
        try:
            time = datetime.datetime.fromisoformat(text.strip())
        except ValueError:
            raise ConfigError(
                f"{where}: TIMESTAMP = {text[:40]!r}: expected a time such as 2023-11-16 18:15:46.6805900"
            ) from None
        if time.tzinfo is None:
            time = time.replace(tzinfo=datetime.UTC)
        tokens_in = _tokens(cells[place["ContextTokens"]], where, "ContextTokens")
        yield Row(time.timestamp(), tokens_in, _tokens(cells[place["GeneratedTokens"]], where, "GeneratedTokens"))


def read_burstgpt(path: Path) -> Iterator[Row]:
    """BurstGPT's CSV files, with session ids or without; requests that failed there have 0 response tokens. Raises
    ConfigError."""
    for where, cells, place in _cells(path, _BURSTGPT):
        text = cells[place["Timestamp"]]
        try:
            at_s = float(text)
        except ValueError:
            at_s = -1.0
        if not 0 <= at_s < 1e12:
            raise ConfigError(f"{where}: Timestamp = {text[:40]!r}: expected seconds from 0 on")
        model = cells[place["Model"]].strip()
        if not model:
            raise ConfigError(f"{where}: Model = '': expected the name of a model")
        session = cells[place[_SESSION]].strip() if _SESSION in place else ""
        tokens_in = _tokens(cells[place["Request tokens"]], where, "Request tokens")
        tokens_out = _tokens(cells[place["Response tokens"]], where, "Response tokens")
        yield Row(at_s, tokens_in, tokens_out, model, session or None)


class _Mooncake(msgspec.Struct, gc=False):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


_MOONCAKE_BLOCK = 512
_decode_mooncake = msgspec.json.Decoder(_Mooncake).decode


def read_mooncake(path: Path) -> Iterator[Row]:
    """Mooncake's JSON lines. A hash id stands for 512 tokens and all before them; the last one may be begun only.
    Raises ConfigError."""
    for number, line in _lines(path):
        try:
            given = _decode_mooncake(line)
        except msgspec.MsgspecError as error:
            what = str(error)
            what = what if what.startswith("JSON") else what[0].lower() + what[1:]
            raise ConfigError(
                f"{path}:{number}: {line.strip()[:60]!r}: {what}; expected timestamp (ms), input_length, output_length "
                "and hash_ids"
            ) from None
        for name in ("timestamp", "input_length", "output_length"):
            value = getattr(given, name)
            if not 0 <= value < (_MOST_TOKENS if name != "timestamp" else 1e15):
                raise ConfigError(f"{path}:{number}: {name} = {value}: expected 0 or more")
        blocks = given.hash_ids[: given.input_length // _MOONCAKE_BLOCK]
        yield Row(given.timestamp / 1000.0, given.input_length, given.output_length, blocks=blocks)


def read_routing_log(path: Path) -> Iterator[Row]:
    """The requests of a routing.log, in the order in which they ended. Lines that are none are passed over, as a full
    disk or a rotation may have cut them. Raises ConfigError."""
    try:
        for line in recorded.read_log(path):
            try:
                asked = recorded.request_of(line)
            except ValueError as error:
                raise ConfigError(f"{path}: request {line.request_id[:100]}: {error}") from None
            tokens_in = line.tokens_in if line.tokens_in is not None else asked.prompt_tokens
            yield Row(recorded.seconds(line.time), tokens_in, line.tokens_out, asked.model, asked.session_id, (), asked)
    except recorded.LogError as error:
        raise ConfigError(str(error)) from None


FORMATS: dict[str, Format] = {
    "azure": Format("Azure LLM inference trace", read_azure, wall=True),
    "burstgpt": Format("BurstGPT trace", read_burstgpt),
    "mooncake": Format("Mooncake trace", read_mooncake, block_tokens=_MOONCAKE_BLOCK),
    "log": Format("routing.log", read_routing_log, wall=True, in_order=False),
}
"""{what --format calls it: the kind of file}"""
