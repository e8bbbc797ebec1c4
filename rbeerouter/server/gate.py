"""The gate before a reload: a new script must pass the check and its tests in a process of its own.

`server.scripts` calls `examine`. The commands are those that a person runs, so the verdict is the one they see; a
process of its own keeps the event loop free and can be killed when tests do not end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path

import msgspec

from rbeerouter.workbench.suite import suite_path

_MOST_LINES = 12


class Verdict(msgspec.Struct, frozen=True):
    """May the script be loaded? `told` is one line that says what was looked at; `problem` what is wrong."""

    ok: bool
    told: str
    problem: str = ""


async def examine(
    script: Path, config: Path | None, how: str, limit_s: float, suites: tuple[Path, ...] | None = None
) -> Verdict:
    """Checks a script and, with how = "test", runs its tests where there are any.

    Args:
        config: the configuration whose workers it will see.
        how: a value of [routing] reload_gate.
        limit_s: for all of it together.
        suites: files of tests that it must pass, those that exist; None: the one beside it.
    """
    if how == "off":
        return Verdict(True, "not examined: reload_gate is off")
    commands = [("check", ["--static"])]
    if how == "test":
        found = [suite for suite in suites or (suite_path(script),) if suite.exists()]
        commands += [("test", ["--cases", "0", "--seed", "1", "--test", str(suite)]) for suite in found]
    settings = ["--config", str(config)] if config else []
    told = []
    deadline = asyncio.get_running_loop().time() + limit_s
    for command, options in commands:
        try:
            code, output = await _run([command, "--script", str(script), *settings, *options], deadline)
        except OSError as error:
            return Verdict(False, "", f"routing {command} could not be started: {error.strerror or error}")
        if code is None:
            return Verdict(False, "", f"routing {command} took longer than {limit_s:g} s ([routing] gate_s)")
        lines = [line for line in output.splitlines() if line.strip()]
        if code != 0:
            shown = "\n".join(lines[:_MOST_LINES]) or f"exit code {code}"
            return Verdict(False, "", f"routing {command} failed:\n{shown}")
        told.append(lines[-1] if lines else f"{command} passed")
    return Verdict(True, "; ".join(told))


async def examine_text(
    text: bytes, name: str, config: Path | None, how: str, limit_s: float, suites: tuple[Path, ...]
) -> Verdict:
    """The same for a text that stands in no file yet. `name` is the file's that it is meant for."""
    try:
        with tempfile.TemporaryDirectory(prefix="rbeerouter-") as folder:
            script = Path(folder) / name
            script.write_bytes(text)
            return await examine(script, config, how, limit_s, suites)
    except OSError as error:
        return Verdict(False, "", f"a copy to examine cannot be written: {error.strerror}")


async def _run(arguments: list[str], deadline: float) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rbeerouter", "routing", *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout_at(deadline):
            output, _ = await process.communicate()
    except TimeoutError:
        return None, ""
    finally:
        if process.returncode is None:                         # also when the daemon stops meanwhile
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return process.returncode, output.decode(errors="replace")
