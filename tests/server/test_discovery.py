"""Tests of workers from elsewhere: files, controllers and names, with daemons as processes of their own."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import msgspec

from rbeerouter.config.loading import load
from rbeerouter.core.types import Env
from rbeerouter.server.discovery import Discovery
from tests.support.aio import story
from tests.support.daemon import DaemonProcess, daemon, free_port, until
from tests.support.fault_worker import FaultWorker
from tests.support.name_server import NameServer
from tests.support.raw_client import post
from tests.wire.answers import CHAT, PROMPT


async def until_workers(router: DaemonProcess, *ids: str, timeout_s: float = 8.0) -> dict[str, dict[str, Any]]:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while set(rows := await router.workers()) != set(ids):
        assert asyncio.get_running_loop().time() < deadline, f"{set(rows)} in place of {set(ids)}"
        await asyncio.sleep(0.05)
    return rows


async def source(router: DaemonProcess, kind: str) -> dict[str, Any]:
    sources = (await router.page("/api/v1/discovery")).json()["sources"]
    (found,) = [entry for entry in sources if entry["kind"] == kind]
    return dict(found)


def blocks(*workers: FaultWorker) -> str:
    return "".join(f'[[workers]]\nid = "{worker.name}"\nurl = "{worker.url}"\n' for worker in workers)


@story
async def test_a_workers_file_changes_the_fleet_without_a_reload(tmp_path: Path) -> None:
    file = tmp_path / "workers.toml"
    discovery = {"workers_file": "workers.toml", "file_s": 0.1}
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b:
        file.write_text(blocks(a))
        async with daemon(tmp_path, discovery=discovery) as router:
            assert list(await router.workers()) == ["a"]
            file.write_text(blocks(a, b))
            rows = await until_workers(router, "a", "b")
            assert (rows["b"]["status"], rows["b"]["source"]) == ("ready", "file")
            file.write_text(blocks(a, b) + "[[workers]]\nurl = 7\n")
            broken = await router.wait_event("source_failed")
            assert broken["error"] == f"{file}: workers[2].url = 7: expected `str`, got `int`"
            assert (await source(router, "file"))["problem"] == broken["error"]
            verdict = await router.reload()
            assert (verdict["ok"], verdict["error"]) == (False, broken["error"])
            assert set(await router.workers()) == {"a", "b"}
            file.write_text(blocks(b))
            await until_workers(router, "b")
            assert (await router.post(CHAT, PROMPT)).headers["x-rbee-worker"] == "b"
            router.write_config(discovery={"workers_file": "other.toml"})
            (tmp_path / "other.toml").write_text(blocks(a))
            assert (await router.reload())["ok"]
            await until_workers(router, "a")


@story(timeout_s=60)
async def test_a_follower_takes_a_controllers_workers_and_goes_on_without_it(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("controller", "follower")]
    for folder in folders:
        folder.mkdir()
    token = "a-token-between-daemons"
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b:
        entry = {"id": "a", "url": a.url, "api_key": "key-of-a", "metadata": {"rack": 3}}
        async with daemon(folders[0], entry, registration={"token": token}) as controller:
            settings = {
                "controller": f"http://127.0.0.1:{controller.control_port}", "controller_s": 1,
                "controller_token": token, "controller_api_key": "key-of-follower",
            }  # fmt: skip
            async with daemon(folders[1], discovery=settings) as follower:
                rows = await until_workers(follower, "a")
                assert (rows["a"]["source"], rows["a"]["metadata"]) == ("controller", {"rack": 3})
                assert (await follower.post(CHAT, PROMPT)).headers["x-rbee-worker"] == "a"
                assert a.requests[-1].header("authorization") == b"Bearer key-of-follower"
                controller.write_config(entry, b)
                assert (await controller.reload())["ok"]
                await until_workers(follower, "a", "b")
                controller.kill()
                failed = await follower.wait_event("source_failed")
                assert failed["source"] == "controller"
                assert (await follower.post(CHAT, PROMPT)).status == 200
                follower.kill()
                follower.start()
                await follower.until_serving()
                assert set(await follower.workers()) == {"a", "b"}
                assert (await follower.post(CHAT, PROMPT)).status == 200
                state = await source(follower, "controller")
                assert (state["age_s"] > 0, state["problem"] is not None) == (True, True)
                controller.start()
                await controller.until_serving()
                await follower.wait_event("source_recovered")
                assert len(follower.log_lines("source_failed")) == 2, "one line for each change, none for each try"
                follower.kill()                               # what it counted before is gone, so its books differ
                controller.kill()


@story(timeout_s=60)
async def test_what_the_controller_drains_is_drained_at_its_followers_unless_it_is_their_own(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("controller", "follower")]
    for folder in folders:
        folder.mkdir()
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, FaultWorker(name="c") as c:
        async with daemon(folders[0], a, b, {"id": "own", "url": c.url}) as controller:
            settings = {"controller": f"http://127.0.0.1:{controller.control_port}", "controller_s": 1}
            async with daemon(folders[1], {"id": "own", "url": c.url}, discovery=settings) as follower:

                async def until_drained(*ids: str) -> None:
                    async with asyncio.timeout(8.0):
                        while {name for name, row in (await follower.workers()).items() if row["draining"]} != set(ids):
                            await asyncio.sleep(0.1)

                await until_workers(follower, "a", "b", "own")
                for name in ("own", "b"):
                    await post(controller.control_port, f"/api/v1/workers/{name}/drain", b"")
                await until_drained("b")
                follower.kill()
                controller.kill()
                follower.start()
                await follower.until_serving()
                await until_drained("b")
                controller.start()                            # which has kept it as well
                await controller.until_serving()
                await until_drained("b")
                await post(controller.control_port, "/api/v1/workers/b/undrain", b"")
                await until_drained()


@story(timeout_s=60)
async def test_two_that_follow_each_other_keep_nobody_alive(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    ports = [free_port(), free_port()]

    def sections(own: int) -> dict[str, dict[str, Any]]:
        other = f"http://127.0.0.1:{ports[1 - own]}"
        return {
            "control": {"bind": f"127.0.0.1:{ports[own]}"}, "discovery": {"controller": other, "controller_s": 1}
        }  # fmt: skip

    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, FaultWorker(name="c") as c:
        async with daemon(tmp_path / "one", a, c, **sections(0)) as one, daemon(tmp_path / "two", b, **sections(1)) as two:
            await until_workers(one, "a", "b", "c")
            await until_workers(two, "a", "b", "c")
            one.write_config(a)
            assert (await one.reload())["ok"]
            await until_workers(two, "a", "b")
            await until_workers(one, "a", "b")
            one.kill()                                        # its books cannot know of the other's connections
            two.kill()


@story(timeout_s=60)
async def test_workers_behind_a_name_follow_its_records(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, NameServer(ttl_s=1) as names:
        port_a, port_b = (int(worker.url.rpartition(":")[2]) for worker in (a, b))
        names.records["_llm._tcp.test", "SRV"] = [f"1 1 {port_a} a.test."]
        names.records["a.test", "A"] = ["127.0.0.1"]
        entry = {"name": "_llm._tcp.test", "type": "SRV", "server": names.address, "interval_s": 1}
        text = "[[discovery.dns]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())
        path = tmp_path / "config.toml"
        async with daemon(tmp_path, discovery={"file_s": 1}, registration={"token": "x" * 16}) as router:
            path.write_text(path.read_text() + text)
            assert (await router.reload())["ok"]
            rows = await until_workers(router, f"llm._tcp.test-127.0.0.1-{port_a}")
            assert [row["source"] for row in rows.values()] == ["dns"]
            names.records["_llm._tcp.test", "SRV"] = [f"1 1 {port_a} a.test.", f"1 1 {port_b} a.test."]
            await until_workers(
                router, *(f"llm._tcp.test-127.0.0.1-{port}" for port in (port_a, port_b))
            )  # fmt: skip
            names.failing = True
            await router.wait_event("source_failed")
            assert len(await router.workers()) == 2
            await until(lambda: names.asked["_llm._tcp.test", "SRV"] > 3, "further tries")
            assert len(router.log_lines("source_failed")) == 1


@story
async def test_a_defect_in_one_look_costs_no_more_than_that_look(tmp_path: Path) -> None:
    class Odd:
        looks = 0

        async def run(self) -> None:
            while True:
                await asyncio.sleep(0)
                self.looks += 1
                raise RuntimeError("a defect")

    told: list[tuple[str, Any]] = []
    settings = load(workers=("http://127.0.0.1:9",))
    config = msgspec.structs.replace(settings, state_folder=tmp_path)
    env = Env(time.monotonic, time.time, random.Random(1))
    made = Discovery(config, env, lambda event, **fields: told.append((event, fields.get("error"))))
    odd: Any = Odd()
    made._asked.append(odd)
    made.start()
    await until(lambda: odd.looks == 2, "another look")
    made.close()
    assert told == [("unexpected", "RuntimeError('a defect')")] * 2
