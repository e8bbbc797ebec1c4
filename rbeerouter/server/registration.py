"""The control plane's pages on workers: the list, registering, heartbeats, drain and remove.

`server.app` mounts them. What comes in is checked as the configuration is, and its address against
`control.addresses`; a worker that is let in is probed before it gets a request.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.routing import Route

from rbeerouter.config.sections import ConfigError
from rbeerouter.config.workers import read_worker
from rbeerouter.control import follow
from rbeerouter.control.addresses import as_networks, guard_for, host_of, literal, outside, real
from rbeerouter.control.roster import CONFIG, FILE, REGISTERED
from rbeerouter.core.errors import RouterError
from rbeerouter.core.types import OFFLINE, Machine, Worker, WorkerSpec
from rbeerouter.dialects.engines import ENGINES
from rbeerouter.routing.script import script_fields
from rbeerouter.server.access import carries
from rbeerouter.server.answers import Json, not_for_web_pages, read_body

if TYPE_CHECKING:
    from rbeerouter.server.daemon import Daemon

_RESOLVE_S = 3.0
_FOREVER_S = 0
_LONGEST_TTL_S = 86_400


Amount = Annotated[float, msgspec.Meta(ge=0, le=1e6)]


class Figures(msgspec.Struct, frozen=True):
    """A heartbeat's body, all of it optional. Fields of later versions are skipped."""

    vram: Amount | None = None
    vram_used: Amount | None = None
    temperature_c: Annotated[float, msgspec.Meta(ge=-273, le=1000)] | None = None
    watts: Amount | None = None
    owner_active: bool | None = None
    yielding: bool | None = None


class Refusal(Exception):
    """A request that is not granted."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


_decode = msgspec.json.Decoder().decode
_decode_figures = msgspec.json.Decoder(Figures).decode


def routes(daemon: Daemon) -> list[Route]:
    """The pages of one daemon."""
    pages = Pages(daemon)
    one = "/api/v1/workers/{worker_id}"
    return [
        Route("/api/v1/workers", pages.workers, methods=["GET"]),
        Route("/api/v1/workers", pages.answering(pages.register), methods=["POST"]),
        Route(one, pages.answering(pages.remove), methods=["DELETE"]),
        Route(f"{one}/heartbeat", pages.answering(pages.heartbeat), methods=["POST"]),
        Route(f"{one}/drain", pages.answering(pages.drain), methods=["POST"]),
        Route(f"{one}/undrain", pages.answering(pages.undrain), methods=["POST"]),
        Route("/api/v1/discovery", pages.discovery, methods=["GET"]),
    ]


class Pages:
    """What the pages do."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    @staticmethod
    def answering(page: Any) -> Any:
        """A page that changes something: not for web pages, and every refusal in one form."""

        async def answer(request: Request) -> Json:
            refused = not_for_web_pages(request)
            if refused is not None:
                return refused
            try:
                return Json({"ok": True, **await page(request)})
            except Refusal as refusal:
                return Json({"ok": False, "error": str(refusal)}, refusal.status)
            except RouterError as error:
                return Json({"ok": False, "error": error.message}, error.failure.status)

        return answer

    async def workers(self, request: Request) -> Json:
        return Json({"workers": [self._described(worker) for worker in self._daemon.fleet.ordered]})

    def _described(self, worker: Worker) -> dict[str, Any]:
        problem = self._daemon.prober.problems.get(worker.id)
        described = describe_worker(worker, self._daemon.env.now()) | {"problem": problem}
        kv_events = self._daemon.caches.describe(worker.id)
        return described if kv_events is None else described | {"kv_events": kv_events}

    async def discovery(self, request: Request) -> Json:
        return Json(self._daemon.discovery.describe())

    async def register(self, request: Request) -> dict[str, Any]:
        daemon = self._daemon
        self._check_caller(request)
        spec, ttl_s = self._read(await read_body(request))
        await _check_address(spec, daemon.config.registration.allow, _caller(request))
        self._check_id(spec)
        registered = daemon.discovery.registered
        await asyncio.wrap_future(registered.register(spec, ttl_s))
        await daemon.restaff()
        worker = daemon.fleet.workers.get(spec.id)
        if worker is None or worker.spec.source != REGISTERED:
            registered.remove(spec.id)
            await daemon.restaff()
            raise Refusal(409, f"url = {spec.url!r}: another worker is there already")
        answer: dict[str, Any] = {"worker": self._described(worker), "ttl_s": ttl_s}
        if daemon.discovery.store.problem:
            answer["note"] = f"it would not outlive a restart: {daemon.discovery.store.problem}"
        if worker.status == OFFLINE:
            answer["note"] = f"it is known, but gets nothing as long as it cannot be reached: {daemon.why(worker)}"
        return answer

    async def heartbeat(self, request: Request) -> dict[str, Any]:
        self._check_caller(request)
        body = await read_body(request)
        try:
            figures = _decode_figures(body) if body.strip() else Figures()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(422, f"the body: {error}") from None
        worker_id, daemon = request.path_params["worker_id"], self._daemon
        if not daemon.discovery.registered.heard_of(worker_id, figures.yielding):
            raise Refusal(404, f"no worker {worker_id!r} is registered; POST /api/v1/workers does that")
        daemon.staff.apply_drains()
        ttl_s = daemon.discovery.registered.entries[worker_id].ttl_s
        now = daemon.env.now()
        until = now + (ttl_s or daemon.config.registration.ttl_s)
        told = {name: value for name, value in msgspec.structs.asdict(figures).items() if name != "yielding"}
        daemon.fleet.hear(worker_id, Machine(until, **told), now)
        return {"ttl_s": ttl_s}

    async def remove(self, request: Request) -> dict[str, Any]:
        daemon, worker_id = self._daemon, request.path_params["worker_id"]
        self._check_caller(request)
        if not daemon.discovery.registered.remove(worker_id):
            worker = self._known(worker_id)
            raise Refusal(
                409, f"{worker_id} comes from source {worker.spec.source!r} and would be back at once; take it out "
                "there, or drain it",
            )  # fmt: skip
        await asyncio.wrap_future(daemon.discovery.drain(worker_id, False))
        daemon.log.info("worker_removed", worker=worker_id)
        await daemon.restaff()
        return {}

    async def drain(self, request: Request) -> dict[str, Any]:
        return await self._drained(request, True)

    async def undrain(self, request: Request) -> dict[str, Any]:
        return await self._drained(request, False)

    async def _drained(self, request: Request, drained: bool) -> dict[str, Any]:
        daemon, worker = self._daemon, self._known(request.path_params["worker_id"])
        await asyncio.wrap_future(daemon.discovery.drain(worker.id, drained))
        daemon.staff.apply_drains()
        if drained:
            daemon.log.info("worker_drained", worker=worker.id)
        else:
            daemon.log.info("worker_undrained", worker=worker.id)
        answer: dict[str, Any] = {"worker": self._described(worker)}
        if not drained and worker.draining:
            at_it = worker.id in daemon.discovery.registered.yielding()
            who = "the owner of its machine is at it: its agent" if at_it else "its controller"
            answer["note"] = f"{who} lets it have nothing new"
        return answer

    def _known(self, worker_id: str) -> Worker:
        worker = self._daemon.fleet.workers.get(worker_id)
        if worker is None:
            raise Refusal(404, f"there is no worker {worker_id!r}")
        return worker

    def _check_caller(self, request: Request) -> None:
        """Registration is on, the token is right, and the caller comes from a network that may register."""
        config = self._daemon.config
        if config.registration.token is None:
            raise Refusal(403, "registration is off; [registration] token turns it on")
        if not carries(request.scope["headers"], config.registration.token, config.control.token):
            raise Refusal(401, "needs the header Authorization: Bearer TOKEN")
        caller = _caller(request)
        if caller is not None and (problem := outside(as_networks(config.registration.allow), caller)) is not None:
            raise Refusal(403, problem)

    def _read(self, body: bytes) -> tuple[WorkerSpec, float | None]:
        try:
            raw = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(422, f"the body is not valid JSON: {error}") from None
        ttl_s: Any = self._daemon.config.registration.ttl_s
        if isinstance(raw, dict):
            ttl_s = raw.pop("ttl_s", ttl_s)
        if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not (
            ttl_s == _FOREVER_S or 5 <= ttl_s <= _LONGEST_TTL_S
        ):
            expected = f"expected 5 to {_LONGEST_TTL_S} seconds, or 0 for a worker that stays"
            raise Refusal(422, f"ttl_s = {ttl_s!r}: {expected}")
        try:
            return read_worker(raw, "the worker", REGISTERED, tuple(ENGINES)), ttl_s or None
        except ConfigError as error:
            raise Refusal(422, str(error)) from None

    def _check_id(self, spec: WorkerSpec) -> None:
        daemon = self._daemon
        other = daemon.fleet.workers.get(spec.id)
        if other is not None and other.spec.source in (CONFIG, FILE):
            raise Refusal(
                409, f"id = {spec.id!r}: a worker of source {other.spec.source!r} has this id, and counts for more"
            )
        if any(one.url == spec.url and one.spec.source in (CONFIG, FILE) for one in daemon.fleet.ordered):
            raise Refusal(409, f"url = {spec.url!r}: another worker is there already")
        entries, most = daemon.discovery.registered.entries, daemon.config.registration.most_workers
        if spec.id not in entries and len(entries) >= most:
            raise Refusal(409, f"{most} workers are registered already; see [registration] most_workers")


async def _check_address(spec: WorkerSpec, allow: tuple[str, ...], caller: str | None) -> None:
    """Is every address that the url leads to one where workers may be? Raises Refusal."""
    host = host_of(spec.url)
    guard = guard_for(spec, allow)
    assert guard is not None
    try:
        address = literal(host)
        addresses = [address] if address is not None else await _resolved(host)
    except ValueError as error:
        raise Refusal(422, f"url = {spec.url!r}: {error}") from None
    for address in addresses:
        problem = guard(host, address)
        if problem is None and real(address).is_loopback and caller is not None and not real(caller).is_loopback:
            problem = f"{address} is this machine, not the one that registers ({caller})"
        if problem is not None:
            raise Refusal(422, f"url = {spec.url!r}: {problem}")


async def _resolved(host: str) -> list[str]:
    try:
        async with asyncio.timeout(_RESOLVE_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"the name {host} cannot be resolved: {error.strerror or 'no answer in time'}") from None
    return [str(entry[4][0]) for entry in found]


def _caller(request: Request) -> str | None:
    """The address that asks, None for a Unix socket."""
    return request.client.host if request.client is not None else None


def describe_worker(worker: Worker, now: float) -> dict[str, Any]:
    """All that the script sees of a worker, what the operator wants besides, and what was said of it."""
    health = worker.health
    left_s = max(health.ejected_until, worker.cooling_until) - now
    return {
        **script_fields(worker), "url": worker.url, "served": worker.served, "failed": worker.failed,
        "foreign": worker.foreign, "weight": round(worker.weight, 3), "restarts": worker.restarts,
        "reachable": health.reachable, "ejected": now < health.ejected_until, "on_trial": health.half_open,
        "cooling": now < worker.cooling_until, "left_alone_s": round(left_s, 1) if left_s > 0 else None,
        "draining": worker.draining, "kv_blocks": worker.kv_blocks, "block_size": worker.block_size,
        "generated_tokens": worker.generated_tokens, "prompt_tokens": worker.prompt_tokens,
        "cached_tokens": worker.cached_tokens, "source": worker.spec.source, "spec": follow.public(worker.spec),
    }  # fmt: skip
