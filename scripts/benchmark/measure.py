"""The measured numbers: CPU and memory of a process tree (/proc), load and latency (wrk).

Called by run.py around each measured run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .machine import Cores
from .process_tree import process_tree
from .processes import Failed
from .templates import FOLDER as TEMPLATES

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def tree_cpu_us(session: int) -> int:
    """User and system time of all processes of the tree since they started.

    The time of children that have ended is included (cutime and cstime of the parent that
    waited for them), so the sum never goes back while the tree lives. The kernel counts it
    in ticks of 10 ms: over a run of some seconds that is a few parts in a thousand.
    """
    ticks = sum(stat.cpu_ticks for stat in process_tree(session))
    return ticks * 1_000_000 // _TICKS_PER_SECOND


def machine_cpu_us() -> int:
    """CPU time of everything on this machine since it started, interrupts included."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) * 1_000_000 // _TICKS_PER_SECOND


def bench_cpu_us() -> int:
    """CPU time of this bench and of the wrk runs it has waited for."""
    times = os.times()
    seconds = times.user + times.system + times.children_user + times.children_system
    return round(seconds * 1e6)


def tree_peak_rss_kb(session: int) -> int:
    """VmHWM (the highest resident size so far) summed over all processes of the tree.

    Pages that processes share, as a master and its forked worker do, count in each.
    """
    return sum(_peak_rss_kb(stat.pid) for stat in process_tree(session))


def tree_size(session: int) -> int:
    """How many processes the tree has."""
    return len(process_tree(session))


def _peak_rss_kb(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


@dataclass(frozen=True)
class Load:
    """What wrk saw in one run without errors."""

    requests: int
    seconds: float
    byte_count: int  # also of answers that had not ended when the run did
    p50_ms: float
    p99_ms: float


def wrk_path() -> str | None:
    return shutil.which("wrk")


def run_wrk(port: int, body: Path, connections: int, seconds: float, cores: Cores) -> Load:
    """Load the server on PORT with the request in file BODY; Failed on any error in it."""
    command = [
        wrk_path() or "wrk",
        "--threads=1",
        f"--connections={connections}",
        f"--duration={max(1, round(seconds))}s",
        "--timeout=10s",
        f"--script={TEMPLATES / 'load.lua'}",
        f"http://127.0.0.1:{port}/v1/chat/completions",
        "--",
        str(body),
    ]
    finished = subprocess.run(
        cores.pin_load(command), check=False, capture_output=True, text=True, timeout=seconds + 60
    )
    counts = _parse_wrk(finished.stdout)
    if counts is None:
        raise Failed(f"wrk gave no result: {(finished.stderr or finished.stdout).strip()}")
    errors = {name: counts[name] for name in counts if name.endswith("errors") and counts[name]}
    if counts["timeouts"]:
        errors["timeouts"] = counts["timeouts"]
    if errors:
        listed = ", ".join(f"{count} {name}" for name, count in errors.items())
        raise Failed(f"under load: {listed} beside {counts['requests']} requests")
    return Load(
        requests=counts["requests"],
        seconds=counts["duration_us"] / 1e6,
        byte_count=counts["bytes"],
        p50_ms=counts["p50_us"] / 1000,
        p99_ms=counts["p99_us"] / 1000,
    )


def _parse_wrk(output: str) -> dict[str, int] | None:
    """The line that templates/load.lua prints."""
    for line in output.splitlines():
        if line.startswith("BENCH "):
            counts: dict[str, int] = json.loads(line.removeprefix("BENCH "))
            return counts
    return None
