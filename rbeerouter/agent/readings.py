"""What the tools of a machine print, read: graphics memory, temperature, watts, and whether somebody sits at it.

`agent.machine` runs the tools and hands their text in. Nothing here runs anything; text that is not understood is None.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

_MIB_PER_GIB = 1024
_BYTES_PER_GIB = 1 << 30


class Reading(msgspec.Struct, frozen=True):
    """What all GPUs of a machine have together: GiB, the hottest one's degrees, watts. None: the tool does not say."""

    vram: float | None = None
    vram_used: float | None = None
    temperature_c: float | None = None
    watts: float | None = None


NVIDIA_QUERY = ("--query-gpu=memory.total,memory.used,temperature.gpu,power.draw", "--format=csv,noheader,nounits")
NVIDIA_APPS = ("--query-compute-apps=pid,process_name", "--format=csv,noheader")


def nvidia(text: str) -> Reading | None:
    """`nvidia-smi` with NVIDIA_QUERY: one line for each GPU, [N/A] or [Not Supported] for what it cannot say."""
    rows = [[_number(cell) for cell in line.split(",")] for line in text.splitlines() if line.count(",") == 3]
    if not rows:
        return None
    total, used, degrees, watts = zip(*rows, strict=True)
    return Reading(_sum(total, _MIB_PER_GIB), _sum(used, _MIB_PER_GIB), _most(degrees), _sum(watts, 1))


def rocm(text: str) -> Reading | None:
    """`rocm-smi --showmeminfo vram --showtemp --showpower --json`: an object for each card, its keys in words."""
    try:
        cards = [card for name, card in json.loads(text).items() if name.startswith("card") and isinstance(card, dict)]
    except (ValueError, AttributeError, RecursionError):
        return None
    if not cards:
        return None
    return Reading(
        _sum([_keyed(card, "vram total memory") for card in cards], _BYTES_PER_GIB),
        _sum([_keyed(card, "vram total used memory") for card in cards], _BYTES_PER_GIB),
        _most([_keyed(card, "temperature (sensor edge)", "temperature (sensor junction)") for card in cards]),
        _sum([_keyed(card, "socket graphics package power", "average graphics package power") for card in cards], 1),
    )


def apple(memsize: str, vm_stat: str) -> Reading | None:
    """`sysctl -n hw.memsize` and `vm_stat`: a Mac's graphics use the one memory that there is."""
    total = _number(memsize)
    page = re.search(r"page size of (\d+) bytes", vm_stat)
    if total is None:
        return None
    counts = {name: int(count) for name, count in re.findall(r"^(Pages [\w -]+):\s+(\d+)\.", vm_stat, re.MULTILINE)}
    taken = ("Pages active", "Pages wired down", "Pages occupied by compressor")
    used = None
    if page is not None and all(name in counts for name in taken):
        used = sum(counts[name] for name in taken) * int(page[1]) / _BYTES_PER_GIB
    return Reading(total / _BYTES_PER_GIB, used)


def idle_s_of_xprintidle(text: str) -> float | None:
    """Milliseconds since the last key or mouse movement."""
    milliseconds = _number(text)
    return None if milliseconds is None else milliseconds / 1000


def idle_s_of_ioreg(text: str) -> float | None:
    """`ioreg -c IOHIDSystem`: nanoseconds since then."""
    found = re.search(r'"HIDIdleTime" = (\d+)', text)
    return int(found[1]) / 1e9 if found else None


def idle_of_loginctl(text: str) -> bool | None:
    """`loginctl show-session ... -p IdleHint -p Type -p State -p Class` of all sessions: is every one that has a screen
    idle? None where no session has one."""
    hints = []
    for block in text.split("\n\n"):
        session = dict(re.findall(r"^(\w+)=(.*)$", block, re.MULTILINE))
        if session.get("Type") in ("x11", "wayland", "mir") and session.get("Class", "user") == "user":
            hints.append(session.get("IdleHint") == "yes" or session.get("State") != "active")
    return all(hints) if hints else None


def programs(text: str) -> list[tuple[int, str]]:
    """`nvidia-smi` with NVIDIA_APPS, or the rows of its table: process number and program of each user of the GPU."""
    found = []
    for line in text.splitlines():
        pid, comma, name = line.partition(",")
        if comma and pid.strip().isdecimal():
            found.append((int(pid), name.strip()))
            continue
        row = re.match(r"\|\s+\d+\s+\S+\s+\S+\s+(\d+)\s+(?:C|G|C\+G|M\+C)\s+(.+?)\s+\S+\s*\|$", line)
        if row:
            found.append((int(row[1]), row[2]))
    return found


_GAMES = re.compile(r"steamapps|/games?/|proton|wine|\.exe$|gamescope|minecraft|blender", re.IGNORECASE)


def plays(text: str) -> bool:
    """Is a game, or another program that a person sits before, among the users of the GPU?"""
    return any(_GAMES.search(name) for _, name in programs(text))


def _number(text: str) -> float | None:
    try:
        return float(text.strip())
    except ValueError:
        return None


def _keyed(card: dict[str, Any], *starts: str) -> float | None:
    """The value under the first key that begins so: versions of the tool add units and remarks to their keys."""
    for start in starts:
        for key, value in card.items():
            if key.lower().startswith(start) and (number := _number(str(value))) is not None:
                return number
    return None


def _sum(values: Any, unit: float) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / unit, 3) if known else None


def _most(values: Any) -> float | None:
    return max((value for value in values if value is not None), default=None)
