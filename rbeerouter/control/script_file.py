"""The one place that writes over a person's script: whole or not at all, and never over an edit that was not seen.

`server.scripts` calls `put`, in a thread, for rollback and promote, and reads by `text_of` whatever the daemon loads.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from rbeerouter.routing.script import MAX_SOURCE_BYTES

_NEW_FILE_MODE = 0o644


class NotWritten(Exception):
    """The file is as it was; the message says why."""


def text_of(path: Path) -> bytes | None:
    """What the file says now, None where there is no file. Raises NotWritten when it cannot be read, or is none that a
    script can be in: a pipe would stop the daemon until somebody writes into it, and a device need have no end."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise NotWritten(f"{path}: cannot be read: it is no ordinary file")
            text = file.read(MAX_SOURCE_BYTES + 1)
            if len(text) > MAX_SOURCE_BYTES:
                raise NotWritten(f"{path}: is too large; a script may have at most {MAX_SOURCE_BYTES} bytes")
            return text
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NotWritten(f"{path}: cannot be read: {error.strerror}") from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def put(path: Path, text: bytes, seen: bytes | None) -> None:
    """Puts a text in the file's place, with a rename: who reads it gets all of the old or all of the new.

    Mode and, where this process may, owner and group are kept. Of a link, the file that it leads to is replaced.

    Args:
        seen: what the file must still say; anything else has just been written by somebody.

    Raises:
        NotWritten: nothing has changed.
    """
    target = Path(os.path.realpath(path))
    temporary = None
    try:
        before = target.stat() if target.exists() else None
        if before is not None and not os.access(target, os.W_OK):
            raise NotWritten(f"{path}: cannot be written: it is read-only for this user")
        descriptor, temporary = tempfile.mkstemp(prefix=".rbeerouter-", dir=target.parent)
        with open(descriptor, "wb") as file:
            file.write(text)
            os.fchmod(descriptor, before.st_mode & 0o7777 if before is not None else _NEW_FILE_MODE)
            if before is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
            file.flush()
            os.fsync(descriptor)
        if text_of(target) != seen:
            raise NotWritten(f"{path}: was changed by somebody at this very moment; look at it and try again")
        os.replace(temporary, target)
        temporary = None
        _sync_folder(target.parent)
    except OSError as error:
        raise NotWritten(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    """So that the rename itself outlives a power cut. It has happened already: what cannot be synced is no failure."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
