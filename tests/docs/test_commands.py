"""docs/checking-scripts.md and docs/explain.md tell what the commands find and write."""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
from pathlib import Path

import msgspec
import pytest

from rbeerouter import cli
from rbeerouter.cli.scenario import scenario_options
from rbeerouter.config.sections import Limits
from rbeerouter.routing.decide import Decider
from rbeerouter.workbench import asking, examine
from rbeerouter.workbench.check import check
from rbeerouter.workbench.explain import explain, read_request, render
from rbeerouter.workbench.finding import Finding
from rbeerouter.workbench.fleets import read_fleet
from tests.docs.given import NAME
from tests.docs.pages import REPOSITORY, Page, code, read
from tests.support.builders import env, fleet, lua, script, worker

CHECKING, EXPLAIN = read("docs/checking-scripts.md"), read("docs/explain.md")
WORKBENCH = REPOSITORY / "rbeerouter" / "workbench"
CODE_AT = {"add": 2, "Finding": 1, "_told": 1}
"""Which argument of a call holds the code of a finding."""


def codes_of_the_source() -> set[str]:
    found = set()
    for path in WORKBENCH.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and name in CODE_AT and len(node.args) > CODE_AT[name]:
                constants = [part for part in ast.walk(node.args[CODE_AT[name]]) if isinstance(part, ast.Constant)]
                found |= {part.value for part in constants if isinstance(part.value, str)}
    return {name for name in found if name.replace("-", "").isalpha()}


ROWS = CHECKING.table("Findings")


def test_every_code_of_the_checker_has_its_row() -> None:
    assert set(ROWS) - {"route_request"} == codes_of_the_source()


@pytest.mark.parametrize("name", [name for name, cells in ROWS.items() if len(cells) == 3 and "`" in cells[2]])
def test_the_example_of_a_finding_has_it(name: str) -> None:
    severity, _, shown = ROWS[name]
    text = code(shown)
    source = text.encode() if "function route_request" in text or text.startswith("function on_") else lua(text)
    assert (severity, name) in {(found.severity, found.code) for found in check(source, NAME)}


def test_nearly_every_finding_has_an_example() -> None:
    assert {name for name, cells in ROWS.items() if len(cells) < 3 or "`" not in cells[2]} == {
        "not-loaded", "never-chosen", "not-read",
    }  # fmt: skip


SOURCE = b"-- 1\n-- 2\nfunction route_request(request, workers)\n  if #workers == 0 then return nil end\n" + (
    b"  return workers[1].laod\nend\n"
)


def test_the_report_that_is_shown_is_the_one_that_is_printed(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(SOURCE)
    shown = next(block.text for block in CHECKING.blocks if block.language == "text")
    printed = io.StringIO()
    assert not examine.run(path, None, printed)
    assert printed.getvalue() == shown
    printed = io.StringIO()
    assert not examine.run(path, None, printed, as_json=True)
    (example,) = [json.loads(block.text) for block in CHECKING.blocks if block.language == "json"]
    report = json.loads(printed.getvalue())
    assert report | {"script": NAME, "hash": "-"} == example | {"hash": "-"}
    assert set(CHECKING.table("JSON")) >= set(report) | {field.name for field in msgspec.structs.fields(Finding)} - {
        "severity", "code", "line", "column", "message", "hint",
    }  # fmt: skip


@pytest.mark.parametrize(("page", "words"), [(CHECKING, "routing check"), (EXPLAIN, "explain")])
def test_every_option_of_a_command_is_told(page: Page, words: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        cli._parser().parse_args([*words.split(), "--help"])
    options = {word.strip("[],;.") for word in capsys.readouterr().out.split() if word.strip("[]").startswith("--")}
    told = {word for span in page.spans for word in span.split()}
    assert options - {"--help"} <= told


@pytest.mark.parametrize("words", ["routing diff", "routing tune", "routing bench"])
def test_every_option_of_comparing_is_told(words: str, capsys: pytest.CaptureFixture) -> None:
    shared = argparse.ArgumentParser()
    scenario_options(shared)
    with pytest.raises(SystemExit):
        cli._parser().parse_args([*words.split(), "--help"])
    options = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out)) - set(re.findall(r"--[a-z][a-z-]*", shared.format_help()))
    told = {word.strip("[],") for span in read("docs/diff-and-tune.md").spans for word in span.split()}
    assert options - {"--help"} <= told


# Explain.

EXAMPLE = """-- Which workers could serve a request now.
local function can_serve(request)
  return function(w) return w.status == "ready" and w.models:contains(request.model) end
end
function route_request(request, workers)
  local ready = workers:filter(can_serve(request))
  if request.metadata.tier == "premium" then
    return ready:max_by("performance"), "premium"
  end
  return ready:min_by("load")
end
"""


def test_the_explanation_that_is_shown_is_the_one_that_is_printed() -> None:
    made = fleet(
        worker("gpu1", models=("llama-3-8b",), performance=120), worker("gpu2", models=("llama-3-8b",), performance=90),
        worker("cpu1", models=("tiny",)),
    )  # fmt: skip
    given = asking.asked(None, "/v1/chat/completions", {}, model="llama-3-8b", metadata={"tier": "premium"})
    request = read_request(msgspec.json.encode(given), Limits())
    record = explain(request, Decider(made, script(EXAMPLE.encode(), explain=True), "least-request", env(), debug=True))
    shown = next(block.text for block in EXPLAIN.blocks if block.language == "text")
    printed = render(record, EXAMPLE.encode())
    assert without_order(printed) == without_order(shown)
    assert set(record) <= set(EXPLAIN.table("The record"))


def without_order(text: str) -> list[list[str]]:
    """The lines with what stands in parentheses in any order: the fields that were read come as Lua walks them."""
    return [sorted(line.lower().replace("(", ", ").replace(")", "").split(", ")) for line in text.strip().split("\n")]


def test_the_fleet_file_that_is_shown_is_one(tmp_path: Path) -> None:
    (shown,) = [block.text for block in EXPLAIN.blocks if block.language == "json"]
    path = tmp_path / "fleet.json"
    path.write_text(shown)
    made = read_fleet(path)
    assert [(one.id, one.status, one.in_flight, one.capacity) for one in made.ordered] == [
        ("gpu1", "ready", 3, 4), ("gpu2", "offline", 0, 4),
    ]  # fmt: skip


def test_every_field_of_a_record_has_its_row() -> None:
    source = (WORKBENCH / "explain.py").read_text()
    keys = {
        key.value
        for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Dict)
        for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }  # fmt: skip
    told = set(EXPLAIN.table("The record")) | set(EXPLAIN.table("Steps"))
    assert keys - told - {"margin", "reject", "wait", "fail"} == set()
