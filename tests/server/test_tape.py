"""What the log of a running daemon is told so that its decisions can be made again: when the clocks change, when a file
begins, when the script is loaded anew.

Run by pytest, with the daemon as a process of its own.
"""

from __future__ import annotations

from pathlib import Path

from rbeerouter.config.loading import load
from rbeerouter.sim.replay import Asked, replay
from tests.support.aio import story
from tests.support.daemon import DaemonProcess, daemon, until
from tests.support.fault_worker import FaultWorker
from tests.wire.answers import CHAT, PROMPT

SCRIPT = """
local calls = 0
function route_request(request, workers)
  calls = calls + 1
  return workers[1], "call " .. calls .. " in hour " .. timestamp():hour()
end"""


async def ask(router: DaemonProcess, times: int = 1) -> None:
    for _ in range(times):
        assert (await router.post(CHAT, PROMPT)).status == 200


def exact(router: DaemonProcess, *files: Path) -> int:
    """How many decisions were made again, all of them alike."""
    found = replay(files or [router.log_path], Asked(SCRIPT.encode(), routing=load(router.config_path).routing))
    assert (found.changed, found.reasons, found.uncertain, found.skipped) == (0, 0, 0, {})
    return found.total


@story
async def test_with_another_time_zone_the_next_decision_has_another_hour_and_so_has_its_replay(tmp_path: Path) -> None:
    zone = {"timezone": "Etc/GMT-1"}
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=SCRIPT, routing=zone) as router:
        await ask(router, 3)
        router.write_config(routing={"timezone": "Etc/GMT+5"})
        assert (await router.reload())["ok"]
        await ask(router, 2)
        reasons = [line["reason"] for line in await router.wait_requests(5)]
        assert [reason.split()[2] for reason in reasons] == ["1", "2", "3", "1", "2"]
        hours = [int(reason.split()[-1]) for reason in reasons]
        assert (hours[2] - hours[3]) % 24 in (5, 6), hours      # six hours, or the sixth has just begun
        assert exact(router) == 5


@story
async def test_each_file_of_a_rotated_log_begins_with_all_workers(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=SCRIPT) as router:
        await ask(router, 2)
        await router.wait_requests(2)
        renamed = router.log_path.with_suffix(".log.2")
        router.log_path.rename(renamed)
        await ask(router)
        await until(lambda: len(router.requests()) == 1, "a new file")
        copied = router.log_path.with_suffix(".log.1")
        await ask(router, 2)
        await until(lambda: len(router.requests()) == 3, "its lines")
        copied.write_bytes(router.log_path.read_bytes())
        with router.log_path.open("r+b") as file:
            file.truncate()
        await ask(router)
        await until(lambda: len(router.requests()) == 1, "the file, emptied")
        await ask(router)
        await until(lambda: len(router.requests()) == 2 and bool(router.log_lines("fleet")), "all of it")
        assert exact(router, renamed, copied, router.log_path) == 7
        assert await router.stop() == 0
