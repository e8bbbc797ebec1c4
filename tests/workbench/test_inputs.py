"""Made-up cases: repeatable, of all kinds, near the values that a script asks for, and readable."""

from __future__ import annotations

from collections import Counter

import pytest

from rbeerouter.routing.sandbox import Abilities
from rbeerouter.workbench import suite
from rbeerouter.workbench.fleets import Row
from rbeerouter.workbench.inputs import KINDS, ODD_TEXTS, Case, Inputs, as_lua
from rbeerouter.workbench.properties import perform
from rbeerouter.workbench.stage import Stage, rules_of
from tests.support.builders import request

SCRIPT = b"""
function route_request(request, workers)
  if request.metadata.tier == "premium" and request.max_tokens and request.max_tokens < 100 then
    return workers:filter(function(worker) return worker.backend == "npu" and worker.id:starts_with("sd-worker-") end)[1]
  elseif timestamp():hour() < 6 or request.headers["x-team"] == "red" then
    return nil
  end
end
"""
SEEN = Abilities(request_headers=("x-team",), expose_prompt=True)


def cases(number: int = 400, source: bytes = SCRIPT, **given: tuple) -> list[Case]:
    return [Inputs(source, SEEN, **given).case(seed) for seed in range(number)]


def test_the_same_seed_gives_the_same_case() -> None:
    assert cases(50) == cases(50)
    assert len({as_lua(case) for case in cases(50)}) == 50


def test_seeds_in_a_row_give_all_kinds_of_fleets() -> None:
    made = cases(len(KINDS))
    sizes = [len(case.workers) for case in made]
    assert 0 in sizes and 1 in sizes and max(sizes) > 12
    states = [{one.status for one in case.workers} for case in made]
    assert {"offline"} in states and {"busy"} in states
    assert any(len(case.workers) > 1 and all(one == Row(one.id) for one in case.workers) for case in made)


def test_up_to_forty_workers_with_and_without_fields_and_loads_above_one() -> None:
    workers = [one for case in cases() for one in case.workers]
    assert max(len(case.workers) for case in cases()) > 35
    for field in ("backend", "vram", "performance", "cost_per_hour", "role", "waiting", "kv_usage", "latency_ms"):
        assert len({getattr(one, field) is None for one in workers}) == 2, field
    assert any(one.in_flight > (one.capacity or 4) for one in workers)
    assert {len(one.models) for one in workers} >= {0, 1, 2}
    assert len({one.id for one in workers}) > 50


def test_busy_workers_are_full_and_ready_ones_are_not() -> None:
    for case in cases():
        assert len({one.id for one in case.workers}) == len(case.workers)
        for one in case.workers:
            assert one.status == "offline" or (one.in_flight >= (one.capacity or 4)) is (one.status == "busy")


def test_what_the_script_asks_for_comes_up_often() -> None:
    made = cases()
    tiers = Counter(case.request.metadata.get("tier") for case in made)
    assert tiers["premium"] > 60 and tiers[None] > 30
    tokens = Counter(case.request.max_tokens for case in made)
    assert min(tokens[99], tokens[100], tokens[101], tokens[None]) > 10
    assert sum(one.backend == "npu" for case in made for one in case.workers) > 100
    assert sum(one.id.startswith("sd-worker-") for case in made for one in case.workers) > 100
    hours = Counter(int(case.wall // 3600 % 24) for case in made)
    assert set(hours) == set(range(24)) and hours[5] > 20 and hours[6] > 20
    assert {int(case.wall // 86400 + 4) % 7 for case in made} == set(range(7))
    assert any(case.request.headers.get("x-team") == "red" for case in made)


def test_all_endpoints_and_odd_texts_come_up() -> None:
    made = cases()
    assert len({case.request.path for case in made}) > 8
    users = {case.request.user_id for case in made}
    assert users >= {None, "alice"} and len(users.intersection(ODD_TEXTS)) > 3
    assert any(case.request.prompt for case in made)
    assert any(not key.isalnum() for case in made for key in case.request.metadata)


def test_the_operators_fleet_comes_up_in_various_states() -> None:
    mine = (Row("mine", capacity=8, models=("special",)),)
    found = [case for case in cases(given=(mine,)) if [one.id for one in case.workers] == ["mine"]]
    assert len(found) > 20
    assert {case.workers[0].status for case in found} == {"ready", "busy", "offline"}
    assert any(case.request.model == "special" for case in found)


@pytest.mark.parametrize("source", [b"", b"not Lua (", b"\0\xff", b"return", b"function route_request() end",
     b"function route_request(r, w) return r.max_tokens == 99999999999999999999 or w[1].metadata.x == 1e999 or "
     b"r.max_tokens > 0x7fffffffffffffff or w[1].vram < -9223372036854775808 end"])
def test_cases_are_made_for_any_text(source: bytes) -> None:
    assert len(cases(32, source)) == 32


def test_a_case_is_written_without_what_is_filled_in_anyway() -> None:
    case = Case(7, (Row("a", capacity=4), Row("b", "busy", 4, 4)), request(prompt_tokens=10))
    assert as_lua(case).splitlines() == [
        "seed(7)", "fleet{", '  worker{ id = "a" },', '  worker{ id = "b", status = "busy" },', "}",
        'route{ model = "m" }',
    ]  # fmt: skip


DUMP = b"""
local function sum(entries)
  local n = 0
  for key, value in pairs(entries) do
    if type(value) ~= "table" and type(value) ~= "function" then n = n + hash_str(tostring(key) .. "=" .. tostring(value)) end
  end
  return n
end
function route_request(request, workers)
  local told = { sum(request), sum(request.metadata), sum(request.headers), timestamp():iso(), rand() }
  for _, worker in ipairs(workers) do
    told[#told + 1] = sum(worker) + sum(worker.metadata) + sum(worker.models)
  end
  log(table.concat(told, " "))
end
"""
"""Logs all that it sees."""


def test_a_case_that_is_written_is_the_same_case_when_it_is_run_as_a_test() -> None:
    play, made = rules_of(None, {"x-team"}), cases(200)
    stage = Stage(DUMP, "r.lua", play)
    seen = [perform(stage, case).log for case in made]
    texts = [as_lua(case).replace("\nroute{", "\nlog(route{") + ".log[1])" for case in made]
    tests = "\n".join(f'test("{number}", function()\n{text}\nend)' for number, text in enumerate(texts))
    found = suite.run_suite(DUMP, "r.lua", tests.encode(), "r_test.lua", play)
    assert found, [str(test.problem) for test in found.tests if test.problem][:3] or str(found.problem)
    wrong = [text for text, one, test in zip(texts, seen, found.tests, strict=True) if one != test.log]
    assert wrong == []
