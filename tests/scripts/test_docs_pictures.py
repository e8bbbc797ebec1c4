"""`scripts/docs-pictures`: each picture of the documentation is one that it makes, from a command that can be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbeerouter import cli
from scripts.picturing import __main__ as picturing

IMAGES = picturing.DOCS / "images"
NAMES = sorted(name for _, pictures in picturing.SHOWN for name in pictures)


def test_every_picture_is_one_that_it_makes_and_small() -> None:
    found = {path.stem: path for path in IMAGES.iterdir() if path.is_file()}
    assert sorted(found) == NAMES
    for path in found.values():
        assert path.suffix == ".png" and path.read_bytes().startswith(b"\x89PNG\r\n")
        assert path.stat().st_size <= picturing.MOST_BYTES


@pytest.mark.parametrize("command", [command for command, _ in picturing.SHOWN])
def test_its_commands_can_be_parsed_and_name_files_that_are_there(command: tuple[str, ...]) -> None:
    options = cli._parser().parse_args(["routing", *command, "--report", "out.html"])
    assert callable(options.run)
    files = [word for word in command if Path(word).suffix in (".lua", ".toml")]
    assert files and all((picturing.DOCS / "lab" / name).is_file() for name in files)
