"""Tests of workers behind DNS names, asked over real UDP packets."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from rbeerouter.config.sections import DnsEntry
from rbeerouter.control.dns_source import DnsSource, Place, as_worker, source_name
from rbeerouter.control.roster import Roster
from tests.support.aio import story
from tests.support.name_server import NameServer


class Case:
    def __init__(self, **fields: Any) -> None:
        self.told: list[tuple[str, str]] = []
        self.roster = Roster(lambda: 0.0, lambda event, **more: self.told.append((event, more.get("error", ""))))
        self.source = DnsSource(DnsEntry(**fields), self.roster, random.Random(1))

    async def look(self) -> tuple[list[str], float]:
        wait_s = await self.source.look()
        return [spec.url for spec in self.roster.merged()], wait_s


@story
async def test_each_address_is_a_worker_and_the_ttl_says_when_to_ask_again() -> None:
    async with NameServer(ttl_s=7) as names:
        names.records["llm.test", "A"] = ["10.0.0.2", "10.0.0.1"]
        names.records["llm.test", "AAAA"] = ["fd00::1"]
        case = Case(name="llm.test", port=8000, server=names.address, engine="vllm", api_key="k")
        assert await case.look() == (["http://10.0.0.1:8000", "http://10.0.0.2:8000"], 7.0)
        first = case.roster.merged()[0]
        assert (first.id, first.engine, first.api_key, first.source) == ("llm.test-10.0.0.1-8000", "vllm", "k", "dns")
        names.records["llm.test", "A"] = ["10.0.0.3", "10.0.0.1"]
        assert (await case.look())[0] == ["http://10.0.0.1:8000", "http://10.0.0.3:8000"]
        assert case.roster.merged()[0] == first
        names.ttl_s = 3600
        assert (await case.look())[1] == 30.0
        six = Case(name="llm.test", type="AAAA", port=1, scheme="https", server=names.address)
        assert (await six.look())[0] == ["https://[fd00::1]:1"]


@story
async def test_srv_records_name_the_port_and_are_looked_up_at_the_same_server() -> None:
    async with NameServer() as names:
        names.records["_llm._tcp.test", "SRV"] = ["1 10 8001 a.test.", "2 20 8002 b.test.", "0 0 1 ."]
        names.records["a.test", "A"], names.records["b.test", "A"] = ["10.0.0.1"], ["10.0.0.2"]
        case = Case(name="_llm._tcp.test", type="SRV", server=names.address, metadata={"rack": 3})
        assert (await case.look())[0] == ["http://10.0.0.1:8001", "http://10.0.0.2:8002"]
        first = case.roster.merged()[0]
        assert first.metadata == {"srv_priority": 1, "srv_weight": 10, "rack": 3}
        assert first.id == "llm._tcp.test-10.0.0.1-8001"


@story
async def test_a_name_that_fails_or_is_gone_keeps_its_workers_and_is_told_of_once() -> None:
    async with NameServer() as names:
        names.records["llm.test", "A"] = ["10.0.0.1"]
        case = Case(name="llm.test", port=8000, server=names.address)
        await case.look()
        names.failing = True
        assert (await case.look())[0] == (await case.look())[0] == ["http://10.0.0.1:8000"]
        names.failing = False
        del names.records["llm.test", "A"]
        assert (await case.look())[0] == ["http://10.0.0.1:8000"]
        names.records["llm.test", "A"] = ["10.0.0.2"]
        assert (await case.look())[0] == ["http://10.0.0.2:8000"]
        assert [event for event, _ in case.told] == ["source_failed", "source_recovered"]


@story
async def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    async with NameServer() as names:
        names.silent = True
        case = Case(name="llm.test", port=8000, server=names.address)
        assert await case.look() == ([], 30.0)
        assert case.told[0][0] == "source_failed"


@story
async def test_names_of_this_machine_are_asked_of_the_system() -> None:
    case = Case(name="localhost", port=8000)
    assert await case.look() == (["http://127.0.0.1:8000"], 30.0)
    unknown = Case(name="no-such-name.invalid", port=8000)
    assert (await unknown.look())[0] == []
    assert unknown.told[0][1].startswith("no-such-name.invalid: ")


@story
async def test_without_dnspython_the_error_says_what_to_install() -> None:
    kept = {name: module for name, module in sys.modules.items() if name == "dns" or name.startswith("dns.")}
    try:
        for name in kept:
            sys.modules[name] = None                          # type: ignore[assignment]
        case = Case(name="_llm._tcp.test", type="SRV")
        await case.look()
    finally:
        sys.modules.update(kept)
    assert case.told == [
        ("source_failed", "SRV records and [[discovery.dns]] server need dnspython: pip install 'rbeerouter[dns]'")
    ]


@pytest.mark.parametrize("host", ["10.0.0.1", "2001:db8:1111:2222:3333:4444:5555:6666", "target.of.a.record.test"])
def test_ids_are_what_workers_may_be_called(host: str) -> None:
    entry = DnsEntry(name="a-name." * 30 + "test", port=65535)
    worker = as_worker(entry, Place(host, 65535, {}))
    assert len(worker.id) <= 64 and worker.id.endswith(f"-{host}-65535") and worker.id[0] == "a"
    assert source_name(entry) == f"dns A {entry.name}:65535"


def test_places_with_long_names_keep_different_ids() -> None:
    entry = DnsEntry(name="_llm._tcp.test", type="SRV")
    host = "ip-10-0-0-1.a-very-long-name-of-a-service.another-long-name.cluster.local"
    ids = {as_worker(entry, Place(host, port, {})).id for port in (8001, 8002)}
    assert len(ids) == 2 and all(len(one) <= 64 for one in ids)


@story
async def test_a_record_with_a_target_that_no_url_can_name_is_refused() -> None:
    async with NameServer() as names:
        names.records["_llm._tcp.test", "SRV"] = ["1 1 80 host/v1?x=."]
        case = Case(name="_llm._tcp.test", type="SRV", server=names.address)
        assert (await case.look())[0] == []
        assert "is no name of a machine" in str(case.roster.describe()[0]["problem"])
