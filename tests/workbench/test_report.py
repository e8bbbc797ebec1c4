"""What other programs read: coverage, lcov, JUnit, plain data."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from rbeerouter.workbench import report, suite
from rbeerouter.workbench.properties import Properties, check_properties
from rbeerouter.workbench.stage import rules_of

SOURCE = b"""local function best(workers)
  return workers:min_by("load")
end

function route_request(request, workers)
  if request.max_tokens == 12345 then
    return workers[1].nothing
  end
  if request.user_id == nil and 1 > 2 then
    log("never")
    return nil
  end
  return nil
end
"""
TESTS = b"""test("good", function() expect(route{}.worker):to_be(nil) end)
test("bad \0 \xc3\xa9 <&>", function() expect(1):to_be("\27") end)"""


def both() -> tuple[Properties, suite.Suite]:
    play = rules_of(None)
    found = check_properties(SOURCE, "routing.lua", play, seed=1, cases=200)
    return found, suite.run_suite(SOURCE, "routing.lua", TESTS, "routing_test.lua", play)


def test_coverage_counts_statements_of_all_runs() -> None:
    found = report.coverage(SOURCE, {3: 1, 5: 1, 6: 2, 9: 1}, {6: 1, 13: 1})
    assert found.counts == {1: 1, 2: 0, 5: 1, 6: 3, 7: 0, 9: 1, 10: 0, 11: 0, 13: 1}
    assert str(found) == "coverage 55 % (5 of 9 lines); not reached: 2, 7, 10-11"


def test_a_script_that_is_reached_everywhere_has_nothing_to_list() -> None:
    assert str(report.coverage(b"x = 1", {1: 1})) == "coverage 100 % (1 of 1 lines)"
    assert report.coverage(b"").percent == 100


@pytest.mark.parametrize(
    ("lines", "told"), [([], ""), ([1], "1"), ([1, 2], "1-2"), ([31, 44, 45, 46, 50], "31, 44-46, 50")]
)
def test_lines_in_a_row_are_told_together(lines: list[int], told: str) -> None:
    assert report.ranges(lines) == told


def test_lcov_has_each_line_and_the_sums() -> None:
    text = report.lcov("routing.lua", report.coverage(b"x = 1\ny = 2", {1: 7}))
    assert text.splitlines() == ["TN:", "SF:routing.lua", "DA:1,7", "DA:2,0", "LF:2", "LH:1", "end_of_record"]


def test_junit_is_xml_with_a_case_for_each_rule_and_test() -> None:
    properties, tests = both()
    root = ElementTree.fromstring(report.junit("routing.lua", properties, tests))
    rules, mine = root.findall("testsuite")
    assert (rules.get("name"), rules.get("tests"), rules.get("failures")) == ("routing.lua: generated cases", "4", "1")
    assert (mine.get("tests"), mine.get("failures")) == ("2", "1")
    assert [case.get("name") for case in mine] == ["good", "bad ? é <&>"]
    failure = mine[1].find("failure")
    assert failure is not None and "expected" in failure.get("message", "") and failure.text
    broken = next(case.find("failure") for case in rules if case.find("failure") is not None)
    assert broken is not None and "max_tokens = 12345" in (broken.text or "")


def test_junit_tells_of_a_file_that_could_not_be_read() -> None:
    properties, _ = both()
    unread = suite.run_suite(SOURCE, "routing.lua", b"test(", "routing_test.lua", rules_of(None))
    root = ElementTree.fromstring(report.junit("routing.lua", properties, unread))
    assert root[1].get("failures") == "1" and root[1][0].find("failure") is not None


def test_junit_without_tests_of_ones_own_has_one_suite() -> None:
    assert len(ElementTree.fromstring(report.junit("routing.lua", both()[0], None))) == 1


def test_the_data_can_be_json() -> None:
    properties, tests = both()
    found = json.loads(json.dumps(report.data("routing.lua", properties, tests, report.coverage(SOURCE, tests.covered))))
    assert (found["passed"], found["seed"], found["problem"]) == (False, 1, None)
    assert found["failures"][0]["property"] == "it never fails by mistake"
    assert [(test["passed"], test.get("failed_at")) for test in found["tests"]] == [(True, None), (False, 2)]
    assert found["coverage"]["missed"] == [2, 7, 10, 11]
