"""The process that holds a script, asked directly: how it talks, what it may do, and when it ends."""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rbeerouter.control.script_child import CALLS
from rbeerouter.control.script_process import ScriptProcess
from rbeerouter.routing.sandbox import Abilities, Limits, Runtime

START_S = 10.0
ROOT = Path(__file__).resolve().parents[2]
only_on_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")

BEGIN = ("begin", [msgspec.structs.asdict(Limits()), msgspec.structs.asdict(Abilities())])
LOAD = ("load", [b"function route_request(request, workers) return nil end", "routing.lua"])
LOADED = [False, [0, ""]]


class Started:
    """A child, and our end of its socket."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(START_S)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rbeerouter.control.script_child", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),), cwd=ROOT, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def say(self, *calls: tuple[str, list[Any]]) -> Any:
        self.socket.sendall(message(*calls))
        return self.hear()

    def hear(self) -> Any:
        data = b""
        while len(data) < 4 or len(data) < 4 + struct.unpack_from(">I", data)[0]:
            got = self.socket.recv(65536)
            if not got:
                raise EOFError
            data += got
        return msgspec.msgpack.decode(data[4:])

    def told(self, what: str) -> str:
        """A file of /proc."""
        return Path(f"/proc/{self.process.pid}/{what}").read_text()


def message(*calls: tuple[str, list[Any]]) -> bytes:
    data = msgspec.msgpack.encode(calls)
    return struct.pack(">I", len(data)) + data


@pytest.fixture
def child() -> Iterator[Started]:
    one = Started()
    yield one
    one.socket.close()
    one.process.kill()
    one.process.wait()


def test_all_that_a_runtime_does_is_done_on_both_sides() -> None:
    methods = {name for name in vars(Runtime) if not name.startswith("_")}
    assert set(CALLS) | {"swollen", "close"} == methods <= set(dir(ScriptProcess))


def test_of_several_calls_only_the_last_one_is_answered(child: Started) -> None:
    assert child.say(BEGIN, ("seed", [1]), LOAD) == LOADED
    assert child.say(("finish_puts", [0]), ("ask", ["hooks"])) == [False, 0]


def test_a_message_may_come_in_pieces(child: Started) -> None:
    whole = message(BEGIN, LOAD)
    for piece in (whole[:1], whole[1:4], whole[4:50], whole[50:]):
        child.socket.sendall(piece)
        time.sleep(0.01)
    assert child.hear() == LOADED


def test_it_ends_when_its_socket_closes(child: Started) -> None:
    child.say(BEGIN, LOAD)
    child.socket.close()
    assert child.process.wait(START_S) == 0


@pytest.mark.parametrize("calls", [[("exit", [])], [("load", [b"", "x"])], [BEGIN, ("put", [])]])
def test_a_call_that_cannot_be_done_ends_it(child: Started, calls: list[Any]) -> None:
    with pytest.raises((EOFError, ConnectionError)):
        child.say(*calls)
    assert child.process.wait(START_S) == 1


def test_signals_that_are_meant_for_the_daemon_do_not_end_it(child: Started) -> None:
    child.say(BEGIN, LOAD)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        child.process.send_signal(number)
    assert child.say(("ask", ["hooks"])) == [False, 0]


@only_on_linux
def test_it_keeps_no_file_but_its_socket_and_the_standard_ones() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    one = Started()
    try:
        one.say(BEGIN, LOAD)
        assert sorted(os.listdir(f"/proc/{one.process.pid}/fd")) == ["0", "1", "2", "3"]
    finally:
        for descriptor in (reading, writing):
            os.close(descriptor)
        one.socket.close()
        one.process.wait(START_S)


@only_on_linux
def test_it_can_open_start_and_write_nothing_and_its_memory_is_bounded(child: Started) -> None:
    child.say(BEGIN, LOAD)
    limits = {kind: resource.prlimit(child.process.pid, kind) for kind in (
        resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE,
    )}  # fmt: skip
    assert list(limits.values()) == [(0, 0)] * 4
    soft, hard = resource.prlimit(child.process.pid, resource.RLIMIT_AS)
    assert soft == hard < 1 << 30
    assert "NoNewPrivs:\t1" in child.told("status")
