"""The control plane's pages: health, workers, routing, metrics, reload. Nothing here carries a prompt or a key.

`server.daemon` serves this on `[control] bind`; the public listener relays /health, the models and /api/v1/health.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from rbeerouter import __version__
from rbeerouter.config.values import is_loopback, split_bind
from rbeerouter.core.errors import FAILURES, RouterError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.models import Models
from rbeerouter.core.types import OFFLINE
from rbeerouter.dialects import openai
from rbeerouter.routing.script import ScriptError
from rbeerouter.server import metrics, nightly, ollama_pages, registration, shadow, strategy, versions
from rbeerouter.server.access import Access
from rbeerouter.server.answers import Json, not_for_web_pages, read_body, verdict_answer, who_asks
from rbeerouter.server.scripts import set_params

if TYPE_CHECKING:
    from rbeerouter.server.daemon import Daemon

_decode_params = msgspec.json.Decoder(dict[str, int | float]).decode


def build(daemon: Daemon) -> Starlette:
    """The ASGI application for one daemon."""

    async def health(request: Request) -> Json:
        usable = sum(worker.status != OFFLINE for worker in daemon.fleet.ordered)
        state = "draining" if daemon.listener.draining else "ok" if usable else "no_workers"
        answer = {"status": state, "version": __version__, "workers": len(daemon.fleet.ordered), "usable": usable}
        return Json(answer, 200 if state == "ok" else 503)

    async def models(request: Request) -> Json:
        return Json({"object": "list", "data": list(model_cards(daemon.fleet, daemon.config.models).values())})

    async def model(request: Request) -> Response:
        name = request.path_params["model"]
        card = model_cards(daemon.fleet, daemon.config.models).get(name)
        if card is not None:
            return Json(card)
        failure, what = FAILURES["model_not_found"], f"the model {name[:100]!r} does not exist on any worker"
        return Response(openai.error_body(failure, what, "model"), failure.status, media_type="application/json")

    async def routing(request: Request) -> Json:
        return Json(describe_routing(daemon))

    async def metrics_page(request: Request) -> Response:
        return Response(metrics.page(daemon), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def reload(request: Request) -> Json:
        refused = not_for_web_pages(request)
        if refused is not None:
            return refused
        return verdict_answer(await daemon.reload("control plane", who_asks(request)))

    return Starlette(
        middleware=[
            Middleware(OwnNamesOnly, bind=daemon.config.control.bind), Middleware(Access, config=lambda: daemon.config)
        ],
        routes=[
            Route("/health", health),
            Route("/api/v1/health", health),
            Route("/v1/models", models),
            Route("/v1/models/{model:path}", model),
            Route("/routing", routing),
            Route("/metrics", metrics_page),
            Route("/api/v1/reload", reload, methods=["POST"]),
            *registration.routes(daemon),
            *_script_routes(daemon),
            *strategy.routes(daemon),
            *versions.routes(daemon),
            *shadow.routes(daemon),
            *nightly.routes(daemon),
            *ollama_pages.routes(daemon.ollama_cards),
        ]
    )


def _script_routes(daemon: Daemon) -> list[Route]:
    """What the control plane has to say of the script and its decisions."""

    async def params(request: Request) -> Json:
        if request.method == "POST":
            refused = not_for_web_pages(request)
            if refused is not None:
                return refused
            try:
                given = _decode_params(await read_body(request))
                set_params(daemon.decider.script, given)
                daemon.decider.watch.tell_all()
                daemon.log.info("params_set", params=given)
            except (msgspec.MsgspecError, RecursionError, ValueError, RouterError) as error:
                return Json({"ok": False, "error": str(error)}, 422)
        script = daemon.decider.script
        return Json({"ok": True, "params": script.params() if script else {}})

    async def decision(request: Request) -> Json:
        found = daemon.find_decision(request.path_params["request_id"])
        if found is None:
            return Json({"ok": False, "error": "not known (any more); see [routing] decisions_kept"}, 404)
        return Json(found)

    async def explained(request: Request) -> Json:
        refused = not_for_web_pages(request)
        if refused is not None:
            return refused
        try:
            text = await read_body(request)
            return Json(daemon.scripts.explain(daemon.config, daemon.decider, daemon.fleet, text))
        except RouterError as error:
            return Json({"ok": False, "error": error.message}, error.failure.status)
        except ScriptError as error:
            return Json({"ok": False, "error": str(error)}, 500)

    return [
        Route("/api/v1/params", params, methods=["GET", "POST"]),
        Route("/api/v1/decisions/{request_id}", decision),
        Route("/api/v1/explain", explained, methods=["POST"]),
    ]


class OwnNamesOnly:
    """Refuses requests whose Host is a name of somebody else's: a web page that had its name rebound to this address
    would otherwise be let in by the browser. Addresses, localhost and the configured name pass; so do the relayed
    public paths, which come from inside the process. Where others may come anyway, nothing is refused."""

    def __init__(self, app: ASGIApp, bind: str) -> None:
        self._app = app
        self._bind_host = "localhost" if bind.startswith("unix:") else split_bind(bind)[0]
        self._is_open = not is_loopback(self._bind_host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        checked = scope["type"] == "http" and scope["client"] is not None and not self._is_open
        if checked and not self._is_ours(scope):
            await Json({"ok": False, "error": "unknown Host"}, 421)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name in ("localhost", self._bind_host)
        return True


def model_cards(fleet: Fleet, models: Models) -> dict[str, dict[str, Any]]:
    """{name: OpenAI's card} of all that can be asked for: what workers list, and of the configured models those that a
    worker serves and may have, each with its aliases."""
    cards = {}
    listed = fleet.models()
    for name, worker_ids in listed.items():
        rule = models.restricted.get(models.canonical(name))
        if rule is None or any(rule.allows(fleet.workers[worker_id]) for worker_id in worker_ids):
            cards[name] = _card(name)
    for model in models:
        if any(worker.serves(model.name) and model.allows(worker) for worker in fleet.ordered):
            cards[model.name] = _card(model.name)
            for alias in model.aliases:
                cards[alias] = {**_card(alias), "root": model.name, "parent": model.name}
    return cards


def _card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "rbeerouter"}


def describe_routing(daemon: Daemon) -> dict[str, Any]:
    """What decides now."""
    decider = daemon.decider
    script, suspended = decider.script, decider.suspended
    return {
        "script": {"file": str(daemon.config.script), "hash": script.hash} if script else None,
        "suspended": {"hash": suspended[0].hash, "error": suspended[1]} if suspended else None,
        "strategy": decider.strategy.name,
        "weights": {worker_id: round(weight, 4) for worker_id, weight in decider.weights().items()},
        "split": decider.split.told() if decider.split is not None else None,
        "debug": decider.debug,
        "loaded_at": daemon.loaded_at,
    }
