"""The workers of the comparison: data sheets of `rbeerouter.sim.hardware`, prices as they are on the market."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rbeerouter.core.types import REMOTE, WorkerSpec
from rbeerouter.sim import staff
from rbeerouter.sim.scenario_file import WorkerTable
from rbeerouter.sim.types import SimWorker

MODEL = "llama-3-8b"
SHELF = ("llama-3-8b", "qwen2.5-7b", "mistral-7b", "phi-3-14b", "gemma-2-9b", "llama-3.2-3b")
"""What Ollama workers have on disk; two or three fit into 24 GiB at once."""


def fleet(specs: Iterable[WorkerSpec], **tables: dict[str, Any]) -> tuple[SimWorker, ...]:
    """tables: {worker id, with _ for -: keys of its [workers.ID]}."""
    known = {name.replace("_", "-"): WorkerTable(**keys) for name, keys in tables.items()}
    return staff.sim_workers(specs, known)


def server(name: str, gpu: str, **more: Any) -> WorkerSpec:
    """A machine with vLLM."""
    given = {"engine": "vllm", "backend": "cuda", "models": (MODEL,), "metadata": {"gpu": gpu}} | more
    return WorkerSpec(name, f"http://{name}.simulated:8000", **given)


def alike(many: int, gpu: str = "A100-80", places: int | None = None, **keys: Any) -> tuple[SimWorker, ...]:
    """So many equal servers. places: requests that each takes at once, None: as many as vLLM usually does."""
    names = [f"gpu-{number}" for number in range(1, many + 1)]
    tables = {name.replace("-", "_"): keys for name in names if keys}
    return fleet([server(name, gpu, max_concurrency=places) for name in names], **tables)


def caching() -> tuple[SimWorker, ...]:
    """Eight A100 whose KV caches are in 8 bits, so that twice as many tokens fit."""
    return alike(8, kv_tokens=920_000)


CARDS = {"H100": 6.0, "A100-80": 4.0, "L40S": 2.0, "A40": 1.0}
"""{card: weight by its speed, roughly}; there are two of each."""


def unequal(weighed: bool = False) -> tuple[SimWorker, ...]:
    """Fast, usual and slow machines. weighed: the operator has said which is which."""
    return fleet(
        [
            server(f"{card.lower()}-{number}", card, **({"weight": weight} if weighed else {}))
            for card, weight in CARDS.items() for number in (1, 2)
        ]
    )  # fmt: skip


def narrow() -> tuple[SimWorker, ...]:
    """Equal servers that work on eight requests at once (`--max-num-seqs 8`), while more wait in them."""
    return alike(8, "L40S", slots=8)


def singles() -> tuple[SimWorker, ...]:
    """Unequal machines that work on one request at a time, while more wait in them."""
    cards = ("RTX 4090", "RTX 3090", "L4", "RTX 3060")
    names = [(f"{card.lower().replace(' ', '-')}-{number}", card) for card in cards for number in (1, 2)]
    specs = [server(name, card, engine="llamacpp", max_concurrency=16) for name, card in names]
    return fleet(specs, **{name.replace("-", "_"): {"slots": 1} for name, _ in names})


def desktops(many: int = 4) -> tuple[SimWorker, ...]:
    """Gaming PCs with Ollama, which load the model that is asked for where it is not in memory."""
    specs = [
        WorkerSpec(
            f"pc-{number}", f"http://pc-{number}.simulated:11434", "ollama", backend="cuda", vram=24.0, models=SHELF,
            max_concurrency=4, metadata={"gpu": "RTX 4090"},
        )
        for number in range(1, many + 1)
    ]  # fmt: skip
    return fleet(specs)


def home_and_cloud() -> tuple[SimWorker, ...]:
    """Four machines in the house, paid by the hour, and two services on the internet, paid by the token."""
    home = [server(f"home-{number}", "RTX 3090", cost_per_hour=0.15) for number in range(1, 5)]
    cloud = [
        WorkerSpec(
            name, f"https://{name}.simulated", "openai-cloud", models=(MODEL,), max_concurrency=256, deployment=REMOTE,
            price_in=price_in, price_out=price_out,
        )
        for name, price_in, price_out in (("cloud-cheap", 0.2, 0.6), ("cloud-dear", 0.9, 2.7))
    ]  # fmt: skip
    return fleet([*home, *cloud])
