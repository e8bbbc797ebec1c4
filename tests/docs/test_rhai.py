"""docs/coming-from-rhai.md: its Lua is that of docs/examples and runs, its links to them are all there."""

from __future__ import annotations

import re

import pytest

from rbeerouter.routing.script import Choice, ScriptError
from tests.docs.pages import REPOSITORY, read
from tests.docs.test_examples import FOLDER, NAMES
from tests.support.builders import fleet, request, script

PAGE = read("docs/coming-from-rhai.md")
SPELLINGS = ["Signs and words", "Lists, texts and maps", "Branches and loops"]
GIVEN = """
local a, b, n, x, text, list, metadata = 1, 2, 3, 4, "llama-8b", workers, request.metadata
local function try()
  {}
end
try()
"""


def spelled() -> list[tuple[str, str]]:
    """(Rhai, Lua) for each piece of code in the right column of the tables."""
    pairs = []
    for title in SPELLINGS:
        for line in PAGE.section(title).splitlines()[2:]:
            if line.startswith("| `"):
                rhai, lua = re.split(r"(?<!\\) \| ", line.strip("| "))
                pairs += [(rhai, code) for code in re.findall(r"`([^`]+)`", lua)]
    return pairs


def run(code: str) -> Choice:
    """Runs a piece of Lua that is an expression or a statement."""
    try:
        example = script(GIVEN.format(f"local _ = ({code})"))
    except ScriptError:
        example = script(GIVEN.format(code))
    return example.route(request(), fleet())


@pytest.mark.parametrize(("rhai", "lua"), spelled())
def test_each_lua_spelling_runs(rhai: str, lua: str) -> None:
    choice = run(lua)
    assert choice.error is None or choice.deliberate, choice.error


@pytest.mark.parametrize(
    ("lua", "value"),
    [
        ("7 // 2", "3"),
        ('x or "none"', "4"),
        ('({ [1] = "one" })[n] or "many"', "many"),
        ("list:len()", "3"),
        ('list:min_by("load")', "worker(w1)"),
        ('"gpu" .. n .. " is " .. text', "gpu3 is llama-8b"),
        ("text:upper()", "LLAMA-8B"),
        ("a and 1 or 2", "1"),
    ],
)
def test_a_spelling_means_what_the_left_column_means(lua: str, value: str) -> None:
    assert lua in PAGE.text
    choice = run(f"error(tostring({lua}), 0)")
    assert str(choice.error).removeprefix("routing.lua: ") == value


def test_there_are_spellings() -> None:
    assert len(spelled()) > 50


def test_the_page_shows_every_example_as_it_is_in_its_file() -> None:
    shown = [block.text for block in PAGE.blocks if block.language == "lua"]
    files = {name: (FOLDER / f"{name}.lua").read_text() for name in NAMES}
    assert sorted(shown) == sorted(files.values())


def test_each_policy_stands_in_both_languages() -> None:
    languages = [block.language for block in PAGE.blocks]
    assert languages == ["rust", "lua"] * len(NAMES)


def test_the_page_links_to_every_example_and_its_tests() -> None:
    links = {link for link in PAGE.links if link.startswith("examples/")}
    assert links == {f"examples/{path.name}" for path in FOLDER.glob("*.lua")}
    assert all((REPOSITORY / "docs" / link).is_file() for link in links)
