"""The requests of a simulation as lines of a routing.log, made by the daemon's own recorder.

`cli.simulate` hands `Recorder.record` and `Recorder.enroll` of what `log_of` gives to `world.run`, so that replay, diff
and a person with `grep` read a simulation as they read yesterday. Users stand there by name: they are made up, or a
hash already, and a script that asks for them decides the same when the log is replayed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from rbeerouter.config.sections import Config, ConfigError
from rbeerouter.record import Recorder, told_inputs


class _Writer:
    """Takes lines as `record.LogFile` does, and writes them at once: nobody waits here."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def msg(self, lines: bytes) -> None:
        self._file.write(lines + b"\n")


@contextmanager
def log_of(path: Path, config: Config) -> Iterator[Recorder]:
    """A recorder that writes a new file. Raises ConfigError: it cannot be written, or is there already, as the log of
    real traffic may be."""
    try:
        file = path.open("xb")
    except FileExistsError:
        raise ConfigError(f"--log {path}: is there already; expected the name of a new file") from None
    except OSError as error:
        raise ConfigError(f"--log {path}: cannot be written: {error.strerror}") from None
    with file:
        recorder = Recorder(_Writer(file), 0)
        recorder.models = config.models
        recorder.inputs = msgspec.structs.replace(
            told_inputs(config.routing), kept=True, plain_users=True, plain_sessions=True
        )
        yield recorder
        recorder.catch_up()
