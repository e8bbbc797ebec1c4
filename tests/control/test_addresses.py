"""Tests of the addresses that a worker may have, in every spelling that leads there."""

from __future__ import annotations

import pytest

from rbeerouter.control.addresses import (
    GuardedResolver,
    as_networks,
    guard_for,
    literal,
    misplaced,
    never_allowed,
    outside,
)
from rbeerouter.core.types import WorkerSpec
from tests.support.aio import story

PRIVATE = ("127.0.0.0/8", "10.0.0.0/8", "fc00::/7")


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
     "2002:a9fe:a9fe::1", "::a9fe:a9fe", "100.100.100.200", "fd00:ec2::254", "224.0.0.1", "ff02::1", "0.0.0.0", "::",
     "0.1.2.3", "255.255.255.255", "240.0.0.1"],
)  # fmt: skip
def test_no_worker_may_be_at_these_whoever_says_so(address: str) -> None:
    assert never_allowed("worker.test", address) is not None


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.7", "8.8.8.8", "2001:db8::1", "fd12::1", "100.64.0.9"])
def test_other_addresses_are_not_refused_as_such(address: str) -> None:
    assert never_allowed("worker.test", address) is None


def test_a_name_must_not_lead_to_this_machine_unless_it_says_so() -> None:
    assert never_allowed("worker.test", "127.0.0.1") is not None
    assert never_allowed("worker.test", "::ffff:127.0.0.1") is not None
    for host, address in (("localhost", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("::1", "::1")):
        assert never_allowed(host, address) is None


def test_only_the_networks_of_the_list_may_register() -> None:
    networks = as_networks(PRIVATE)
    assert [outside(networks, address) is None for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1")] == [True] * 3
    assert outside(networks, "11.0.0.1") == "11.0.0.1 is in no network of [registration] allow"


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1.", "0x7f000001", "010.0.0.1", "1.2.3"])
def test_what_only_some_programs_read_as_an_address_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="neither a name nor a plain IP address"):
        literal(host)


def test_names_and_addresses_are_told_apart() -> None:
    assert [literal(host) for host in ("gpu1", "gpu1.lan", "10.0.0.1", "::1", "x.1a")] == [
        None, None, "10.0.0.1", "::1", None,
    ]  # fmt: skip


def test_who_wrote_a_url_into_this_machines_files_may_lead_anywhere() -> None:
    for source, guarded in (
        ("config", False), ("file", False), ("dns", True), ("controller", True), ("registered", True)
    ):  # fmt: skip
        guard = guard_for(WorkerSpec("a", "http://a:1", source=source), PRIVATE)
        assert (guard is not None) is guarded
        if guard is not None:
            assert guard("a", "169.254.169.254") is not None
            assert (guard("a", "8.8.8.8") is None) is (source != "registered")


@story
async def test_names_that_lead_where_no_worker_may_be_are_not_resolved() -> None:
    resolver = GuardedResolver(never_allowed)
    assert {entry["host"] for entry in await resolver.resolve("localhost", 80)} == {"127.0.0.1"}
    with pytest.raises(OSError, match="refused"):
        await GuardedResolver(lambda host, address: f"{address} is refused").resolve("localhost", 80)


@pytest.mark.parametrize("url", ["http://169.254.169.254:80", "http://[::ffff:169.254.169.254]:80", "http://0x7f.1:80"])
def test_an_address_in_a_url_is_refused_without_a_resolver(url: str) -> None:
    assert misplaced(WorkerSpec("a", url, source="dns"), ()) is not None
    assert misplaced(WorkerSpec("a", url, source="config"), ()) is None
    assert misplaced(WorkerSpec("a", "http://10.0.0.1:1", source="registered"), ("10.0.0.0/8",)) is None
    assert misplaced(WorkerSpec("a", "http://11.0.0.1:1", source="registered"), ("10.0.0.0/8",)) is not None
    assert misplaced(WorkerSpec("a", "http://name:1", source="registered"), ()) is None
