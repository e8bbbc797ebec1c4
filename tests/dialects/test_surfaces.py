"""The table of paths for clients."""

from __future__ import annotations

import pytest

from rbeerouter.dialects.surfaces import SURFACES, dialect_of


def test_each_surface_stands_under_its_own_path() -> None:
    assert all(surface.path == path == surface.name.encode() for path, surface in SURFACES.items())
    assert all(surface.protocol == surface.dialect.protocol for surface in SURFACES.values())


@pytest.mark.parametrize("path", [b"/v1/load_lora_adapter", b"/metrics", b"/api/pull", b"/v1/files", b"/slots", b""])
def test_an_engines_administration_is_not_forwarded(path: bytes) -> None:
    assert path not in SURFACES


@pytest.mark.parametrize(
    ("path", "protocol"),
    [
        (b"/v1/chat/completions", "openai"), (b"/v1/messages/batches", "anthropic"), (b"/api/pull", "ollama"),
        (b"/api/v1/nothing", "openai"), (b"/nothing", "openai"), (b"", "openai"),
    ],
)  # fmt: skip
def test_an_error_is_told_in_the_protocol_of_the_path(path: bytes, protocol: str) -> None:
    assert dialect_of(path).protocol == protocol
