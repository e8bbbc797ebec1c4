"""The Lua of the documentation does what it tells, and docs/routing-scripts.md tells all that a script can use.

An arrow in an example, `--> value`, tells what its line gives; here it is compared. See "The examples on this page" in
docs/routing-scripts.md, which also holds the workers and the request that all examples run on (given.py).
"""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from rbeerouter import config
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import WorkerSpec
from rbeerouter.record import Line
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.sandbox import Limits as ScriptLimits
from rbeerouter.routing.script import MAX_SOURCE_BYTES, Script, script_fields
from tests.docs.given import NAME, SCRIPTS, asked
from tests.docs.pages import REPOSITORY, Block, blocks, code, read
from tests.support.builders import env

README = read("README.md")
FOLDER = REPOSITORY / "rbeerouter" / "routing"
PRELUDE, SANDBOX = ((FOLDER / name).read_text() for name in ("prelude.lua", "sandbox.lua"))
FRAGMENT = "-- in route_request"
_ARROW = re.compile(r"^(?P<code>.*?)\s*--> (?P<value>.+)$")


def as_script(text: str) -> tuple[str, tuple[int, str] | None]:
    """A whole script of an example, its lines where they were, and the arrow that tells how it ends: (line, value)."""
    fragment = text.startswith(FRAGMENT + "\n")
    if fragment:
        text = text.replace(FRAGMENT, "function route_request(request, workers)", 1) + "end\n"
    lines, end = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if found := _ARROW.match(line):
            given = re.match(r"\s*local (\w+) =", found["code"])
            if given and not found["value"].startswith("error: "):
                name, value = given[1], found["value"]
                lie = f"error('{name} is ' .. tostring({name}), 0)"
                line = f"{found['code']} if tostring({name}) ~= [=[{value}]=] then {lie} end"
            else:
                assert end is None, f"two ends: {line}"
                line, end = found["code"], (number, found["value"].strip())
        lines.append(line)
    return "\n".join(lines) + "\n", end


def check_example(text: str, fleet: Fleet) -> None:
    """Runs an example; fails where it does something else than its arrows tell."""
    source, end = as_script(text)
    limits = ScriptLimits(cpu_s=5.0)                              # a busy machine must not spend the budget
    choice = Script(source.encode(), NAME, env(), limits).route(asked(), fleet)
    if end is None:
        assert choice.error is None, choice.error
        return
    line, value = end
    if value.startswith("error: "):
        message = value.removeprefix("error: ")
        assert choice.error is not None, "it should have failed"
        assert choice.error in (message, f"{NAME}:{line}: {message}", f"{NAME}: {message}"), choice.error
        if not choice.error.startswith(f"{NAME}:{line}: "):
            assert message == "not enough memory", f"without its line: {choice.error}"
        return
    assert choice.error is None, choice.error
    assert (choice.worker.id if choice.worker else "nil", choice.line) == (value, line)


@pytest.mark.parametrize("block", blocks("lua"), ids=str)
def test_each_lua_example_does_what_its_arrows_tell(block: Block, fleet: Fleet) -> None:
    check_example(block.text, fleet)


@pytest.mark.parametrize(
    "wrong",
    [
        "-- in route_request\nreturn workers[1]  --> gpu2\n",
        "-- in route_request\nif true then return workers[1] end\nreturn workers[1]  --> gpu1\n",
        "-- in route_request\nlocal x = 1  --> 2\n",
        "-- in route_request\nreturn 5\n",
        "-- in route_request\nlocal x = nothing.there\n",
        "-- in route_request\nreturn workers[0]  --> error: something else\n",
        "-- in route_request\nreturn workers[1]  --> error: anything\n",
        "-- in route_request\nlocal x = 1\nreturn x.y.z  --> nil\n",
    ],
)
def test_an_example_whose_arrow_lies_is_found(wrong: str, fleet: Fleet) -> None:
    with pytest.raises(AssertionError):
        check_example(wrong, fleet)


def test_there_are_examples_with_arrows() -> None:
    assert sum(block.text.count("--> ") for block in SCRIPTS.blocks if block.language == "lua") > 60


def test_the_log_line_of_the_readme_is_what_its_script_leads_to(fleet: Fleet) -> None:
    script, shown = README.blocks[0], README.blocks[1]
    line = msgspec.json.decode(shown.text, type=Line)
    assert set(json.loads(shown.text)) <= {field.name for field in msgspec.structs.fields(Line)}
    decision = Decider(fleet, Script(script.text.encode(), NAME, env()), "least-request", env()).decide(asked())
    assert (line.worker, line.by, line.reason) == (decision.worker.id, decision.by, decision.reason)


def script_values(expression: str, fleet: Fleet) -> set[str]:
    """What a Lua expression that builds a text of names gives."""
    source = f"function route_request(request, workers) error({expression}, 0) end"
    choice = Script(source.encode(), NAME, env()).route(asked(), fleet)
    assert choice.error is not None
    return set(choice.error.removeprefix(f"{NAME}: ").split())


def keys_of(table: str) -> str:
    return f"(function() local t = '' for k in pairs({table}) do t = t .. ' ' .. k end return t end)()"


def used_in_examples(pattern: str) -> set[str]:
    return {name for block in SCRIPTS.blocks if block.language == "lua" for name in re.findall(pattern, block.text)}


def test_every_field_of_the_request_has_its_row_and_its_example(fleet: Fleet) -> None:
    fields = script_values(keys_of("request"), fleet)
    assert {"model", "metadata", "user_id"} <= fields
    assert {f"request.{field}" for field in fields} == set(SCRIPTS.table("The request")) - {
        "metadata:get(name)", "metadata:get(name, default)",
    }  # fmt: skip
    assert fields <= used_in_examples(r"request\.(\w+)")


def test_every_field_of_a_worker_has_its_row_and_its_example() -> None:
    made = Fleet()
    made.configure([WorkerSpec("w", "http://w")])
    fields = set(script_fields(made.ordered[0]))
    rows = {name for name in SCRIPTS.table("Workers") if "(" not in name}
    assert rows == {f"worker.{field}" for field in fields}
    assert fields <= used_in_examples(r"\bworker\.(\w+)")


def defined(pattern: str, source: str = PRELUDE) -> set[str]:
    found = set(re.findall(pattern, source))
    assert found, f"the source has no {pattern} any more"
    return found


def calls(title: str, prefix: str) -> set[str]:
    return {found[1] for name in SCRIPTS.table(title) if (found := re.match(rf"{re.escape(prefix)}(\w+)\(", name))}


@pytest.mark.parametrize(
    ("title", "prefix", "functions"),
    [
        ("Lists", "list:", r"function (?:list_)?methods:(\w+)"),
        ("Workers", "worker.models:", r"function list_methods:(\w+)"),
        ("The request", "metadata:", r"function metadata_methods:(\w+)"),
        ("Time, chance and hashes", "timestamp():", r"function clock_methods:(\w+)"),
    ],
)
def test_every_function_for_scripts_has_its_row_and_its_example(title: str, prefix: str, functions: str) -> None:
    names = defined(functions)
    assert calls(title, prefix) == names
    assert names <= used_in_examples(r":(\w+)\(")


def test_every_global_function_for_scripts_is_explained() -> None:
    ours = defined(r"(?m)^(?:function )?globals\.(\w+)")
    assert {"rand", "hash_str", "timestamp"} <= ours
    mine = {re.match(r"\w+", name)[0] for name in SCRIPTS.table("Time, chance and hashes")}  # type: ignore[index]
    standard = standard_rows()["functions"]
    assert (ours | theirs_of_lua()) - {"string", "table", "math", "utf8"} <= mine | standard
    assert mine <= ours
    assert mine <= used_in_examples(r"\b(\w+)\(")


def theirs_of_lua() -> set[str]:
    """The names of Lua's own that sandbox.lua leaves in place."""
    (table,) = re.findall(r"^local globals = \{(.*?)^\}", SANDBOX, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"(\w+) = ", table))


def standard_rows() -> dict[str, set[str]]:
    """{"functions" or a library: the names in its row of "Standard Lua"}."""
    rows = SCRIPTS.rows("Standard Lua")
    return {first.strip("`"): set(re.findall(r"`(\w+)`", second)) for first, second in rows}


def test_the_rows_of_standard_lua_are_what_is_there(fleet: Fleet) -> None:
    rows = standard_rows()
    text = {re.match(r"s:(\w+)", name)[1] for name in SCRIPTS.table("Text")}  # type: ignore[index]
    assert rows["functions"] == theirs_of_lua() - {"string", "table", "math", "utf8"} | {"tostring"}
    assert rows["string"] | text == script_values(keys_of("string"), fleet)
    assert rows["table"] == script_values(keys_of("table"), fleet)
    assert rows["utf8"] == script_values(keys_of("utf8"), fleet)
    assert rows["math"] == {"randomseed"}
    assert "random" in script_values(keys_of("math"), fleet)
    assert "randomseed" not in script_values(keys_of("math"), fleet)
    assert text <= used_in_examples(r":(\w+)\(")


def test_what_is_told_to_be_missing_is_missing(fleet: Fleet) -> None:
    (told,) = re.findall(r"^Not there, because .*?: (.*?)\. Using", SCRIPTS.prose, re.MULTILINE | re.DOTALL)
    names = re.findall(r"`(\w+)`", told)
    assert len(names) > 10
    for name in names:
        choice = Script(f"function route_request() {name}() end".encode(), NAME, env()).route(asked(), fleet)
        assert choice.error == f"{NAME}:1: '{name}' is not available in routing scripts"


def test_the_budget_of_the_page_is_the_default() -> None:
    routing = config.Routing()
    shown = {code(row[1]): row[0] for row in SCRIPTS.table_rows("Budget")}
    assert shown == {
        "script_instructions": f"{routing.script_instructions:,}",
        "script_cpu_s": f"{routing.script_cpu_s} s",
        "script_memory_bytes": f"{routing.script_memory_bytes >> 20} MiB",
    }


def test_the_longest_script_of_the_page_is_the_longest() -> None:
    assert f"is at most {MAX_SOURCE_BYTES >> 10} KiB long" in SCRIPTS.prose
