"""`rbeerouter routing test --watch`: runs again whenever the script or its tests are saved, until Ctrl-C.

`cli` calls `watch`. It looks at the files' times and does nothing between two looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rbeerouter.workbench.suite import suite_path

LOOK_S = 0.3
MOST_LOOKS = int(7 * 86_400 / LOOK_S)
"""A week: a terminal that was forgotten is left alone in the end."""

_CLEAR = "\x1b[2J\x1b[H"


def watch(
    script: Path,
    test: Path | None,
    run: Callable[[], bool],
    out: TextIO,
    *,
    pause: Callable[[float], None] = time.sleep,
    most: int = MOST_LOOKS,
) -> None:
    """Calls `run` now and after each save.

    Args:
        test: the file of tests; None looks for NAME_test.lua beside the script, which may come and go.
        pause: waits that many seconds.
        most: how often to look.
    """
    files = (script, test or suite_path(script))
    seen = None
    try:
        for _ in range(most):
            now = tuple(map(_stamp, files))
            if now != seen:
                seen = now
                if out.isatty():
                    out.write(_CLEAR)
                run()
                out.write("\nwaiting for the files to change; Ctrl-C ends\n")
                out.flush()
            pause(LOOK_S)
    except KeyboardInterrupt:
        out.write("\n")


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is saved; None while it is not there, as between the two steps of some editors."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
