"""100,000 decisions with new scripts between leave memory as it was."""

from __future__ import annotations

import gc
from pathlib import Path

from rbeerouter.routing.sandbox import Sandbox
from rbeerouter.routing.script import Script
from tests.support.builders import env, fleet, request, worker

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
