"""100,000 decisions with new scripts between, or some thousand requests of strangers, leave memory as it was."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

from rbeerouter.config.sections import Fairness, Preble, Prefix, Strategies
from rbeerouter.core.dispatch import Dispatcher, Job
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.types import Outcome, Wishes
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.sandbox import Sandbox
from rbeerouter.routing.script import Script
from rbeerouter.routing.strategies import NAMES
from tests.routing.prompts import prompt
from tests.support.builders import Clock, env, fleet, request, worker

SOURCE = b"""-- version %d
local turns = 0
function route_request(request, workers)
  turns = turns + 1
  state:incr("seen", 1)
  state:set("user-" .. turns %% 500, request.user_id, 60)
  if turns %% 100 == 0 then log("a hundred more", turns, workers) end
  if turns %% 250 == 0 then error("every now and then") end
  if turns %% 5 == 0 then return strategy("least-request")(request, workers) end
  if turns %% 7 == 0 then return { worker = workers:sort_by("load"), reason = "a list" } end
  return workers:filter(function(w) return w.status == "ready" end):sort_by("load")[1]
end"""
DECISIONS, EARLY, RELOAD_EVERY = 100_000, 20_000, 500
MORE_HEAP_BYTES, MORE_RESIDENT_BYTES = 64 << 10, 4 << 20


class Watched(Sandbox):
    """A sandbox that tells how much its heap holds."""

    def held(self) -> int:
        self._lua.gccollect()
        return self._used(True)


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_hundred_thousand_decisions_with_reloads_leave_memory_flat() -> None:
    made, sandboxes = fleet(*(worker(f"w{number}", models=("m",)) for number in range(8))), []

    def watched(*given: object) -> Watched:
        sandboxes[:] = [Watched(*given)]                       # type: ignore[arg-type]
        return sandboxes[0]

    now, one = env(), None
    held: dict[int, tuple[int, int]] = {}
    asked = request(user_id="ann@example.com", metadata={"type": "llm", "tier": "premium"})
    for count in range(1, DECISIONS + 1):
        if count % RELOAD_EVERY == 1:
            fresh = Script(SOURCE % count, "routing.lua", now, runtime=watched)
            if one is not None:
                fresh.adopt(one)
                one.close()
            one = fresh
        assert one is not None
        choice = one.route(asked, made, lambda _, __, workers: workers[0])
        worker_now = choice.worker or made.ordered[0]
        made.sent(worker_now, 0.0)
        made.finished(worker_now, None, 0.0)
        if count in (EARLY, DECISIONS):
            held[count] = (sandboxes[0].held(), resident_bytes())
    heap, resident = (held[DECISIONS][index] - held[EARLY][index] for index in (0, 1))
    assert one is not None and {key: value for key, value, *_ in one.state()}["seen"] == DECISIONS
    assert heap < MORE_HEAP_BYTES and resident < MORE_RESIDENT_BYTES, (heap, resident)


SMALL = Strategies(
    prefix=Prefix(worker_tokens=10_000), preble=Preble(most_prompts=200, most_blocks=2000), fairness=Fairness(users=200)
)
KNOWN_AFTER, STRANGERS, MORE_TRACED_BYTES = 1200, 1200 + 3 * 768, 100 << 10
"""The 256 texts of a `Panel` are as full at the end as they were before."""


def test_strangers_with_ever_new_prompts_users_sessions_and_lists_leave_memory_flat_whatever_the_strategy() -> None:
    """Each of the memories hears of each request; all bounds are reached before it is looked at for the first time."""
    clock = Clock()
    made, now, held = fleet("w1", "w2", "w3", "w4"), env(clock), {}
    dispatcher = Dispatcher(made, Decider(made, None, "least-request", now, options=SMALL), now)
    under_way: list[Job] = []
    tracemalloc.start()
    for count in range(1, STRANGERS + 1):
        clock.now_s += 0.002
        name = NAMES.known[count % len(NAMES.known)]
        wishes = Wishes(name if count % 3 else f"prefix-cache:{count},vtc-basic", f"profile-{count}", f"key-{count}", 1e3 + count, None, 1e4)
        blocks = range(count * 40, count * 40 + 30)
        asked = prompt(
            blocks, wishes=wishes, user_id=f"user-{count}", session_id=f"session-{count}",
            client=f"10.0.{count // 256}.{count % 256}", caller=b"key %d" % count, stream=count % 2 == 0,
            max_tokens=count,
        )  # fmt: skip
        under_way.append(Job(asked, clock.now_s, 0.0))
        dispatcher.on_request(under_way[-1])
        if len(under_way) > 10:
            end(dispatcher, under_way.pop(0), clock.now_s, count)
        if not count % 100:
            dispatcher.sweep(clock.now_s)
            dispatcher.on_tick(clock.now_s)
        if count in (KNOWN_AFTER, STRANGERS):
            gc.collect()
            held[count] = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert sum(one.in_flight for one in made.ordered) <= 10
    assert held[STRANGERS] - held[KNOWN_AFTER] < MORE_TRACED_BYTES, held


def end(dispatcher: Dispatcher, one: Job, now: float, count: int) -> None:
    """It is answered, fails, or its client has left."""
    if one.worker is None or not count % 11:
        dispatcher.on_cancel(one)
        return
    if not count % 7:
        dispatcher.on_outcome(one, Outcome(FAILURES["upstream_disconnected"]))
    if one.worker is not None:
        one.status, one.tokens_in, one.tokens_out = 200, 300, count % 50
        dispatcher.on_content(one, now)
        dispatcher.on_outcome(one, Outcome(None, 200, delivered=True))
