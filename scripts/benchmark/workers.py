"""The mock workers: one nginx process with Lua that answers as 64 OpenAI-style servers.

Called by run.py. The answers are fixed texts, so cases.py knows what the right answer is,
and cheap to give, so that the router is what the load test measures.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .templates import fill

WORKER_COUNT = 64
STREAM_EVENT_COUNT = 100  # chunks with content or a role; "data: [DONE]" comes after them
PACED_MARK = "[paced]"  # a request with this in its prompt gets its events with pauses
PAUSE_MS = 2
SCRAPES = "scrapes.log"  # a line for each time that /metrics was read
_METRICS = "location = /metrics { default_type text/plain; alias FILE; access_log LOG; }"
MODULES = Path("/usr/lib/nginx/modules")

CONTENT = (
    "A router takes each request, looks at the model it names and at how busy every "
    "worker is, and hands the request to the least busy worker that serves that model."
)
_HEAD = {"id": "chatcmpl-5f2b7c1e9a3d4e68", "created": 1_700_000_000, "model": "tiny"}


def missing_nginx() -> str | None:
    """Why the mock workers cannot run on this machine, or None when they can."""
    if not nginx_path():
        return "nginx is not installed"
    if not (MODULES / "ngx_http_lua_module.so").exists():
        return "libnginx-mod-http-lua is not installed"
    return None


def nginx_path() -> str | None:
    return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


def prepare_workers(folder: Path, ports: list[int], metrics: str = "") -> list[str]:
    """Write configuration and answers of the mock workers; return the command to run.

    metrics: what they answer at /metrics, if anything.
    """
    metrics_file = folder / "metrics.txt"
    metrics_file.write_text(metrics)
    (folder / "answer.json").write_text(completion())
    (folder / "events.txt").write_text("\n".join(events()) + "\n")
    configuration = fill(
        "workers.nginx.conf",
        MODULES=MODULES,
        FOLDER=folder,
        WORKER_COUNT=len(ports),
        PACED_MARK=PACED_MARK,
        PAUSE_MS=PAUSE_MS,
        METRICS=_METRICS.replace("FILE", str(metrics_file)).replace("LOG", str(folder / SCRAPES)) if metrics else "",
        LISTEN="\n".join(f"        listen 127.0.0.1:{port} backlog=1024;" for port in ports),
        MODEL_INFO=json.dumps({"model_path": "tiny", "is_generation": True}),
        SERVER_INFO=json.dumps({"model_path": "tiny", "served_model_name": "tiny"}),
    )
    path = folder / "nginx.conf"
    path.write_text(configuration)
    return [nginx_path() or "nginx", "-p", str(folder), "-c", str(path)]


def completion() -> str:
    """The answer to a request without stream: a chat completion of about 400 bytes."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": CONTENT},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 256, "completion_tokens": 32, "total_tokens": 288}
    return _compact({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": usage})


def events() -> list[str]:
    """The lines of a stream: a role, 98 pieces of text, a finish reason, then [DONE]."""
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": f" token{number:02d}"} for number in range(STREAM_EVENT_COUNT - 2)]
    lines = [f"data: {_chunk(delta, None)}" for delta in deltas]
    return [*lines, f"data: {_chunk({}, 'stop')}", "data: [DONE]"]


def stream_content() -> str:
    """The text that the pieces of a stream add up to."""
    return "".join(f" token{number:02d}" for number in range(STREAM_EVENT_COUNT - 2))


def _chunk(delta: dict[str, str], finish_reason: str | None) -> str:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _compact({**_HEAD, "object": "chat.completion.chunk", "choices": [choice]})


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
