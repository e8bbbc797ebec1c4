"""What `workers` and the lists made of it can do (lists.lua)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.fleet import Fleet
from tests.support.builders import fill, fleet, quick, request, script, shown, worker


def three_loads() -> Fleet:
    """w1 with two jobs, w2 idle, w3 with one."""
    made = fleet()
    fill(made, "w1", 2)
    fill(made, "w3", 1)
    return made


# Lists.

LISTS = "local one = workers:filter(function(w) return w.id == 'w2' end) local none = workers:filter(function() end)"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("#workers", "3"), ("workers:len()", "3"), ("workers:is_empty()", "false"), ("none:is_empty()", "true"),
        ("#none", "0"), ("none[1]", "nil"), ("none:first()", "nil"),
        ("workers[1].id", "w1"), ("workers[-1].id", "w3"), ("workers[-3].id", "w1"),
        ("workers[4]", "nil"), ("workers:first().id", "w1"), ("workers:last().id", "w3"),
        ("workers:contains(workers[2])", "true"), ("none:contains(workers[2])", "false"),
        ("one:contains(workers[2])", "true"), ("one:contains(workers[1])", "false"), ("#one", "1"), ("one[1].id", "w2"),
        ("one:filter(function() return true end)[1].id", "w2"), ("#workers", "3"), ("workers", "table"),
    ],
)  # fmt: skip
def test_lists_count_from_one_and_from_the_end(expression: str, value: str) -> None:
    assert shown(expression, None, LISTS) == value


@pytest.mark.parametrize(
    "expression",
    [
        "workers[-5]", "workers[-4]", "none[-1]", "none:sort_by('load')[-1]", "workers[1].models[-2]",
        "none:last()", "none:sort_by('load'):last()",
    ],
)  # fmt: skip
def test_there_is_nothing_before_the_first(expression: str) -> None:
    assert shown(expression, None, LISTS) == "nil"


@pytest.mark.parametrize(
    ("kept", "count"), [("1", 3), ("0", 3), ("''", 3), ("true", 3), ("false", 0), ("nil", 0), ("", 0)]
)
def test_filter_keeps_what_lua_takes_for_true(kept: str, count: int) -> None:
    assert shown(f"#workers:filter(function() return {kept} end)") == str(count)


def test_changing_the_list_of_workers_changes_it_for_this_request_only() -> None:
    made, one = fleet(), script("local last = workers[3] for i = #workers, 1, -1 do workers[i] = nil end return last")
    assert [one.route(request(), made).worker for _ in range(2)] == [made.workers["w3"]] * 2


# sort_by.

LESS = {
    "a boolean": "function(a, b) return a.load < b.load end",
    "-1, 0, 1": "function(a, b) return a.load < b.load and -1 or a.load > b.load and 1 or 0 end",
    "a difference": "function(a, b) return a.load - b.load end",
    "<=": "function(a, b) return a.load <= b.load end",
    "true or nil": "function(a, b) if a.load < b.load then return true end end",
    "a field name": "'load'",
}
EACH = "local t = {} for i = 1, #sorted do t[i] = sorted[i].id end"


@pytest.mark.parametrize("order", LESS.values(), ids=list(LESS))
def test_sort_by_takes_every_kind_of_comparator(order: str) -> None:
    expected = "w2 w3 w1"
    before = f"local sorted = workers:sort_by({order})"
    assert shown("table.concat(t, ' ')", three_loads(), f"{before} {EACH}") == expected
    assert shown("sorted[1].id .. sorted[2].id .. sorted[-1].id", three_loads(), before) == expected.replace(" ", "")
    assert shown("sorted[1].id", three_loads(), before) == "w2"
    assert shown("sorted[-1].id", three_loads(), before) == "w1"


@pytest.mark.parametrize(
    "direction", ["function(a, b) return a.load > b.load end", "function(a, b) return b.load - a.load end"]
)
def test_sort_by_sorts_downwards_as_well(direction: str) -> None:
    assert (
        shown("table.concat(t, ' ')", three_loads(), f"local sorted = workers:sort_by({direction}) {EACH}")
        == "w1 w3 w2"
    )


@pytest.mark.parametrize("order", ["function() return true end", "function() return false end", "function() end",
                                   "function() return 0 end", "function() return -1 end", "function() return 0/0 end",
                                   "function() return 'x' end"])  # fmt: skip
def test_a_comparator_without_sense_loses_no_worker(order: str) -> None:
    before = f"local sorted = workers:sort_by({order})"
    assert shown("table.concat(t, ' ')", None, f"{before} {EACH} table.sort(t)") == "w1 w2 w3"
    first, again = (shown(one, None, before) for one in ("sorted[1].id", "sorted[2] and sorted[1].id"))
    assert first == again, "the first of a list that is sorted later must be the first of the sorted list"


def test_a_random_order_loses_no_worker() -> None:
    before = f"local sorted = workers:sort_by(function() return rand() < 0.5 end) {EACH} table.sort(t)"
    made = fleet()
    rows = {
        script(f"{before} error(table.concat(t, ' '), 0)", seed=seed).route(request(), made).error for seed in range(9)
    }
    assert rows == {"routing.lua: w1 w2 w3"}


def test_workers_that_compare_equal_keep_their_order() -> None:
    made = fleet(*(f"w{index:02}" for index in range(40)))
    for index in (3, 17, 30):
        fill(made, f"w{index:02}", 1)
    idle = [f"w{index:02}" for index in range(40) if index not in (3, 17, 30)]
    before = f"local sorted = workers:sort_by('load') {EACH}"
    assert shown("table.concat(t, ' ')", made, before).split() == [*idle, "w03", "w17", "w30"]


def test_workers_without_the_field_come_last() -> None:
    made = fleet(worker("w1"), worker("w2", performance=1.0), worker("w3"), worker("w4", performance=2.0))
    before = f"local sorted = workers:sort_by('performance') {EACH}"
    assert shown("table.concat(t, ' ')", made, before) == "w2 w4 w1 w3"
    assert shown("sorted[1].id", made, "local sorted = workers:sort_by('performance')") == "w2"


def test_a_field_of_texts_sorts_by_their_letters() -> None:
    made = fleet(worker("w1", backend="metal"), worker("w2", backend="cuda"))
    assert shown("workers:sort_by('backend')[1].id", made) == "w2"


def test_sorting_leaves_the_sorted_list_alone() -> None:
    body = "local sorted = workers:sort_by('load') local x = sorted[2]"
    assert shown("workers[1].id .. workers[2].id .. workers[3].id", three_loads(), body) == "w1w2w3"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("#sorted", "3"), ("sorted:len()", "3"), ("sorted:is_empty()", "false"), ("sorted:first().id", "w2"),
        ("sorted:last().id", "w1"), ("sorted[4]", "nil"), ("sorted:contains(workers[1])", "true"),
        ("sorted:filter(function(w) return w.load > 0 end)[1].id", "w3"), ("sorted:sort_by('id')[1].id", "w1"),
        ("sorted:min_by('load').id", "w2"), ("sorted[1].id .. sorted[1].id", "w2w2"), ("sorted", "table"),
    ],
)  # fmt: skip
def test_a_sorted_list_is_a_list(expression: str, value: str) -> None:
    assert shown(expression, three_loads(), "local sorted = workers:sort_by('load')") == value


def test_a_sorted_list_can_be_walked_and_written() -> None:
    before = "local sorted = workers:sort_by('load') local t = {}"
    assert (
        shown("table.concat(t)", three_loads(), f"{before} for _, w in ipairs(sorted) do t[#t + 1] = w.id end")
        == "w2w3w1"
    )
    assert shown("#t", three_loads(), f"{before} for key in pairs(sorted) do t[#t + 1] = key end") == "3"
    assert shown("sorted[1].id .. sorted[3].id", three_loads(), f"{before} sorted[1] = workers[1]") == "w1w1"


def test_nothing_sorted_is_nothing() -> None:
    before = "local sorted = workers:filter(function() end):sort_by('load')"
    assert shown("tostring(sorted[1]) .. tostring(sorted[2]) .. #sorted", None, before) == "nilnil0"


@quick(max_examples=80)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.sampled_from(list(LESS.values())))
def test_sort_by_sorts_as_python_does_and_its_first_is_the_first(loads: list[int], order: str) -> None:
    made = fleet(*(worker(f"w{index:02}", max_concurrency=16) for index in range(len(loads))))
    for index, jobs in enumerate(loads):
        fill(made, f"w{index:02}", jobs)
    ordered = sorted(loads)
    before = f"local sorted = workers:sort_by({order})"
    every = f"{before} local t = {{}} for i = 1, #sorted do t[i] = sorted[i].in_flight end"
    assert [int(load) for load in shown("table.concat(t, ' ')", made, every).split()] == ordered
    assert shown("sorted[1].in_flight", made, before) == str(ordered[0])
    if order != LESS["<="]:
        stable = [f"w{index:02}" for index in sorted(range(len(loads)), key=lambda index: loads[index])]
        assert shown("table.concat(t, ' ')", made, f"{before} {EACH}").split() == stable
        assert shown("sorted[1].id", made, before) == stable[0]


@pytest.mark.parametrize("order", [*LESS.values(), "nil"], ids=[*LESS, "none"])
def test_table_sort_takes_the_same_comparators(order: str) -> None:
    if order == "nil":
        assert shown("table.concat(t, ' ')", None, "local t = {3, 1, 2} table.sort(t)") == "1 2 3"
        return
    before = f"local list = {{workers[1], workers[2], workers[3]}} table.sort(list, {order}) local sorted = list {EACH}"
    assert shown("table.concat(t, ' ')", three_loads(), before) == "w2 w3 w1"


def test_a_sorted_list_is_not_changed_by_what_happens_to_the_list_it_came_from() -> None:
    before = "local sorted = workers:sort_by('load') for i = #workers, 1, -1 do workers[i] = nil end"
    assert shown("sorted[1].id", three_loads(), before) == "w2"


# min_by, max_by.


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("workers:min_by('load').id", "w2"), ("workers:max_by('load').id", "w1"),
        ("workers:min_by(function(w) return -w.load end).id", "w1"),
        ("workers:max_by(function(w) return -w.load end).id", "w2"),
        ("workers:min_by('id').id", "w1"), ("workers:max_by('id').id", "w3"),
        ("workers:min_by('capacity').id", "w1"), ("workers:max_by('capacity').id", "w1"),
        ("workers:min_by('vram').id", "w3"), ("workers:max_by('vram').id", "w1"), ("workers:min_by('ttft_ms')", "nil"),
        ("workers:min_by(function() return 0/0 end)", "nil"),
        ("workers:min_by(function(w) return w.id ~= 'w2' and w.load or 0/0 end).id", "w3"),
        ("workers:filter(function() end):min_by('load')", "nil"),
        ("workers:filter(function() end):max_by('load')", "nil"),
    ],
)  # fmt: skip
def test_min_by_and_max_by_take_the_first_best_and_pass_over_what_has_no_value(expression: str, value: str) -> None:
    made = fleet(worker("w1", vram=80.0), worker("w2"), worker("w3", vram=24.0))
    fill(made, "w1", 2)
    fill(made, "w3", 1)
    assert shown(expression, made) == value
