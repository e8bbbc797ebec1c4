"""Which processes belong to a program: its session and all their descendants, from /proc.

Called by measure.py (to sum CPU and memory) and by processes.py (to stop all of them).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessStat:
    """The fields of /proc/PID/stat that matter here."""

    pid: int
    parent: int
    session: int
    cpu_ticks: int  # utime + stime, and cutime + cstime of the children it waited for


def process_tree(session: int) -> list[ProcessStat]:
    """The processes of SESSION and all their descendants, also those in other sessions."""
    everything = list(all_processes())
    found = {stat.pid: stat for stat in everything if stat.session == session}
    grew = True
    while grew:
        children = [stat for stat in everything if stat.parent in found and stat.pid not in found]
        found.update((stat.pid, stat) for stat in children)
        grew = bool(children)
    return list(found.values())


def all_processes() -> Iterator[ProcessStat]:
    """Every process of this machine at this moment."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            text = (folder / "stat").read_text()
        except OSError:  # it ended meanwhile
            continue
        # The name in brackets may hold spaces: the fields after it start with the state.
        fields = text.rpartition(")")[2].split()
        cpu_ticks = sum(int(field) for field in fields[11:15])
        yield ProcessStat(int(folder.name), int(fields[1]), int(fields[3]), cpu_ticks)
