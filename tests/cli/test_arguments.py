"""Tests of the commands as a person types them: what is served without any file, and what is said when it cannot be.

Run by pytest, with `python -m rbeerouter` as a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbeerouter import __version__
from tests.support.aio import story
from tests.support.daemon import REPOSITORY, config_text, free_port, is_free, read_log, until
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import get, post
from tests.wire.answers import CHAT, PROMPT

WORKER = "http://127.0.0.1:9"


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(home)}


def run_command(home: Path, *arguments: str, timeout_s: float = 10.0) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command that ends by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "rbeerouter", *arguments], cwd=REPOSITORY, env=environment(home), timeout=timeout_s,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def config(folder: Path, *workers: str, **sections: dict[str, object]) -> str:
    """A configuration file on free ports, with a log of its own."""
    usual = {
        "server": {"bind": f"127.0.0.1:{free_port()}"},
        "control": {"bind": f"127.0.0.1:{free_port()}"},
        "routing": {"log": "routing.log"},
    }
    merged = {name: {**usual.get(name, {}), **sections.get(name, {})} for name in [*usual, *sections]}
    path = folder / "config.toml"
    path.write_text(config_text(workers or [WORKER], **merged))
    return str(path)


def check_refused(outcome: tuple[int, str, str], *said: str) -> None:
    """Exit code 2 and a line that says why; of a script, also the line it is about and a hint."""
    code, printed, complained = outcome
    assert (code, printed) == (2, ""), complained
    lines = complained.splitlines()
    assert len(lines) == 1 or lines[-1].startswith(("hint: ", "      | ")), complained
    assert complained.startswith("rbeerouter: ")
    assert [part for part in said if part not in complained] == []


# Serving.


def start(home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "rbeerouter", "serve", *arguments], cwd=REPOSITORY, env=environment(home),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


async def serving(home: Path, port: int, *arguments: str) -> subprocess.Popen[bytes]:
    """A started `serve`, once it answers."""
    process = start(home, *arguments)
    for _ in range(500):
        try:
            await get(port, "/health", timeout_s=1.0)
            return process
        except OSError:
            assert process.poll() is None
            await asyncio.sleep(0.01)
    process.kill()
    raise AssertionError("it does not serve")


@pytest.fixture(name="default_ports")
def have_default_ports() -> Iterator[None]:
    """The default ports for one test at a time, also where several runs of the tests share the machine."""
    with open(Path(tempfile.gettempdir(), "rbeerouter-default-ports.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (is_free(8881) and is_free(8882)):
            pytest.skip("the default ports 8881 and 8882 are in use")
        yield


@story
async def test_a_worker_s_url_is_all_that_is_needed(default_ports: None, tmp_path: Path) -> None:
    async with FaultWorker() as one, FaultWorker() as two:
        process = await serving(tmp_path, 8881, "--worker", one.url, "--worker", two.url + "/v1/")
        try:
            answer = await post(8881, CHAT, PROMPT)
            workers = (await get(8882, "/api/v1/workers")).json()["workers"]
            log = tmp_path / ".config" / "rbee" / "logs" / "routing.log"
            await until(lambda: any(line["event"] == "request" for line in read_log(log)), "the line of the request")
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(5)
        assert (answer.status, code) == (200, 0)
        assert [(row["id"], row["url"]) for row in workers] == [
            (f"127.0.0.1:{worker.port}", worker.url) for worker in (one, two)
        ]
        assert answer.headers["x-rbee-worker"] in (f"127.0.0.1:{one.port}", f"127.0.0.1:{two.port}")


@story
async def test_the_files_in_the_default_folder_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "rbee"
    folder.mkdir(parents=True)
    (folder / "routing.lua").write_text("function route_request(request, workers)\n  return workers[1]\nend\n")
    async with FaultWorker() as worker:
        config(folder, worker.url)
        port = free_port()
        process = await serving(tmp_path, port, "--bind", f"127.0.0.1:{port}")
        try:
            answer = await post(port, CHAT, PROMPT)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(5)
        assert (answer.status, answer.headers["x-rbee-reason"], code) == (200, "routing.lua:2", 0)
        assert [line["event"] for line in read_log(folder / "routing.log")].count("request") == 1


@story
async def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "file.lua").write_text("function route_request(request, workers)\n  return workers[1]\nend\n")
    (tmp_path / "given.lua").write_text("\n\nfunction route_request(request, workers)\n  return workers[2]\nend\n")
    async with FaultWorker() as one, FaultWorker() as two:
        path, port = config(tmp_path, one.url, routing={"script": "file.lua"}), free_port()
        given = ["--config", path, "--script", str(tmp_path / "given.lua"), "--worker", two.url]
        process = await serving(tmp_path, port, *given, "--bind", f"127.0.0.1:{port}")
        try:
            answer = await post(port, CHAT, PROMPT)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
        assert (answer.headers["x-rbee-reason"], answer.headers["x-rbee-worker"]) == (
            "given.lua:4", f"127.0.0.1:{two.port}",
        )  # fmt: skip


@story
async def test_it_can_be_bound_to_ipv6_addresses(tmp_path: Path) -> None:
    async with FaultWorker() as worker:
        port = free_port()
        control = {"bind": f"[::1]:{free_port()}"}
        path = config(tmp_path, worker.url, server={"bind": f"[::1]:{port}"}, control=control)
        process = start(tmp_path, "--config", path)
        try:
            raw = b""
            while not raw:
                assert process.poll() is None
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection("::1", port)
                    writer.write(b"GET /health HTTP/1.1\r\nhost: [::1]\r\nconnection: close\r\n\r\n")
                    raw = await reader.read()
                    writer.close()
                await asyncio.sleep(0.01)
            reloaded = await asyncio.to_thread(run_command, tmp_path, "reload", "--config", path)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(5)
        assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
        assert (reloaded, code) == ((0, "reloaded: no script, strategy least-request, 1 workers\n", ""), 0)


def test_a_file_name_that_is_not_utf_8_keeps_nobody_from_stopping_it(tmp_path: Path) -> None:
    script = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.lua"))
    script.write_text("function route_request(request, workers)\n  return workers[1]\nend\n")
    control_port = free_port()
    path = config(tmp_path, control={"bind": f"127.0.0.1:{control_port}"})
    process = start(tmp_path, "--config", path, "--script", str(script))
    deadline = time.monotonic() + 60.0
    while process.poll() is None and is_free(control_port) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(30) in (0, 2)
    finally:
        process.kill()
        process.wait()


# Refusing to start.


def test_no_workers_are_refused(tmp_path: Path) -> None:
    check_refused(run_command(tmp_path, "serve"), "the command line: no workers", "--worker http://HOST:PORT")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        ("a folder", "cannot be read: Is a directory"),
        ("", "no workers; add a [[workers]] block"),
        ("[[workers]]\nurl = ", "is not valid TOML"),
        ("[[worker]]\nurl = 'http://x:1'\n", "worker: unknown key; did you mean 'workers'?"),
        ("[server]\nbind = '0.0.0.0:8881'\n[[workers]]\nurl = 'http://x:1'\n", "server.allow_unauthenticated = true"),
        ("[control]\nbind = '[::]:8882'\n[[workers]]\nurl = 'http://x:1'\n", "control.allow_unauthenticated = true"),
    ],
    ids=["missing", "a folder", "empty", "cut", "misspelled", "open server", "open control"],
)
def test_a_configuration_that_cannot_be_used_is_refused_with_its_name(
    content: str | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "given.toml"
    if content == "a folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    check_refused(run_command(tmp_path, "serve", "--config", str(path)), str(path), said)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("function route_request(request, workers)\n  return workers[1\nend\n", "broken.lua:3:"),
        ("function route_request(request, workers)\n  return workers.nobody.id\nend\n", "the self-test request failed: broken.lua:2:"),
        ("", "defines no function route_request"),
        (None, "broken.lua: cannot be read: No such file or directory"),
    ],
)  # fmt: skip
def test_a_script_that_cannot_be_used_is_refused_with_its_line(source: str | None, said: str, tmp_path: Path) -> None:
    script = tmp_path / "broken.lua"
    if source is not None:
        script.write_text(source)
    check_refused(run_command(tmp_path, "serve", "--worker", WORKER, "--script", str(script)), said)


def run_on_a_taken_port(folder: Path, section: str) -> tuple[tuple[int, str, str], str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        return run_command(folder, "serve", "--config", config(folder, **{section: {"bind": bind}})), bind


@pytest.mark.parametrize("section", ["server", "control"])
def test_a_port_in_use_is_refused_with_its_number(section: str, tmp_path: Path) -> None:
    (code, _, complained), bind = run_on_a_taken_port(tmp_path, section)
    assert code == 2
    (line,) = (line for line in complained.splitlines() if line.startswith("rbeerouter: "))
    assert line.startswith(f"rbeerouter: {section}.bind = '{bind}': cannot listen: ")
    assert "address already in use" in line.lower()
    assert re.findall("Traceback|unexpected|Unclosed", complained) == []


@pytest.mark.parametrize("log", ["/proc/nowhere/routing.log", "/"])
def test_a_log_that_cannot_be_written_is_refused(log: str, tmp_path: Path) -> None:
    path = config(tmp_path, routing={"log": log})
    check_refused(run_command(tmp_path, "serve", "--config", path), f"routing.log = '{log}': cannot be written")


def test_a_ca_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("this is no certificate")
    path = tmp_path / "config.toml"
    entry = {"url": "https://127.0.0.1:9", "ca_file": "ca.pem"}
    sections = {
        "server": {"bind": f"127.0.0.1:{free_port()}"},
        "control": {"bind": f"127.0.0.1:{free_port()}"},
        "routing": {"log": "routing.log"},
    }
    path.write_text(config_text([entry], **sections))
    try:
        outcome = run_command(tmp_path, "serve", "--config", str(path))
    except subprocess.TimeoutExpired:
        pytest.fail("it serves")
    check_refused(outcome, "ca_file")


# The rest.


def test_the_version_is_told(tmp_path: Path) -> None:
    assert run_command(tmp_path, "--version") == (0, f"rbeerouter {__version__}\n", "")


def test_without_a_command_the_usage_is_told(tmp_path: Path) -> None:
    code, _, complained = run_command(tmp_path)
    assert code == 2
    assert complained.startswith("usage: rbeerouter")
