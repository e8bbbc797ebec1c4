"""What `workers` and the lists made of it can do (lists.lua)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.fleet import Fleet
from rbeerouter.routing.sandbox import Limits
from tests.routing.test_helpers import fnv1a
from tests.support.builders import FULL_WORKER, fill, fleet, picked, quick, request, script, shown, worker


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


# map, any, all, group_by.


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("workers:map(function(w) return w.id end)[2]", "w2"),
        ("workers:map(function(w) return w.id end)[-1]", "w3"),
        ("#workers:map(function(w) if w.load > 0 then return w.load end end)", "2"),
        ("workers:map(function(w) return w.id end):contains('w3')", "true"),
        ("workers:map(function(w) return w.load > 0 end)[2]", "false"),
        ("workers:map(function(w) return w end):filter(function(w) return w.id == 'w2' end)[1].id", "w2"),
        ("workers:map(function(w) return w.in_flight end):sort_by()[1]", "0"),
        ("workers:map(function(w) return w.in_flight end):sort_by(function(a, b) return a > b end)[1]", "2"),
        ("workers:map(function(w) return w.in_flight end):max_by(function(n) return n end)", "2"),
        ("table.concat(workers:map(function(w) return w.id end), '+')", "w1+w2+w3"),
        ("workers:filter(function() end):map(function(w) return w end):is_empty()", "true"),
        ("workers:any(function(w) return w.load == 0 end)", "true"),
        ("workers:any(function(w) return w.load > 1 end)", "false"),
        ("workers:all(function(w) return w.status == 'ready' end)", "true"),
        ("workers:all(function(w) return w.load > 0 end)", "false"),
        ("workers:filter(function() end):any(function() return true end)", "false"),
        ("workers:filter(function() end):all(function() return false end)", "true"),
        ("workers:group_by('in_flight')[0][1].id", "w2"),
        ("#workers:group_by('status').ready", "3"),
        ("workers:group_by('status').ready:sort_by('load')[1].id", "w2"),
        ("workers:group_by('status').offline", "nil"),
        ("workers:group_by('backend')[1]", "nil"),
        ("next(workers:group_by('backend'))", "nil"),
        ("workers:group_by(function(w) return w.load > 0 end)[true]:len()", "2"),
        ("next(workers:group_by(function() return 0/0 end))", "nil"),
        ("workers:group_by(function(w) return workers[1] end)[workers[1]]:len()", "3"),
    ],
)  # fmt: skip
def test_map_any_all_and_group_by(expression: str, value: str) -> None:
    assert shown(f"({expression})", three_loads()) == value


def test_any_and_all_stop_when_they_know() -> None:
    before = "local asked = 0 local function ask(yes) return function() asked = asked + 1 return yes end end"
    assert shown("asked", None, f"{before} workers:any(ask(true)) workers:all(ask(false))") == "2"


# sample.


def times(expression: str, made: Fleet, count: int, before: str = "", **changes: Any) -> Counter[str]:
    """How often an expression gave which text, in so many runs inside of one decision after the other."""
    loop = f"{before} local t = {{}} for i = 1, 100 do t[i] = tostring({expression}) end log(table.concat(t, ' '))"
    one = script(loop, limits=Limits(log_line_chars=10_000, instructions=10**9, cpu_s=5.0))
    counted: Counter[str] = Counter()
    for _ in range(count // 100):
        choice = one.route(request(**changes), made)
        assert choice.error is None, choice.error
        counted.update(choice.log[-1].split(" "))
    return counted


def chi_square(counted: Counter[str], shares: dict[str, float]) -> float:
    """How far off the shares are; `CRITICAL` tells by the number of kinds what is too far."""
    assert set(counted) <= set(shares), counted
    total, weight = counted.total(), sum(shares.values())
    return sum((counted[name] - total * share / weight) ** 2 / (total * share / weight) for name, share in shares.items())


CRITICAL = {2: 10.83, 3: 13.82, 4: 16.27, 8: 24.32, 10: 27.88}
"""Chi-square with one degree of freedom less than kinds exceeds this once in a thousand times."""


def test_a_sample_is_each_item_as_often() -> None:
    counted = times("workers:sample().id", fleet(), 6000)
    assert chi_square(counted, {"w1": 1, "w2": 1, "w3": 1}) < CRITICAL[3], counted


def test_a_sample_of_two_is_each_pair_as_often_in_each_order() -> None:
    pairs = times("(function() local p = workers:sample(2) return p[1].id .. p[2].id end)()", fleet(), 6000)
    orders = {f"w{a}w{b}": 1.0 for a in (1, 2, 3) for b in (1, 2, 3) if a != b}
    assert len(pairs) == 6 and chi_square(pairs, orders) < 20.52, pairs


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("#workers:sample(0)", "0"), ("#workers:sample(1)", "1"), ("#workers:sample(3)", "3"), ("#workers:sample(99)", "3"),
        ("workers:sample(3):sort_by('id')[1].id", "w1"), ("#workers:sample(1 << 53)", "3"),
        ("workers:filter(function() end):sample()", "nil"), ("#workers:filter(function() end):sample(2)", "0"),
        ("#workers", "3"), ("workers:sample(2):contains(workers:sample(3)[4])", "false"),
    ],
)  # fmt: skip
def test_a_sample_has_up_to_so_many_different_items(expression: str, value: str) -> None:
    assert shown(f"({expression})") == value


@pytest.mark.parametrize("count", ["-1", "1.5", "2.0", "'2'", "0/0", "{}", "math.mininteger"])
def test_a_sample_of_no_whole_number_is_refused(count: str) -> None:
    assert "sample expects a whole number that is not negative, got " in str(picked(f"return workers:sample({count})"))


def test_taking_a_sample_leaves_the_list_alone() -> None:
    assert shown("workers[1].id .. workers[2].id .. workers[3].id", None, "for i = 1, 50 do workers:sample(3) end") == "w1w2w3"


# weighted.


@pytest.mark.parametrize(
    ("weight", "shares"),
    [
        ("'performance'", {"w1": 1.0, "w2": 2.0, "w3": 7.0}),
        ("function(w) return w.performance end", {"w1": 1.0, "w2": 2.0, "w3": 7.0}),
        ("function(w) return w.performance * 1e200 end", {"w1": 1.0, "w2": 2.0, "w3": 7.0}),
        ("function(w) return w.performance / 1e200 end", {"w1": 1.0, "w2": 2.0, "w3": 7.0}),
        ("function(w) return w.id ~= 'w3' and w.performance or nil end", {"w1": 1.0, "w2": 2.0}),
        ("function(w) return w.id == 'w3' and 0 or w.performance end", {"w1": 1.0, "w2": 2.0}),
        ("function(w) return w.id == 'w3' and -5 or w.performance end", {"w1": 1.0, "w2": 2.0}),
        ("function(w) return w.id == 'w3' and 0/0 or w.performance end", {"w1": 1.0, "w2": 2.0}),
        ("function(w) return w.id == 'w3' and -1/0 or w.performance end", {"w1": 1.0, "w2": 2.0}),
        ("function(w) return 0 end", {"w1": 1.0, "w2": 1.0, "w3": 1.0}),
        ("'role'", {"w1": 1.0, "w2": 1.0, "w3": 1.0}),
        ("function(w) return w.id == 'w2' and 1 or 0 end", {"w2": 1.0}),
    ],
)  # fmt: skip
def test_weighted_takes_each_item_as_often_as_its_weight_tells(weight: str, shares: dict[str, float]) -> None:
    made = fleet(*(worker(f"w{number}", performance=value) for number, value in ((1, 1.0), (2, 2.0), (3, 7.0))))
    counted = times(f"workers:weighted({weight}).id", made, 6000)
    if len(shares) == 1:
        assert set(counted) == set(shares)
    else:
        assert chi_square(counted, shares) < CRITICAL[len(shares)], counted


def test_weighted_of_nothing_is_nothing() -> None:
    assert shown("workers:filter(function() end):weighted('load')") == "nil"


@pytest.mark.parametrize(
    ("weight", "error"),
    [
        ("'id'", "weighted: a weight is a number, got a string"),
        ("function() return {} end", "weighted: a weight is a number, got a table"),
        ("function() return true end", "weighted: a weight is a number, got a boolean"),
        ("function() return 1/0 end", "weighted: the weight inf is too large"),
        ("function() return 1e301 end", "weighted: the weight 1e+301 is too large"),
        ("5", "weighted expects a function or a field name, got number"),
        ("'wieght'", "a worker has no field 'wieght'; did you mean 'id'?"),
    ],
)
def test_a_weight_is_a_number(weight: str, error: str) -> None:
    assert str(picked(f"return workers:weighted({weight})")).startswith("routing.lua:2: " + error.partition(";")[0])


# pick_by_hash.

KEYS = [f"user-{number}" for number in range(4000)]


def homes(made: Fleet) -> list[str]:
    """Where each key lives."""
    body = "local t = {} for i = 0, 3999 do t[#t + 1] = workers:pick_by_hash('user-' .. i).id end log(table.concat(t, ' '))"
    one = script(body, limits=Limits(log_line_chars=100_000, instructions=10**9, cpu_s=5.0))
    choice = one.route(request(), made)
    assert choice.error is None, choice.error
    return choice.log[-1].split(" ")


@pytest.mark.parametrize("count", [2, 3, 8, 10])
def test_keys_are_spread_evenly_also_over_ids_that_differ_in_their_last_letter_only(count: int) -> None:
    ids = [f"gpu{number}" for number in range(1, count + 1)]
    counted = Counter(homes(fleet(*ids)))
    assert chi_square(counted, dict.fromkeys(ids, 1.0)) < CRITICAL[count], counted


def test_when_a_worker_leaves_only_its_own_keys_move_and_they_spread_evenly() -> None:
    ids = [f"gpu{number}" for number in range(1, 9)]
    before, after = homes(fleet(*ids)), homes(fleet(*(name for name in ids if name != "gpu3")))
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {old for old, _ in moved} == {"gpu3"} and len(moved) == before.count("gpu3")
    counted = Counter(new for _, new in moved)
    assert chi_square(counted, {name: 1.0 for name in ids if name != "gpu3"}) < 22.46, counted


def test_the_home_of_a_key_depends_on_neither_order_nor_load() -> None:
    ids = [f"gpu{number}" for number in range(1, 9)]
    other = fleet(*reversed(ids))
    fill(other, "gpu1", 4)
    assert homes(fleet(*ids)) == homes(other)


def home(key: bytes, ids: Sequence[str]) -> str:
    """Rendezvous hashing as the comments of lists.lua and helpers.lua tell it."""

    def score(name: str) -> int:
        value = fnv1a(key + b"\0" + name.encode())
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            value = (value ^ value >> 33) * factor % (1 << 64)
        return (value ^ value >> 33) >> 1

    return max(ids, key=score)


def test_the_home_of_a_key_is_the_same_in_every_process_and_version() -> None:
    ids = [f"gpu{number}" for number in range(1, 9)]
    found = [shown(f"workers:pick_by_hash('{key}').id", fleet(*ids)) for key in ("", "a", "ann", "session-42", "ü")]
    assert found == [home(key.encode(), ids) for key in ("", "a", "ann", "session-42", "ü")]
    assert found == ["gpu1", "gpu3", "gpu4", "gpu7", "gpu3"]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("workers:filter(function() end):pick_by_hash('k')", "nil"), ("workers:pick_by_hash(5) == workers:pick_by_hash('5')", "true"),
        ("workers[1].models:pick_by_hash('k')", "m"), ("('a b c'):split():pick_by_hash('k') ~= nil", "true"),
        ("workers:sort_by('load'):pick_by_hash('k') == workers:pick_by_hash('k')", "true"),
    ],
)  # fmt: skip
def test_pick_by_hash_of_other_things(expression: str, value: str) -> None:
    assert shown(expression) == value


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("workers:pick_by_hash()", "bad argument #1 to 'pick_by_hash' (string expected, got nil)"),
        ("workers:pick_by_hash(request.user_id)", "bad argument #1 to 'pick_by_hash' (string expected, got nil)"),
        ("workers:pick_by_hash({})", "bad argument #1 to 'pick_by_hash' (string expected, got table)"),
        ("workers:map(function() return {} end):pick_by_hash('k')",
         "bad argument #1 to 'pick_by_hash' (string expected, got table)"),
    ],
)  # fmt: skip
def test_a_key_is_a_text(call: str, error: str) -> None:
    assert picked(f"return {call}") == f"routing.lua:2: {error}"


# Lists of the script's own, and lists of texts.


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("workers[1].models:filter(function(m) return m:starts_with('b') end)[1]", "b"),
        ("workers[1].models:any(function(m) return m == 'c' end)", "true"),
        ("workers[1].models:sort_by(function(a, b) return a > b end)[1]", "c"),
        ("workers[1].models:map(function(m) return m:upper() end)[2]", "B"),
        ("workers[1].models:last()", "c"), ("#workers[1].models:sample(2)", "2"),
        ("workers[1].models:group_by(function(m) return #m end)[1]:len()", "3"),
        ("workers[1].loras:is_empty()", "true"), ("workers[1].loras[1]", "nil"),
        ("workers.filter({ 1, 2, 3 }, function(n) return n > 1 end)[1]", "2"),
        ("workers.max_by({ 'a', 'bbb', 'cc' }, function(t) return #t end)", "bbb"),
    ],
)  # fmt: skip
def test_lists_of_texts_have_the_same_methods(expression: str, value: str) -> None:
    assert shown(expression, fleet(FULL_WORKER)) == value


@pytest.mark.parametrize("name", ["filter", "sort_by", "min_by", "max_by", "map", "any", "all", "group_by", "first", "last", "len",
                                  "is_empty", "contains", "sample", "weighted", "pick_by_hash"])  # fmt: skip
def test_every_method_tells_to_be_called_with_a_colon(name: str) -> None:
    assert picked(f"return workers.{name}()") == f"routing.lua:2: call it with a colon: list:{name}(...)"


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("flter", "filter"), ("sortby", "sort_by"), ("sort_By", "sort_by"), ("frist", "first"), ("lenght", "len"), ("size", None),
     ("pick_by_hsah", "pick_by_hash"), ("wieghted", "weighted")],
)  # fmt: skip
def test_an_unknown_name_of_a_list_tells_the_nearest(wrong: str, near: str | None) -> None:
    for receiver in ("workers", "workers:sort_by('load')", "workers[1].models", "('a b'):split()"):
        told = str(picked(f"local x = {receiver}.{wrong}"))
        expected = f"routing.lua:2: a list has no '{wrong}'"
        assert told.startswith(expected)
        if wrong != "lenght":
            assert told == expected + (f"; did you mean '{near}'?" if near else "")


def test_a_table_that_claims_an_enormous_length_costs_the_budget_and_no_more() -> None:
    sparse = "local t = {} for i = 1, 9 do t[i] = 1 end t[16], t[17] = 1, 1 for i = 5, 50 do t[1 << i] = 1 end "
    for call in ("workers.sort_by(t)[2]", "workers.sample(t, 1)", "workers.filter(t, print)", "table.sort(t)", "workers.map(t, print)"):
        assert str(picked(f"{sparse} local x = {call}")).endswith("budget exceeded"), call
