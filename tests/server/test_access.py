"""Tests of the control plane's tokens: what each opens, and that a refusal gives nothing away."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from rbeerouter.server.access import Access, carries

ADMIN, MEMBER = "admin-token-of-16-characters", "member-token-of-16-characters"


async def asked(method: str, path: str, token: str | None, control: str | None = ADMIN) -> tuple[int, bytes]:
    sent: list[dict[str, Any]] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page"})

    async def send(message: Any) -> None:
        sent.append(message)

    config: Any = SimpleNamespace(control=SimpleNamespace(token=control), registration=SimpleNamespace(token=MEMBER))
    headers = [] if token is None else [(b"authorization", token.encode())]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    await Access(page, lambda: config)(scope, None, send)     # type: ignore[arg-type]
    return sent[0]["status"], sent[1]["body"]


def status(*arguments: Any, **named: Any) -> int:
    return asyncio.run(asked(*arguments, **named))[0]


EVERY = [
    ("GET", "/metrics"), ("GET", "/routing"), ("GET", "/api/v1/workers"), ("GET", "/api/v1/decisions/x"),
    ("POST", "/api/v1/reload"), ("POST", "/api/v1/params"), ("POST", "/api/v1/workers"), ("GET", "/nowhere"),
    ("DELETE", "/api/v1/workers/a"), ("POST", "/api/v1/workers/a/drain"), ("POST", "/api/v1/workers/a/heartbeat"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_every_page_but_the_public_ones_needs_the_token(method: str, path: str) -> None:
    refusals = {asyncio.run(asked(method, path, token)) for token in (None, "Bearer wrong", ADMIN, "Basic " + ADMIN)}
    assert refusals == {(401, b'{"ok":false,"error":"needs the header Authorization: Bearer TOKEN"}\n')}
    assert status(method, path, f"Bearer {ADMIN}") == status(method, path, f"bearer  {ADMIN}") == 200
    assert status(method, path, None, control=None) == 200


@pytest.mark.parametrize("path", ["/health", "/api/v1/health", "/v1/models", "/v1/models/a/b", "/api/tags", "/api/alive"])
def test_what_the_public_listener_shows_is_free(path: str) -> None:
    assert status("GET", path, None) == 200


def test_the_token_of_registration_opens_what_agents_and_followers_need() -> None:
    opened = [page for page in EVERY if status(*page, f"Bearer {MEMBER}") == 200]
    assert opened == [
        ("GET", "/api/v1/workers"), ("POST", "/api/v1/workers"), ("DELETE", "/api/v1/workers/a"),
        ("POST", "/api/v1/workers/a/heartbeat"),
    ]  # fmt: skip


def test_of_two_authorizations_neither_counts() -> None:
    right, wrong = (b"authorization", f"Bearer {ADMIN}".encode()), (b"authorization", b"Bearer wrong")
    assert carries([right], ADMIN)
    assert not carries([right, wrong], ADMIN) and not carries([wrong, right], ADMIN)


def test_no_token_is_carried_by_an_empty_header_or_by_no_token_configured() -> None:
    assert not carries([(b"authorization", b"Bearer ")], None, "")
    assert not carries([(b"authorization", b"Bearer \xff")], "x")
    assert carries([(b"authorization", b"Bearer b")], "a", "b")
