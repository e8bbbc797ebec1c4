"""Programs under measurement: each starts in a session of its own and is always stopped.

Called by run.py for the mock workers and for every router. The session is how measure.py
finds the whole tree of a router's processes, and how stop() reaches all of them.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from .process_tree import all_processes, process_tree


class Failed(Exception):
    """A program did not start, did not become ready, or answered wrongly."""


class Program:
    """A running command: its process, its session, and the file its output goes to."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.output = folder / "output.txt"
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def session(self) -> int:
        """The session id: that of the first process (taskset and exec keep it)."""
        return self._process.pid

    def how_it_ended(self) -> str:
        """Nothing while it runs; else its exit status and the last it printed."""
        status = self._process.poll()
        return "" if status is None else f"it ended with {status}; it printed: {self.last_output()}"

    def last_output(self, character_count: int = 400) -> str:
        """The end of what the program printed, in one line, for a message about its failure."""
        lines = self.output.read_text(errors="replace").strip().splitlines()
        text = " | ".join(line.strip() for line in lines)
        return text[-character_count:] or "no output"

    def stop(self, grace_seconds: float = 5.0) -> None:
        """SIGTERM to the first process, a bounded wait, then SIGKILL to all that is left."""
        before = {(stat.pid, stat.session) for stat in process_tree(self.session)}
        self._process.terminate()
        try:
            self._process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            before |= {(stat.pid, stat.session) for stat in process_tree(self.session)}
        with suppress(ProcessLookupError):
            os.killpg(self.session, signal.SIGKILL)
        for stat in all_processes():  # what moved to a session of its own, if anything
            if (stat.pid, stat.session) in before:
                with suppress(ProcessLookupError):
                    os.kill(stat.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def running(
    name: str, command: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """Start COMMAND in FOLDER; stop it and its children when the block is left."""
    program = Program(name, command, folder, environment or {})
    try:
        yield program
    finally:
        program.stop()
