"""What the examples of the documentation run on: the workers, their state and the request of docs/routing-scripts.md.

Called by conftest.py and the tests of this folder.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import tomli
import trustme

from rbeerouter.config.loading import load
from rbeerouter.config.sections import Config, Limits, Routing
from rbeerouter.core.types import Request
from rbeerouter.dialects import bodies
from rbeerouter.dialects.surfaces import SURFACES
from rbeerouter.routing.sandbox import Abilities
from rbeerouter.routing.strategies import NAMES
from tests.docs.pages import read

SCRIPTS = read("docs/routing-scripts.md")
NAME = "routing.lua"
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def read_config(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """What the daemon makes of a configuration, with the variables set and the files there that it names."""
    for variable in _VARIABLE.findall(text):
        monkeypatch.setenv(variable, "something-of-16-characters")
    for name in re.findall(r'ca_file = "([^"]+)"', text):
        trustme.CA().cert_pem.write_to_path(folder / name)
    (folder / "config.toml").write_text(text)
    return load(folder / "config.toml", strategies=NAMES)


def _routing() -> Routing:
    """The section [routing] of the page's example."""
    text = next(block.text for block in SCRIPTS.blocks if block.language == "toml")
    return msgspec.convert(tomli.loads(text)["routing"], Routing)


ROUTING = _routing()
ABILITIES = Abilities(ROUTING.request_headers, ROUTING.set_headers, ROUTING.expose_prompt)


def asked() -> Request:
    """The request of docs/routing-scripts.md."""
    body = next(block.text for block in SCRIPTS.blocks if block.language == "json").encode()
    method, path = re.findall(r"`(POST) (\S+)`", SCRIPTS.prose)[0]
    headers = dict(re.findall(r"`([\w-]+): ([^`]+)`", SCRIPTS.section("The examples on this page")))
    assert method == "POST" and len(headers) == 3
    return bodies.parse(
        SURFACES[path.encode()], "r-1", {name.encode(): value.encode() for name, value in headers.items()}, body, Limits(),
        {name: value for name, value in headers.items() if name in ROUTING.request_headers}, ROUTING.prompt_chars,
    )  # fmt: skip
