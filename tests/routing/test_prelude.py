"""What a script reads of the request and the workers (prelude.lua), and the line that an error names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.types import Report
from rbeerouter.routing.sandbox import Abilities
from rbeerouter.routing.script import REQUEST_FIELDS, WORKER_FIELDS
from tests.routing.test_helpers import fold
from tests.support.builders import (
    FULL_WORKER,
    ask,
    down,
    fill,
    fleet,
    picked,
    quick,
    request,
    script,
    shown,
    told,
    worker,
)

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
        ("request.path", "/v1/images/generations"),
        ("request.session_id", "s-1"),
        ("request.prompt_tokens", "40"),
        ("request.type", "llm"),
        ("type(request.metadata)", "table"),
    ],
)
def test_a_script_reads_every_field_of_the_request(expression: str, value: str) -> None:
    given_metadata = {"tier": "premium", "type": "llm", "cost": 2.5, "n": 7, "beta": True, "off": False}
    assert (
        shown(
            expression, model="llama-3-8b", model_size=8.0, user_id="ann@example.com", priority="high", max_tokens=256,
            stream=True, metadata=given_metadata, path="/v1/images/generations", session_id="s-1", prompt_tokens=40,
        )
        == value
    )  # fmt: skip


@pytest.mark.parametrize("field", ["model_size", "user_id", "session_id", "priority", "max_tokens", "prompt_tokens"])
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
    made, one = fleet(), script("request.model = 'x' request.metadata.tier = 'x' return 'w1'")
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
        ("w.metadata.no", "nil"), ("w.metadata.price * 2", "1.0"), ("w", "worker(gpu-1)"),
        ("#w.models", "3"), ("w.models[1]", "a"), ("w.models[3]", "c"), ("w.models[-1]", "c"), ("w.models[-3]", "a"),
        ("w.models[4]", "nil"), ("w.models:contains('b')", "true"),
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
         "backend capacity cost_per_hour deployment engine id in_flight load loaded loras metadata models performance status vram"),
        ("pairs(workers[1].models)", "1 2 3"),
        ("ipairs(workers[1].models)", "1 2 3"),
        ("pairs(workers[1].metadata)", "price region spot tier"),
        ("pairs(workers)", "1"),
        ("pairs(request)", "headers metadata model path stream type"),
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
        ("local x = workers[1].role.name", "routing.lua:3: attempt to index a nil value (field 'role')"),
        ("local x = 1 + {}", "routing.lua:3: attempt to perform arithmetic on a table value"),
        ("nothing()", "routing.lua:3: attempt to call a nil value (global 'nothing')"),
        ("workers.filter(function() end)", "routing.lua:3: call it with a colon: list:filter(...)"),
        ("workers.sort_by('load')", "routing.lua:3: call it with a colon: list:sort_by(...)"),
        ("request.metadata.get('x')", "routing.lua:3: call it with a colon: metadata:get(\"key\", default)"),
        ("workers[1].metadata.get('x')", "routing.lua:3: call it with a colon: metadata:get(\"key\", default)"),
        ("workers:filter()", "routing.lua:3: filter expects a function, got nil"),
        ("workers:filter('load')", "routing.lua:3: filter expects a function, got string"),
        ("workers:min_by()", "routing.lua:3: min_by expects a function or a field name, got nil"),
        ("workers:max_by(5)", "routing.lua:3: max_by expects a function or a field name, got number"),
        ("local x = workers[0]", "routing.lua:3: lists start at [1] in Lua; there is no [0]"),
        ("workers:any()", "routing.lua:3: any expects a function, got nil"),
        ("workers:fitler()", "routing.lua:3: a list has no 'fitler'; did you mean 'filter'?"),
        ("workers:nowhere_near()", "routing.lua:3: a list has no 'nowhere_near'"),
        ("workers:filter(function(w)\nreturn w.load < w.ttft_ms end)",
         "routing.lua:4: attempt to compare number with nil"),
        ("local x = workers:sort_by(function(a, b)\nreturn a.vram < b.vram end)[1]",
         "routing.lua:4: attempt to compare two nil values"),
        ("workers:min_by(function(w) return w.role.x end)", "routing.lua:3: attempt to index a nil value (field 'role')"),
        ("counter = 1", "routing.lua:3: assignment to the undeclared global 'counter'; write: local counter"),
        ("hash_str({})", "routing.lua:3: bad argument #1 to 'hash_str' (string expected, got table)"),
        ("hash_str(nil)", "routing.lua:3: bad argument #1 to 'hash_str' (string expected, got nil)"),
        ("('x'):starts_with(nil)", "routing.lua:3: bad argument #2 to 'starts_with' (string expected, got nil)"),
        ("string.rep('x', 'y')", "routing.lua:3: bad argument #2 to 'rep' (integer expected, got string)"),
        ("string.format('%s', {})", "routing.lua:3: cannot format a table"),
        ("table.insert(nil, 1)", "routing.lua:3: bad argument #1 to 'insert' (table expected, got nil)"),
        ("table.sort(5)", "routing.lua:3: call it with a colon: list:sort(...)"),
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
        ("workers.min_by('load')", "call it with a colon: list:min_by(...)"),
        ("do return hash_str({}) end", "bad argument #1 to 'hash_str' (string expected, got table)"),
        ("do return workers:filter() end", "filter expects a function, got nil"),
        ("do return workers:any() end", "any expects a function, got nil"),
        ("table.sort({2, 1}, 5)", "table.sort expects a function or a field name"),
        ("string.find(('a'):rep(3000), '.-.-.-.-b')", "the pattern is too expensive for a text of 3000 bytes"),
        ("string.find('a', ('a'):rep(300))", "the pattern is longer than 256 bytes"),
        ("string.find(('a'):rep(60000), ('a'):rep(3000), 1, true)", "the text is too long to search"),
        ("local x = workers:sort_by('load')[0]", "lists start at [1] in Lua; there is no [0]"),
        ("workers:sort_by('load'):any()", "any expects a function, got nil"),
        ("local x = workers:sort_by('load').frist", "a list has no 'frist'; did you mean 'first'?"),
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


# Unknown fields.


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("request.modle", "a request has no field 'modle'; did you mean 'model'?"),
        ("request.maxtokens", "a request has no field 'maxtokens'; did you mean 'max_tokens'?"),
        ("request.nothing_like_it", "a request has no field 'nothing_like_it'"),
        ("request[1]", "a request has no field '1'"), ("request[{}]", "a request has no field 'table'"),
        ("workers[1].laod", "a worker has no field 'laod'; did you mean 'load'?"),
        ("workers[1].in_flght", "a worker has no field 'in_flght'; did you mean 'in_flight'?"),
        ("workers[1].costPerHour", "a worker has no field 'costPerHour'; did you mean 'cost_per_hour'?"),
        ("workers[1].gpu_memory_total", "a worker has no field 'gpu_memory_total'"),
        ("workers[1][('x'):rep(60)]", f"a worker has no field '{'x' * 60}'"),
        ("workers[1][0/0]", "a worker has no field '"), ("workers[1][workers[2]]", "a worker has no field 'worker(w2)'"),
    ],
)  # fmt: skip
def test_an_unknown_field_raises_and_tells_the_nearest_name(expression: str, error: str) -> None:
    for abilities in (None, Abilities(explain=True)):
        told_error = told(ask(f"\nlocal x = {expression}", abilities=abilities)) or ""
        assert told_error == f"routing.lua:3: {error}" or (error.endswith("'") and told_error.startswith(f"routing.lua:3: {error}"))


@pytest.mark.parametrize("record", ["worker", "request"])
def test_every_known_field_can_be_read_also_when_it_is_not_set(record: str) -> None:
    names = WORKER_FIELDS if record == "worker" else REQUEST_FIELDS
    reads = " ".join(f"local _ = {record}.{name}" for name in names if name != "prompt")
    for abilities in (None, Abilities(explain=True)):
        assert picked(f"local worker = workers[1] do {reads} end return worker", fleet(worker("w1")), abilities=abilities) == "w1"


def test_a_kept_worker_that_left_still_tells_its_unknown_fields() -> None:
    made = fleet()
    one = script(b"kept = false function route_request(_, workers) kept = kept or workers[1] local x = kept.laod end")
    one.route(request(), made)
    made.configure([worker("w2")])
    assert told(one.route(request(), made)) == "routing.lua:1: a worker has no field 'laod'; did you mean 'load'?"


# Headers and the prompt.

SHOWN = Abilities(request_headers=("x-tenant", "user-agent"))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("request.headers['x-tenant']", "acme"), ("request.headers['X-Tenant']", "acme"), ("request.headers['user-agent']", "nil"),
        ("request.headers['User-Agent']", "nil"), ("#request.headers", "0"), ("next(request.headers)", "x-tenant"),
    ],
)  # fmt: skip
def test_a_script_reads_the_headers_that_were_allowed(expression: str, value: str) -> None:
    assert shown(expression, abilities=SHOWN, headers={"x-tenant": "acme"}) == value
    if "acme" not in value and "next" not in expression:
        assert shown(expression, abilities=SHOWN) == value


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("request.headers.authorization", "the header 'authorization' is not in [routing] request_headers"),
        ("request.headers['x-tenent']", "the header 'x-tenent' is not in [routing] request_headers; did you mean 'x-tenant'?"),
        ("request.headers[1]", "a header's name is a text, got number"),
    ],
)
def test_a_header_that_was_not_allowed_is_refused_by_name(expression: str, error: str) -> None:
    for headers in ({}, {"x-tenant": "acme"}):
        assert told(ask(f"local x = {expression}", abilities=SHOWN, headers=headers)) == f"routing.lua:2: {error}"


def test_without_request_headers_none_can_be_read() -> None:
    assert picked("local x = request.headers['x-tenant']") == "routing.lua:2: the header 'x-tenant' is not in [routing] request_headers"


def test_the_prompt_is_there_only_when_it_was_exposed() -> None:
    assert picked("local x = request.prompt") == "routing.lua:2: request.prompt is there only with [routing] expose_prompt = true"
    open_to_it = Abilities(expose_prompt=True)
    assert shown("request.prompt", abilities=open_to_it, prompt="Grüße\0") == "Grüße\0"
    assert shown("request.prompt", abilities=open_to_it) == "nil"


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("headers", [{}, {"x-tenant": "a"}, {"x-tenant": "a", "user-agent": "b"}])
def test_metadata_and_headers_do_not_get_mixed_up(count: int, headers: dict[str, str]) -> None:
    metadata = {f"k{number}": number for number in range(count)}
    body = (
        "local t = {} for k, v in pairs(request.metadata) do t[#t + 1] = k .. '=' .. v end "
        "for k, v in pairs(request.headers) do t[#t + 1] = k .. '=' .. v end table.sort(t)"
    )
    expected = sorted([f"{key}={value}" for key, value in (metadata | headers).items()])
    assert shown("table.concat(t, ' ')", None, body, SHOWN, metadata=metadata, headers=headers) == " ".join(expected)


# What a script can read of measured values.


def test_a_script_reads_what_was_measured_of_a_worker() -> None:
    made, one = fleet(), script("local w = workers[2] log(w.waiting, w.kv_usage, w.vram_used, w.latency_ms, w.ttft_ms)")
    assert one.route(request(), made).log == ("nil nil nil nil nil",)
    made.apply(Report("w2", True, None, 1.0, waiting=3, kv_usage=0.5, vram_used=20.5))
    assert one.route(request(), made).log == ("3 0.5 20.5 nil nil",)
    made.sent(made.workers["w2"], 10.0)
    made.finished(made.workers["w2"], None, 12.0, 10.0, 0.5)
    assert one.route(request(), made).log == ("3 0.5 20.5 2000.0 500.0",)
