"""The Lua of the documentation does what it tells, and docs/routing-scripts.md tells all that a script can use.

An arrow in an example, `--> value`, tells what its line gives; here it is compared. See "The examples on this page" in
docs/routing-scripts.md, which also holds the workers and the request that all examples run on (given.py). What a script
can use is told by `routing.language`, which its own tests hold against the sandbox.
"""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from rbeerouter.config.sections import Routing
from rbeerouter.core.errors import refusal
from rbeerouter.core.fleet import Fleet
from rbeerouter.record import Line
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.language import LANGUAGE
from rbeerouter.routing.sandbox import Limits as ScriptLimits
from rbeerouter.routing.script import MAX_SOURCE_BYTES, TRIAL_OUTCOME, Choice, Script
from tests.docs.given import ABILITIES, NAME, SCRIPTS, asked
from tests.docs.pages import REPOSITORY, Block, blocks, code, read
from tests.support.builders import env

README = read("README.md")
ELSEWHERE = {"docs/testing-scripts.md"}
"""Pages whose Lua is no routing script and has tests of its own."""
SHOWN = [block for block in blocks("lua") if block.page not in ELSEWHERE]
FRAGMENT = "-- in route_request"
ATTEMPT = {"worker_id": "gpu1", "error": "upstream_disconnected", "duration_ms": 12.5, "number": 1}
OUTCOME = TRIAL_OUTCOME | {"worker_id": "gpu1", "outcome": "done", "ttft_ms": 151.0, "total_ms": 803.0}
_ARROW = re.compile(r"^(?P<code>.*?)\s*--> (?P<value>.+)$")


class Told(msgspec.Struct):
    """What the arrows of an example tell: the lines of its log, and how it ends: (line, value)."""

    logs: list[str]
    end: tuple[int, str] | None = None


def as_script(text: str) -> tuple[str, Told]:
    """A whole script of an example, its lines where they were."""
    if text.startswith(FRAGMENT + "\n"):
        text = text.replace(FRAGMENT, "function route_request(request, workers)", 1) + "end\n"
    lines, told = [], Told([])
    for number, line in enumerate(text.splitlines(), 1):
        if found := _ARROW.match(line):
            given, value = re.match(r"\s*local (\w+) =", found["code"]), found["value"].strip()
            line = found["code"]
            if value.startswith("log: "):
                told.logs.append(value.removeprefix("log: "))
            elif given and not value.startswith("error: "):
                name = given[1]
                lie = f"error('{name} is ' .. tostring({name}), 0)"
                line = f"{line} if tostring({name}) ~= [=[{value}]=] then {lie} end"
            else:
                assert told.end is None, f"two ends: {line}"
                told.end = (number, value)
        lines.append(line)
    return "\n".join(lines) + "\n", told


def ask(text: str, fleet: Fleet) -> tuple[Choice, Told]:
    """Runs an example, and its hooks. The answer is that of on_failure, if there is one; an error that of any."""
    source, told = as_script(text)
    limits = ScriptLimits(cpu_s=5.0)                              # a busy machine must not spend the budget
    script = Script(source.encode(), NAME, env(), limits, ABILITIES)
    choose = Decider(fleet, None, "least-request", env()).choose_for_script
    choices = [script.route(asked(), fleet, choose)]
    if script.has_on_failure:
        choices.append(script.after_failure(asked(), dict(ATTEMPT), [ATTEMPT["worker_id"]], fleet, choose))
    answer = choices[-1]
    if script.has_on_complete:
        choices.append(script.completed(asked(), dict(OUTCOME), fleet))
    failed = [choice for choice in choices if choice.error is not None]
    log = tuple(line for choice in choices for line in choice.log)
    return msgspec.structs.replace(failed[0] if failed else answer, log=log), told


def in_words(choice: Choice) -> str:
    """An answer as the arrows spell it."""
    answer = choice.answer
    names = ", then ".join(worker.id for worker in choice.workers or (choice.worker,) if worker is not None)
    if answer is None:
        return names or "nil"
    words = {
        "wait": f"wait for {names or 'any worker'}", "give_up": "give up",
        "reject": f"reject with {answer.status or 403}: {answer.message}", None: names or "nil",
    }[answer.action]  # fmt: skip
    also = [
        (" for at most {:g} s", answer.timeout_s), (" with priority {}", answer.priority), (" as {}", answer.model),
        (", retry after {:g} s", answer.retry_after), (" because {}", answer.reason),
    ]  # fmt: skip
    words += "".join(text.format(value) for text, value in also if value is not None)
    return words + "".join(f" and {name}: {value}" for name, value in answer.headers)


def same_error(told: str, error: str, line: int) -> bool:
    """Is this the error that an arrow tells? It may leave out the place and the hint, and may end in "..."."""
    for text in (error, error.partition(" (hint: ")[0]):
        for place in ("", f"{NAME}:{line}: ", f"{NAME}: "):
            whole = place + told
            if text == whole or (whole.endswith("...") and text.startswith(whole.removesuffix("..."))):
                return True
    return False


def check_example(text: str, fleet: Fleet) -> None:
    """Runs an example; fails where it does something else than its arrows tell."""
    choice, told = ask(text, fleet)
    line, value = told.end or (0, "")
    if value.startswith("error: "):
        assert choice.error is not None, "it should have failed"
        assert same_error(value.removeprefix("error: "), choice.error, line), choice.error
        if not choice.error.startswith(f"{NAME}:{line}: "):
            assert value == "error: not enough memory", f"without its line: {choice.error}"
        return
    assert choice.error is None, choice.error
    assert told.logs == list(choice.log) or not told.logs
    if told.end is not None:
        assert (in_words(choice), choice.line) == (value, line)


@pytest.mark.parametrize("block", SHOWN, ids=str)
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
        "-- in route_request\nreturn workers[0]  --> error: lists start at [1] in\n",
        "-- in route_request\nreturn workers[1]  --> error: anything\n",
        "-- in route_request\nlocal x = 1\nreturn x.y.z  --> nil\n",
        "-- in route_request\nlog(1)  --> log: 2\n",
        "-- in route_request\nreturn workers[1]  --> log: 2\n",
        "-- in route_request\nreturn queue(nil)  --> nil\n",
        "-- in route_request\nreturn reject{ status = 400 }  --> reject with 403: None\n",
        "function route_request() end\nfunction on_failure()\nreturn false  --> nil\nend\n",
        "function route_request() end\nfunction on_complete(_, outcome)\nlocal x = outcome.status  --> 201\nend\n",
    ],
)
def test_an_example_whose_arrow_lies_is_found(wrong: str, fleet: Fleet) -> None:
    with pytest.raises(AssertionError):
        check_example(wrong, fleet)


def test_there_are_examples_with_arrows() -> None:
    assert sum(block.text.count("--> ") for block in SCRIPTS.blocks if block.language == "lua") > 140


def test_the_log_line_of_the_readme_is_what_its_script_leads_to(fleet: Fleet) -> None:
    script, shown = README.blocks[0], README.blocks[1]
    line = msgspec.json.decode(shown.text, type=Line)
    assert set(json.loads(shown.text)) <= {field.name for field in msgspec.structs.fields(Line)}
    decision = Decider(fleet, Script(script.text.encode(), NAME, env()), "least-request", env()).decide(asked())
    assert decision.worker is not None
    assert (line.worker, line.by, line.reason) == (decision.worker.id, decision.by, decision.reason)


def test_the_attempt_and_the_outcome_of_the_page_are_those_of_the_examples() -> None:
    assert f"`{ATTEMPT['worker_id']}` broke its connection" in SCRIPTS.section("on_failure")
    assert set(ATTEMPT) | {"tried"} == set(LANGUAGE.records["attempt"])
    assert set(OUTCOME) == set(LANGUAGE.records["outcome"])


# Each name has a row and an example.


def used_in_examples(pattern: str) -> set[str]:
    return {name for block in SCRIPTS.blocks if block.language == "lua" for name in re.findall(pattern, block.text)}


def names_in(title: str, prefix: str = "") -> set[str]:
    """What the first column of a section's tables names behind a prefix, without arguments."""
    found = [re.fullmatch(rf"{re.escape(prefix)}(\w+)(?:\(.*\))?", name) for name in SCRIPTS.table(title)]
    return {name[1] for name in found if name is not None}


RECORDS = {"request": "The request", "worker": "Workers", "attempt": "on_failure", "outcome": "on_complete"}
METHODS = {
    "list": ("Lists", "list:"), "metadata": ("The request", "metadata:"), "text": ("Text", "s:"),
    "clock": ("Time, chance and hashes", "timestamp():"), "state": ("State", "state:"),
}  # fmt: skip
FUNCTIONS = [
    "Time, chance and hashes", "Log", "Params", "Strategies in a script", "Waiting for a worker", "Refusing a request",
]  # fmt: skip


@pytest.mark.parametrize("record", LANGUAGE.records)
def test_every_field_has_its_row_and_its_example(record: str) -> None:
    fields = set(LANGUAGE.records[record])
    assert names_in(RECORDS[record], f"{record}.") == fields
    assert fields <= used_in_examples(rf"\b{record}\.(\w+)")


@pytest.mark.parametrize("owner", LANGUAGE.methods)
def test_every_method_has_its_row_and_its_example(owner: str) -> None:
    title, prefix = METHODS[owner]
    methods = set(LANGUAGE.methods[owner])
    if owner == "text":
        methods -= standard_rows()["string"]
    assert names_in(title, prefix) == methods
    assert methods <= used_in_examples(r":(\w+)\(")


def test_every_function_has_its_row_and_its_example() -> None:
    ours = {name.partition("(")[0] for title in FUNCTIONS for name in SCRIPTS.table(title) if "(" in name}
    ours = {name for name in ours if name.isidentifier()}
    assert ours | standard_rows()["functions"] == set(LANGUAGE.functions) | {"timestamp"}
    assert ours <= used_in_examples(r"\b(\w+)[({]")


def test_every_hook_is_told_with_what_it_is_given() -> None:
    for name, given in LANGUAGE.hooks.items():
        assert f"`{name}({', '.join(given)})`" in SCRIPTS.prose


@pytest.mark.parametrize(("function", "title"), [("queue", "Waiting for a worker"), ("reject", "Refusing a request")])
def test_every_option_has_its_row_and_its_example(function: str, title: str) -> None:
    options = set(LANGUAGE.options[function])
    assert {name for name in SCRIPTS.table(title) if name.isidentifier()} == options
    assert options <= used_in_examples(r"\b(\w+) = ")


def test_every_status_is_named() -> None:
    assert set(LANGUAGE.statuses) <= set(SCRIPTS.spans)


def standard_rows() -> dict[str, set[str]]:
    """{"functions" or a library: the names in its row of "Standard Lua"}."""
    rows = SCRIPTS.rows("Standard Lua")
    return {first.strip("`"): set(re.findall(r"`(\w+)`", second)) for first, second in rows}


def test_the_rows_of_standard_lua_are_what_is_there() -> None:
    rows = standard_rows()
    assert rows["string"] | names_in("Text", "s:") == set(LANGUAGE.libraries["string"])
    assert rows["table"] == set(LANGUAGE.libraries["table"])
    assert rows["utf8"] == set(LANGUAGE.libraries["utf8"])
    assert rows["math"] == {"randomseed"} and "randomseed" not in LANGUAGE.libraries["math"]
    assert {*rows, "functions"} == {*LANGUAGE.libraries, "functions"}


def test_what_is_told_to_be_missing_is_missing(fleet: Fleet) -> None:
    (told,) = re.findall(r"^Not there, because .*?: (.*?)\. Using", SCRIPTS.prose, re.MULTILINE | re.DOTALL)
    names = set(re.findall(r"`(\w+)`", told))
    assert names == LANGUAGE.unavailable - {"_G", "_VERSION", "warn"}
    for name in names:
        choice, _ = ask(f"-- in route_request\n{name}()\n", fleet)
        assert same_error(f"'{name}' is not available in routing scripts", choice.error or "", 2)


# Numbers in sentences.


def test_the_budget_of_the_page_is_the_default() -> None:
    routing = Routing()
    shown = {code(row[1]): row[0] for row in SCRIPTS.table_rows("Budget")}
    assert shown == {
        "script_instructions": f"{routing.script_instructions:,}",
        "script_cpu_s": f"{routing.script_cpu_s} s",
        "script_memory_bytes": f"{routing.script_memory_bytes >> 20} MiB",
    }


def test_the_limits_that_the_page_tells_are_the_defaults() -> None:
    routing = Routing()
    state = " ".join(SCRIPTS.section("State").split())
    assert f"`state_keys`, {routing.state_keys:,} entries" in state
    assert f"`state_bytes`, {routing.state_bytes >> 20} MiB" in state
    assert f"`state_value_bytes`, {routing.state_value_bytes >> 10} KiB" in state
    assert f"`log_lines`, {routing.log_lines} lines" in SCRIPTS.section("Log")
    assert f"`log_line_chars`, {routing.log_line_chars} characters" in SCRIPTS.section("Log")
    assert f"{routing.script_faults} decisions in a row" in SCRIPTS.section("Faults in a row")


def test_the_longest_script_of_the_page_is_the_longest() -> None:
    assert f"is at most {MAX_SOURCE_BYTES >> 10} KiB long" in SCRIPTS.prose


def test_a_refusal_without_a_status_is_what_the_page_tells() -> None:
    assert refusal(403, "no").failure.code == "script_rejected"
    assert "| `status` | whole number | 403 |" in SCRIPTS.section("Refusing a request")


# The policies of docs/examples.


def test_every_policy_is_linked() -> None:
    files = {f"examples/{path.name}" for path in (REPOSITORY / "docs" / "examples").glob("*.lua")}
    linked = {link for link in SCRIPTS.links if link.startswith("examples/")}
    assert linked == {name for name in files if not name.endswith("_test.lua")}
