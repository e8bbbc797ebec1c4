"""scripts/fault-worker in a process of its own, for tests that kill one.

Called by tests: `async with fault_process(tmp_path, "a", "slow_tokens") as worker`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.daemon import free_port, read_log, until

COMMAND = [sys.executable, "-S", str(Path(__file__).resolve().parents[2] / "scripts" / "fault-worker")]


class FaultProcess:
    """One worker, and what it wrote; it can be killed and started again on its port."""

    def __init__(self, folder: Path, name: str, behaviour: str, options: tuple[str, ...]) -> None:
        self.name = name
        self.port = free_port()
        self.log_path = folder / f"{name}.jsonl"
        self._command = [*COMMAND, f"{self.port}={behaviour}", "--log", str(self.log_path), *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """Its block of [[workers]]."""
        return {"id": self.name, "url": f"http://127.0.0.1:{self.port}"}

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in read_log(self.log_path) if line["event"] == name]

    async def start(self) -> None:
        before = len(self.events("listening"))
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        await until(lambda: len(self.events("listening")) > before, f"{self.name} to listen", 10.0)

    def kill(self) -> None:
        """As kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@asynccontextmanager
async def fault_process(folder: Path, name: str, behaviour: str, *options: str) -> AsyncIterator[FaultProcess]:
    made = FaultProcess(folder, name, behaviour, options)
    try:
        await made.start()
        yield made
    finally:
        made.kill()
