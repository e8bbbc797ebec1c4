"""The process that holds a routing script under `isolation = "process"`: does what its socket says, until it closes.

Started by `control.script_process` as `python -m rbeerouter.control.script_child FD`; run by nobody else. It holds one
`Sandbox`, the very one that the daemon holds without isolation. It must never outlive the daemon, and can do next to
nothing besides computing: no file can be opened, no process started, and its memory is bounded.

Both ways a message is its length in four bytes, then msgpack. To the child: a list of calls, (name, arguments), of
which only the last one is answered. From it: (whether the sandbox is swollen, the answer). So there is one answer for
each message, and the child never speaks first.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from rbeerouter.routing.sandbox import Abilities, Limits, Sandbox

LENGTH = struct.Struct(">I")
BEGIN = "begin"
"""The call that comes first, with limits and abilities."""
CALLS = (
    "load", "put", "finish_puts", "touch", "measured", "route", "failed", "completed", "resume", "ask", "seed",
    "set_param", "clear_state", "restore", "settle",
)  # fmt: skip
CHUNK_BYTES = 1 << 16

_SOCKET_FD = 3
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_ROOM_BYTES = 256 << 20
"""Address space for what is not the script's: messages with a whole fleet, Python's own, the allocator's arenas."""


def main(descriptor: int) -> None:
    """Becomes the process that serves the socket `descriptor`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)               # meant for the daemon, which ends this process in its time
    if descriptor != _SOCKET_FD:
        os.dup2(descriptor, _SOCKET_FD)
    os.closerange(_SOCKET_FD + 1, os.sysconf("SC_OPEN_MAX"))
    if sys.platform == "linux":
        control = ctypes.CDLL(None).prctl
        control(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        control(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    child = Child(_address_space())
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        _lower(kind, 0)                                     # what is open stays so; nothing more can be
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError):                      # the daemon is gone, or done with us
        child.serve(socket.socket(fileno=_SOCKET_FD))


class Child:
    """Does the calls.

    Args:
        used_bytes: the address space that the process takes before there is a script; None where it is not known, and
            then it stays unlimited.
    """

    def __init__(self, used_bytes: int | None = None) -> None:
        self._used_bytes = used_bytes
        self._sandbox = Sandbox(Limits(), Abilities())      # the first one takes its time; this one is thrown away
        self._methods: dict[str, Callable[..., Any]] = {BEGIN: self._begin}

    def serve(self, connection: socket.socket) -> None:
        """Until the other side closes."""
        decode, encode = msgspec.msgpack.Decoder().decode, msgspec.msgpack.Encoder().encode
        while message := _receive(connection):
            answer = None
            for name, arguments in decode(message):
                answer = self._methods[name](*arguments)
            reply = encode((self._sandbox.swollen(), answer))
            connection.sendall(LENGTH.pack(len(reply)) + reply)

    def _begin(self, limits: dict[str, Any], abilities: dict[str, Any]) -> None:
        given = msgspec.convert(limits, Limits)
        if self._used_bytes is not None:
            _lower(resource.RLIMIT_AS, self._used_bytes + _ROOM_BYTES + 4 * given.memory_bytes + 4 * given.state_bytes)
        sandbox = self._sandbox = Sandbox(given, msgspec.convert(abilities, Abilities))
        self._methods = {name: getattr(sandbox, name) for name in CALLS}


def _receive(connection: socket.socket) -> memoryview | None:
    """The next message without its length; None at the end. There is never more than one on its way."""
    data = connection.recv(CHUNK_BYTES)
    while data and (len(data) < 4 or len(data) < 4 + LENGTH.unpack_from(data)[0]):
        more = connection.recv(1 << 20)
        if not more:
            return None
        data += more
    return memoryview(data)[4:] if data else None


def _address_space() -> int | None:
    """What the process takes now. Only Linux tells, and only there the limit on it is reliable."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return None


def _lower(kind: int, limit: int) -> None:
    """Sets a limit for good; one that is lower already stays."""
    hard = resource.getrlimit(kind)[1]
    if hard == resource.RLIM_INFINITY or hard > limit:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (limit, limit))


if __name__ == "__main__":
    main(int(sys.argv[1]))
