"""What a result says, as tables."""

from __future__ import annotations

from rbeerouter.sim import tables
from rbeerouter.sim.types import Group
from tests.sim import results


def column(table: tables.Table, name: str) -> list[str]:
    return [row[table.head.index(name)] for row in table.rows]


def test_each_worker_has_its_requests_and_share() -> None:
    result = results.result()
    table = tables.workers(result)
    assert column(table, "requests") == [f"{worker.group.requests:,}" for worker in result.workers]
    assert column(table, "worker") == [worker.id for worker in result.workers]


def test_what_is_known_of_no_worker_has_no_column() -> None:
    result = results.result()
    assert {"KV hits", "machine cost", "Wh"} <= set(tables.machines(result).head)
    for worker in result.workers:
        worker.kv_hit_rate = worker.machine_cost = worker.energy_wh = None
        worker.loads = 0
    assert tables.machines(result).head == ("worker", "busy", "in flight", "token cost")


def test_a_column_left_out_takes_its_kind_along() -> None:
    made = tables.table("t", "T", ("name", "empty", "number", "words"), [("a", "", "1", "b")], wide=(0, 3), spare=("number",))
    assert (made.head, made.rows, made.wide) == (("name", "number", "words"), (("a", "1", "b"),), {0, 2})
    assert made.without("number").wide == {0, 1}


def test_only_the_users_with_most_requests_are_shown_and_the_rest_is_counted() -> None:
    result = results.result()
    result.users = {f"user-{index}": Group(requests=index) for index in range(1, 31)}
    (users,) = (table for table in tables.groups(result) if table.name == "users")
    assert [row[0] for row in users.rows] == [f"user-{index}" for index in range(30, 10, -1)]
    assert users.note == "10 more users not shown"


def test_reasons_are_split_into_who_and_why_and_the_commonest_is_first() -> None:
    result = results.result()
    result.reasons = {"fallback: least-request": 1, "script: routing.lua:9: short: very": 3}
    assert tables.reasons(result).rows == (
        ("routing.lua:9: short: very", "script", "3", "75%"), ("least-request", "fallback", "1", "25%"),
    )  # fmt: skip


def test_each_line_of_the_script_has_the_requests_that_it_decided() -> None:
    result = results.result(requests=1000)
    decided = {line.number: line.decided for line in tables.lines(result, results.SOURCE) if line.decided}
    assert decided == {6: 250, 9: 100 + 20, 11: 1000 - 250 - 100 - 31}
    assert len(tables.lines(result, results.SOURCE)) == results.SOURCE.count(b"\n")


def test_another_file_or_a_longer_number_is_not_the_line() -> None:
    result = results.result()
    result.reasons = {"script: my-routing.lua:6": 1, "script: routing.lua:66": 2, "script: routing.lua": 4}
    assert [line.decided for line in tables.lines(result, results.SOURCE)] == [0] * 12


def test_without_a_script_there_are_no_lines() -> None:
    result = results.result()
    assert tables.lines(result, None) == []
    result.script = None
    assert tables.lines(result, results.SOURCE) == []


def test_what_is_not_known_is_no_key_figure() -> None:
    result = results.result()
    every = {what for what, _, _ in tables.key_figures(result)}
    result.machine_cost = result.energy_wh = result.kv_hit_rate = result.fairness = result.timing = None
    known = {what for what, _, _ in tables.key_figures(result)}
    assert every - known == {"Cost of machines", "Energy", "KV cache hits", "Fairness", "Time per decision"}


def test_a_result_without_requests_has_tables_all_the_same() -> None:
    result = results.result(requests=0)
    assert column(tables.workers(result), "share") == ["0%"] * 4
    assert tables.headline(result) == "routing.lua: 0 requests to 4 workers in 10 min"


def test_profiles_and_faults_tell_what_was_made_up() -> None:
    scenario = results.scenario()
    assert column(tables.profiles(scenario), "source") == ["RTX 4090, llama.cpp, 8B Q4"] * 4
    assert tables.faults(scenario).rows[1] == ("worker-old-server", "slow", "5 min", "2 min", "3.00")
    assert tables.targets(scenario.targets) == [("Target: first token within", "1.00 s")]


def test_the_ledger_tells_what_you_save_and_of_how_many_requests() -> None:
    told = tables.ledger(results.LEDGER)
    assert column(told, "you save") == ["", "+0.510", "-0.200"]
    assert column(told, "TTFT p95") == ["650 ms", "1.90 s", "400 ms"]
    assert told.note.startswith("Of the first 20,000 requests, simulated again under each rule.")
    assert column(told, "rejected") == ["3", "3", "3"] and "energy" not in told.head and "queue p95" not in told.head
