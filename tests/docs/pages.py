"""README.md and docs/*.md taken apart: code blocks, tables, headings, links.

Called by the tests of this folder. It knows Markdown as these pages use it and nothing of rbeerouter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced code block, and the line of its first line of text in the page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Page:
    """One Markdown file; `name` is its path from the repository."""

    name: str
    text: str

    @property
    def blocks(self) -> list[Block]:
        found = []
        for match in _FENCE.finditer(self.text):
            line = self.text.count("\n", 0, match.start("text")) + 1
            text = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
            found.append(Block(self.name, line, match["language"], text))
        return found

    @property
    def prose(self) -> str:
        """The page without its code blocks."""
        return _FENCE.sub("", self.text)

    @property
    def anchors(self) -> set[str]:
        """What a link may name after `#`, as GitHub makes it from headings."""
        titles = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    @property
    def links(self) -> list[str]:
        return re.findall(r"\]\(([^)\s]+)\)", self.prose)

    @property
    def spans(self) -> list[str]:
        """The code inside of sentences and tables."""
        return _SPAN.findall(self.prose)

    def section(self, title: str) -> str:
        """What stands under a heading, up to the next one."""
        match = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,6}} |\Z)", self.prose, re.MULTILINE | re.DOTALL)
        assert match is not None, f"{self.name} has no heading '{title}'"
        return match[2]

    def rows(self, title: str) -> list[list[str]]:
        """The cells of the tables in a section, without the heads."""
        lines = [line for line in self.section(title).splitlines() if line.startswith("|")]
        kept = []
        for index, line in enumerate(lines):
            following = lines[index + 1] if index + 1 < len(lines) else ""
            if not re.fullmatch(r"\|[ :|-]+\|", line) and not re.fullmatch(r"\|[ :|-]+\|", following):
                kept.append(re.split(r" *\| *", line.strip("| ")))
        assert kept, f"{self.name} has no table under '{title}'"
        return kept

    def table_rows(self, title: str) -> list[list[str]]:
        """The cells of the rows of a section's tables after the first one of each."""
        return [others for _, *others in self.rows(title)]

    def table(self, title: str) -> dict[str, list[str]]:
        """{the code in a row's first cell: its other cells} of a section's tables."""
        found: dict[str, list[str]] = {}
        for first, *others in self.rows(title):
            for name in _SPAN.findall(first):
                assert name not in found, f"{self.name}: {name} stands twice under '{title}'"
                found[name] = others
        return found


def code(cell: str) -> str:
    """The one piece of code in a cell."""
    (text,) = _SPAN.findall(cell)
    return str(text)


def read(name: str) -> Page:
    return Page(name, (REPOSITORY / name).read_text())


def all_pages() -> list[Page]:
    names = ["README.md", *sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))]
    return [read(name) for name in names]


def blocks(*languages: str) -> list[Block]:
    """The code blocks of these languages, of all pages."""
    return [block for page in all_pages() for block in page.blocks if block.language in languages]
