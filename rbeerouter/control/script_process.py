"""A routing script in a process of its own that can be killed: `isolation = "process"`.

`server.daemon` makes one `ScriptProcesses` and gives it to each `Script` as what makes its runtime. A `ScriptProcess`
has the methods of `routing.sandbox.Runtime`; behind them is a `control.script_child`. A decision is synchronous, so
these calls block the event loop's thread, but never for long: a process that is late is killed.

Nothing that comes from the process is believed: `control.script_answers` checks it. A process that is late, ends or
answers nonsense costs the decision (`RuntimeLost`); the script asks for another one, and a spare that has started
already is there at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from rbeerouter.control.script_answers import Nonsense, Read, Reader
from rbeerouter.control.script_child import BEGIN, CHUNK_BYTES, LENGTH
from rbeerouter.routing.sandbox import CRASH, Abilities, Limits, RuntimeLost

_GRACE_S = 0.06
"""Beyond `Limits.cpu_s`, by which the sandbox itself ends a script: with the usual 0.02 s, no decision takes 0.1 s.
What passes that hangs where the sandbox cannot see it, or is not a sandbox any more."""
_LOAD_S = 5.0
"""For the first answer: the process may still be starting."""
_LOOK_S = 1.0
"""For answers that list up to a megabyte of state or notes, none of them within an ordinary decision."""
_CALL_S = {"put": 0.0002, "restore": 0.00002}
"""What each call that waits for the next answer adds to its time: ten times what it takes."""
_GONE_S = 2.0
"""For killed processes to be gone when the daemon stops."""

CHILD = ("-S", "-P", "-m", "rbeerouter.control.script_child")
"""What Python is to run. No `site`: the path is given whole, and nobody's start-up code has a place there."""
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")
"""What Python may need of the environment to start at all. The rest, keys and passwords among it, stays here."""
_HEAD = bytes(LENGTH.size) + b"\xdd" + bytes(4)
"""What a message begins with: its length, then msgpack's head of a list with a length of 32 bits."""
_TOO_LARGE = "Python int too large to convert to C long"
"""What the sandbox says of a whole number beyond 64 bits, which msgpack cannot carry."""

_encode = msgspec.msgpack.Encoder().encode


class ScriptProcesses:
    """Makes runtimes, each in a process of its own, and keeps one process ready for the next.

    To be called from a thread that stays: on Linux the processes end with the thread that started them.

    Args:
        program: what Python runs in the processes; called with the number of a socket.
    """

    def __init__(self, program: tuple[str, ...] = CHILD) -> None:
        self._program = program
        self._all: weakref.WeakSet[ScriptProcess] = weakref.WeakSet()
        self._closed = False
        self._spare: ScriptProcess | None = self._start()

    def __call__(self, limits: Limits, abilities: Abilities) -> ScriptProcess:
        """A runtime for one script. Raises RuntimeLost when no process can be started."""
        if self._closed:
            raise RuntimeLost("the script's process is not started again: the daemon stops")
        spare, self._spare = self._spare, None
        if spare is None or not spare.alive():
            spare = self._start()
            if spare is None:
                raise RuntimeLost("the script's process cannot be started: no memory or too many processes")
        spare.begin(limits, abilities)
        self._spare = self._start()
        return spare

    def close(self) -> None:
        """Ends all that are left, those in use as well. Returns when they are gone."""
        every = list(self._all)
        self._closed, self._spare = True, None
        for one in every:
            one.close()
        deadline = time.monotonic() + _GONE_S
        for one in every:
            one.wait(deadline - time.monotonic())

    def _start(self) -> ScriptProcess | None:
        try:
            one = ScriptProcess(self._program)
        except OSError:
            return None
        self._all.add(one)
        return one


class ScriptProcess:
    """A `Runtime`: gathers the calls that have no answer, and sends them with the next one that has.

    Methods with an answer, and `swollen`, raise RuntimeLost when the process is gone.
    """

    def __init__(self, program: tuple[str, ...] = CHILD) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                self._process = _start(program, theirs.fileno())
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._socket = ours
        self._end = weakref.finalize(self, _end, self._process, ours)
        self._poll = select.poll()
        self._poll.register(ours, select.POLLIN)
        self._message = bytearray(_HEAD)
        self._calls = 0
        self._room_s = 0.0                                     # for the calls that were gathered
        self._swollen = False
        self._gone = "the script's process is gone"

    def begin(self, limits: Limits, abilities: Abilities) -> None:
        """Says what the script may use; comes before all else."""
        self._reader = Reader(limits, abilities)
        self._decision_s = limits.cpu_s + _GRACE_S
        self._most_bytes = limits.memory_bytes + 8 * limits.state_bytes
        self._gather(BEGIN, msgspec.structs.asdict(limits), msgspec.structs.asdict(abilities))

    def alive(self) -> bool:
        return self._end.alive and self._process.poll() is None

    def wait(self, within_s: float) -> None:
        """Waits for the process to be gone, after `close`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, within_s))

    # Runtime: calls without an answer

    def put(self, index: int, fields: dict[str, Any], lists: dict[str, tuple], metadata: dict[str, Any]) -> None:
        self._gather("put", index, fields, lists, metadata)

    def finish_puts(self, count: int) -> None:
        self._gather("finish_puts", count)
        self._reader.count = count

    def touch(self, packed: int) -> None:
        self._gather("touch", packed)

    def measured(self, index: int, *figures: float | bool | None) -> None:
        self._gather("measured", index, *figures)

    def seed(self, value: int) -> None:
        self._gather("seed", value)

    def set_param(self, name: str, value: float) -> None:
        self._gather("set_param", name, value)

    def clear_state(self) -> None:
        self._gather("clear_state")

    def restore(self, key: str, value: Any, expiry: float | None) -> None:
        self._gather("restore", key, value, expiry)

    def settle(self) -> None:
        self._gather("settle")

    def swollen(self) -> bool:
        """As it was at the last answer."""
        if not self._end.alive:
            raise RuntimeLost(self._gone)
        return self._swollen

    def close(self) -> None:
        """Ends the process."""
        self._end()

    # Runtime: calls with an answer

    def load(self, source: bytes, name: str) -> Any:
        """A process that is lost while it loads is a script that does not load."""
        self._expect(self._reader.load, _LOAD_S)
        try:
            return self._ask("load", source, name.encode(errors="replace").decode())
        except RuntimeLost as lost:
            return CRASH, str(lost)

    def route(self, *arguments: Any) -> Any:
        self._expect(self._reader.decision, self._decision_s)
        return self._ask("route", *arguments)

    def failed(self, attempt: dict[str, Any], tried: list[str], *arguments: Any) -> Any:
        self._expect(self._reader.decision, self._decision_s)
        return self._ask("failed", attempt, tried, *arguments)

    def completed(self, outcome: dict[str, Any], *arguments: Any) -> Any:
        self._expect(self._reader.completion, self._decision_s)
        return self._ask("completed", outcome, *arguments)

    def resume(self, answer: int | None) -> Any:
        """Goes on with the decision; its time is not counted anew."""
        return self._ask("resume", answer)

    def ask(self, what: str) -> Any:
        self._expect(self._reader.asked[what], self._decision_s if what in ("hooks", "log") else _LOOK_S)
        return self._ask("ask", what)

    # Talking

    def _expect(self, read: Read, within_s: float) -> None:
        self._read, self._patience_s = read, within_s
        self._deadline = time.monotonic() + within_s

    def _gather(self, name: str, *arguments: Any) -> None:
        self._message += _encode((name, arguments))
        self._calls += 1
        self._room_s += _CALL_S.get(name, 0.0)

    def _ask(self, name: str, *arguments: Any) -> Any:
        """Sends what was gathered, this last; returns the checked answer."""
        if not self._end.alive:
            raise RuntimeLost(self._gone)
        try:
            self._gather(name, *arguments)
        except (UnicodeError, OverflowError) as error:         # what Lua cannot take either, in the sandbox's words
            return CRASH, _TOO_LARGE if isinstance(error, OverflowError) else str(error)[:400]
        message, self._message = self._message, bytearray(_HEAD)
        LENGTH.pack_into(message, 0, len(message) - LENGTH.size)
        LENGTH.pack_into(message, LENGTH.size + 1, self._calls)
        self._deadline += self._room_s
        self._calls, self._room_s = 0, 0.0
        try:
            self._send(message)
            self._swollen, answer = self._read(self._receive())
            return answer
        except OSError:
            self._lose(_ended(self._process))
        except Nonsense:
            self._lose("answered nonsense and was killed")

    def _send(self, message: bytearray) -> None:
        """All of it; a message with a whole fleet is more than the socket takes at once."""
        sent = 0
        while True:
            with contextlib.suppress(BlockingIOError):
                sent += self._socket.send(memoryview(message)[sent:] if sent else message)
            if sent == len(message):
                return
            self._poll.modify(self._socket, select.POLLOUT)
            self._wait()
            self._poll.modify(self._socket, select.POLLIN)

    def _receive(self) -> memoryview:
        """One answer without its length; more than one is nonsense."""
        size, data = 0, bytearray()
        while True:
            self._wait()
            got = self._socket.recv(CHUNK_BYTES)
            if not got:
                raise ConnectionError
            data += got
            if not size and len(data) >= LENGTH.size:
                size = LENGTH.unpack_from(data)[0] + LENGTH.size
                if size > self._most_bytes:
                    self._lose(f"answered with more than {self._most_bytes} bytes and was killed")
            if size and len(data) >= size:
                if len(data) > size:
                    raise Nonsense
                return memoryview(data)[LENGTH.size:]

    def _wait(self) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0 or not self._poll.poll(left_s * 1000):
            self._lose(f"gave no answer in {self._patience_s:g} s and was killed")

    def _lose(self, why: str) -> NoReturn:
        self._end()
        self._gone = f"the script's process {why}"
        raise RuntimeLost(self._gone) from None


def _start(program: tuple[str, ...], descriptor: int) -> subprocess.Popen[bytes]:
    """Starts a process that serves this socket. It gets nothing else: no files, no terminal, no secrets."""
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join([package, *(os.path.abspath(entry) for entry in sys.path)])
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return subprocess.Popen(
        [sys.executable, *program, str(descriptor)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
        pass_fds=(descriptor,), env=kept | {"PYTHONPATH": path}, start_new_session=True,
    )  # fmt: skip


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    process.kill()                                          # first: a child that sees its socket close takes the CPU
    connection.close()
    if process.poll() is None:
        with contextlib.suppress(RuntimeError):               # Python itself ends, and takes no new threads
            threading.Thread(target=process.wait, name="reap a script's process", daemon=True).start()


def _ended(process: subprocess.Popen[bytes]) -> str:
    """How a process that closed its socket came to its end."""
    try:
        status = process.wait(0.05)
    except subprocess.TimeoutExpired:
        return "closed its socket and was killed"
    return f"ended by signal {-status}, {signal.strsignal(-status)}" if status < 0 else f"ended with status {status}"
