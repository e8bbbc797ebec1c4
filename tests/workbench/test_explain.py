"""Tests of the record of a decision: who was left out where, and how close the runner-up was."""

from __future__ import annotations

import msgspec
import pytest

from rbeerouter.config.sections import Limits, Routing
from rbeerouter.core.errors import RouterError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.models import Model, Models
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.sandbox import Abilities
from rbeerouter.routing.script import Script
from rbeerouter.workbench.explain import explain, read_request, render
from rbeerouter.workbench.fleets import Row, fleet_of
from tests.support.builders import env, fleet, lua, request, worker

FLEET = [
    Row("gpu1", in_flight=2, backend="cuda", models=("m",)), Row("gpu2", in_flight=1, backend="cuda", models=("m",)),
    Row("cpu1", backend="cpu", models=("m",)), Row("off", "offline"),
]  # fmt: skip


def told(body: str | None, fleet: Fleet | None = None, **changes: object) -> dict:
    script = Script(lua(body), "routing.lua", env(), None, Abilities(explain=True)) if body is not None else None
    return explain(request(**changes), Decider(fleet or fleet_of(FLEET), script, "least-request", env(), debug=True))


def steps(record: dict) -> dict[str, list[tuple]]:
    return {
        row["id"]: [(step["by"], step.get("line"), step.get("read")) for step in row.get("steps", ())]
        for row in record["workers"]
    }


def test_each_filter_names_its_line_and_what_it_looked_at() -> None:
    record = told(
        "local ready = workers:filter(function(w) return w.status == 'ready' end)\n"
        "local gpus = ready:filter(function(w) return w.backend == 'cuda' end)\n"
        "return gpus:sort_by(function(a, b) return a.load < b.load end)[1]"
    )
    assert (record["worker"], record["reason"]) == ("gpu2", "routing.lua:4")
    assert steps(record) == {
        "gpu1": [("sort_by", 4, {"load": 0.5})],
        "gpu2": [("sort_by", 4, {"load": 0.25})],
        "cpu1": [("filter", 3, {"backend": "cpu"})],
        "off": [("filter", 2, {"status": "offline"})],
    }
    assert record["runner_up"] == {"worker": "gpu1", "by": "sort_by", "line": 4, "margin": {"load": 0.25}}


def test_a_whole_order_tells_places() -> None:
    record = told("local sorted = workers:sort_by('in_flight')\nreturn {sorted[2], sorted[1]}")
    places = {row["id"]: row["steps"][0]["place"] for row in record["workers"]}
    assert (record["worker"], record["order"]) == ("off", ["cpu1"]) or places == {"cpu1": 1, "off": 2, "gpu2": 3, "gpu1": 4}


@pytest.mark.parametrize(
    ("body", "action", "more"),
    [
        ("return reject{status = 429, message = 'no', retry_after = 3}", "reject", {"status": 429, "message": "no", "retry_after": 3}),
        ("return queue('off')", "wait", {"worker": "off"}),
        ("return queue('gpu1')", "send", {"worker": "gpu1"}),
        ("return queue()", "send", {"worker": "cpu1"}),
        ("return {worker = 'gpu1', model = 'big'}", "send", {"worker": "gpu1", "sent_model": "big"}),
        ("return nil", "send", {"worker": "cpu1", "by": "strategy"}),
        ("error('nobody')", "send", {"by": "fallback", "script_error": "routing.lua:2: nobody"}),
    ],
)
def test_every_sort_of_answer_is_told(body: str, action: str, more: dict) -> None:
    record = told(body)
    assert record["action"] == action
    assert {key: record.get(key) for key in more} == more


def test_without_a_script_the_strategy_tells_why() -> None:
    record = told(None)
    assert (record["worker"], record["by"]) == ("cpu1", "strategy")
    why = {row["id"]: row["steps"][0]["why"] for row in record["workers"] if "steps" in row}
    assert why == {
        "gpu1": "least-request chose cpu1 (load 0.50 against 0.00)",
        "gpu2": "least-request chose cpu1 (load 0.25 against 0.00)", "off": "offline",
    }  # fmt: skip


def test_a_request_that_nobody_can_serve_is_told_as_the_client_would_be() -> None:
    record = told("return nil", fleet_of([Row("a", models=("other",))]))
    assert (record["worker"], record["action"], record["status"], record["error"]) == (None, "fail", 404, "model_not_found")


def test_the_record_is_json_and_text() -> None:
    source = lua("return workers:filter(function(w) return w.backend == 'cuda' end):min_by('load')")
    script = Script(source, "routing.lua", env(), None, Abilities(explain=True))
    record = explain(request(), Decider(fleet_of(FLEET), script, "least-request", env(), debug=True))
    assert msgspec.json.decode(msgspec.json.encode(record)) == record
    text = render(record, source)
    assert text.splitlines()[0] == "gpu2   by script: routing.lua:2"
    assert "runner-up gpu1: load +0.25" in text
    assert "filter at line 2: dropped (backend = cpu)" in text
    assert "   2 | return workers:filter" in text


def test_a_request_is_read_with_its_headers_or_as_a_body_alone() -> None:
    body = {"model": "m", "user": "anna", "messages": []}
    asked = {"body": body, "path": "/v1/completions", "headers": {"X-RBEE-Meta-Tier": "premium", "X-Session-Id": "s", "User-Agent": "u"}}
    made = read_request(msgspec.json.encode(asked), Limits(), Routing(request_headers=("user-agent",)))
    assert (made.path, made.metadata["tier"], made.session_id, made.headers) == (
        "/v1/completions", "premium", "s", {"user-agent": "u"},
    )  # fmt: skip
    assert read_request(msgspec.json.encode(body), Limits()).user_id == "anna"


@pytest.mark.parametrize("text", [b"{", b"[]", b"1", b'{"body": 1}', b'{"model": 1}', b'{"body": {}, "extra": 1}', b"\xff"])
def test_what_is_no_request_is_refused(text: bytes) -> None:
    with pytest.raises(RouterError):
        read_request(text, Limits())


def test_an_alias_a_side_and_the_name_that_is_sent_are_taken_as_in_a_true_request() -> None:
    made = fleet(worker("gpu", models=("x",), model_names={"llama": "x"}), worker("cloud", models=("llama",), deployment="remote"))
    models = Models([Model("llama", aliases=("default",))])
    for side, sent in (("local", "x"), ("remote", "llama")):
        text = msgspec.json.encode({"body": {"model": "default"}, "headers": {"X-Rbee-Deployment": side}})
        record = explain(read_request(text, Limits()), Decider(made, None, "least-request", env(), debug=True, models=models))
        assert (record["worker"], record["sent_model"]) == ("gpu" if side == "local" else "cloud", sent)
