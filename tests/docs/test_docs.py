"""What the documentation shows can be done: its commands parse, its unit file is one, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rbeerouter import cli
from rbeerouter.demo import fake_worker
from tests.docs.pages import REPOSITORY, Block, Page, all_pages, blocks, read
from tests.test_house import LAYERS

PAGES = all_pages()
README = read("README.md")


def command_lines() -> list[tuple[str, str]]:
    """(place, arguments) of each `rbeerouter ...` that is shown."""
    found = []
    for page in PAGES:
        texts = [(str(block), block.text) for block in page.blocks if block.language in ("sh", "text", "ini")]
        for place, text in [*texts, *((page.name, span) for span in page.spans)]:
            for line in text.replace("\\\n", " ").splitlines():
                for arguments in re.findall(r"(?:^|[ =/])rbeerouter((?: [^&|;#]*)?)(?:$|&|\||;|#)", line):
                    found.append((place, arguments.strip()))
    return found


COMMANDS = [(place, line) for place, line in command_lines() if re.match(r"[a-z-]+\b(?!\.)", line)]


def shown_value(word: str) -> str:
    return {"HOST:PORT": "127.0.0.1:1", "URL": "http://127.0.0.1:1"}.get(word, word)


@pytest.mark.parametrize(("place", "line"), COMMANDS)
def test_each_command_that_is_shown_can_be_parsed(place: str, line: str) -> None:
    words = [shown_value(word) for word in shlex.split(line)]
    if words == ["--version"]:
        with pytest.raises(SystemExit) as ended:
            cli._parser().parse_args(words)
        assert ended.value.code == 0
        return
    assert callable(cli._parser().parse_args(words).run)


def test_every_command_is_shown() -> None:
    shown = {line.split()[0] for _, line in COMMANDS}
    (commands,) = [action.choices for action in cli._parser()._actions if isinstance(action.choices, dict)]
    assert set(commands) <= shown
    assert {"routing check", "routing test"} <= {" ".join(line.split()[:2]) for _, line in COMMANDS}
    assert len(COMMANDS) > 10


def test_the_fake_workers_that_are_shown_can_be_started() -> None:
    lines = [
        line for block in blocks("sh") for line in re.findall(r"-m rbeerouter\.demo\.fake_worker ([^&\n]*)", block.text)
    ]
    assert len(lines) >= 2
    for line in lines:
        settings, port = fake_worker.parse(shlex.split(line))
        assert port and settings.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_page_and_a_heading(page: Page) -> None:
    broken = []
    for link in page.links:
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (REPOSITORY / page.name).parent / target if target else REPOSITORY / page.name
        if not path.exists() or (anchor and anchor not in read(str(path.resolve().relative_to(REPOSITORY))).anchors):
            broken.append(link)
    assert broken == []


def test_every_page_is_on_the_list() -> None:
    pages = {page.name.removeprefix("docs/") for page in PAGES} - {"README.md", "index.md"}
    assert set(read("docs/index.md").links) == pages
    assert {f"docs/{name}" for name in pages} <= set(README.links)


def test_scripts_that_are_named_are_there() -> None:
    named = {name for page in PAGES for name in re.findall(r"(?<![\w/.-])scripts/([\w-]+)", page.text)}
    assert {"install", "test"} <= named
    assert [name for name in named if not (REPOSITORY / "scripts" / name).exists()] == []


def test_the_import_rule_is_the_one_that_is_checked() -> None:
    (rule,) = [block.text for block in read("docs/architecture.md").blocks if " > " in block.text]
    assert [set(layer.split(" | ")) for layer in rule.strip().split(" > ")] == LAYERS


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_examples_compile(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("block", blocks("ini"), ids=str)
def test_each_unit_file_is_one(block: Block, tmp_path: Path) -> None:
    unit = tmp_path / "rbeerouter.service"
    there = re.sub(r"(?<==)/opt/\S+/rbeerouter\b", sys.executable, block.text)       # verify looks for the program
    unit.write_text(there.replace("User=rbeerouter", "User=root"))
    checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (checked.returncode, [line for line in checked.stderr.splitlines() if unit.name in line]) == (0, [])
