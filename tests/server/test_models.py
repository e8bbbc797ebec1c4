"""Models and the split in the daemon itself: its pages, and what a reload changes.

Run by pytest, with the daemon as a process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.aio import story
from tests.support.daemon import config_text, daemon
from tests.support.fault_worker import FaultWorker
from tests.wire.answers import CHAT


def entry(worker: FaultWorker, **more: Any) -> dict[str, Any]:
    return {"id": worker.name, "url": worker.url, **more}


def asked(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}]}


@story
async def test_models_are_listed_with_their_aliases_unless_nobody_may_have_them(tmp_path: Path) -> None:
    models = [
        {"name": "llama", "aliases": ["default", "org/llama"]},
        {"name": "gone", "aliases": ["away"]},
        {"name": "secret", "workers": ["other*"]},
    ]
    async with FaultWorker(name="a", models=["llama", "secret", "plain"]) as a, daemon(tmp_path, a, models=models) as router:
        cards = (await router.page("/v1/models")).json()["data"]
        assert [card["id"] for card in cards] == ["llama", "plain", "default", "org/llama"]
        alias = (await router.page("/v1/models/org/llama")).json()
        assert alias == {
            "id": "org/llama", "object": "model", "created": 0, "owned_by": "rbeerouter", "root": "llama", "parent": "llama",
        }  # fmt: skip
        for name in ("gone", "away", "secret", "x" * 200):
            missing = await router.page(f"/v1/models/{name}")
            assert missing.status == 404
            assert missing.json()["error"] == {
                "message": f"the model {name[:100]!r} does not exist on any worker", "type": "invalid_request_error",
                "param": "model", "code": "model_not_found",
            }  # fmt: skip


@story
async def test_a_reload_gives_aliases_and_rules_and_goes_on_with_the_turns(tmp_path: Path) -> None:
    async with FaultWorker(name="gpu", models=["llama"]) as gpu, FaultWorker(name="cloud", models=["llama"]) as cloud:
        workers = [entry(gpu), entry(cloud, deployment="remote")]
        sections: dict[str, Any] = {"routing.split": {"local_fraction": 0.5}}
        async with daemon(tmp_path, *workers, **sections) as router:
            assert (await router.post(CHAT, asked("default"))).status == 404
            for _ in range(4):
                await router.post(CHAT, asked("llama"))
            page = (await router.page("/routing")).json()
            assert page["weights"] == {"gpu": 0.5, "cloud": 0.5}
            assert page["split"] == {
                "local_fraction": 0.5, "achieved": 0.5, "requests": 4, "fallbacks": {"local": 0, "remote": 0}, "models": {},
            }  # fmt: skip

            before = router.config_path.read_text()
            block = config_text([], models=[{"name": "llama", "aliases": ["default"]}])
            router.config_path.write_text(before + block)
            assert (await router.reload())["ok"]
            for _ in range(2):
                assert (await router.post(CHAT, asked("default"))).status == 200
            split = (await router.page("/routing")).json()["split"]
            assert (split["requests"], split["achieved"]) == (6, 0.5)

            router.config_path.write_text(before + block + 'deployment = "remote"\nprice_in = 1000\n')
            assert (await router.reload())["ok"]
            answers = [await router.post(CHAT, asked("default")) for _ in range(3)]
            assert {answer.headers["x-rbee-worker"] for answer in answers} == {"cloud"}

            router.config_path.write_text(before + block + 'aliases = ["llama"]\n')
            assert not (await router.reload())["ok"]
            assert (await router.post(CHAT, asked("default"))).headers["x-rbee-worker"] == "cloud"
