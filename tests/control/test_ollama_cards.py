"""What all Ollama machines together hold, asked of pretended ones over real connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from rbeerouter.config.sections import Probes
from rbeerouter.control.ollama_cards import OllamaCards
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.models import Model, Models
from rbeerouter.core.types import WorkerSpec
from tests.support.aio import story
from tests.support.builders import Clock, down, env, fleet
from tests.support.ollama import DETAILS, Machine, card


@asynccontextmanager
async def cards_of(
    *machines: Machine, clock: Clock | None = None, **options: Any
) -> AsyncIterator[tuple[OllamaCards, Fleet]]:
    """The cards of a fleet of these machines."""
    async with AsyncExitStack() as stack:
        made = fleet(*[
            WorkerSpec(
                f"m{number}", await stack.enter_async_context(machine.serving()), engine="ollama",
                speaks=frozenset({"openai", "ollama"}), **options,
            )
            for number, machine in enumerate(machines)
        ])  # fmt: skip
        yield OllamaCards(made, Probes(timeout_s=1.0), env(clock) if clock else env()), made


@story
async def test_models_of_all_machines_are_listed_once_with_all_that_ollama_tells_of_them() -> None:
    old, new = card("llama3:latest"), card("llama3:latest", "2026-09-01T10:00:00Z", digest="d2")
    async with cards_of(Machine(old, card("qwen3:8b")), Machine(new, card("nomic-embed-text:latest"))) as (cards, _):
        listed = {one["name"]: one for one in await cards.tags()}
        assert listed.keys() == {"llama3:latest", "qwen3:8b", "nomic-embed-text:latest"}
        assert listed["llama3:latest"] == new and listed["qwen3:8b"]["details"] == DETAILS


@story
async def test_models_in_memory_are_those_of_any_machine() -> None:
    loaded = {"name": "qwen3:8b", "model": "qwen3:8b", "size": 6, "size_vram": 6, "expires_at": "2026-09-01T10:05:00Z"}
    async with cards_of(Machine(), Machine(ps=(loaded,))) as (cards, _):
        assert await cards.running() == [loaded]


@story
async def test_the_version_is_the_oldest_of_all() -> None:
    async with cards_of(Machine(version="0.12.0"), Machine(version="0.9.6-rc1"), Machine(version="0.13.2")) as (cards, _):
        assert await cards.version() == "0.9.6-rc1"
    async with cards_of() as (cards, _):
        assert (await cards.version(), await cards.tags(), cards.any()) == ("0.0.0", [], False)


@story
async def test_a_machine_is_asked_at_most_once_in_a_while() -> None:
    machine, clock = Machine(card("a:latest")), Clock()
    async with cards_of(machine, clock=clock, api_key="k") as (cards, _):
        await cards.tags()
        await cards.running()
        assert sorted(machine.asked) == ["/api/ps", "/api/tags", "/api/version"]
        machine.pages["/api/tags"] = {"models": [card("b:latest")]}
        clock.advance(6)
        assert [one["name"] for one in await cards.tags()] == ["b:latest"]
        assert machine.keys == {"Bearer k"}


@story
async def test_of_a_machine_that_is_away_the_disk_is_remembered_and_the_memory_is_not() -> None:
    machine, clock = Machine(card("a:latest"), ps=(card("a:latest"),)), Clock()
    async with cards_of(machine, clock=clock) as (cards, _):
        assert len(await cards.running()) == 1
        machine.pages["/api/tags"] = None
        clock.advance(6)
        assert ([one["name"] for one in await cards.tags()], await cards.running()) == (["a:latest"], [])


@story
async def test_a_machine_that_is_known_to_be_down_is_not_asked_and_its_disk_is_remembered() -> None:
    machine, clock = Machine(card("a:latest"), ps=(card("a:latest"),)), Clock()
    async with cards_of(machine, clock=clock) as (cards, made):
        await cards.tags()
        machine.asked.clear()
        down(made, "m0")
        clock.advance(6)
        assert ([one["name"] for one in await cards.tags()], await cards.running(), machine.asked) == (["a:latest"], [], [])


@story
async def test_names_that_the_operator_gives_models_are_listed_as_clients_use_them() -> None:
    options: dict[str, Any] = {"models": ("llama3:latest",), "model_names": {"house-model": "llama3:latest"}}
    async with cards_of(Machine(card("llama3:latest"), card("hidden:latest")), **options) as (cards, _):
        listed = await cards.tags()
        assert [one["name"] for one in listed] == ["llama3:latest", "house-model"]
        assert listed[1]["model"] == "house-model" and listed[1]["digest"] == "d1"


@story
async def test_aliases_are_listed_and_models_that_a_machine_may_not_have_are_not() -> None:
    async with cards_of(Machine(card("llama3:latest"), card("secret:8b"))) as (cards, _):
        cards.apply(Probes(), Models([Model("llama3", aliases=("fast",)), Model("secret:8b", workers=("other",))]))
        assert [one["name"] for one in await cards.tags()] == ["llama3:latest", "fast"]


@story
async def test_what_is_no_list_of_models_is_none() -> None:
    machine = Machine()
    machine.pages["/api/tags"] = {"models": [5, {"name": None}, {"size": 3}]}
    machine.pages["/api/version"] = [1]
    async with cards_of(machine) as (cards, _):
        assert (await cards.tags(), await cards.version()) == ([], "0.0.0")


@story
async def test_workers_that_do_not_speak_ollamas_protocol_are_not_asked() -> None:
    machine = Machine(card("a:latest"))
    async with cards_of(machine) as (cards, made):
        made.ordered[0].speaks = frozenset({"openai"})
        assert (await cards.tags(), machine.asked, cards.any()) == ([], [], False)
