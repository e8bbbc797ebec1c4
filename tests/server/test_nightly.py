"""Tests of the nightly ledger: when it is made, of which hours, and what is told when it cannot be."""

from __future__ import annotations

import asyncio
import gzip
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from rbeerouter.config.loading import load
from rbeerouter.config.sections import Config, ConfigError
from rbeerouter.record import Line, timestamp
from rbeerouter.server.nightly import LedgerError, Ledgers, ledger_of, passed, rotated_parts
from tests.support.aio import story
from tests.support.builders import WALL, Clock, env
from tests.support.daemon import config_text

NIGHT_S = 3.25 * 3600


def written(folder: Path, ages_s: list[float], **routing: Any) -> Config:
    """A configuration with a log of requests that began so many seconds before WALL."""
    workers = [{"id": "gpu1", "url": "http://127.0.0.1:9", "models": ["m"], "max_concurrency": 4, "cost_per_hour": 0.5}]
    path = folder / "config.toml"
    path.write_text(config_text(workers, routing={"log": "routing.log", **routing}))
    lines = [
        Line(
            timestamp(WALL - age_s), "request", f"r-{number}", "/v1/chat/completions", "m", "ok", 200, worker="gpu1",
            by="strategy", reason="least-request", attempts=1, ttft_ms=50.0, total_ms=900.0, tokens_in=20, tokens_out=40,
        )
        for number, age_s in enumerate(ages_s)
    ]  # fmt: skip
    (folder / "routing.log").write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return load(path)


class Daemon:
    """What the ledgers ask of one."""

    def __init__(self, config: Config) -> None:
        self.clock = Clock()
        self.config, self.env = config, env(self.clock)
        self.events: list[tuple[str, dict[str, Any]]] = []
        tell = lambda event, **fields: self.events.append((event, fields))  # noqa: E731
        self.log = SimpleNamespace(info=tell, error=tell)


def ledgers(daemon: Daemon) -> Ledgers:
    return Ledgers(cast(Any, daemon))


@pytest.mark.parametrize(
    ("before_s", "now_s", "has"),
    [
        (NIGHT_S - 20, NIGHT_S, True), (NIGHT_S, NIGHT_S + 20, False), (NIGHT_S - 40, NIGHT_S - 20, False),
        (NIGHT_S - 20, NIGHT_S + 86_400 * 3, True), (NIGHT_S + 20, NIGHT_S - 20, False), (0.0, 86_399.0, True),
    ],
)  # fmt: skip
def test_its_time_comes_once_a_day(before_s: float, now_s: float, has: bool) -> None:
    days_s = 86_400.0 * 20_000
    assert passed(NIGHT_S, days_s + before_s, days_s + now_s) == has


@pytest.mark.parametrize("given", ["3", "24:00", "03:60", "3:15 ", "", "03:15:00", "\u06603:15", "noon"])
def test_what_is_no_time_of_day_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"routing\.ledger_at = .*: expected a time of day"):
        written(tmp_path, [], ledger_at=given)


@story
async def test_a_log_without_requests_or_none_gives_no_ledger(tmp_path: Path) -> None:
    config = written(tmp_path, [])
    with pytest.raises(LedgerError, match="has no requests"):
        await ledger_of(config, WALL)
    config.log.unlink()
    with pytest.raises(LedgerError, match="cannot be read"):
        await ledger_of(config, WALL)


@story
async def test_one_that_takes_too_long_is_ended_and_told(tmp_path: Path) -> None:
    daemon = Daemon(written(tmp_path, [60.0], ledger_s=0.01))
    made = ledgers(daemon)
    await made.make()
    (event, fields), = daemon.events
    assert (event, fields["error"]) == ("ledger_failed", made.problem)
    assert made.describe() == {"at": None, "last": [], "problem": "routing simulate took longer than 0.01 s ([routing] ledger_s)"}


@story(timeout_s=120.0)
async def test_the_day_before_its_time_is_put_into_a_ledger(tmp_path: Path) -> None:
    ages = [30 * 3600.0, 25 * 3600.0, *(3600.0 - number for number in range(40))]
    local = (WALL % 86_400) / 60
    at = f"{int(local + 1) // 60:02d}:{int(local + 1) % 60:02d}"
    daemon = Daemon(written(tmp_path, ages, ledger_at=at))
    made = ledgers(daemon)
    await made.look()
    assert daemon.events == []
    daemon.clock.advance(60)
    await made.look()
    await made.look()
    assert [event for event, _ in daemon.events] == ["ledger"], daemon.events
    page = made.describe()
    (ledger,) = page["last"]
    assert (page["at"], page["problem"], ledger["requests"], ledger["sampled"]) == (at, None, 40, False)
    names = [entry["name"] for entry in ledger["entries"]]
    assert names[0] == "yours" and {"round-robin", "least-request"} <= set(names)
    assert ledger["entries"][0]["values"]["p95_e2e_s"] > 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@story(timeout_s=120.0)
async def test_what_was_rotated_out_of_the_log_since_belongs_to_the_day(tmp_path: Path) -> None:
    config = written(tmp_path, [3600.0 - number for number in range(60)])
    lines = config.log.read_bytes().splitlines(keepends=True)
    packed, plain, old = (config.log.with_name(f"routing.log{end}") for end in ("-20260301.gz", ".1", ".9"))
    packed.write_bytes(gzip.compress(b"".join(lines[:20])))
    plain.write_bytes(b"".join(lines[20:40]) + lines[40][:50])
    config.log.write_bytes(b"".join(lines[40:]))
    config.log.with_name("routing.log.bak").write_bytes(config.log.read_bytes())
    config.log.with_name("routing.log.txt").write_bytes(b"notes on it\n")
    old.write_bytes(lines[0])
    os.utime(old, (WALL - 2 * 86_400, WALL - 2 * 86_400))
    before = sorted(path.name for path in tmp_path.iterdir())
    assert rotated_parts(config.log, WALL - 86_400) == [packed, plain, config.log]
    assert (await ledger_of(config, WALL))["requests"] == 60
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@story
async def test_clocks_that_are_put_back_make_no_second_ledger(tmp_path: Path) -> None:
    local = (WALL % 86_400) / 60
    daemon = Daemon(written(tmp_path, [60.0], ledger_s=0.01, ledger_at=f"{int(local + 1) // 60:02d}:{int(local + 1) % 60:02d}"))
    made = ledgers(daemon)
    for minutes in (1, 30):
        daemon.clock.advance(60 * minutes)
        await made.look()
    daemon.clock.utc_offset_s -= 3600
    await made.look()
    daemon.clock.advance(3600)
    await made.look()
    assert len(daemon.events) == 1
    daemon.clock.advance(24 * 3600)
    await made.look()
    assert len(daemon.events) == 2
