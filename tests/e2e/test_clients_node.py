"""The official JavaScript client of OpenAI in front of the daemon, with genuine llama.cpp servers behind it.

Run by pytest; skipped where Node.js 20 or the engine's package is not installed. node/client.mjs is the program that
uses the client; it only tells what it saw.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.client_fleet import ONE_TOOL_CALL, ClientFleet

PROGRAM = Path(__file__).parent / "node" / "client.mjs"
OLDEST_NODE = 20


@pytest.fixture(name="node", scope="module")
def find_node() -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"Node.js is {version}; the client needs {OLDEST_NODE} or newer")
    if not (PROGRAM.parent / "node_modules" / "openai").is_dir():
        pytest.skip("the JavaScript client is not installed; `scripts/install test` brings it where npm is installed")
    return node


def play(node: str, fleet: ClientFleet, *scenes: str, failures: tuple[str, ...] = ()) -> dict[str, Any]:
    """{scene: what the client saw in it}."""
    options = json.dumps({"scenes": scenes, "failures": failures, "tools": {"model": "caller", **ONE_TOOL_CALL}})
    ended = subprocess.run(
        [node, str(PROGRAM), f"{fleet.url}/v1", options], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return {row["scene"]: row["saw"] for row in map(json.loads, ended.stdout.splitlines())}


def test_answers_tools_vectors_and_models(node: str, fleet: ClientFleet) -> None:
    saw = play(node, fleet, "whole", "streamed", "models", "embeddings", "tool", "streamed_tool")
    assert saw["whole"]["tokens"] == 30
    assert saw["streamed"]["text"] == saw["whole"]["text"]
    assert saw["streamed"]["pieces"] > 20
    assert {"tiny", "faulty:ok"} <= set(saw["models"])
    assert saw["embeddings"] == [256, 256]
    for scene in ("tool", "streamed_tool"):
        (call,) = saw[scene]
        assert call["name"] == "get_weather"
        assert json.loads(call["arguments"])["city"] in ("Oslo", "Rome")


def test_a_stream_that_is_left_frees_its_slot(node: str, fleet: ClientFleet) -> None:
    with fleet.lines() as lines:
        assert play(node, fleet, "left") == {"left": {"pieces": 5}}
        fleet.until_busy(0)
    assert [(line["outcome"], line["status"]) for line in lines] == [("client_gone", 499)]


def test_failures_are_the_client_s_own_exceptions(node: str, fleet: ClientFleet) -> None:
    expected = {
        "no-such-model": ("NotFoundError", 404, "model_not_found"),
        "faulty:status_400": ("BadRequestError", 400, "context_length_exceeded"),
        "full-429": ("RateLimitError", 429, "rate_limited"),
        "full-503": ("InternalServerError", 503, "rate_limited"),
        "faulty:close_before_head": ("InternalServerError", 502, "upstream_disconnected"),
    }
    saw = play(node, fleet, "cut", failures=tuple(expected))
    cut = saw.pop("cut")
    assert (cut["kind"], cut["code"], cut["text"]) == ("APIError", "upstream_disconnected", "one two three")
    shown = {model: [(one["kind"], one["status"], one["code"]) for one in both] for model, both in saw.items()}
    assert shown == {model: [row, row] for model, row in expected.items()}


def test_it_asks_once_where_the_router_has_tried(node: str, fleet: ClientFleet) -> None:
    with fleet.lines():
        assert play(node, fleet, "retried")["retried"]["status"] == 502
