"""Where a worker stands when its operator does not say: the services on the internet that are known by name are remote.

`config` fills in `WorkerSpec.deployment` with it, whatever tells of the worker; engines are recognised by it, too. It
must not guess: an address alone does not tell whether a machine is one's own.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from rbeerouter.core.types import LOCAL, REMOTE

CLOUDS = {
    "api.openai.com": "openai-cloud", "eu.api.openai.com": "openai-cloud", "us.api.openai.com": "openai-cloud",
    "api.anthropic.com": "anthropic", "api.x.ai": "xai",
}  # fmt: skip
"""{host: engine} of services that are paid by the token."""
_CLOUD_ENGINES = frozenset(CLOUDS.values())


def usual_side(engine: str, url: str) -> str:
    """LOCAL or REMOTE for a worker of which nobody says."""
    return REMOTE if engine in _CLOUD_ENGINES or urlsplit(url).hostname in CLOUDS else LOCAL
