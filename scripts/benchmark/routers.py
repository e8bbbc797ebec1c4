"""The table of routers: how each is found, configured and started.

Called by run.py (what to start) and cli.py (names). To add a router, write a function that
puts its configuration into a folder and returns its command, and add a line to ROUTERS.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .templates import FOLDER as TEMPLATES
from .templates import fill
from .workers import MODULES, missing_nginx, nginx_path

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_PEERS_FOLDER = Path("~/.cache/rbeerouter-bench").expanduser()


@dataclass(frozen=True)
class Launch:
    """What a router is started with."""

    folder: Path  # its own, empty: configuration and logs go here
    port: int  # where it takes requests
    spare_ports: tuple[int, int]  # for a control plane or metrics
    worker_ports: list[int]
    policy: str  # of vllm-router and sglang-router
    peers_folder: Path  # where the venvs are

    @property
    def worker_urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.worker_ports]


@dataclass(frozen=True)
class Router:
    """One line of the table."""

    name: str
    describe: str
    missing: Callable[[Path], str | None]  # why it cannot run (given the peers folder)
    version: Callable[[Path], str]
    prepare: Callable[[Launch], list[str]]  # writes configuration, returns the command
    environment: Mapping[str, str] = field(default_factory=dict)
    worker_count: int = 8
    health_path: str = "/health"
    ready_seconds: float = 30.0
    optional: bool = False  # only on request: large


# --- this daemon ---------------------------------------------------------------------


def own_python() -> str:
    """The project's venv when there is one, else the Python that runs this bench."""
    python = REPOSITORY / ".venv" / "bin" / "python"
    return str(python) if python.exists() else sys.executable


def own_environment() -> dict[str, str]:
    """Let Python find the package in this tree, installed or not."""
    return {"PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY / "src", REPOSITORY)))}


def _missing_rbeerouter(_: Path) -> str | None:
    status, output = _try_command([own_python(), "-m", "rbeerouter", "serve", "--help"], own_environment())
    if status == 0:
        return None
    return f"not runnable: {output.strip().splitlines()[-1] if output.strip() else status}"


def _rbeerouter_version(_: Path) -> str:
    program = (
        "import rbeerouter, importlib.metadata as metadata\n"
        "try: print(metadata.version('rbeerouter'))\n"
        "except metadata.PackageNotFoundError:\n"
        "    print(getattr(rbeerouter, '__version__', 'this tree'))"
    )
    status, output = _try_command([own_python(), "-c", program], own_environment())
    return output.strip() if status == 0 else "unknown"


def _prepare_rbeerouter(launch: Launch) -> list[str]:
    workers = [
        f'[[workers]]\nid = "w{number}"\nurl = "{url}"\nmodels = ["tiny"]\nmax_concurrency = 64\n'
        for number, url in enumerate(launch.worker_urls, start=1)
    ]
    configuration = fill(
        "rbeerouter.toml",
        PORT=launch.port,
        SPARE_PORT=launch.spare_ports[0],
        WORKERS="\n".join(workers),
    )
    path = launch.folder / "rbeerouter.toml"
    path.write_text(configuration)
    shutil.copy(TEMPLATES / "routing.lua", launch.folder / "routing.lua")
    return [own_python(), "-m", "rbeerouter", "serve", "--config", str(path)]


# --- nginx with Lua, HAProxy (Debian packages) ---------------------------------------


def _missing_nginx_lua(_: Path) -> str | None:
    if reason := missing_nginx():
        return reason
    if not list(Path("/usr/lib").glob("*/lua/5.1/cjson.so")):
        return "lua-cjson is not installed"
    return None


def _nginx_version(_: Path) -> str:
    return _first_number(_try_command([nginx_path() or "nginx", "-v"])[1])


def _prepare_nginx_lua(launch: Launch) -> list[str]:
    configuration = fill(
        "balancer.nginx.conf",
        MODULES=MODULES,
        FOLDER=launch.folder,
        PORT=launch.port,
        WORKER_PORTS=", ".join(map(str, launch.worker_ports)),
    )
    path = launch.folder / "nginx.conf"
    path.write_text(configuration)
    return [nginx_path() or "nginx", "-p", str(launch.folder), "-c", str(path)]


def haproxy_path() -> str | None:
    return shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


def _missing_haproxy(_: Path) -> str | None:
    return None if haproxy_path() else "haproxy is not installed"


def _haproxy_version(_: Path) -> str:
    return _first_number(_try_command([haproxy_path() or "haproxy", "-v"])[1])


def _prepare_haproxy(launch: Launch) -> list[str]:
    servers = [f"    server w{number} 127.0.0.1:{port}" for number, port in enumerate(launch.worker_ports, start=1)]
    path = launch.folder / "haproxy.cfg"
    path.write_text(fill("haproxy.cfg", PORT=launch.port, SERVERS="\n".join(servers)))
    return [haproxy_path() or "haproxy", "-db", "-f", str(path)]


# --- the routers from PyPI, each in a venv of its own --------------------------------


def missing_in_venv(name: str) -> Callable[[Path], str | None]:
    """Whether the program NAME is in the venv NAME under the peers folder."""

    def missing(peers_folder: Path) -> str | None:
        program = peers_folder / name / "bin" / name
        return None if program.exists() else f"{program} does not exist (--install-peers)"

    return missing


def _version_in_venv(name: str) -> Callable[[Path], str]:
    def version(peers_folder: Path) -> str:
        program = f"from importlib.metadata import version; print(version('{name}'))"
        status, output = _try_command([str(peers_folder / name / "bin" / "python"), "-c", program])
        return output.strip() if status == 0 else "unknown"

    return version


def _prepare_vllm_router(launch: Launch) -> list[str]:
    return [
        str(launch.peers_folder / "vllm-router" / "bin" / "vllm-router"),
        "--host=127.0.0.1",
        f"--port={launch.port}",
        f"--policy={launch.policy}",
        "--log-level=warning",
        f"--prometheus-port={launch.spare_ports[0]}",
        "--prometheus-host=127.0.0.1",
        "--worker-startup-check-interval=1",
        "--worker-urls",
        *launch.worker_urls,
    ]


def _prepare_sglang_router(launch: Launch) -> list[str]:
    return [
        str(launch.peers_folder / "sglang-router" / "bin" / "sglang-router"),
        "launch",
        "--host=127.0.0.1",
        f"--port={launch.port}",
        f"--policy={launch.policy}",
        "--log-level=warn",
        f"--prometheus-port={launch.spare_ports[0]}",
        "--prometheus-host=127.0.0.1",
        "--worker-startup-check-interval=1",
        "--worker-urls",
        *launch.worker_urls,
    ]


def _prepare_litellm(launch: Launch) -> list[str]:
    deployments = [
        "  - model_name: tiny\n    litellm_params:\n      model: openai/tiny\n"
        f"      api_base: {url}/v1\n      api_key: none"
        for url in launch.worker_urls
    ]
    path = launch.folder / "litellm.yaml"
    path.write_text(fill("litellm.yaml", DEPLOYMENTS="\n".join(deployments)))
    return [
        str(launch.peers_folder / "litellm" / "bin" / "litellm"),
        f"--config={path}",
        "--host=127.0.0.1",
        f"--port={launch.port}",
        "--num_workers=1",
    ]


# One thread of tokio (the runtime of both Rust routers), as the others have one thread.
_ONE_TOKIO_THREAD = {"TOKIO_WORKER_THREADS": "1"}

_LITELLM_ENVIRONMENT = {
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # no download of prices at start
    "LITELLM_TELEMETRY": "False",
    "DISABLE_ADMIN_UI": "True",
    # It takes requests without a key, as the others here do: it listens on 127.0.0.1 only,
    # in front of mock workers. Without this it does not start.
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}


def _rbeerouter(name: str, worker_count: int) -> Router:
    return Router(
        name,
        f"this daemon, Lua script on, {worker_count} workers registered",
        _missing_rbeerouter,
        _rbeerouter_version,
        _prepare_rbeerouter,
        own_environment(),
        worker_count=worker_count,
    )


ROUTERS: dict[str, Router] = {
    router.name: router
    for router in (
        _rbeerouter("rbeerouter", 8),
        _rbeerouter("rbeerouter-64", 64),
        Router(
            "nginx-lua",
            "nginx, one process: Lua decodes the JSON, takes the least loaded worker, logs",
            _missing_nginx_lua,
            _nginx_version,
            _prepare_nginx_lua,
        ),
        Router(
            "haproxy",
            "HAProxy, one thread: leastconn, does not look into the JSON, logs to a ring",
            _missing_haproxy,
            _haproxy_version,
            _prepare_haproxy,
        ),
        Router(
            "vllm-router",
            "vLLM router (Rust, started from Python), one tokio thread",
            missing_in_venv("vllm-router"),
            _version_in_venv("vllm-router"),
            _prepare_vllm_router,
            _ONE_TOKIO_THREAD,
        ),
        Router(
            "sglang-router",
            "SGLang model gateway (Rust, started from Python), one tokio thread",
            missing_in_venv("sglang-router"),
            _version_in_venv("sglang-router"),
            _prepare_sglang_router,
            _ONE_TOKIO_THREAD,
        ),
        Router(
            "litellm",
            "LiteLLM proxy (Python), one process, simple-shuffle",
            missing_in_venv("litellm"),
            _version_in_venv("litellm"),
            _prepare_litellm,
            _LITELLM_ENVIRONMENT,
            health_path="/health/liveliness",
            ready_seconds=120.0,
            optional=True,
        ),
    )
}


def _try_command(command: list[str], environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a short command: its exit status and all it printed."""
    try:
        finished = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return finished.returncode, finished.stdout


def _first_number(text: str) -> str:
    match = re.search(r"\d+(\.\d+)+", text)
    return match.group(0) if match else "unknown"
