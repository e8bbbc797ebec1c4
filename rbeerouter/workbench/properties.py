"""What every script must keep to, whatever arrives: asked over hundreds of made-up requests and fleets.

`trial` calls `check_properties`. The script plays through all cases twice, from a fresh load each: once as the daemon
runs it, for what it costs, and once with its lines counted, which must give the same answers. A case that fails is made
small before it is told.
"""

from __future__ import annotations

import re
import time

import msgspec

from rbeerouter.core.types import READY
from rbeerouter.routing.problem import explain
from rbeerouter.routing.script import Script
from rbeerouter.workbench.fleets import Row
from rbeerouter.workbench.inputs import Case, Inputs, as_lua
from rbeerouter.workbench.shrink import shrink
from rbeerouter.workbench.stage import Asked, Play, Result, Stage

NO_FAULT = "it never fails by mistake"
LISTED = "it names workers that can be used"
BUDGET = "it keeps within its budget"
SAME = "the same request and seed give the same answer"
PROPERTIES = (NO_FAULT, LISTED, BUDGET, SAME)

_UNKNOWN_ID = re.compile(r"the unknown worker id '(.*?)'")
_SPENT = ("budget exceeded", "not enough memory")
_MOST_BROKEN = 5
"""Different failures that are looked into; whoever has these has enough to do."""
_TRIES = {BUDGET: 150, SAME: 100}
"""Tries to make a case smaller that take long each."""


class Broken(msgspec.Struct, frozen=True):
    """One way in which the script fails.

    case: the smallest case that was found, in the words of a file of tests
    seed, cases: lead to it again; more than one case is needed when the case fails only after those before it, as the
        script keeps something in `state` or in variables
    """

    property: str
    message: str
    case: str
    seed: int
    cases: int = 1


class Properties(msgspec.Struct, frozen=True):
    """What came of it.

    cases: that were played; fewer than were wished when the time was up
    covered: {line: how often it ran}
    slowest_s, instructions: the most that a call of a hook took
    mismatches: cases in which a worker was chosen that does not serve the model while one was ready that does;
        `mismatch` is the first of them
    """

    seed: int
    cases: int
    broken: list[Broken]
    covered: dict[int, int]
    slowest_s: float
    instructions: int
    mismatches: int = 0
    mismatch: str | None = None

    def __bool__(self) -> bool:
        return not self.broken


_Trouble = tuple[str, str]
"""A property, and what is wrong."""


def check_properties(
    source: bytes,
    name: str,
    play: Play,
    *,
    seed: int,
    cases: int,
    given: tuple[tuple[Row, ...], ...] = (),
    most_s: float = 30.0,
) -> Properties:
    """Plays cases, the first of which is that of `seed`.

    Raises:
        ScriptError: the script cannot be loaded.
    """
    inputs = Inputs(source, play.abilities, given)
    search = _Search(source, name, play)
    plain, counted = Stage(source, name, play), Stage(source, name, play, coverage=True)
    ends = time.monotonic() + most_s
    times: list[tuple[float, int]] = []
    instructions, played, mismatches = 0, 0, []
    for number in range(seed, seed + cases):
        if search.enough() or time.monotonic() > ends:
            break
        case = inputs.case(number)
        played += 1
        result = perform(plain, case)
        asked = list(plain.script.asked)
        times.append((max(one.seconds for one in asked), number))
        instructions = max(instructions, *(one.instructions for one in asked))
        trouble = _fault(plain.script, asked, play.ids)
        if trouble is None or trouble[0] != BUDGET:
            again = perform(counted, case)
            if trouble is None and not search.broken:
                trouble = _change(result, again)
        if trouble is not None:
            search.look_into(case, trouble, seed)
        if _mismatches(asked[0], case):
            mismatches.append(case)
    slowest_s = _slowest(plain, [inputs.case(number) for _, number in sorted(times, reverse=True)[:5]])
    return Properties(
        seed, played, list(search.broken.values()), counted.script.covered(), slowest_s, instructions, len(mismatches),
        search.mismatch(mismatches[0]) if mismatches else None,
    )  # fmt: skip


def perform(stage: Stage, case: Case) -> Result:
    """Plays one case."""
    stage.wall = case.wall
    stage.place(case.workers)
    stage.seed(case.seed)
    return stage.serve(case.request, frozenset(case.failing), case.code)


def _slowest(stage: Stage, cases: list[Case]) -> float:
    """Of these cases the longest call of a hook; the best of a few times, as something else may have held it up."""
    longest = 0.0
    for case in cases:
        times = []
        for _ in range(3):
            perform(stage, case)
            times.append(max(one.seconds for one in stage.script.asked))
        longest = max(longest, min(times))
    return longest


class _Search:
    """The failures so far; of those alike only the first is looked into."""

    def __init__(self, source: bytes, name: str, play: Play) -> None:
        self._script = (source, name, play)
        self._met = 0
        self.broken: dict[tuple[str, str], Broken] = {}

    def enough(self) -> bool:
        return len(self.broken) >= _MOST_BROKEN or self._met >= 10 * _MOST_BROKEN

    def look_into(self, case: Case, trouble: _Trouble, first_seed: int) -> None:
        key = _key(trouble, self._script[1])
        self._met += 10 if trouble[0] == BUDGET else 1         # those take their time
        if key in self.broken:
            return
        find = self._twice if trouble[0] == SAME else self._once
        alone = find(case)
        if alone is None or _key(alone, self._script[1]) != key:
            self.broken[key] = Broken(*trouble, as_lua(case), first_seed, case.seed - first_seed + 1)
            return

        def fails(smaller: Case) -> bool:
            found = find(smaller)
            return found is not None and _key(found, self._script[1]) == key

        smallest = shrink(case, fails, _TRIES.get(trouble[0], 250))
        self.broken[key] = Broken(*(find(smallest) or trouble), as_lua(smallest), case.seed)

    def mismatch(self, case: Case) -> str:
        """The smallest case that is like this one."""

        def alike(smaller: Case) -> bool:
            stage = Stage(*self._script)
            perform(stage, smaller)
            return _mismatches(stage.script.asked[0], smaller)

        return as_lua(shrink(case, alike, _TRIES[SAME]) if alike(case) else case)

    def _once(self, case: Case) -> _Trouble | None:
        stage = Stage(*self._script)
        perform(stage, case)
        return _fault(stage.script, stage.script.asked, self._script[2].ids)

    def _twice(self, case: Case) -> _Trouble | None:
        """Tables that Lua walks in any order are walked in another one by some of a few scripts."""
        results = [perform(Stage(*self._script), case) for _ in range(4)]
        return next((found for other in results[1:] if (found := _change(results[0], other))), None)


def _fault(script: Script, asked: list[Asked], ids: frozenset[str]) -> _Trouble | None:
    """What is wrong with the answers of one case. An error that the script raises on purpose is an answer, and so is
    the name of one of the workers in `ids`, which need not be in a made-up fleet."""
    for one in asked:
        choice, answer = one.choice, one.choice.answer
        if choice.error is not None:
            if choice.deliberate:
                continue
            if any(spent in choice.error for spent in _SPENT):
                return BUDGET, choice.error
            unknown = _UNKNOWN_ID.search(choice.error)
            if unknown is None:
                return NO_FAULT, choice.error
            if unknown[1] in ids:
                continue
            return LISTED, choice.error
        action = answer.action if answer is not None else None
        if one.hook == "route_request" and action == "give_up":
            return NO_FAULT, script.fault_at(choice.line, "route_request returned false, expected a worker or nil")
        if one.offline and action is None:
            problem = f"{one.hook} chose {', '.join(one.offline)}, which is offline"
            return LISTED, script.fault_at(choice.line, problem)
    return None


def _change(one: Result, other: Result) -> _Trouble | None:
    if one == other:
        return None
    return SAME, f"once {_brief(one)}, once {_brief(other)}"


def _brief(result: Result) -> str:
    told = [result.worker or result.action, result.reason]
    if result.error:
        told.append(result.error)
    return ": ".join(told)


def _key(trouble: _Trouble, name: str) -> tuple[str, str]:
    """Alike are failures of the same line; where there is none, those of the same words."""
    found = explain(trouble[1], name, b"")
    return trouble[0], str(found.line) if found.line else found.message if trouble[0] != SAME else ""


def _mismatches(asked: Asked, case: Case) -> bool:
    """Was a worker chosen that does not serve the model, while one that does was ready?"""
    choice, model = asked.choice, case.request.model
    if choice.worker is None or (choice.answer is not None and (choice.answer.action or choice.answer.model)):
        return False
    if choice.worker.serves(model):
        return False
    return any(one.status == READY and model in one.models for one in case.workers)
