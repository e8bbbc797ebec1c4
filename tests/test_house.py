"""The rules of the house, read off the source with `ast`.

Imports go only downward; neighbours joined by `|` do not know each other:

    cli > server | demo | agent | sim > wire | workbench > control > recorded > record > routing | dialects > config > core

`tasks` is a leaf that wire,
control and server may use; the package itself gives `__version__` to whoever asks. `dialects`
stands above `config` because it is handed `Limits`. The fake worker of `demo` imports nothing of rbeerouter.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import get_origin

import msgspec
import pytest

from rbeerouter.config.sections import File, Section, section_of
from rbeerouter.routing.strategies import STRATEGIES

ROOT = Path(__file__).resolve().parents[1]
SOURCE = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "rbeerouter").rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCE.items()}

LAYERS = [
    {"cli"}, {"server", "demo", "agent", "sim"}, {"wire", "workbench"}, {"control"}, {"recorded"}, {"record"}, {"routing", "dialects"}, {"config"},
    {"core"},
]  # fmt: skip
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
USERS_OF_TASKS = {"wire", "control", "server"}
PURE = ("core", "routing", "dialects")
IMPURE = {
    "asyncio", "socket", "time", "os", "logging", "threading", "subprocess", "aiohttp", "starlette", "hypercorn",
    "structlog",
}  # fmt: skip
HOMES = {
    "lupa": ["rbeerouter.routing.sandbox"],
    "httptools": ["rbeerouter.wire"],
    "starlette": ["rbeerouter.server", "rbeerouter.demo"],
    "hypercorn": ["rbeerouter.server", "rbeerouter.demo"],
    "aiohttp": ["rbeerouter.control", "rbeerouter.server", "rbeerouter.agent"],
    "uvloop": ["rbeerouter.server.daemon"],
    "structlog": ["rbeerouter.record"],
    "prometheus_client": ["rbeerouter.server.metrics"],
    "tomli": ["rbeerouter.config.reading"],
    "tree_sitter": ["rbeerouter.routing.syntax"],
    "tree_sitter_lua": ["rbeerouter.routing.syntax"],
    "msgspec": ["rbeerouter"],
    "dns": ["rbeerouter.control.dns_source"],
    "xxhash": ["rbeerouter.dialects.prompts", "rbeerouter.routing.strategies.affinity"],
    "zmq": ["rbeerouter.control.kv_events"],
}
TESTED_ELSEWHERE = {
    "rbeerouter.__main__": "tests/cli/test_arguments.py",
    "rbeerouter.cli.shadow": "tests/server/test_shadow.py",
    "rbeerouter.cli.strategy": "tests/server/test_strategy.py",
    "rbeerouter.cli.versions": "tests/server/test_versions.py",
    "rbeerouter.tasks": "tests/wire/test_exchange.py",
    "rbeerouter.config.checks": "tests/test_config.py",
    "rbeerouter.config.loading": "tests/test_config.py",
    "rbeerouter.config.reading": "tests/test_config.py",
    "rbeerouter.config.sections": "tests/test_config.py",
    "rbeerouter.config.strategies": "tests/routing/test_selection.py",
    "rbeerouter.config.values": "tests/test_config.py",
    "rbeerouter.config.workers": "tests/test_config.py",
    "rbeerouter.routing.blocks": "tests/routing/test_problem.py",
    "rbeerouter.routing.habits": "tests/routing/test_problem.py",
    "rbeerouter.routing.hints": "tests/routing/test_problem.py",
    "rbeerouter.routing.strategies.tokens": "tests/routing/test_measured.py",
    "rbeerouter.server.answers": "tests/server/test_registration.py",
    "rbeerouter.server.client": "tests/server/test_reload.py",
    "rbeerouter.server.control_plane": "tests/server/test_app.py",
    "rbeerouter.server.metrics": "tests/server/test_app.py",
    "rbeerouter.workbench.finding": "tests/workbench/test_check.py",
    "rbeerouter.control.sessions": "tests/control/test_probe.py",
    "rbeerouter.demo.fake_worker": "tests/support/test_fake_worker.py",
    "rbeerouter.demo.tour": "tests/demo",
    "rbeerouter.sim.presets": "tests/sim/test_hardware.py",
    "rbeerouter.sim.types": "tests/sim/__init__.py",
    "rbeerouter.sim.site": "tests/sim/test_world.py",
    "rbeerouter.sim.outcome": "tests/sim/test_world.py",
    "rbeerouter.sim.setting": "tests/sim/test_world.py",
    "rbeerouter.sim.mishaps": "tests/sim/test_faults.py",
}
"""Modules that have no test file of their own name, and where they are tested as they are used."""


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imported(module: str) -> set[str]:
    """Everything a module imports, also inside of functions and for type checkers."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{module}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in SOURCE else node.module for name in names}
    return found


def test_imports_go_downward_and_neighbours_do_not_know_each_other() -> None:
    wrong = []
    for module in SOURCE:
        mine = part(module)
        for other in imported(module):
            theirs = part(other)
            if other.split(".")[0] != "rbeerouter" or theirs in ("", mine) or module == "rbeerouter.__main__":
                continue
            if theirs == "tasks":
                allowed = mine in USERS_OF_TASKS
            else:
                allowed = mine in LEVEL and LEVEL[mine] < LEVEL[theirs]
            if not allowed:
                wrong.append(f"{module} imports {other}")
    assert wrong == []
    assert {part(module) for module in SOURCE} == {*LEVEL, "", "tasks", "__main__"}, "a package without a place"


def test_the_fake_worker_is_a_foreign_program() -> None:
    assert [name for name in imported("rbeerouter.demo.fake_worker") if name.startswith("rbeerouter")] == []


def test_the_pure_packages_have_no_clock_no_files_and_no_network() -> None:
    wrong = {
        (module, name)
        for module in SOURCE
        if part(module) in PURE
        for name in imported(module)
        if name.split(".")[0] in IMPURE
    }
    assert wrong == set()


def test_each_third_party_has_one_home() -> None:
    wrong = []
    for module in SOURCE:
        for name in {name.split(".")[0] for name in imported(module)} - {"rbeerouter"}:
            homes = HOMES.get(name, [])
            at_home = any(module == home or module.startswith(home + ".") for home in homes)
            if name not in sys.stdlib_module_names and not at_home:
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_every_module_has_its_test_file() -> None:
    modules = {module: path for module, path in SOURCE.items() if path.name != "__init__.py"}
    missing = {}
    for module, path in modules.items():
        folder = part(module) if module.count(".") > 1 else "."
        file = TESTED_ELSEWHERE.get(module, f"tests/{folder}/test_{path.stem}.py")
        if not (ROOT / file).exists():
            missing[module] = file
    assert (missing, set(TESTED_ELSEWHERE) - set(modules)) == ({}, set())


def test_every_module_says_what_it_is_for() -> None:
    assert [module for module, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_no_function_is_longer_than_70_lines() -> None:
    long = {
        f"{module}.{node.name}": node.end_lineno - node.lineno + 1
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 70
    }
    assert long == {}


def tables(section: type[Section] = File, name: str = "") -> dict[str, type[Section]]:
    """{header: section} of every table that a configuration file may hold, [[...]] where it may stand many times."""
    found = {}
    for field in msgspec.structs.fields(section):
        inner = section_of(field.type)
        if inner is not None:
            dotted = f"{name}.{field.name}" if name else field.name
            many = get_origin(field.type) is tuple
            named = f"{dotted}.NAME" if get_origin(field.type) is dict else dotted
            found[f"[[{dotted}]]" if many else f"[{named}]"] = inner
            found |= tables(inner, dotted)
    return found


def keys() -> list[tuple[str, str]]:
    """(table, key) of everything that a configuration file may hold, but for tables inside of tables."""
    return [
        (header, field.name)
        for header, section in tables().items()
        for field in msgspec.structs.fields(section)
        if section_of(field.type) is None
    ]


@pytest.mark.parametrize("name", ["docs/config.md", "config.example.toml"])
def test_every_key_of_the_configuration_is_explained(name: str) -> None:
    path = ROOT / name
    if not path.is_file():
        pytest.skip(f"{name} is being written")
    text = path.read_text()
    missing = [(table, key) for table, key in keys() if not re.search(rf"\b{key}\b", text) or table not in text]
    assert missing == []


def test_every_strategy_is_explained() -> None:
    path = ROOT / "docs" / "config.md"
    if not path.is_file():
        pytest.skip("docs/config.md is being written")
    assert [name for name in STRATEGIES if name not in path.read_text()] == []
