"""Tests of what holds for all engines: the table, health pages, lists of models, and readers that never raise."""

from __future__ import annotations

import random

import msgspec
import pytest

from rbeerouter.core.types import ANTHROPIC, DATA, OLLAMA, OPENAI, Report
from rbeerouter.dialects.engines import ENGINES
from rbeerouter.dialects.engines.spec import Answer, Page, number, read_health, read_models
from tests.dialects.engines import PAYLOADS, answer

FIELDS = {field.name for field in msgspec.structs.fields(Report)}
NONSENSE = (
    b"", b"{}", b"[]", b"null", b"1", b'"x"', b"hello", b"\xff\xfe", b"[" * 5000, b'{"data":{}}', b'{"data":[1,null]}',
    b'{"models":[1,{"name":5},{"size_vram":"x"}]}', b'{"loads":[{}]}', b'{"loads":[{"num_running_reqs":"x"}]}',
    b'{"models":[{"key":1,"loaded_instances":3}]}', b'{"state":[]}', b'{"cuda":{"system":7}}', b"vllm:num x\n\x00",
    b'{"total_slots":"4"}', b'{"total_slots":-4}', b'{"data":[{"id":"a","status":7,"state":[],"parent":1}]}',
)  # fmt: skip


def pages() -> list[Page]:
    found: list[Page] = []
    for spec in ENGINES.values():
        for page in spec.pages:
            one: Page | None = page
            while one is not None:
                found.append(one)
                one = one.otherwise
    return found


def test_every_engine_is_asked_for_something_and_speaks_something() -> None:
    for name, spec in ENGINES.items():
        assert spec.pages, name
        assert not spec.pages[0].load, f"{name}: the first page says whether it can be used"
        assert 1 <= spec.usual_concurrency <= (spec.most_concurrency or 1024)
        assert spec.speaks <= {OPENAI, ANTHROPIC, OLLAMA, DATA}
        assert spec.speaks, name
        assert all(page.path.startswith("/") for page in spec.pages)


def test_pages_that_do_harm_are_never_asked() -> None:
    """SGLang's /health generates; TensorRT-LLM's /metrics hands out each line once; llama.cpp bears no more than 2 s."""
    assert "/health" not in [page.path for page in ENGINES["sglang"].pages]
    assert "/metrics" not in [page.path for page in ENGINES["trtllm"].pages]
    assert ENGINES["llamacpp"].least_load_s >= 2


def test_readers_bear_anything_and_tell_fields_of_a_report() -> None:
    real = [path.read_bytes() for path in sorted(PAYLOADS.iterdir()) if path.suffix in (".json", ".txt")]
    chance = random.Random(3)
    damaged = []
    for body in real:
        for _ in range(5):
            at = chance.randrange(len(body))
            damaged.append(body[:at] + bytes([chance.randrange(256)]) + body[at + chance.randrange(20) :])
    for page in pages():
        for body in (*NONSENSE, *real, *damaged):
            for status in (200, 401, 404, 500, 503):
                facts = page.read(Answer(page.path, status, {}, body))
                assert set(facts) <= FIELDS
                msgspec.convert({"worker_id": "w", "reachable": True, "models": None, "taken_at": 0.0, **facts}, Report)


@pytest.mark.parametrize(
    ("status", "body", "reachable", "problem"),
    [
        (200, b'{"status":"ok"}', True, None),
        (200, b"", True, None),
        (503, b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}', False,
         "loading its model"),
        (503, b"", False, "GET /health answered 503"),
        (500, b'{"detail":"boom"}', False, "GET /health answered 500: boom"),
        (401, b"", False, "its api_key was refused: GET /health answered 401"),
        (404, b'{"object":"error","message":"no such page"}', True, "GET /health answered 404: no such page"),
        (302, b"", True, "GET /health answered 302"),
    ],
)  # fmt: skip
def test_the_status_of_a_health_page_says_whether_a_worker_can_be_used(
    status: int, body: bytes, reachable: bool, problem: str | None
) -> None:
    facts = read_health(answer("/health", status=status, body=body))
    assert (facts["reachable"], facts.get("problem")) == (reachable, problem)


def test_a_list_of_models_names_models_and_adapters() -> None:
    assert read_models(answer("/v1/models", "vllm_models.json")) == {
        "reachable": True, "models": ("tiny", "poet"), "loras": ("poet",),
    }  # fmt: skip


def test_a_worker_without_a_list_is_alive_and_one_that_refuses_the_key_is_of_no_use() -> None:
    assert read_models(answer("/v1/models", status=404)) == {
        "reachable": True, "problem": "GET /v1/models answered 404; its models are not known",
    }  # fmt: skip
    assert read_models(answer("/v1/models", status=401)) == {
        "reachable": False, "problem": "its api_key was refused: GET /v1/models answered 401",
    }  # fmt: skip
    assert read_models(answer("/v1/models", status=502))["reachable"] is False
    assert read_models(answer("/v1/models", body=b"{}"))["problem"] == "GET /v1/models answered no list of models"


def test_a_number_longer_than_any_is_not_known() -> None:
    assert (number(10**400), number(float("inf")), number(True), number(-1), number(7)) == (None, None, None, None, 7.0)
