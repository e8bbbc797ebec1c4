"""This machine: free ports, the cores to pin to, and a description for the report.

Called by run.py (ports, cores), report.py (the description), and simulate.py and decisions.py (one core).
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@contextlib.contextmanager
def on_one_core(pin: bool) -> Iterator[None]:
    """This process stays on the last of its cores meanwhile, if it is to be pinned."""
    before = os.sched_getaffinity(0)
    if pin:
        os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Cores:
    """Which cores the router runs on, and which the load (workers and wrk) runs on."""

    router: str | None
    load: str | None

    @property
    def pinned(self) -> bool:
        return self.router is not None

    def pin(self, command: list[str], cores: str | None) -> list[str]:
        return ["taskset", "-c", cores, *command] if cores else command

    def pin_router(self, command: list[str]) -> list[str]:
        return self.pin(command, self.router)

    def pin_load(self, command: list[str]) -> list[str]:
        return self.pin(command, self.load)


def choose_cores(wanted: bool) -> Cores:
    """The first usable core for the router, the second for workers and wrk."""
    usable = sorted(os.sched_getaffinity(0))
    if not wanted or len(usable) < 2 or not shutil.which("taskset"):
        return Cores(None, None)
    return Cores(str(usable[0]), str(usable[1]))


def free_ports(count: int, tries: int = 200) -> list[int]:
    """COUNT neighbouring free TCP ports, below the range the kernel gives to clients."""
    for _ in range(tries):
        base = random.randrange(15_000, 32_000 - count)
        ports = list(range(base, base + count))
        if all(_is_free(port) for port in ports):
            return ports
    raise RuntimeError(f"no {count} neighbouring free ports found on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def describe() -> dict[str, object]:
    """What a reader needs to place the numbers: kernel, CPU, cores, load at this moment."""
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "core_count": os.cpu_count(),
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown CPU"
