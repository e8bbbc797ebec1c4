"""Keeps routing.log such that its decisions can be made again: tells it the list of workers whenever that is needed.

`server.daemon` owns one `Tape`, calls `begin` once, `keep` a few times a second and `look_at_clock` after a reload.
Nothing here writes a line: the next decision carries what is to be told (`core.seen.Watch`).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from rbeerouter.config.values import utc_offset_s

if TYPE_CHECKING:
    from rbeerouter.server.daemon import Daemon

_TELL_ALL_S = 300.0
"""A replay can begin anywhere after the first so many seconds; 16 workers take about 8 kB each time."""


class Tape:
    """What the log was told of one daemon.

    Attributes:
        utc_offset_s: what scripts add to the time for local time. It changes here alone, together with what the log
            says, so that a decision just after the clocks have changed is made again with the same hour.
    """

    def __init__(self, daemon: Daemon) -> None:
        self.utc_offset_s = utc_offset_s(daemon.config.routing.timezone)
        self._daemon = daemon
        self._begun = self._lost = 0
        self._told_at = float("-inf")

    def begin(self) -> None:
        """From now on the log tells what decisions are made from."""
        daemon = self._daemon
        self._told_at = daemon.env.now()
        watch = daemon.decider.watch
        watch.run = secrets.token_hex(4)
        watch.tell(lambda roll: daemon.recorder.enroll(roll, daemon.decider))

    def keep(self) -> None:
        """Now and then the log tells all that it had told before: in each new file, so that it can be read alone; after
        a while, and when lines were lost, so that a lost line costs no more than that; when the clocks change."""
        log, now = self._daemon.log_file, self._daemon.env.now()
        same = not self.look_at_clock() and (log.begun, log.lost) == (self._begun, self._lost)
        if same and now - self._told_at < _TELL_ALL_S:
            return
        self._begun, self._lost, self._told_at = log.begun, log.lost, now
        self._daemon.decider.watch.tell_all()

    def look_at_clock(self) -> bool:
        """Whether local time is another one than was told. Scripts look at it once a minute, and now."""
        daemon, before = self._daemon, self.utc_offset_s
        self.utc_offset_s = utc_offset_s(daemon.config.routing.timezone)
        if self.utc_offset_s == before:
            return False
        for script in (daemon.decider.script, daemon.shadowing.script):
            if script is not None:
                script.look_at_clock_again()
        return True
