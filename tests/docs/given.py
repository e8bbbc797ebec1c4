"""What the examples of the documentation run on: the workers, their state and the request of docs/routing-scripts.md.

Called by conftest.py and the tests of this folder.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rbeerouter import config
from rbeerouter.config import Config
from rbeerouter.core.types import Request
from rbeerouter.dialects import openai
from rbeerouter.routing.decide import STRATEGIES
from tests.docs.pages import read

SCRIPTS = read("docs/routing-scripts.md")
NAME = "routing.lua"
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def read_config(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """What the daemon makes of a configuration, with the variables set and the files there that it names."""
    for variable in _VARIABLE.findall(text):
        monkeypatch.setenv(variable, "something")
    for name in re.findall(r'ca_file = "([^"]+)"', text):
        (folder / name).write_text("")
    (folder / "config.toml").write_text(text)
    return config.load(folder / "config.toml", strategies=tuple(STRATEGIES))


def asked() -> Request:
    """The request of docs/routing-scripts.md."""
    body = next(block.text for block in SCRIPTS.blocks if block.language == "json").encode()
    method, path = re.findall(r"`(POST) (\S+)`", SCRIPTS.prose)[0]
    headers = {name.encode(): value.encode() for name, value in re.findall(r"`(x-rbee-\S+): (\w+)`", SCRIPTS.prose)[:1]}
    assert method == "POST" and headers
    return openai.parse("r-1", path.encode(), headers, body, config.Limits())
