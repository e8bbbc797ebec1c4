"""Fetch the peers: Debian packages with apt-get, the Python ones with pip, a venv each.

Called by cli.py for --install-peers. What is already there is left as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .measure import wrk_path
from .routers import ROUTERS, missing_in_venv

DEBIAN_PACKAGES = ("nginx", "libnginx-mod-http-lua", "lua-cjson", "haproxy", "wrk")
VENV_PACKAGES = {
    "vllm-router": "vllm-router",
    "sglang-router": "sglang-router",
    "litellm": "litellm[proxy]",
}


def install_peers(peers_folder: Path, optional: set[str]) -> int:
    """Install what is missing; the optional peers only when they are in OPTIONAL."""
    failures = _install_debian_packages(peers_folder)
    for name, package in VENV_PACKAGES.items():
        if ROUTERS[name].optional and name not in optional:
            print(f"{name}: not asked for (large): --peers {name}")
        elif missing_in_venv(name)(peers_folder) is None:
            print(f"{name}: already in {peers_folder / name}")
        else:
            failures += not _install_in_venv(peers_folder / name, package)
    return 1 if failures else 0


def _install_debian_packages(peers_folder: Path) -> int:
    """The number of failed commands: 0 or 1."""
    reasons = [ROUTERS[name].missing(peers_folder) for name in ("nginx-lua", "haproxy")]
    if wrk_path() and not any(reasons):
        print("nginx with Lua, haproxy, wrk: already installed")
        return 0
    as_root = ["sudo"] if os.geteuid() != 0 and shutil.which("sudo") else []
    _run([*as_root, "apt-get", "update"])  # when it fails, the lists may still be good enough
    install = ["apt-get", "install", "-y", "--no-install-recommends", *DEBIAN_PACKAGES]
    if not _run([*as_root, *install]):
        return 1
    print("Debian may have started nginx and haproxy as services; the bench does not use those.")
    return 0


def _install_in_venv(folder: Path, package: str) -> bool:
    folder.parent.mkdir(parents=True, exist_ok=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", package]
    return _run([sys.executable, "-m", "venv", str(folder)]) and _run(pip)


def _run(command: list[str]) -> bool:
    print("+", " ".join(command), flush=True)
    try:
        return subprocess.run(command, check=False).returncode == 0
    except OSError as error:
        print(f"{command[0]}: {error}", file=sys.stderr)
        return False
