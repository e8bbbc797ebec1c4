"""The registry of models: names, aliases, who may have what, what is sent and what it costs."""

from __future__ import annotations

import pytest

from rbeerouter.core.models import NO_MODELS, Model, Models, matches, name_to_send
from rbeerouter.core.types import Wishes, Worker
from tests.support.builders import request, worker

LLAMA = Model("llama-3-8b", aliases=("gpt-4o-mini", "default"), size=8.03, price_in=1.0, price_out=2.0)


def one(name: str = "w1", **changes: object) -> Worker:
    return Worker(worker(name, **changes))


def test_a_name_and_its_aliases_are_one_model_and_others_stand_for_themselves() -> None:
    models = Models([LLAMA])
    assert {name: models.canonical(name) for name in ("llama-3-8b", "gpt-4o-mini", "default", "qwen")} == {
        "llama-3-8b": "llama-3-8b", "gpt-4o-mini": "llama-3-8b", "default": "llama-3-8b", "qwen": "qwen",
    }
    assert models.resolve("qwen") is None and models.resolve("default") is LLAMA


@pytest.mark.parametrize(("configured", "asked"), [("llama3", "llama3:latest"), ("llama3:latest", "llama3")])
def test_latest_is_the_same_model_with_and_without_its_tag(configured: str, asked: str) -> None:
    assert Models([Model(configured)]).canonical(asked) == configured
    both = Models([Model(configured), Model(asked)])
    assert both.canonical(asked) == asked, "unless both are configured"
    assert Models([Model("llama3:8b")]).resolve("llama3:8b:latest") is None


def test_a_request_for_an_alias_becomes_one_for_its_model_and_remembers_what_was_asked() -> None:
    models = Models([LLAMA])
    asked = models.resolved(request(model="default"))
    assert (asked.model, asked.asked_model, asked.model_size) == ("llama-3-8b", "default", 8.03)
    named = models.resolved(request(model="llama-3-8b", model_size=8.0))
    assert (named.model, named.asked_model, named.model_size) == ("llama-3-8b", None, 8.03)


def test_a_request_that_the_registry_has_nothing_to_say_about_stays_as_it_is() -> None:
    plain = request(model="m", model_size=7.0)
    for models in (NO_MODELS, Models([LLAMA]), Models([Model("m")])):
        assert models.resolved(plain) is plain
    assert not NO_MODELS and Models([LLAMA])


@pytest.mark.parametrize(
    ("pattern", "worker_id", "fits"),
    [("gpu1", "gpu1", True), ("gpu1", "gpu12", False), ("gpu*", "gpu12", True), ("*", "x", True), ("*-eu", "gpu-eu", True),
     ("*-eu", "gpu-eu2", False), ("a*c*e", "abcde", True), ("gpu.1", "gpuX1", False), ("[::1]:8000", "[::1]:8000", True)],
)  # fmt: skip
def test_a_star_stands_for_any_text_and_nothing_else_is_special(pattern: str, worker_id: str, fits: bool) -> None:
    assert matches(pattern, worker_id) is fits


def test_workers_and_deployment_both_have_to_allow_a_worker() -> None:
    model = Model("m", workers=("gpu*", "cloud"), deployment="local")
    assert model.restricted and not Model("m").restricted
    assert [model.allows(one(name)) for name in ("gpu1", "cpu1")] == [True, False]
    assert not model.allows(one("cloud", deployment="remote"))


def test_the_body_is_only_changed_for_a_worker_that_knows_the_model_by_another_name() -> None:
    mapped = one(model_names={"llama-3-8b": "meta/Llama-3-8B"})
    plain, alias = request(model="llama-3-8b"), Models([LLAMA]).resolved(request(model="default"))
    assert name_to_send(plain, one(), None) is None
    assert name_to_send(plain, mapped, None) == "meta/Llama-3-8B"
    assert name_to_send(alias, one(), None) == "llama-3-8b", "a worker does not know our aliases"
    assert name_to_send(alias, mapped, None) == "meta/Llama-3-8B"
    assert name_to_send(alias, one(model_names={"llama-3-8b": "default"}), None) is None, "it is what the body says"
    assert name_to_send(plain, one(), "qwen") == "qwen"
    assert name_to_send(plain, one(model_names={"qwen": "Qwen2"}), "qwen") == "Qwen2"


def test_a_worker_serves_the_names_that_it_is_to_translate() -> None:
    mapped = one(models=("Llama-8B",), model_names={"llama": "Llama-8B"})
    assert mapped.models == ("Llama-8B", "llama")
    assert (mapped.serves("llama"), mapped.serves("Llama-8B"), mapped.serves("qwen")) == (True, True, False)
    mapped.learn_models(("qwen",))
    assert mapped.models == ("qwen", "llama")


def test_latest_is_served_as_the_bare_name_and_by_ollama_the_other_way_round() -> None:
    tagged, bare = one(models=("llama3:latest", "qwen:7b")), one(models=("llama3", "qwen:7b"), engine="ollama")
    assert [tagged.serves(name) for name in ("llama3", "llama3:latest", "qwen")] == [True, True, False]
    assert [bare.serves(name) for name in ("llama3", "llama3:latest", "qwen:7b:latest")] == [True, True, False]
    assert not one(models=("llama3",)).serves("llama3:latest")
    assert tagged.models == ("llama3:latest", "qwen:7b")


def test_a_model_fills_in_the_wishes_that_its_clients_do_not_say() -> None:
    models = Models([Model("m", slo_ttft_ms=500.0, slo_tpot_ms=50.0), Model("plain")])
    said = Wishes(session_key="s", slo_tpot_ms=20.0)
    assert models.resolved(request(wishes=said)).wishes == Wishes(
        session_key="s", slo_ttft_ms=500.0, slo_tpot_ms=20.0
    )
    assert models.resolved(request()).wishes == Wishes(slo_ttft_ms=500.0, slo_tpot_ms=50.0)
    untouched = request(model="plain")
    assert models.resolved(untouched) is untouched


def test_a_worker_has_its_own_prices_before_those_of_the_model() -> None:
    models = Models([LLAMA])
    assert models.cost(worker(), "llama-3-8b", 1000, 500) == pytest.approx(0.002)
    assert models.cost(worker(price_in=10.0, price_out=0.0), "llama-3-8b", 1000, 500) == pytest.approx(0.01)
    assert models.cost(worker(price_out=3.0), "qwen", 1000, 500) == pytest.approx(0.0015), "only what has a price counts"
    assert models.cost(worker(), "llama-3-8b", None, 500) == pytest.approx(0.001)
    assert models.cost(worker(), "llama-3-8b", 1, 0) == 0.000001


def test_without_a_price_or_without_tokens_there_is_no_cost() -> None:
    models = Models([LLAMA])
    assert models.cost(worker(), "qwen", 1000, 500) is None
    assert models.cost(worker(), "llama-3-8b", None, None) is None
