"""`scripts/bench` as a command: what it offers, and what it refuses. The measuring itself needs nginx and a quiet machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rbeerouter.routing.strategies import STRATEGIES

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCH), *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_its_help_names_the_ways_to_run_it() -> None:
    done = bench("--help")

    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--install-peers", "--routers", "--cases", "--json", "--quick", "--probes", "--decisions"))


def test_a_router_that_it_does_not_know_is_refused_with_the_names_of_those_it_knows() -> None:
    done = bench("--routers", "rbeerouterr")

    assert done.returncode == 2
    assert "rbeerouterr" in done.stderr
    assert "nginx-lua" in done.stderr


def test_the_lab_is_measured_without_any_router() -> None:
    done = bench("--simulate", "500", "--quick", "--no-pin")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("500 requests over 16 workers with a Lua script")
    assert "core and script alone take" in done.stdout


def test_each_strategy_has_its_cost() -> None:
    done = bench("--decisions", "--quick", "--no-pin")
    assert done.returncode == 0, done.stderr
    head, _, _, *rows = done.stdout.splitlines()
    assert head.startswith("64 workers, 614 requests under way")
    assert [row.split()[0] for row in rows] == list(STRATEGIES)
