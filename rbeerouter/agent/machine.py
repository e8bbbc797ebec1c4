"""Runs the tools that a machine has, and reads what they print.

`agent.service` asks before each heartbeat. A tool that is missing, hangs or fails costs what it would have told.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from rbeerouter.agent import readings
from rbeerouter.agent.readings import Reading

_TIMEOUT_S = 5.0
_LOGINCTL = "for s in $(loginctl list-sessions --no-legend | awk '{print $1}'); do " \
    "loginctl show-session $s -p IdleHint -p Type -p State -p Class; echo; done"  # fmt: skip


async def measure() -> tuple[str | None, Reading]:
    """What kind of GPUs the machine has ("cuda", "rocm", "metal", None), and what they show now."""
    found = readings.nvidia(await printed("nvidia-smi", *readings.NVIDIA_QUERY))
    if found is not None:
        return "cuda", found
    found = readings.rocm(await printed("rocm-smi", "--showmeminfo", "vram", "--showtemp", "--showpower", "--json"))
    if found is not None:
        return "rocm", found
    if sys.platform == "darwin":
        found = readings.apple(await printed("sysctl", "-n", "hw.memsize"), await printed("vm_stat"))
        if found is not None:
            return "metal", found
    return None, Reading()


async def owner_active(idle_after_s: float) -> bool | None:
    """Does somebody sit at the machine? None where nothing tells: a server without a screen."""
    if readings.plays(await printed("nvidia-smi")):
        return True
    if sys.platform == "darwin":
        idle_s = readings.idle_s_of_ioreg(await printed("ioreg", "-c", "IOHIDSystem", "-d", "4"))
    else:
        idle_s = readings.idle_s_of_xprintidle(await printed("xprintidle"))
    if idle_s is not None:
        return idle_s < idle_after_s
    idle = readings.idle_of_loginctl(await printed("sh", "-c", _LOGINCTL))
    return None if idle is None else not idle


async def printed(*command: str) -> str:
    """What a command prints; nothing when it cannot be run, fails, or takes too long."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:
        return ""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return ""
    return output.decode(errors="replace") if process.returncode == 0 else ""
