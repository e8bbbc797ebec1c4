"""Which engine is it? Asked once for a worker with `engine = "auto"`, and again after it was away.

`control.probe` asks for the pages of `STEPS` in turn until `recognise` knows. The list of models comes first: all but
data workers have it, most engines sign it, and reading it never costs anybody anything, while one engine's /metrics
hands out each line only once. The module must not raise, whatever a worker answers.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from rbeerouter.core.sides import CLOUDS
from rbeerouter.dialects.engines.spec import Answer, cards, decode, field, number, text

AUTO = "auto"
UNRECOGNISED = "openai"
"""What a worker counts as that no page gives away: a plain OpenAI-compatible server."""
STEPS = ("/v1/models", "/metrics", "/api/version", "/api/v0/models", "/props", "/info", "/sdapi/v1/options")

_OWNERS = {
    "vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp", "lmdeploy": "lmdeploy", "library": "ollama",
    "tensorrt_llm": "trtllm", "organization_owner": "lmstudio",
}  # fmt: skip
_PREFIX = re.compile(rb"^(?:(vllm|llamacpp|lmdeploy):|(sglang)[:_]|(tgi)_|(trtllm)_)", re.MULTILINE)
_HEAD_BYTES = 64 << 10


def of_url(url: str) -> str | None:
    """A service on the internet is known by its name, and need not be asked."""
    return CLOUDS.get(urlsplit(url).hostname or "")


def recognise(answer: Answer) -> str | None:
    """The engine that gives itself away by this answer, a key of ENGINES; None when it does not."""
    if answer.headers.get("server") == "llama.cpp":
        return "llamacpp"
    page, _, _ = answer.path.partition("?")
    by_page = _PAGES.get(page)
    return by_page(answer) if by_page is not None else None


def _by_models(answer: Answer) -> str | None:
    listed = cards(answer)
    if not listed:
        return None
    first = listed[0]
    if isinstance(first.owned_by, str):
        # TGI signs with the name of the model.
        return _OWNERS.get(first.owned_by) or ("tgi" if first.owned_by == first.id and "/" in first.id else None)
    # mlx-lm signs nothing, and stands on Python's own server.
    return "mlx" if answer.headers.get("server", "").startswith("BaseHTTP/") else None


def _by_metrics(answer: Answer) -> str | None:
    if answer.status == 501 and b"--metrics" in answer.body:
        return "llamacpp"
    if answer.status != 200:
        return None
    head = answer.body[:_HEAD_BYTES]
    found = _PREFIX.search(head)
    if found:
        return next(name.decode() for name in found.groups() if name)
    if answer.headers.get("content-type", "").startswith("application/json") and head.lstrip()[:1] == b"[":
        return "trtllm"
    return None


def _by_version(answer: Answer) -> str | None:
    told = decode(answer.body) if answer.status == 200 else None
    return "ollama" if isinstance(told, dict) and set(told) == {"version"} and text(told["version"]) else None


def _by_states(answer: Answer) -> str | None:
    listed = cards(answer)
    return "lmstudio" if listed and isinstance(listed[0].state, str) else None


def _by_props(answer: Answer) -> str | None:
    told = decode(answer.body) if answer.status == 200 else None
    return "llamacpp" if number(field(told, "total_slots")) else None


def _by_info(answer: Answer) -> str | None:
    told = decode(answer.body) if answer.status == 200 else None
    signed = isinstance(told, dict) and ("docker_label" in told or "router" in told) and text(told.get("model_id"))
    return "tgi" if signed else None


def _by_options(answer: Answer) -> str | None:
    told = decode(answer.body) if answer.status == 200 else None
    return "sdwebui" if isinstance(told, dict) and "sd_model_checkpoint" in told else None


_PAGES = {
    "/v1/models": _by_models, "/metrics": _by_metrics, "/api/version": _by_version, "/api/v0/models": _by_states,
    "/props": _by_props, "/info": _by_info, "/sdapi/v1/options": _by_options,
}  # fmt: skip
