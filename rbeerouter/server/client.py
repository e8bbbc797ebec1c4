"""Talking to a running daemon's control plane, for the commands that do."""

from __future__ import annotations

import asyncio
import getpass
import socket
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from rbeerouter.config.loading import Access
from rbeerouter.config.sections import ConfigError
from rbeerouter.server.answers import WHO_HEADER

_TIMEOUT_S = 30
CONFIG = "/api/v1/config"
RELOAD = "/api/v1/reload"
ROLLBACK = "/api/v1/rollback"
PROMOTE = "/api/v1/promote"
SHADOW = "/api/v1/shadow"
VERSIONS = "/api/v1/versions"
WORKERS = "/api/v1/workers"
_PATIENT = (RELOAD, ROLLBACK, PROMOTE)
"""These may run tests, for as long as [routing] gate_s says."""


def call(access: Access, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """One call of the control plane and its JSON answer. Raises ConfigError when no daemon answers there."""
    _, answer = _asked(access, method, path, body)
    try:
        return msgspec.json.decode(answer)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"control.bind = {access.bind!r}: no daemon answers there: {error}") from None


def fetch(access: Access, path: str) -> tuple[int, bytes]:
    """Status and body of a page that may be no JSON. Raises ConfigError when no daemon answers there."""
    return _asked(access, "GET", path, None)


def refusal(answer: bytes) -> str:
    """Why, of an answer that is a refusal."""
    try:
        return str(msgspec.json.decode(answer)["error"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return answer.decode(errors="replace")[:500]


def _asked(access: Access, method: str, path: str, body: Any) -> tuple[int, bytes]:
    return asyncio.run(_call(access, method, path, body))


def whoami() -> str:
    """user@host, for the list of versions. Only ASCII may stand in a header."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):                                # a container's user without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}".encode("ascii", "replace").decode()


def verdict_text(verdict: dict[str, Any]) -> str:
    """A verdict as a person reads it."""
    if not verdict["ok"]:
        return f"rejected, nothing has changed: {verdict['error']}"
    script = verdict["active"]["script"]
    what = f"script {script['file']} ({script['hash']})" if script else "no script"
    lines = [f"reloaded: {what}, strategy {verdict['active']['strategy']}, {verdict['workers']} workers"]
    if "examined" in verdict:
        lines.append(verdict["examined"])
    return "\n".join([*lines, *verdict["notes"]])


def versions_text(answer: dict[str, Any]) -> str:
    """The list of versions as a person reads it, the newest first."""
    if "versions" not in answer:
        return str(answer.get("error"))
    rows = [("", "hash", "since", "who", "how", "lines")]
    for version in answer["versions"]:
        mark = "*" if version["active"] else ""
        shown = (version["hash"], version["time"], version["who"], version["how"], str(version["lines"]))
        rows.append((mark, *shown))
    notes = [
        *([f"{answer['file']} was changed since it was loaded"] if answer["edited"] else []),
        *([f"the list would not outlive a restart: {answer['problem']}"] if answer["problem"] else []),
    ]
    return "\n".join([in_columns(rows), *notes])


_SOURCES = {
    "runtime": "set at run time, until the daemon ends", "persisted": "set at run time, persisted",
    "environment": "ROUTING_ALGORITHM", "config": "the configuration",
}  # fmt: skip


def strategy_text(answer: dict[str, Any]) -> str:
    """What decides, and who said so, as a person reads it."""
    if "strategy" not in answer:
        return str(answer.get("error"))
    fallback = ", ".join(answer["fallback"])
    said = _SOURCES.get(answer["source"], answer["source"])
    return f"{answer['strategy']}   ({said}; where it knows too little: {fallback or 'least-request'})"


_RESULTS = {
    "agree": "agree", "other_worker": "another worker", "other_model": "another model", "waits": "waits instead",
    "rejects": "rejects instead", "sends": "sends instead", "fault": "fails",
}  # fmt: skip
_MOST_PAIRS = 10


def shadow_text(answer: dict[str, Any]) -> str:
    """What the shadow would have done, as a person reads it."""
    if "state" not in answer:
        return str(answer.get("error"))
    state, file = answer["state"], answer["file"]
    if state == "off":
        return "there is no shadow; set [routing] shadow"
    lines = [f"{file} ({answer['hash']}) beside {answer['live'] or 'the strategy'} since {answer['since']}: {state}"]
    if answer["error"]:
        lines.append(answer["error"])
    requests = answer["requests"]
    if not requests:
        return "\n".join([*lines, f"no request compared yet, {answer['skipped']} skipped, {answer['unsure']} unsure"])
    cost = f"{answer['us_per_request']:g} us for each, {answer['share']:.2%} of the time"
    unsure = f", {answer['unsure']} unsure" if answer["unsure"] else ""
    lines.append(f"{requests} requests compared, {answer['skipped']} skipped{unsure}; {cost}")
    counted = {_RESULTS.get(name, name): count for name, count in answer["results"].items() if count}
    lines += ["", in_columns([(name, str(count), f"{count / requests:.1%}") for name, count in counted.items()])]
    if answer["pairs"]:
        rows = [("where it differs: live", "shadow", "", "requests")]
        rows += [
            (pair["live"], pair["shadow"], _RESULTS.get(pair["result"], pair["result"]), str(pair["requests"]))
            for pair in answer["pairs"][:_MOST_PAIRS]
        ]
        lines += ["", in_columns(rows)]
    shares = [("worker", "live", "shadow")]
    shares += [(name, f"{row['live']:.1%}", f"{row['shadow']:.1%}") for name, row in answer["workers"].items()]
    return "\n".join([*lines, "", in_columns(shares)])


def in_columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def change_worker(access: Access, action: str, worker: str, name: str | None) -> dict[str, Any]:
    """Adds a worker by its URL, or drains, undrains or removes one by its id."""
    if action == "add":
        member = msgspec.structs.replace(access, token=access.registration_token or access.token)
        return call(member, "POST", WORKERS, {"url": worker, "ttl_s": 0} | ({"id": name} if name else {}))
    path = f"{WORKERS}/{quote(worker, safe='')}"
    if action == "remove":
        member = msgspec.structs.replace(access, token=access.registration_token or access.token)
        return call(member, "DELETE", path)
    return call(access, "POST", f"{path}/{action}")


def workers_text(answer: dict[str, Any]) -> str:
    """The list as a person reads it."""
    if "workers" not in answer:
        return str(answer.get("error"))
    rows = [("id", "status", "load", "requests", "source", "url", "models")]
    for worker in answer["workers"]:
        rows.append((
            worker["id"], worker["status"], f"{worker['load']:.2f}", f"{worker['in_flight']}/{worker['capacity']}",
            worker["source"], worker["url"], " ".join(worker["models"]),
        ))  # fmt: skip
    return in_columns(rows)


async def _call(access: Access, method: str, path: str, body: Any) -> tuple[int, bytes]:
    bind = access.bind
    token = access.token or access.registration_token
    over_socket = bind.startswith("unix:")
    connector = aiohttp.UnixConnector(bind.removeprefix("unix:")) if over_socket else aiohttp.TCPConnector()
    base = "http://localhost" if over_socket else f"http://{bind}"
    timeout = aiohttp.ClientTimeout(total=None if path in _PATIENT else _TIMEOUT_S, sock_connect=_TIMEOUT_S)
    headers = {WHO_HEADER: whoami()} | ({"authorization": f"Bearer {token}"} if token else {})
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, base + path, json=body, headers=headers) as answer,
        ):
            return answer.status, await answer.read()
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ConfigError(f"control.bind = {bind!r}: no daemon answers there: {error}") from None
