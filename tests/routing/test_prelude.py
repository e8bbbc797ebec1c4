"""What a script can read and call (prelude.lua): the request, the workers, lists, helpers; the line an error names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.fleet import Fleet
from tests.support.builders import (
    FULL_WORKER,
    WALL,
    Clock,
    down,
    fill,
    fleet,
    picked,
    quick,
    request,
    script,
    shown,
    worker,
)


def three_loads() -> Fleet:
    """w1 with two jobs, w2 idle, w3 with one."""
    made = fleet()
    fill(made, "w1", 2)
    fill(made, "w3", 1)
    return made


# What a script reads of the request.


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("request.model", "llama-3-8b"),
        ("request.model_size", "8.0"),
        ("request.user_id", "ann@example.com"),
        ("request.priority", "high"),
        ("request.max_tokens", "256"),
        ("math.type(request.max_tokens)", "integer"),
        ("request.stream", "true"),
        ("request.metadata.tier", "premium"),
        ("request.metadata:get('tier')", "premium"),
        ("request.metadata:get('tier', 'free')", "premium"),
        ("request.metadata.type", "llm"),
        ("request.metadata.cost + 1", "3.5"),
        ("request.metadata.n", "7"),
        ("request.metadata.beta", "true"),
        ("request.metadata.no", "nil"),
        ("request.metadata:get('no')", "nil"),
        ("request.metadata:get('no', 'free')", "free"),
        ("request.metadata:get('off', true)", "false"),
        ("request.nothing", "nil"),
        ("type(request.metadata)", "table"),
    ],
)
def test_a_script_reads_every_field_of_the_request(expression: str, value: str) -> None:
    given_metadata = {"tier": "premium", "type": "llm", "cost": 2.5, "n": 7, "beta": True, "off": False}
    assert (
        shown(
            expression, model="llama-3-8b", model_size=8.0, user_id="ann@example.com", priority="high", max_tokens=256,
            stream=True, metadata=given_metadata,
        )
        == value
    )  # fmt: skip


@pytest.mark.parametrize("field", ["model_size", "user_id", "priority", "max_tokens"])
def test_what_the_client_did_not_say_is_nil(field: str) -> None:
    assert shown(f"request.{field}") == "nil"


def test_a_priority_may_be_a_number() -> None:
    assert shown("request.priority < 5", priority=3) == "true"


@quick(max_examples=60)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.text(st.characters(exclude_categories=["Cs"]))
)
def test_any_text_reaches_the_script_byte_for_byte(model: str, value: str) -> None:
    expected = f"{len(model.encode())} {fold(model.encode())} {len(value.encode())} {fold(value.encode())}"
    seen = shown(
        "#request.model .. ' ' .. hash_str(request.model) .. ' ' .. #value .. ' ' .. hash_str(value)",
        before="local value = request.metadata.value",
        model=model,
        metadata={"value": value},
    )
    assert seen == expected


def test_what_a_script_writes_into_a_request_is_gone_with_the_next_one() -> None:
    made, one = fleet(), script("request.model = 'x' request.metadata.tier = 'x' return request.seen or 'w1'")
    assert [one.route(request(), made).worker for _ in range(2)] == [made.workers["w1"]] * 2
    both = script("local was = request.metadata.tier request.metadata.tier = 'w2' return was or 'w1'")
    assert [both.route(request(), made).worker for _ in range(2)] == [made.workers["w1"]] * 2


def test_a_client_cannot_break_the_script_by_the_names_in_its_metadata() -> None:
    assert shown("request.metadata:get('tier', 'free')", metadata={"get": "x", "type": "llm"}) == "free"


# What a script reads of the workers.


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("w.id", "gpu-1"), ("w.status", "ready"), ("w.backend", "cuda"), ("w.vram", "24.0"), ("w.vram_used", "nil"),
        ("w.load", "0.25"), ("w.performance", "1.5"), ("w.cost_per_hour", "0.75"), ("w.engine", "vllm"),
        ("w.capacity", "8"), ("w.in_flight", "2"), ("w.metadata.region", "eu"), ("w.metadata:get('tier')", "2"),
        ("w.metadata:get('no')", "nil"), ("w.metadata:get('no', 9)", "9"), ("w.metadata.spot", "true"),
        ("w.metadata.no", "nil"), ("w.metadata.price * 2", "1.0"), ("w.nothing", "nil"), ("w", "worker(gpu-1)"),
        ("#w.models", "3"), ("w.models[1]", "a"), ("w.models[3]", "c"), ("w.models[-1]", "c"), ("w.models[-3]", "a"),
        ("w.models[4]", "nil"), ("w.models[0]", "nil"), ("w.models:contains('b')", "true"),
        ("w.models:contains('x')", "false"), ("w.models:contains(nil)", "false"), ("w.models:len()", "3"),
        ("w.models:is_empty()", "false"), ("w.models:first()", "a"), ("w.models:last()", "c"),
        ("table.concat({w.models[1], w.models[2]}, '+')", "a+b"),
    ],
)  # fmt: skip
def test_a_script_reads_every_field_of_a_worker(expression: str, value: str) -> None:
    made = fleet(FULL_WORKER)
    fill(made, "gpu-1", 2)
    assert shown(expression, made, "local w = workers[1]") == value


def test_a_worker_of_which_little_is_said_has_little_to_read() -> None:
    made = fleet(worker("w1"))
    names = ("backend", "vram", "vram_used", "performance", "cost_per_hour")
    assert shown(" .. ' ' .. ".join(f"tostring(workers[1].{name})" for name in names), made) == " ".join(["nil"] * 5)
    assert shown(
        "#workers[1].models .. tostring(workers[1].models:is_empty()) .. tostring(workers[1].models[1])", made
    ) == ("0truenil")


def test_a_script_sees_every_worker_whatever_its_status() -> None:
    made = fleet()
    fill(made, "w2", 4)
    down(made, "w3")
    listed = "for _, w in ipairs(workers) do t[#t + 1] = w.id .. '=' .. w.status end"
    assert shown("table.concat(t, ' ')", made, f"local t = {{}} {listed}") == "w1=ready w2=busy w3=offline"


@pytest.mark.parametrize(
    ("walk", "found"),
    [
        ("pairs(workers[1])",
         "backend capacity cost_per_hour engine id in_flight load metadata models performance status vram"),
        ("pairs(workers[1].models)", "1 2 3"),
        ("ipairs(workers[1].models)", "1 2 3"),
        ("pairs(workers[1].metadata)", "price region spot tier"),
        ("pairs(workers)", "1"),
        ("pairs(request)", "metadata model stream"),
        ("pairs(request.metadata)", "type"),
    ],
)  # fmt: skip
def test_tables_can_be_walked(walk: str, found: str) -> None:
    body = f"local t = {{}} for key in {walk} do t[#t + 1] = tostring(key) end table.sort(t)"
    assert shown("table.concat(t, ' ')", fleet(FULL_WORKER), body) == found


@pytest.mark.parametrize(
    "statement",
    [
        "workers[1].load = 0",
        "workers[1].new = 0",
        "workers[1].metadata.region = 'x'",
        "workers[1].models[1] = 'x'",
        "string.rep = nil",
        "table.sort = nil",
        "math.huge = 0",
    ],
)
def test_workers_and_libraries_cannot_be_changed(statement: str) -> None:
    key = statement.partition(" =")[0].rpartition(".")[2].removeprefix("models[").removesuffix("]")
    key = "1" if "models" in statement else key
    assert picked(statement) == f"routing.lua:2: cannot set '{key}': this object is read-only"


def test_walking_never_hands_out_what_can_be_changed() -> None:
    made = fleet()
    body = (
        "for _, object in ipairs({workers[1], workers[1].metadata, workers[1].models}) do local _, raw = pairs(object)"
    )
    assert picked(f"{body} raw.load = 9 end", made) == "routing.lua:2: cannot set 'load': this object is read-only"
    assert picked("return workers[1].load == 0 and workers[1]", made) == "w1"


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
        ("workers:min_by('vram').id", "w3"), ("workers:max_by('vram').id", "w1"), ("workers:min_by('no')", "nil"),
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


# Texts.


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("('llama-3-8b'):starts_with('llama')", "true"), ("('llama'):starts_with('llama-3')", "false"),
        ("('llama'):starts_with('')", "true"), ("('llama'):ends_with('ma')", "true"),
        ("('llama'):ends_with('')", "true"),
        ("('llama'):ends_with('x')", "false"), ("('llama'):contains('lam')", "true"),
        ("('llama'):contains('.')", "false"),
        ("('llama'):contains('')", "true"), ("('a.b'):contains('.')", "true"),
        ("string.starts_with('ab', 'a')", "true"),
        ("('x'):rep(3)", "xxx"), ("('x'):rep(3, '-')", "x-x-x"), ("('x'):rep(0)", ""), ("('x'):rep(-1)", ""),
        ("('Ab'):upper() .. ('Ab'):lower()", "ABab"), ("('abc'):reverse()", "cba"), ("('abc'):sub(2, -1)", "bc"),
        ("('abc'):byte()", "97"), ("select('#', ('abc'):byte(1, -1))", "3"), ("string.char(104, 105)", "hi"),
        ("('abc'):len()", "3"), ("('a=1'):match('^(%w+)=(%d)$')", "a"), ("('abc'):find('b', 1, true)", "2"),
        ("('a b'):gsub(' ', '_')", "a_b"), ("('abc'):gsub('%w', function(c) return c:upper() end)", "ABC"),
        ("('abc'):gsub('b', {b = 'x'})", "axc"), ("string.format('%s %d %.1f %s', 'a', 3, 2.5, true)", "a 3 2.5 true"),
        ("tostring(nil) .. tostring(1.5) .. tostring(true)", "nil1.5true"), ("tonumber('12') + 1", "13"),
        ("utf8.len('grün')", "4"), ("#'grün'", "5"), ("utf8.codepoint('ü')", "252"),
        ("table.concat({1, 2}, ',')", "1,2"),
        ("select('#', table.unpack({1, 2, 3}))", "3"), ("table.pack(1, 2).n", "2"), ("math.floor(1.5)", "1"),
        ("#{table.remove({1, 2})}", "1"), ("type(next)", "function"), ("assert(5)", "5"),
    ],
)  # fmt: skip
def test_the_library_that_is_left_does_what_lua_does(expression: str, value: str) -> None:
    assert shown(f"({expression})") == value


def test_all_words_of_a_text_can_be_walked() -> None:
    body = "local t = {} for word in ('a b c'):gmatch('%a') do t[#t + 1] = word end"
    assert shown("table.concat(t, '+')", None, body) == "a+b+c"


def test_tables_show_as_a_word_and_never_as_an_address() -> None:
    shows = "tostring({}) .. tostring(print) .. tostring(workers) .. tostring(request) .. tostring(hash_str)"
    assert picked(f"return {shows.replace('tostring(print) .. ', '')}").endswith("'tabletabletablefunction'")  # type: ignore[union-attr]


# rand, timestamp, hash_str.


def test_rand_is_at_least_zero_and_below_one_and_follows_the_seed() -> None:
    body = "local t = {} for i = 1, 20 do t[i] = string.format('%.6f', rand()) end"
    rolls = [
        [float(roll) for roll in (script(f"{body} error(table.concat(t, ' '), 0)", seed=seed)
                                  .route(request(), fleet()).error or "").split()[1:]]
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert rolls[0] == rolls[1] != rolls[2]
    assert all(0 <= roll < 1 for roll in rolls[0]) and len(set(rolls[0])) == 20


@pytest.mark.parametrize(
    ("offset_s", "expected"),
    [(0, "12 0 0"), (3600, "13 0 0"), (-5 * 3600, "7 0 0"), (5 * 3600 + 1800, "17 30 0"), (12 * 3600, "0 0 1"),
     (-12 * 3600 - 60, "23 59 6")],
)  # fmt: skip
def test_the_clock_shows_local_time(offset_s: int, expected: str) -> None:
    clock = Clock()
    clock.utc_offset_s = offset_s
    asked = "local t = timestamp() error(t:hour() .. ' ' .. t:minute() .. ' ' .. t:weekday(), 0)"
    choice = script(asked, clock=clock).route(request(), fleet())
    assert choice.error == f"routing.lua: {expected}"


def test_the_clock_moves_with_each_request_and_daylight_saving_is_seen_within_a_minute() -> None:
    clock = Clock()
    one = script("error(timestamp():hour() .. ':' .. timestamp():minute(), 0)", clock=clock)
    seen = []
    for seconds, offset_s in ((0.0, 0), (3600.0, 0), (10.0, 3600), (50.0, 3600), (-7200.0, 3600)):
        clock.advance(seconds)
        clock.utc_offset_s = offset_s
        seen.append((one.route(request(), fleet()).error or "").removeprefix("routing.lua: "))
    assert seen == ["12:0", "13:0", "13:0", "14:1", "12:1"]


def test_the_clock_tells_unix_seconds() -> None:
    assert shown("timestamp():epoch()") == str(WALL)


def fold(data: bytes) -> int:
    """FNV-1a, 64 bits, its halves folded into one: written from the definition, not from prelude.lua."""
    value = fnv1a(data)
    return (value ^ value >> 32) & 0xFFFFFFFF


def fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for octet in data:
        value = (value ^ octet) * 0x100000001B3 % (1 << 64)
    return value


def test_the_reference_gives_the_published_hashes() -> None:
    assert [fnv1a(text) for text in (b"", b"a", b"foobar")] == [
        0xCBF29CE484222325, 0xAF63DC4C8601EC8C, 0x85944171F73967E8,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "a", "foobar", "user-42", "ü", "x" * 7, "x" * 8, "x" * 9, "x" * 16, "x" * 1000])
def test_hash_str_is_folded_fnv_1a(text: str) -> None:
    assert shown(f"hash_str({text!r})") == str(fold(text.encode()))


def test_hash_str_never_changes() -> None:
    assert [shown(f"hash_str('{text}')") for text in ("", "a", "foobar", "user-42")] == [
        "1339080641", "694300864", "1923950233", "2146635118",
    ]  # fmt: skip


@quick(max_examples=80)
@given(st.binary(max_size=60))
def test_hash_str_hashes_any_bytes(data: bytes) -> None:
    spelled = "".join(f"\\x{octet:02x}" for octet in data)
    assert shown(f"hash_str('{spelled}')") == str(fold(data))


def test_hash_str_of_a_number_hashes_its_digits() -> None:
    assert shown("hash_str(12345)") == str(fold(b"12345"))


# Errors name the line.


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("error('no workers')", "routing.lua:3: no workers"),
        ("error('no workers', 0)", "routing.lua: no workers"),
        ("error()", "routing.lua: the error value is a nil"),
        ("error({})", "routing.lua: the error value is a table"),
        ("error(workers[1])", "routing.lua: the error value is a table"),
        ("error(42.5)", "routing.lua: 42.5"),
        ("error('\\xff\\xc3x')", "routing.lua:3: ??x"),
        ("local x = workers[1].gpu.name", "routing.lua:3: attempt to index a nil value (field 'gpu')"),
        ("local x = 1 + {}", "routing.lua:3: attempt to perform arithmetic on a table value"),
        ("nothing()", "routing.lua:3: attempt to call a nil value (global 'nothing')"),
        ("workers.filter(function() end)", "routing.lua:3: call it with a colon: workers:filter(...)"),
        ("workers.sort_by('load')", "routing.lua:3: call it with a colon: workers:sort_by(...)"),
        ("request.metadata.get('x')", "routing.lua:3: call it with a colon: metadata:get(\"key\", default)"),
        ("workers[1].metadata.get('x')", "routing.lua:3: call it with a colon: metadata:get(\"key\", default)"),
        ("workers:filter()", "routing.lua:3: filter expects a function"),
        ("workers:filter('load')", "routing.lua:3: filter expects a function"),
        ("workers:min_by()", "routing.lua:3: min_by expects a function or a field name"),
        ("workers:max_by(5)", "routing.lua:3: max_by expects a function or a field name"),
        ("local x = workers[0]", "routing.lua:3: lists start at [1] in Lua; there is no [0]"),
        ("workers:any()",
         "routing.lua:3: a list has no 'any'; it has filter, sort_by, min_by, max_by, first, last, len, "
         "is_empty, contains"),
        ("workers:filter(function(w)\nreturn w.load < w.nothing end)",
         "routing.lua:4: attempt to compare number with nil"),
        ("local x = workers:sort_by(function(a, b)\nreturn a.no < b.no end)[1]",
         "routing.lua:4: attempt to compare two nil values"),
        ("workers:min_by(function(w) return w.no.x end)", "routing.lua:3: attempt to index a nil value (field 'no')"),
        ("counter = 1", "routing.lua:3: assignment to the undeclared global 'counter'; write: local counter"),
        ("hash_str({})", "routing.lua:3: bad argument #1 to 'hash_str' (string expected, got table)"),
        ("hash_str(nil)", "routing.lua:3: bad argument #1 to 'hash_str' (string expected, got nil)"),
        ("('x'):starts_with(nil)", "routing.lua:3: bad argument #2 to 'starts_with' (string expected, got nil)"),
        ("string.rep('x', 'y')", "routing.lua:3: bad argument #2 to 'rep' (integer expected, got string)"),
        ("string.format('%s', {})", "routing.lua:3: cannot format a table"),
        ("table.insert(nil, 1)", "routing.lua:3: bad argument #1 to 'insert' (table expected, got nil)"),
        ("table.sort(5)", "routing.lua:3: call it with a colon: workers:sort(...)"),
        ("assert(false, 'not good')", "routing.lua:3: not good"),
        ("table.unpack({}, 1, 2^53)", "routing.lua:3: unpack gives at most 256 values"),
    ],
)  # fmt: skip
def test_an_error_names_its_line_and_says_what_to_write(statement: str, error: str) -> None:
    assert picked(f"local before = 1\n{statement}\nreturn workers[1]") == error


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("workers:sort_by(5)", "sort_by expects a function or a field name"),
        ("workers.min_by('load')", "call it with a colon: workers:min_by(...)"),
        ("do return hash_str({}) end", "bad argument #1 to 'hash_str' (string expected, got table)"),
        ("do return workers:filter() end", "filter expects a function"),
        ("do return workers:any() end",
         "a list has no 'any'; it has filter, sort_by, min_by, max_by, first, last, len, is_empty, contains"),
        ("table.sort({2, 1}, 5)", "table.sort expects a function or a field name"),
        ("string.find(('a'):rep(3000), '.-.-.-.-b')", "the pattern is too expensive for a text of 3000 bytes"),
        ("string.find('a', ('a'):rep(300))", "the pattern is longer than 256 bytes"),
        ("string.find(('a'):rep(60000), ('a'):rep(3000), 1, true)", "the text is too long to search"),
        ("local x = workers:sort_by('load')[0]", "lists start at [1] in Lua; there is no [0]"),
        ("workers:sort_by('load'):any()",
         "a list has no 'any'; it has filter, sort_by, min_by, max_by, first, last, len, is_empty, contains"),
        ("string.format('%d', 'x')", "bad argument #2 to 'format' (number expected, got string)"),
        ("table.insert({}, 5, 5)", "bad argument #2 to 'insert' (position out of bounds)"),
        ("string.gsub('x', 'x', '%9')", "invalid capture index %9"),
        ("table.insert(workers[1].models, 'x')", "cannot set '2': this object is read-only"),
        ("local x = workers:sort_by('models')[1]", "cannot compare a table with a table"),
    ],
)  # fmt: skip
def test_an_error_inside_a_helper_names_the_scripts_line(statement: str, error: str) -> None:
    assert picked(f"local before = 1\n{statement}\nreturn workers[1]") == f"routing.lua:3: {error}"


def test_a_long_error_is_cut_and_stays_readable() -> None:
    error = picked("error(('grün '):rep(200), 0)")
    assert error is not None and len(error) <= 420 and error.startswith("routing.lua: gr")
