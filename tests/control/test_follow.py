"""Tests of what is taken from a controller's list: fields, keys, loops and nonsense."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rbeerouter.config.sections import Secret
from rbeerouter.control.follow import ListError, public, read_list
from rbeerouter.core.types import WorkerSpec


def listed(*entries: Any) -> bytes:
    return json.dumps({"workers": entries, "later": 1}).encode()


def test_what_an_operator_said_goes_from_controller_to_follower_without_secrets() -> None:
    spec = WorkerSpec(
        "a", "http://a:1", engine="vllm", backend="cuda", vram=24.0, models=("m",), performance=2.0,
        cost_per_hour=0.5, max_concurrency=4, metadata={"rack": 3}, api_key=Secret("hidden-key"), ca_file="/etc/ca.pem",
        role="batch", loras=("l",), weight=3.0,
    )  # fmt: skip
    said = public(spec)
    assert "hidden-key" not in json.dumps(said) and "ca_file" not in said
    entry = {"id": "a", "status": "ready", "load": 0.5, "capacity": 99, "source": "config", "spec": said}
    (taken,), refused = read_list(listed(entry), None)
    expected = WorkerSpec(
        "a", "http://a:1", engine="vllm", backend="cuda", vram=24.0, models=("m",), performance=2.0,
        cost_per_hour=0.5, max_concurrency=4, metadata={"rack": 3}, role="batch", loras=("l",), source="controller", weight=3.0,
    )  # fmt: skip
    assert (taken, refused) == (expected, [])
    (taken,), _ = read_list(listed(entry), Secret("mine"))
    assert taken.api_key == "mine"


def test_a_plain_list_with_fields_of_the_future_will_do() -> None:
    (taken,), refused = read_list(listed({"url": "http://a:1", "vram": None, "wings": 2, "api_key": "x"}), None)
    assert (taken.id, taken.url, taken.api_key, refused) == ("a:1", "http://a:1", None, [])


def test_workers_that_the_controller_has_from_a_controller_are_not_taken() -> None:
    own, other = ({"id": name, "url": f"http://{name}:1", "source": source} for name, source in
                  (("a", "registered"), ("b", "controller")))  # fmt: skip
    taken, _ = read_list(listed(own, other), None)
    assert [spec.id for spec in taken] == ["a"]


def test_one_bad_worker_does_not_cost_the_others() -> None:
    taken, refused = read_list(
        listed({"url": "http://a:1"}, {"url": "ftp://b"}, 7, {"url": "http://169.254.169.254"}), None
    )
    assert [spec.id for spec in taken] == ["a:1"]
    assert [part in problem for part, problem in zip(("url = 'ftp://b'", "got 7", "metadata"), refused, strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"workers": 1}', b"\xff", b"<html>", b"[" * 100_000])
def test_what_is_no_list_is_an_error(data: bytes) -> None:
    with pytest.raises(ListError, match="expected"):
        read_list(data, None)


def test_the_loopback_of_a_controller_elsewhere_is_not_this_machines() -> None:
    entries = [{"url": url} for url in ("http://127.0.0.1:1", "http://localhost:2", "http://[::1]:3", "http://a:4")]
    taken, refused = read_list(listed(*entries), None, nearby=False)
    assert [spec.url for spec in taken] == ["http://a:4"]
    assert refused[0].endswith("is the controller's own machine; give it the url that others reach it at")
    taken, refused = read_list(listed(*entries), None, nearby=True)
    assert (len(taken), refused) == (4, [])
