"""Ends a whole test run when a script does not come back.

Called by the tests that run scripts in this process: nothing in Python can interrupt a call that stays in C.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def end_the_run_when_it_hangs(config: pytest.Config, seconds: float) -> Iterator[None]:
    """Prints a traceback and ends the process, unless the block is left in time."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        descriptor = os.dup(2)                                 # the capture's own is lost when the process ends at once
    faulthandler.dump_traceback_later(seconds, exit=True, file=descriptor)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        os.close(descriptor)
