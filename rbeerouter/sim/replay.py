"""`routing replay`: makes the decisions of a routing.log again, with another script or the same, and counts changes.

Lines stand in the log in the order in which requests ended. Here they are brought back into the order in which they
were decided, within a window, so that the memory stays bounded however long the log is; then `routing.replay` decides
each again by what its line says that was seen. What could not be decided again, or not for certain, is counted with
its reason; a replay never says less than it knows, nor more.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from rbeerouter.config.sections import Routing
from rbeerouter.config.strategies import StrategyError
from rbeerouter.core.errors import RouterError
from rbeerouter.core.models import NO_MODELS, Models
from rbeerouter.core.seen import Call, Seen
from rbeerouter.core.types import Decision, Env, Request
from rbeerouter.record import CREDENTIALS, HASHED_SESSION, Called, Decided, Line, decided, hashed
from rbeerouter.recorded import Enrolled, Tally, UnknownWorker, decided_of, enrolled_of, read_all, request_of, seen_of
from rbeerouter.routing.panel import CONFIG
from rbeerouter.routing.replay import FollowedSplit, Replayer
from rbeerouter.routing.script import Script, configured_abilities, configured_limits
from rbeerouter.routing.split import make_split
from rbeerouter.routing.syntax import constant, parse

WINDOW = 100_000
"""So many lines wait at most for one that was decided before them: at 100 requests a second, those of a quarter of an
hour. It takes about 2 kB for each line that waits."""
_MOST_KINDS = 1000
_EXAMPLES = 3
_BEFORE = "decided before the first list of workers in the log"
_WITHOUT = "the line does not tell what was seen (log_inputs = false, or an older version)"
_UNKNOWN = "the line tells of a worker that no list in the log has told of"
_IMPOSSIBLE = "the line says what no daemon can have seen"
_ELSEWHERE = "another daemon decided it, or another run of it, whose list of workers the log does not have"
_CUT = "its metadata, which the script reads, was too long for the log (log_metadata_chars)"
_LATE = "the line came too late to be put in order"
_MEMORY = "the strategy goes by what it remembers of traffic, such as prompts or tokens, which the log does not have"
_HIDDEN = "the strategy goes by a user, client or session of which the log has only the hash (log_users, log_sessions)"
_UNCERTAIN = "after lines that are not there, until the next whole list of workers"


class Asked(msgspec.Struct, frozen=True):
    """What to replay with.

    script: its text; None: the strategy alone. begin, end: Unix seconds; requests that arrived outside of that are
    decided for the sake of `state`, but not compared. window: see WINDOW.
    configured: was there a configuration? If not, models, split and limits are not known.
    """

    script: bytes | None
    name: str = "routing.lua"
    routing: Routing = Routing()
    models: Models = NO_MODELS
    configured: bool = True
    begin: float = float("-inf")
    end: float = float("inf")
    window: int = WINDOW


class Change(msgspec.Struct):
    """Decisions that moved alike. `before` and `after` are workers, or what was done instead; examples: request ids."""

    before: str
    after: str
    reason_before: str
    reason_after: str
    count: int = 0
    examples: list[str] = []


class Replayed(msgspec.Struct):
    """What came of a replay.

    total: decisions that were compared. changed: of these, those that now go to another worker, or are now made to
    wait, refused or sent where they were not. reasons: those that go where they went, but by another reason.
    uncertain, uncertain_changed: decisions that were made again without knowing for certain all that was seen; they
    are not in `total`. skipped: {why: decisions that were not made again}. deciders: {hash of the script or name of the
    strategy that decided: decisions}. script_errors: {text: times} of the replay. notes: why it may not be exact.
    """

    script: str | None
    total: int = 0
    changed: int = 0
    reasons: int = 0
    uncertain: int = 0
    uncertain_changed: int = 0
    changes: list[Change] = []
    skipped: dict[str, int] = {}
    deciders: dict[str, int] = {}
    script_errors: dict[str, int] = {}
    notes: list[str] = []
    tally: Tally = msgspec.field(default_factory=Tally)


def replay(paths: Iterable[Path], asked: Asked) -> Replayed:
    """Goes through the logs. Raises ScriptError, LogError when the script or a log cannot be read."""
    play = _Play(asked)
    try:
        for entry in in_order_of_decision(read_all(paths, play.result.tally), asked.window, play.result):
            play.take(entry)
        return play.told()
    finally:
        play.replayer.close()


class _Lost(msgspec.Struct):
    """So many numbers are not there."""

    count: int


Entry = Enrolled | Line | tuple[Called, Line] | _Lost


def in_order_of_decision(rows: Iterable[Line | dict[str, Any]], window: int, result: Replayed) -> Iterator[Entry]:
    """The lists of workers, decisions and calls of hooks, as they came one after the other. What cannot be put in
    order is counted in `result`."""
    order, tally = _Order(window), result.tally
    missed = 0
    for row in rows:
        told = None
        if isinstance(row, dict) and row["event"] == "fleet":
            try:
                told = enrolled_of(row)
            except (ValueError, msgspec.MsgspecError):
                tally.unreadable += 1
        if tally.unreadable + tally.lost != missed:            # among what is not there may be a list of workers
            missed = tally.unreadable + tally.lost
            order.miss()
        if told is not None:
            if told.roll.run != order.run:
                yield from order.ready(-1)
                if not told.roll.whole:
                    continue                                   # nothing is known of this run yet
                order.begin(told)
            order.add(told.roll.n, told)
        elif isinstance(row, Line):
            _take_line(order, row, result)
        yield from order.ready(window)
    yield from order.ready(-1)


def _take_line(order: _Order, line: Line, result: Replayed) -> None:
    if line.n is None:
        if line.by is not None:
            _skip(result, _WITHOUT)
    elif order.run is None or (line.run == order.run and line.n < order.begun):
        _skip(result, _BEFORE)
    elif line.run != order.run:
        _skip(result, _ELSEWHERE)
    elif not order.add(line.n, line):
        _skip(result, _LATE)
    if line.run == order.run:
        for call in line.calls or ():
            order.add(call.n, (call, line))


class _Order:
    """Entries wait here for those that came before them.

    Attributes:
        run: the counting of decisions that is followed; begun: the first number of it that can be.
    """

    def __init__(self, window: int) -> None:
        self.run: str | None = None
        self.begun = 0
        self._window = window
        self._expected = self._added = 0
        self._waiting: list[tuple[int, int, int, Entry]] = []

    def begin(self, told: Enrolled) -> None:
        self.run, self.begun = told.roll.run, told.roll.n
        self._expected = self.begun

    def add(self, n: int, entry: Entry) -> bool:
        """Whether it has not come too late. A list of workers is taken all the same, though not for the whole truth."""
        late = n < self._expected
        if late and not isinstance(entry, Enrolled):
            return False
        self._added += 1
        heapq.heappush(self._waiting, (n, 0 if isinstance(entry, Enrolled) else 1, self._added, entry))
        if late:
            heapq.heappush(self._waiting, (n, 1, self._added, _Lost(0)))
        return True

    def miss(self) -> None:
        """Something is not there: what comes from now on is not certain until a whole list that was read after this."""
        lists = [n for n, kind, _, entry in self._waiting if kind == 0 and isinstance(entry, Enrolled)]
        for n in (-1, *lists):
            self._added += 1
            heapq.heappush(self._waiting, (n, 0, self._added, _Lost(0)))

    def ready(self, most: int) -> Iterator[Entry]:
        """Those whose turn it is, and whatever keeps more than so many waiting."""
        waiting = self._waiting
        while waiting and (waiting[0][0] <= self._expected or len(waiting) > most):
            n, kind, _, entry = heapq.heappop(waiting)
            if n > self._expected:
                yield _Lost(n - self._expected)
            self._expected = max(self._expected, n + kind)     # a list of workers comes before its decision
            yield entry


def _hidden(key: str, request: Request) -> bool:
    """Is this the hash that a log has in the place of what a strategy goes by?"""
    if key == request.user_id or key == request.client:
        return re.fullmatch("[0-9a-f]{8}", key) is not None
    return key.startswith(HASHED_SESSION)


def _skip(result: Replayed, why: str) -> None:
    result.skipped[why] = result.skipped.get(why, 0) + 1


class _Play:
    """One replay under way."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._reads = _words(asked.script)
        routing = asked.routing

        def load(env: Env) -> Script | None:
            if asked.script is None:
                return None
            return Script(asked.script, asked.name, env, configured_limits(routing), configured_abilities(routing))

        self.replayer = Replayer(
            load, routing, asked.models, lambda: _split(routing, asked.models)
        )
        self.script = self.replayer.script
        self.result = Replayed(self.script.hash if self.script else None)
        self._users = _users(asked.script)                     # it compiles: the parser takes no long time over it
        self._by = ""
        self._uncertain = self._astray = False
        self._changes: dict[tuple[str, str, str, str], Change] = {}
        self._notes: Counter[str] = Counter()
        self._enrolled: Enrolled | None = None

    def take(self, entry: Entry) -> None:
        if isinstance(entry, Line):
            self._decide(entry)
        elif isinstance(entry, Enrolled):
            self._enroll(entry)
        elif isinstance(entry, _Lost):
            self._lose(f"{entry.count} numbers of decisions or calls are missing" if entry.count else "a lost list")
        else:
            called, line = entry
            told = self._told_by(called, line)
            if told is not None:
                self.replayer.call(Call(told[0], called.attempt, called.tried, called.outcome), told[1])

    def _told_by(self, row: Line | Called, line: Line) -> tuple[Seen, Request] | None:
        """What a decision or a call saw, and the request; None where no daemon of ours can have written that."""
        try:
            return seen_of(row, self.replayer.mirror), self._request(line)
        except UnknownWorker:
            _skip(self.result, _UNKNOWN)
        except ValueError:
            _skip(self.result, _IMPOSSIBLE)
        self._lose("a line that makes no sense")
        return None

    def _enroll(self, told: Enrolled) -> None:
        roll, script = told.roll, self.script
        if self.replayer.run != roll.run and roll.n > 1 and "state" in self._reads:
            self._notes["what `state` held before the log begins is not known"] += 1
        if self.replayer.run != roll.run:
            self._astray = False
        if roll.whole:
            self._uncertain = self._astray
        last, self._enrolled = self._enrolled, told
        self.replayer.set_utc_offset(told.utc_offset_s)
        self.replayer.enroll(roll)
        if last is not None and last.roll.run == roll.run and last.reloads != told.reloads:
            self.replayer.reload()
        self._use(told)
        missing = sorted(set(self.replayer.decider.figures) - set(told.figures))
        if missing:
            what = ", ".join(missing)
            self._notes[f"{what}: what decided did not go by it, so it is known only now and then"] += 1
        self.script = script = self.replayer.script
        self._by = f"script {told.script}" if told.script else f"strategy {told.strategy}"
        if script is None:
            return
        if told.script == script.hash:
            self.replayer.reinstate()                          # whoever served has gone back to it
        known = script.params()
        for name, value in told.params.items():
            if name in known and known[name]["min"] <= value <= known[name]["max"]:
                script.set_param(name, value)

    def _use(self, told: Enrolled) -> None:
        """What was put in force over the configuration decides again, and where there is no configuration, what did."""
        if told.source == CONFIG and self.asked.configured:
            wanted = self.asked.routing.strategy
        else:
            wanted = told.strategy
        try:
            self.replayer.use(wanted)
        except StrategyError as error:
            self._notes[f"the log tells of a strategy that is not known here: {error}"] += 1

    def _decide(self, line: Line) -> None:
        replayer, result, asked = self.replayer, self.result, self.asked
        told = self._told_by(line, line)
        if told is None:
            return
        seen, request = told
        decision: Decision | None = None
        try:
            decision = replayer.decide(seen, request)
            now, error = decided(decision), decision.error
        except RouterError as refusal:
            now, error = Decided("refused", refusal.failure.code), None
        if error is not None:
            _count(result.script_errors, error)
        if not asked.begin <= seen.wall < asked.end:
            return
        before = decided_of(line)
        if line.meta_cut and "metadata" in self._reads:
            _skip(result, _CUT)
            return
        moved = (now.action, now.worker) != (before.action, before.worker)
        remembers = replayer.decider.goes_by_memory(request, decision)
        hidden = any(_hidden(key, request) for key in replayer.decider.hashed_of(request, decision))
        self._notes[_MEMORY] += remembers
        self._notes[_HIDDEN] += hidden
        if remembers or hidden or self._uncertain or not replayer.mirror.complete:
            result.uncertain += 1
            result.uncertain_changed += moved
            return
        result.total += 1
        _count(result.deciders, self._by)
        if moved:
            result.changed += 1
            self._add(before, now, line.request_id)
        elif (now.reason, now.by) != (before.reason, before.by):
            result.reasons += 1

    def _add(self, before: Decided, now: Decided, request_id: str) -> None:
        key = (_whom(before), _whom(now), before.reason, now.reason)
        change = self._changes.get(key)
        if change is None:
            if len(self._changes) >= _MOST_KINDS:
                key = (key[0], key[1], "others", "others")
            change = self._changes.setdefault(key, Change(*key))
        change.count += 1
        if len(change.examples) < _EXAMPLES:
            change.examples.append(request_id)

    def _request(self, line: Line) -> Request:
        request = request_of(line)
        reads = self._reads
        if line.user is not None and line.user in self._users:
            request = msgspec.structs.replace(request, user_id=self._users[line.user])
        elif line.user is not None and "user_id" in reads and len(line.user) == 8:
            self._notes["users are known by their hash alone, and the script reads user_id (log_users)"] += 1
        if line.session is not None and line.session.startswith(HASHED_SESSION) and reads & {"session_id", "session"}:
            self._notes["sessions are known by their hash alone, and the script reads them (log_sessions)"] += 1
        return request

    def _lose(self, what: str) -> None:
        """From here on not all is known: until the next whole list of workers, or, where the script goes by `state`,
        until the daemon's next start."""
        self._uncertain = True
        self._notes[_UNCERTAIN] += 1
        if "state" in self._reads:
            self._astray = True
            self._notes[f"{what}: `state` may not be what it was until the daemon's next start"] += 1

    def told(self) -> Replayed:
        result, reads = self.result, self._reads
        result.changes = sorted(self._changes.values(), key=lambda one: (-one.count, one.before, one.after))
        notes = [text if count == 1 else f"{text} ({count} times)" for text, count in self._notes.items() if count]
        if "prompt" in reads:
            notes.append("the script reads request.prompt, which is never logged")
        text = (self.asked.script or b"").decode(errors="replace").lower()
        keys = sorted(CREDENTIALS.intersection(re.findall(r"[a-z-]+", text)))
        if keys:
            notes.append(f"the script reads {', '.join(keys)}: headers that carry keys are never logged")
        if not self.asked.configured:
            notes.append("no configuration: rules of [[models]], the split and limits are the defaults")
        others = [by for by in result.deciders if result.script and by != f"script {result.script}"]
        if others and "state" in reads:
            notes.append(f"{', '.join(others)} decided in between, and may have changed `state`")
        if self._enrolled is None:
            notes.append("the log has no list of workers: log_inputs = false, or an older version wrote it")
        result.notes = notes
        return result


def _split(routing: Routing, models: Models) -> FollowedSplit | None:
    return FollowedSplit(routing.split, models) if make_split(routing.split, models) is not None else None


def _whom(one: Decided) -> str:
    """Where a request went, as the table shows it."""
    if one.action == "send":
        return str(one.worker)
    return f"{one.action} for {one.worker}" if one.worker else one.action


def _count(counts: dict[str, int], key: str) -> None:
    if key in counts or len(counts) < _MOST_KINDS:
        counts[key] = counts.get(key, 0) + 1


def _words(script: bytes | None) -> frozenset[str]:
    return frozenset(re.findall(r"[A-Za-z_]+", script.decode(errors="replace"))) if script is not None else frozenset()


def _users(script: bytes | None) -> dict[str, str]:
    """{hash: text} of the texts in a script: who is named there is known again by the hash in the log."""
    if script is None:
        return {}
    tree = parse(script)
    texts = (constant(tree, node) for node in tree.nodes)
    return {hashed(text): text for text in texts if isinstance(text, str)}
