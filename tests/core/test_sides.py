"""Workers of which nobody says where they stand."""

from __future__ import annotations

import pytest

from rbeerouter.core.sides import CLOUDS, usual_side
from rbeerouter.dialects.engines import ENGINES


@pytest.mark.parametrize(
    ("engine", "url", "side"),
    [
        ("auto", "https://api.openai.com", "remote"), ("openai", "https://api.x.ai/compatible", "remote"),
        ("anthropic", "http://proxy.lan:8080", "remote"), ("vllm", "http://gpu1:8000", "local"),
        ("auto", "https://gpu.example.net", "local"), ("auto", "https://api.openai.com.evil.test", "local"),
    ],
)  # fmt: skip
def test_what_is_known_to_be_on_the_internet_is_remote_and_all_else_local(engine: str, url: str, side: str) -> None:
    assert usual_side(engine, url) == side


def test_the_engines_that_are_remote_are_those_of_the_table() -> None:
    assert {name for name, engine in ENGINES.items() if engine.remote} == set(CLOUDS.values())
