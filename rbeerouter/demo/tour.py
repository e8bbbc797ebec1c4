"""The tour that `rbeerouter demo` gives: fake workers, the real daemon, real requests, and where they went and why.

Everything runs in a folder of its own on free ports and is stopped at the end; `--stay` keeps it for trying by hand.
It uses the daemon as a person would: as a command, over HTTP, with a config file and a script.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_WAIT_S = 20.0

_WORKERS = (
    {"id": "gpu-fast", "backend": "cuda", "performance": 120, "speed": 200, "ttft_ms": 30, "slots": 4},
    {"id": "gpu-slow", "backend": "cuda", "performance": 40, "speed": 60, "ttft_ms": 90, "slots": 4},
    {"id": "cpu", "backend": "cpu", "performance": 10, "speed": 25, "ttft_ms": 200, "slots": 2},
)

_FIRST_SCRIPT = """\
function route_request(request, workers)
  local ready = workers:filter(function(w) return w.status == "ready" and w.models:contains(request.model) end)
  if request.metadata:get("tier") == "premium" then
    return ready:max_by("performance")
  end
  if request.max_tokens and request.max_tokens < 10 then
    return ready:filter(function(w) return w.backend == "cpu" end)[1]
  end
  return ready:sort_by(function(a, b) return a.load < b.load end)[1]
end
"""
_SECOND_SCRIPT = _FIRST_SCRIPT.replace(
    'return ready:max_by("performance")', 'return "gpu-slow"        -- changed while the daemon runs'
)
_BROKEN_SCRIPT = _FIRST_SCRIPT.replace("if request.max_tokens and", "if request.max_tokens &&")


def run(stay: bool) -> int:
    """Gives the tour. Returns an exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))           # so that what was started is stopped
    with tempfile.TemporaryDirectory(prefix="rbeerouter-demo-") as name, contextlib.ExitStack() as running:
        folder = Path(name)
        workers = [running.enter_context(_fake_worker(worker)) for worker in _WORKERS]
        port, control = _free_port(), _free_port()
        (folder / "routing.lua").write_text(_FIRST_SCRIPT)
        (folder / "config.toml").write_text(_config(port, control, [url for url, _ in workers]))
        daemon = running.enter_context(_daemon(folder, port))
        base = f"http://127.0.0.1:{port}"
        _say(f"three fake workers and the daemon are running; it listens on {base} and runs this script:")
        print(_FIRST_SCRIPT)
        _show_requests(base, folder)
        _say('now routing.lua is changed: premium goes to "gpu-slow"')
        _change_script(folder, _SECOND_SCRIPT)
        _show("premium", *_ask(base, 5, tier="premium"), folder)
        _say("and now it is broken: `&&` is not Lua. Nothing changes, and the verdict names the line")
        _change_script(folder, _BROKEN_SCRIPT)
        _show("premium", *_ask(base, 5, tier="premium"), folder)
        _say("one worker is stopped in the middle of things: its requests go elsewhere, no client sees an error")
        _change_script(folder, _FIRST_SCRIPT)
        workers[0][1].kill()
        _show("premium", *_ask(base, 5, tier="premium"), folder)
        if stay:
            _stay(base, control, folder, daemon)
        else:
            _say("that was it. Keep it running to try by hand: rbeerouter demo --stay")
    return 0


def _show_requests(base: str, folder: Path) -> None:
    _say("two premium requests at once, then two short ones, then six plain ones:")
    for kind, count, max_tokens, tier in (
        ("premium", 2, 20, "premium"), ("short (max_tokens 5)", 2, 5, None), ("plain", 6, 20, None)
    ):  # fmt: skip
        with ThreadPoolExecutor(count) as pool:
            answers = list(pool.map(lambda _, tokens=max_tokens, who=tier: _ask(base, tokens, who), range(count)))
        for answer in answers:
            _show(kind, *answer, folder)


def _ask(base: str, max_tokens: int, tier: str | None = None) -> tuple[int, dict[str, str], float]:
    """One streamed chat completion: status, headers, seconds until it was complete."""
    body: dict[str, Any] = {
        "model": "llama-3-8b",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": max_tokens,
        "stream": True,
    }
    headers = {"content-type": "application/json"}
    if tier:
        headers["x-rbee-meta-tier"] = tier
    request = urllib.request.Request(base + "/v1/chat/completions", json.dumps(body).encode(), headers)
    started = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=_WAIT_S) as answer:
            answer.read()
            return answer.status, dict(answer.headers), time.monotonic() - started
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), time.monotonic() - started


def _show(kind: str, status: int, headers: dict[str, str], seconds: float, folder: Path) -> None:
    line = _log_line(folder, headers.get("x-request-id", ""))
    tried = f", {line['attempts']} workers tried" if line.get("attempts", 1) > 1 else ""
    print(
        f"  {kind:22} {status}  -> {headers.get('x-rbee-worker', '-'):9} because {headers.get('x-rbee-reason', '-')}"
        f"   (decided in {line.get('decision_us', 0):.0f} us, done in {seconds * 1000:.0f} ms{tried})"
    )


def _log_line(folder: Path, request_id: str) -> dict[str, Any]:
    """The request's line of routing.log, which is written a moment after the answer."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        for text in (folder / "routing.log").read_text().splitlines():
            line = json.loads(text)
            if line.get("request_id") == request_id:
                return line
        time.sleep(0.05)
    return {}


def _change_script(folder: Path, text: str) -> None:
    (folder / "routing.lua").write_text(text)
    verdict = subprocess.run(
        [sys.executable, "-m", "rbeerouter", "reload", "--config", str(folder / "config.toml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    print("  $ rbeerouter reload\n  " + (verdict.stdout or verdict.stderr).strip().replace("\n", "\n  "))


def _stay(base: str, control: int, folder: Path, daemon: subprocess.Popen[bytes]) -> None:
    _say("everything keeps running until Ctrl-C; try:")
    body = '{"model":"llama-3-8b","messages":[{"role":"user","content":"hi"}],"stream":true}'
    print(f"  curl -N {base}/v1/chat/completions -d '{body}'")
    print(f"  curl http://127.0.0.1:{control}/api/v1/workers")
    print(f"  tail -f {folder}/routing.log")
    print(f"  edit {folder}/routing.lua, then: kill -HUP {daemon.pid}")
    with contextlib.suppress(KeyboardInterrupt):
        daemon.wait()


@contextlib.contextmanager
def _fake_worker(worker: dict[str, Any]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [
        sys.executable, "-m", "rbeerouter.demo.fake_worker", "--port", "0", "--name", worker["id"],
        "--model", "llama-3-8b", "--speed", str(worker["speed"]), "--ttft-ms", str(worker["ttft_ms"]),
        "--slots", str(worker["slots"]),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        first = process.stdout.readline().split()
        if len(first) != 2:
            raise RuntimeError(f"the fake worker {worker['id']} did not start")
        yield first[1], process
    finally:
        _end(process)
        process.stdout.close()


@contextlib.contextmanager
def _daemon(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "daemon.out").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "rbeerouter", "serve", "--config", str(folder / "config.toml")],
            stdout=output, stderr=output, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, folder / "daemon.out")
            yield process
        finally:
            _end(process)


def _wait_for(url: str, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the daemon did not start:\n{output.read_text()}")


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _config(port: int, control: int, urls: list[str]) -> str:
    text = (
        f'[server]\nbind = "127.0.0.1:{port}"\n[control]\nbind = "127.0.0.1:{control}"\n'
        '[routing]\nscript = "routing.lua"\nlog = "routing.log"\ndebug = true\n'
    )
    for worker, url in zip(_WORKERS, urls, strict=True):
        text += (
            f'[[workers]]\nid = "{worker["id"]}"\nurl = "{url}"\nbackend = "{worker["backend"]}"\n'
            f"performance = {worker['performance']}\nmax_concurrency = {worker['slots']}\n"
        )
    return text


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)
