"""Scripts that mean harm: those of ../shared/hostile and our own beside this file, and what each may do.

Called by tests/routing/test_hostile.py (in this process), tests/e2e/test_hostile.py (through the daemon) and the fuzzer
(as seeds). The first line of a script tells the outcomes that it may have, `-- expect: a|b ; reason`, in the words of
../shared/hostile/README.md and two more, `reject` and `queue`; a script with hooks tells those of the hooks likewise,
`-- on_failure: a|b`. It runs nothing itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

OURS = Path(__file__).parent
SHARED = Path(__file__).resolve().parents[3] / "shared" / "hostile"

GOOD = b"""function route_request(request, workers)
  return workers:filter(function(w) return w.status == "ready" and w.models:contains("m-big") end)
                :sort_by(function(a, b) return a.load < b.load end)[1]
end"""
"""Picks w2 on the fixture's workers."""

DIFFERENCES = {
    "ret_array.lua": ({"pick:w1"}, "a list is the failover order, the first of it is chosen"),
    "ret_multiple.lua": ({"error"}, "a second value is the reason, which is a text"),
}
"""{script of ../shared/hostile: (what it does here, why)}, where the language has changed since it was written."""

LOADS = (50, 20, 90, 10, 20, 70, 0, 30)
"""In hundredths, of w1 to w8."""
BUSY_WORKERS, OFFLINE_WORKER = ("w4", "w8"), "w7"
BIG_WORKERS = ("w2", "w5")


class Hostile(NamedTuple):
    """One script. `may` has the outcomes that it may have, by hook; "any" allows all."""

    path: Path
    may: dict[str, set[str]]

    @property
    def name(self) -> str:
        return self.path.stem


def scripts(folder: Path) -> list[Hostile]:
    """The scripts of a folder; none when it is not there."""
    return [Hostile(path, _outcomes(path)) for path in sorted(folder.glob("*.lua"))]


def _outcomes(path: Path) -> dict[str, set[str]]:
    told = re.findall(rb"-- (expect|on_failure|on_complete): ([^;\n]*)", path.read_bytes()[:2000])
    may = {hook.decode(): set(re.findall(r"[\w:-]+", words.decode())) for hook, words in told}
    if path.name in DIFFERENCES and path.parent == SHARED:
        may["expect"] = DIFFERENCES[path.name][0]
    return may
