"""One decision, taken apart: every worker, what dropped it at which line of the script, and how close it was.

`POST /api/v1/explain` and `rbeerouter explain` call `explain` with a script of their own, loaded with
`Abilities.explain`; nothing is sent and nothing is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rbeerouter.config.sections import Limits, Routing
from rbeerouter.core.dispatch import Job
from rbeerouter.core.errors import RouterError
from rbeerouter.core.models import NO_MODELS, Models, for_side, name_to_send
from rbeerouter.core.types import BUSY, READY, SEND, WAIT, Decision, Request, Worker
from rbeerouter.dialects.prompts import prompt_of
from rbeerouter.dialects.surfaces import SURFACES
from rbeerouter.dialects.wishes import WISHES, wishes_of
from rbeerouter.routing.decide import Decider

_DEFAULTS = Routing()
_ORDERING = ("sort_by", "min_by", "max_by")


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """A request to be explained: the body as a client would send it, and what comes beside it."""

    body: dict[str, Any]
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = {}


def read_request(
    text: bytes, limits: Limits, routing: Routing = _DEFAULTS, models: Models = NO_MODELS
) -> Request:  # fmt: skip
    """A request of JSON text: an `Asked`, or a body alone.

    Raises:
        RouterError: invalid_json, with the field it is about; not_found for a path that is not served; invalid_header.
    """
    try:
        given = msgspec.json.decode(text)
        wrapped = isinstance(given, dict) and "body" in given and "model" not in given
        asked = msgspec.convert(given, Asked) if wrapped else Asked(given)
        if not isinstance(asked.body, dict):
            raise RouterError("invalid_json", "the request: expected a JSON object")
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RouterError("invalid_json", f"the request is not understood: {error}") from None
    surface = SURFACES.get(asked.path.encode(errors="replace"))
    if surface is None:
        known = ", ".join(path.decode() for path in SURFACES)
        raise RouterError("not_found", f"path = {asked.path!r}: expected one of {known}")
    headers = {name.lower(): value for name, value in asked.headers.items()}
    ours = {
        name.encode(): value.encode()
        for name, value in headers.items()
        if name.startswith("x-rbee-") or name == "x-session-id"
    }
    wanted = {name.lower() for name in routing.request_headers}
    shown = {name: value for name, value in headers.items() if name in wanted}
    body, prompt_chars = msgspec.json.encode(asked.body), routing.prompt_chars if routing.expose_prompt else 0
    request = models.resolved(surface.parse(surface, "explain", ours, body, limits, shown, prompt_chars))
    side = ours.get(b"x-rbee-deployment")
    if side is not None:
        request = for_side(request, side)
    wishes = wishes_of(
        (name.encode(), value.encode(errors="replace")) for name, value in headers.items() if name.encode() in WISHES
    )
    return msgspec.structs.replace(request, wishes=wishes, text=prompt_of(routing.strategies, surface, request, body))


def explain(request: Request, decider: Decider) -> dict[str, Any]:
    """The record of one decision, as docs/api.md tells it.

    Args:
        decider: with `debug`, and a script that was loaded with `Abilities.explain`; a `Decider.twin` of a live one.
    """
    request = decider.models.resolved(request)
    room = None
    try:
        decision = decider.decide(request)
        if decision.action == WAIT:                            # it waits only when nobody has room
            room = _room(decider, request, decision)
    except RouterError as error:
        return {
            "worker": None, "action": "fail", "by": None, "reason": str(error), "status": error.failure.status,
            "error": error.failure.code, "workers": decider.explain(decider.script, None),
        }  # fmt: skip
    action, worker = (SEND, room) if room is not None else (decision.action, decision.worker)
    rows = decision.explanation or []
    record: dict[str, Any] = {
        "worker": worker.id if worker else None,
        "action": action,
        "by": decision.by,
        "reason": decision.reason,
        "strategy": decision.strategy if decision.strategy not in (None, decision.reason) else None,
        "sent_model": name_to_send(request, worker, decision.model) if worker is not None else decision.model,
        "order": [worker.id for worker in decision.then] if decision.then is not None else None,
        "headers": dict(decision.headers) or None,
        "script_error": decision.error,
        "log": list(decision.log) or None,
        **_refusal(decision),
        "runner_up": _runner_up(rows),
        "workers": rows,
    }
    return {key: value for key, value in record.items() if value is not None or key == "worker"}


def _room(decider: Decider, request: Request, decision: Decision) -> Worker | None:
    """Who has room now for a request that would else wait, as the dispatcher asks it."""
    worker = decision.worker
    if worker is not None:
        return worker if worker.status == READY or (worker.status == BUSY and worker.takes_more) else None
    job = Job(request, 0.0, 0.0)
    job.decision = decision
    found = decider.room_for(job)
    return None if found is None else found.worker


def _refusal(decision: Decision) -> Mapping[str, Any]:
    if decision.refusal is None:
        return {}
    failure = decision.refusal.failure
    return {"status": failure.status, "message": decision.refusal.message, "retry_after": failure.retry_after or None}


def _runner_up(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The worker that would have been next where the chosen one was preferred, and by how much."""
    chosen = next((row for row in rows if row.get("chosen")), None)
    steps = [step for step in (chosen or {}).get("steps", ()) if step["by"] in _ORDERING]
    if chosen is None or not steps:
        return None
    last = steps[-1]
    mine = last.get("read") or {}
    rivals = []
    for row in rows:
        for step in row.get("steps", ()):
            if row is not chosen and (step["by"], step.get("line")) == (last["by"], last.get("line")):
                theirs = step.get("read") or {}
                both = [key for key in mine if _numbers(mine[key], theirs.get(key))]
                margin = {key: round(theirs[key] - mine[key], 6) for key in both}
                distance = abs(next(iter(margin.values()), float("inf")))
                rivals.append((step.get("place") or 0, distance, row["id"], margin))
    if not rivals:
        return None
    _, _, worker_id, margin = min(rivals, key=lambda rival: rival[:2])
    return {"worker": worker_id, "by": last["by"], "line": last.get("line"), "margin": margin}


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def render(record: Mapping[str, Any], source: bytes | None = None) -> str:
    """A record as a person reads it. `source` is the script's text, to show the lines that decided."""
    lines = source.decode(errors="replace").splitlines() if source else []
    worker = record["worker"]
    head = {"reject": "rejected", "wait": f"waits for {worker or 'any worker'}", "fail": "no worker"}
    text = [f"{head.get(record['action'], worker)}   by {record['by'] or 'nobody'}: {record['reason']}"]
    for key in ("status", "message", "retry_after", "sent_model", "script_error"):
        if record.get(key):
            text.append(f"  {key} {record[key]}")
    if record.get("order"):
        text.append(f"  then {', '.join(record['order'])}")
    if record.get("headers"):
        text.append(f"  headers {record['headers']}")
    text += [f"  log: {line}" for line in record.get("log", ())]
    width = max((len(row["id"]) for row in record["workers"]), default=0)
    for row in record["workers"]:
        mark = ">" if row.get("chosen") else " "
        text.append(f"{mark} {row['id']:{width}}  {row['status']:7}  load {row['load']:.2f}")
        text += [f"      {_step(step, row['id'])}" for step in row.get("steps", ())]
    runner_up = record.get("runner_up")
    if runner_up:
        margin = ", ".join(f"{key} {value:+g}" for key, value in runner_up["margin"].items())
        text.append(f"runner-up {runner_up['worker']}{': ' + margin if margin else ''}")
    shown = sorted({step["line"] for row in record["workers"] for step in row.get("steps", ()) if step.get("line")})
    text += [f"{number:4} | {lines[number - 1]}" for number in shown if number <= len(lines)]
    return "\n".join(text)


def _lua(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _step(step: Mapping[str, Any], worker_id: str) -> str:
    if "why" in step:
        return f"{step['by']}: {step['why']}"
    read = ", ".join(f"{key} = {_lua(value)}" for key, value in (step.get("read") or {}).items())
    place = f", place {step['place']}" if step.get("place") else ""
    taken = step.get("taken")
    what = "dropped" if taken is None else "first" if taken == worker_id else f"behind {taken}"
    return f"{step['by']} at line {step.get('line')}: {what}{place}{f' ({read})' if read else ''}"
