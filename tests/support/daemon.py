"""The real daemon in a process of its own, and the balance of its books that is checked after every test of it.

Called by tests in their own event loop: `async with daemon(tmp_path, worker) as router`. `config_text` writes the
configuration file, also for other tests. It must not import rbeerouter: the process is asked by its pages, its log and
its signals only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import Answer, Body, HeaderPairs, get, post

REPOSITORY = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
SETTLE_TIMEOUT_S = 20.0
POLL_S = 0.01
PROBE_CONNECTIONS = 1
"""How many connections the prober may keep open to one worker."""

WorkerLike = FaultWorker | str | dict[str, Any]
Sections = dict[str, Any]
Series = tuple[str, tuple[tuple[str, str], ...]]


def worker_entry(worker: WorkerLike) -> dict[str, Any]:
    """One [[workers]] block: of a fault worker under its name, of a URL, or as it stands."""
    if isinstance(worker, FaultWorker):
        return {"id": worker.name, "url": worker.url}
    return {"url": worker} if isinstance(worker, str) else worker


def config_text(workers: Iterable[WorkerLike], **sections: Sections) -> str:
    """A configuration as TOML, whose strings and lists are spelled as JSON spells them. A list of tables, such as
    `models=[{...}]`, becomes a block for each."""
    lines = []
    for name, values in sections.items():
        header = f"[[{name}]]" if isinstance(values, list) else f"[{name}]"
        for table in values if isinstance(values, list) else [values]:
            lines += [header, *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    for entry in map(worker_entry, workers):
        lines.append("[[workers]]")
        for key, value in entry.items():
            shown = json.dumps(value) if not isinstance(value, dict) else inline_table(value)
            lines.append(f"{key} = {shown}")
    return "\n".join([*lines, ""])


def inline_table(values: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in values.items()) + "}"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Every line of a routing.log; each must be one JSON object. One that is just being written does not count yet."""
    if not path.is_file():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.decode().split("\n") if line]


def metric_values(page: str) -> dict[Series, float]:
    """{(name, labels): value} of a page in Prometheus' text format, which is parsed as Prometheus does."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def total(values: dict[Series, float], name: str) -> int:
    return int(sum(value for (series, _), value in values.items() if series == name))


_given: set[int] = set()


def free_port() -> int:
    """A port that nobody has or was promised, below those that the kernel gives to outgoing connections: it must stay free a while."""
    while True:
        port = random.randrange(10_000, 32_000)
        if port not in _given and is_free(port):
            _given.add(port)                                  # whoever got it may not have bound it yet
            return port


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def until(condition: Callable[[], bool], what: str, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
    """Wait until something holds that nobody announces."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(f"after {timeout_s} s still not: {what}")
        await asyncio.sleep(POLL_S)


class Books:
    """What a router said of the requests that a test sent: the answers, to be found again in its log."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def note(self, answer: Answer) -> Answer:
        self.answers.append(answer)
        return answer

    def check(self, lines: list[dict[str, Any]], values: dict[Series, float]) -> None:
        """One line per request, as many as were counted, and for each answer that a request got its line."""
        lost = total(values, "rbeerouter_log_lines_lost_total")
        outcomes = Counter(line["outcome"] for line in lines)
        counted = {
            dict(labels)["outcome"]: int(value)
            for (name, labels), value in values.items()
            if name == "rbeerouter_requests_total"
        }
        if lost:
            assert sum(outcomes.values()) + lost >= sum(counted.values()) >= sum(outcomes.values())
            return
        assert dict(outcomes) == counted, "the log and the metrics differ"
        doubled = [name for name, count in Counter(line["request_id"] for line in lines).items() if count > 1]
        asked_ids = [answer.headers.get("x-request-id") for answer in self.answers]
        assert set(doubled) <= {name for name in asked_ids if asked_ids.count(name) > 1}, "a request has two lines"
        statuses = {line["request_id"]: line["status"] for line in lines}
        for answer in self.answers:
            if "x-rbee-worker" in answer.headers and answer.complete:
                assert statuses.get(answer.headers["x-request-id"]) == answer.status, "an answer has no line"


class DaemonProcess:
    """A running `rbeerouter serve`, made by `daemon`."""

    def __init__(self, folder: Path, workers: tuple[WorkerLike, ...], script: str | None, sections: Sections) -> None:
        self.folder = folder
        self.workers_given = workers
        self.config_path = folder / "config.toml"
        self.script_path = folder / "routing.lua"
        self.log_path = folder / "logs" / "routing.log"
        self.stderr_path = folder / "stderr"
        self.sections: Sections = {
            **sections,
            "server": {"bind": f"127.0.0.1:{free_port()}", **sections.get("server", {})},
            "control": {"bind": f"127.0.0.1:{free_port()}", **sections.get("control", {})},
            "routing": {"log": str(self.log_path), **sections.get("routing", {})},
        }
        if script is not None:
            self.sections["routing"].setdefault("script", "routing.lua")
            self.script_path.write_text(script)
        self.write_config(*workers)
        self.books = Books()
        self.process: subprocess.Popen[bytes]

    @property
    def port(self) -> int:
        return int(self.sections["server"]["bind"].rpartition(":")[2])

    @property
    def control_port(self) -> int:
        return int(self.sections["control"]["bind"].rpartition(":")[2])

    # Its life.

    def start(
        self, *arguments: str, environment: dict[str, str] | None = None, wrapped_in: Iterable[str] = ()
    ) -> None:
        command = [*wrapped_in, sys.executable, "-m", "rbeerouter", "serve", "--config", str(self.config_path), *arguments]
        with self.stderr_path.open("ab") as stderr:
            self.process = subprocess.Popen(
                command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
                env={**os.environ, "HOME": str(self.folder), **(environment or {})},
            )  # fmt: skip

    async def until_serving(self) -> None:
        """Wait for the public listener, which is opened last, and for the first look at the workers."""
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline and self.process.poll() is None:
            try:
                await get(self.port, "/health", timeout_s=1.0)
                return
            except OSError:
                await asyncio.sleep(POLL_S)
        raise RuntimeError(f"the daemon does not serve (exit code {self.process.poll()}): {self.stderr()}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def stop(self, number: int = SIGTERM, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Ask it to stop; its exit code."""
        if self.process.poll() is None:
            self.signal(number)
        return await self.ended(timeout_s)

    async def ended(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        await until(lambda: self.process.poll() is not None, "the end of the daemon", timeout_s)
        code: int = self.process.returncode
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    # Its configuration.

    def write_config(self, *workers: WorkerLike, **changes: Sections) -> None:
        """Write the file anew, with other workers or other values; what was changed once stays changed."""
        for name, values in changes.items():
            self.sections[name] = {**self.sections.get(name, {}), **values}
        self.config_path.write_text(config_text(workers or self.workers_given, **self.sections))

    async def reload(self) -> dict[str, Any]:
        """Ask the control plane for a reload; its verdict."""
        answer = await post(self.control_port, "/api/v1/reload", b"")
        verdict: dict[str, Any] = answer.json()
        assert answer.status == (200 if verdict["ok"] else 422)
        return verdict

    # What it says.

    async def post(self, path: str, body: Body, headers: HeaderPairs = (), *, timeout_s: float = 10.0) -> Answer:
        """One request on a connection of its own, noted for the books."""
        return self.books.note(await post(self.port, path, body, headers, timeout_s=timeout_s))

    def log_lines(self, event: str | None = None) -> list[dict[str, Any]]:
        lines = read_log(self.log_path)
        return lines if event is None else [line for line in lines if line["event"] == event]

    def requests(self) -> list[dict[str, Any]]:
        return self.log_lines("request")

    async def wait_requests(self, count: int) -> list[dict[str, Any]]:
        """The lines of that many finished requests; the daemon writes its log a few times a second."""
        await until(lambda: len(self.requests()) >= count, f"{count} requests in the log")
        lines = self.requests()
        assert len(lines) == count
        return lines

    async def wait_event(self, event: str, count: int = 1) -> dict[str, Any]:
        await until(lambda: len(self.log_lines(event)) >= count, f"{count} times {event} in the log")
        return self.log_lines(event)[count - 1]

    async def page(self, path: str) -> Answer:
        return await get(self.control_port, path)

    async def workers(self) -> dict[str, dict[str, Any]]:
        """{id: all that /api/v1/workers says of it}."""
        answer = await self.page("/api/v1/workers")
        return {worker["id"]: worker for worker in answer.json()["workers"]}

    async def metrics(self) -> dict[Series, float]:
        return metric_values((await self.page("/metrics")).body.decode())

    def stderr(self) -> str:
        return self.stderr_path.read_text()

    def rss_bytes(self) -> int:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def open_sockets(self) -> int:
        """Without what a daemon opens once, when it needs it first: the log and what it keeps."""
        folder, count = f"/proc/{self.process.pid}/fd", 0
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(f"{folder}/{name}").startswith("socket:")
        return count

    # The invariant.

    async def check_books(self) -> None:
        """Nothing in flight, no worker connection beyond the idle ones, and log and metrics agree."""
        deadline = asyncio.get_running_loop().time() + SETTLE_TIMEOUT_S
        while True:
            try:
                await self._check_books_now()
                return
            except AssertionError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.05)

    async def _check_books_now(self) -> None:
        values = await self.metrics()
        in_flight = {worker: row["in_flight"] for worker, row in (await self.workers()).items()}
        assert set(in_flight.values()) <= {0}, f"still in flight: {in_flight}"
        given = [worker for worker in self.workers_given if isinstance(worker, FaultWorker)]
        if len(given) == len(self.workers_given):
            opened = sum(worker.open_connections for worker in given)
            idle = int(values["rbeerouter_idle_upstream_connections", ()])
            assert opened <= idle + PROBE_CONNECTIONS * len(given), f"{opened} worker connections, {idle} of them idle"
        self.books.check(self.requests(), values)


@asynccontextmanager
async def daemon(
    folder: Path, *workers: WorkerLike, script: str | None = None, arguments: Iterable[str] = (),
    wrapped_in: Iterable[str] = (), **sections: Sections,
) -> AsyncIterator[DaemonProcess]:
    """Run the daemon on free ports until the block ends; then its books must balance, unless it was stopped.

    Args:
        folder: for its files; HOME, too.
        script: the text of routing.lua.
        wrapped_in: a command that executes the one that is put behind it.
        sections: tables of the configuration file, such as `limits={"gap_s": 1}`.
    """
    router = DaemonProcess(folder, workers, script, sections)
    router.start(*arguments, wrapped_in=wrapped_in)
    try:
        await router.until_serving()
        yield router
        if router.process.poll() is None:
            await router.check_books()
            assert await router.stop() == 0
        assert "unexpected" not in router.stderr(), router.stderr()
        assert "Traceback" not in router.stderr(), router.stderr()
    finally:
        router.kill()
