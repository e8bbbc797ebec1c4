"""The tables of the documentation are those of the code: configuration, errors, log, control plane, metrics."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import tomli

from rbeerouter.config import sections
from rbeerouter.config.sections import DnsEntry, File, Limits, Routing, Server, section_of
from rbeerouter.control.store import Store, Version
from rbeerouter.control.versions import Versions
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.health import HealthRules
from rbeerouter.core.models import NO_MODELS
from rbeerouter.core.poison import Poison
from rbeerouter.core.retry import Retries
from rbeerouter.core.types import Decision, Report
from rbeerouter.dialects import openai
from rbeerouter.dialects.surfaces import KINDS_OF_PATHS, SURFACES
from rbeerouter.record import Line, Recorder
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.script import Script, read_source
from rbeerouter.routing.shadow import RESULTS
from rbeerouter.routing.strategies import STRATEGIES
from rbeerouter.server import app, metrics
from rbeerouter.server.caches import Caches
from rbeerouter.server.daemon import _SECOND_SIGNAL_S
from rbeerouter.server.nightly import Ledgers
from rbeerouter.server.scripts import Scripts
from rbeerouter.server.shadow import Shadowing
from rbeerouter.wire.relay import PUBLIC_PATHS
from rbeerouter.workbench.check import check
from rbeerouter.workbench.finding import ERROR
from tests.docs.given import NAME, asked, read_config
from tests.docs.pages import REPOSITORY, Block, Page, all_pages, blocks, code, read
from tests.support.builders import env
from tests.test_house import tables

CONFIG, API, OPERATING = read("docs/config.md"), read("docs/api.md"), read("docs/operating.md")
STRATEGY_PAGE = read("docs/strategies.md")
PACKAGE = REPOSITORY / "rbeerouter"


@pytest.mark.parametrize("block", [block for block in blocks("toml") if block.page != "docs/simulate.md"], ids=str)
def test_each_toml_example_is_a_configuration(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = read_config(block.text, tmp_path, monkeypatch)
    assert len(loaded.workers) == block.text.count("[[workers]]")


SECTIONS = {f"`{header}`": section for header, section in tables().items()}
PASSED_ON = {"request_headers", "response_headers"}


def shown_default(cell: str) -> Any:
    if cell.startswith("none"):
        return None
    return msgspec.NODEFAULT if cell == "required" else tomli.loads(f"x = {code(cell)}")["x"]


def true_default(field: msgspec.structs.FieldInfo) -> Any:
    value = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_of_the_configuration_has_its_row_with_its_default(title: str) -> None:
    all_fields = {field.name: field for field in msgspec.structs.fields(SECTIONS[title])}
    fields = {name: field for name, field in all_fields.items() if section_of(field.type) is None}
    if title == "`[[discovery.dns]]`":                        # what it shares with [[workers]] stands there
        fields = {name: fields[name] for name in DnsEntry.__annotations__ if name != "url"}
    rows = CONFIG.table(title)
    assert list(rows) == list(fields)
    shown = {name: shown_default(cells[0]) for name, cells in rows.items() if name not in PASSED_ON}
    assert shown == {name: true_default(fields[name]) for name in shown}
    assert all(len(cells) == 3 and len(cells[2]) > 5 for cells in rows.values())


def test_the_headers_that_pass_are_the_default() -> None:
    (shown,) = [tomli.loads(block.text)["server"] for block in CONFIG.blocks if "request_headers" in block.text]
    server = Server()
    assert shown == {name: list(getattr(server, name)) for name in sorted(PASSED_ON)}


def test_every_header_of_ours_is_explained() -> None:
    files = [*(PACKAGE / "wire").glob("*.py"), *(PACKAGE / "dialects").glob("*.py")]
    source = "".join(path.read_text() for path in files)
    names = set(re.findall(r"x-(?:rbee|request|should)-[a-z]+(?:-[a-z]+)*", source))
    assert {"x-rbee-worker", "x-request-id", "x-should-retry", "x-rbee-meta"} <= names
    told = " ".join(cell for row in CONFIG.rows("Headers") for cell in row)
    assert [name for name in sorted(names) if name not in told] == []


def test_the_strategies_are_those_of_the_page() -> None:
    assert set(CONFIG.table("Strategies")) - {"strategy"} == set(STRATEGIES)


def test_each_strategy_has_its_section_that_says_when_when_not_and_where_it_comes_from() -> None:
    titles = re.findall(r"^## ([a-z-]+)$", STRATEGY_PAGE.prose, re.MULTILINE)
    texts = {name: STRATEGY_PAGE.section(name).strip() for name in titles}
    parts = {name: re.findall(r"^\*\*(When not|When|Source)\b", text, re.MULTILINE) for name, text in texts.items()}
    same = {name for name, text in texts.items() if text.startswith("The same as [")}
    assert parts == {name: ["Source"] if name in same else ["When", "When not", "Source"] for name in STRATEGIES}


NOT_SENT = {"client_gone", "client_stalled"}


def test_every_error_has_its_row_with_its_status() -> None:
    rows = CONFIG.table("Errors")
    assert set(rows) - {"code"} == set(FAILURES)
    for name, failure in FAILURES.items():
        status, *others = rows[name]
        assert int(status) == failure.status, name
        if name not in NOT_SENT:
            assert others[0] == ("yes" if failure.should_retry else "no"), name
    assert {name for name, cells in rows.items() if len(cells) == 2} == NOT_SENT


def test_the_error_that_is_shown_is_one() -> None:
    (shown,) = [json.loads(block.text)["error"] for block in CONFIG.blocks if block.language == "json"]
    assert json.loads(openai.error_body(FAILURES[shown["code"]], shown["message"], shown["param"]))["error"] == shown


# routing.log.


def rows_of_log(position: int) -> list[str]:
    """The first column of a table under "routing.log": its fields, outcomes and events come one after the other."""
    tables: list[list[str]] = []
    for line in CONFIG.section("routing.log").splitlines():
        if line.startswith("| ---"):
            tables.append([])
        elif tables and (found := re.match(r"\| `(\w+)` \|(?! what happened | when \|)", line)):
            tables[-1].append(found[1])
    return tables[position]


def test_every_field_of_a_log_line_has_its_row() -> None:
    assert rows_of_log(0) == [field.name for field in msgspec.structs.fields(Line)]


def test_every_outcome_has_its_row() -> None:
    source = (PACKAGE / "record.py").read_text()
    (function,) = re.findall(r"^def _outcome\(.*?(?=^def )", source, re.MULTILINE | re.DOTALL)
    words = set(re.findall(r'"(\w+)"', function)) - {"internal_error", "draining"} | {"client_gone", "client_stalled"}
    assert set(rows_of_log(1)) == words


def test_every_event_of_the_daemon_has_its_row() -> None:
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    events = set(re.findall(r'(?:\blog\.(?:info|error|warning)\(\s*|\b_log\(|"event": )"(\w+)"', source)) - {"request"}
    assert len(events) > 5
    assert set(rows_of_log(2)) == events


# The pages of the control plane, and the paths for clients.


def test_the_paths_for_clients_are_those_of_the_page() -> None:
    rows = API.table("The public listener")
    inference = {path: code(cells[0]) for path, cells in rows.items() if path in KINDS_OF_PATHS}
    assert inference == KINDS_OF_PATHS
    assert {path.encode() for path in rows if path.startswith("/")} == SURFACES.keys() | PUBLIC_PATHS


CONTROLLED = b"""
function route_request(request, workers)
  param("canary_percent", 25, 0, 100)
  local ready = workers:filter(function(w) return w.status == "ready" end)
  return ready:max_by("performance"), "premium"
end
"""


KEPT = Version("74eab196c88f", 1.0, "anna@desk", "reload", CONTROLLED)


class Control:
    """The control plane of a daemon that does not run."""

    def __init__(self, fleet: Fleet) -> None:
        decider = Decider(fleet, Script(CONTROLLED, NAME, env()), "least-request", env())
        recorder = Recorder(SimpleNamespace(lost=0, msg=lambda line: None))  # type: ignore[arg-type]
        pools = SimpleNamespace(idle_count=lambda: 0)
        log = SimpleNamespace(lost=0, msg=lambda line: None)
        self.daemon: Any = SimpleNamespace(
            fleet=fleet, decider=decider, env=env(), ollama_cards=None, prober=SimpleNamespace(problems={}),
            config=SimpleNamespace(
                script=Path("/etc/rbeerouter/routing.lua"), control=sections.Control(), routing=Routing(),
                limits=Limits(), models=NO_MODELS,
            ),
            versions=Versions(Store(Path("/nowhere"), lambda *_, **fields: None, str), (KEPT,), 20),
            loaded_at="2026-11-21T07:12:22.630Z", recorder=recorder, log_file=log, scripts=Scripts(env()),
            reloads=Counter(ok=1), find_decision=recorder.find, log=SimpleNamespace(info=lambda *_, **fields: None),
            listener=SimpleNamespace(
                draining=False, connections=set(), pools=pools, counts=Counter(refused_bad_request=1),
                dispatcher=SimpleNamespace(waiting={}, retries=Retries(), poison=Poison()),
            ),
        )  # fmt: skip
        self.daemon.shadowing = Shadowing(self.daemon)
        self.daemon.ledgers = Ledgers(self.daemon)
        self.daemon.caches = Caches(self.daemon)
        self.daemon.config.shadow = Path("/etc/rbeerouter/new.lua")
        self.app = app.build(cast(Any, self.daemon))

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def call(self, method: str, path: str, body: bytes = b"") -> Any:
        sent: list[Any] = []

        async def ask() -> None:
            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": body, "more_body": False}

            async def send(message: Any) -> None:
                sent.append(message)

            scope: dict[str, Any] = {
                "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
                "headers": [], "client": None, "root_path": "", "scheme": "http", "http_version": "1.1",
            }  # fmt: skip
            await self.app(scope, receive, send)

        asyncio.run(ask())
        return json.loads(sent[1]["body"])


def form(value: Any) -> Any:
    """The keys and the kinds of values of an answer; worker names and numbers may differ."""
    if isinstance(value, dict):
        return {name: form(item) for name, item in value.items() if name not in ("weights", "metadata", "spec")}
    if isinstance(value, list):
        return [form(value[0])] if value else []
    return type(value).__name__ if value is not None else None


def example(title: str) -> list[Any]:
    """The JSON blocks under a heading."""
    (text,) = re.findall(rf"^### {re.escape(title)}\n(.*?)(?=^##|\Z)", API.text, re.MULTILINE | re.DOTALL)
    return [json.loads(block.text) for block in Page(API.name, text).blocks if block.language == "json"]


def test_every_page_of_the_control_plane_has_its_heading(fleet: Fleet) -> None:
    routes = {
        (method, route.path) for route in Control(fleet).app.routes for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    assert {tuple(title.split()) for title in re.findall(r"^### (.+)$", API.text, re.MULTILINE)} == routes


def tell_all(fleet: Fleet) -> None:
    """Lets the first worker tell and show all that one without an agent can."""
    one, figures = fleet.ordered[0], {"running": 2, "waiting": 0, "kv_usage": 0.3, "kv_blocks": 100, "block_size": 16}
    fleet.tick(0.0)
    for now in (1.0, 9.0):
        counters = dict.fromkeys(("generated_tokens", "prompt_tokens", "cached_tokens"), now)
        fleet.apply(Report(one.id, True, None, now, **figures, **counters))  # type: ignore[arg-type]
    fleet.sent(one, 9.0)
    fleet.finished(one, None, 10.0, 9.0, 0.1, 50)
    fleet.tick(10.0)


@pytest.mark.parametrize("path", ["/health", "/api/v1/workers", "/v1/models", "/routing", "/api/v1/params", "/api/v1/versions"])
def test_the_answers_that_are_shown_have_the_form_of_the_true_ones(path: str, fleet: Fleet) -> None:
    (shown,) = example(f"GET {path}")
    tell_all(fleet)
    assert form(shown) == form(Control(fleet).get(path))


def test_the_shadow_that_is_shown_has_the_form_of_a_true_one(fleet: Fleet) -> None:
    (shown,) = example("GET /api/v1/shadow")
    control, one = Control(fleet), Decision(fleet.ordered[0], "script", "routing.lua:4")
    shadowing = control.daemon.shadowing
    shadowing.source = CONTROLLED
    shadowing.tally.add(asked(), 1.0, one, msgspec.structs.replace(one, worker=fleet.ordered[1]))
    assert form(shown | {"workers": {}}) == form(control.get("/api/v1/shadow") | {"workers": {}})
    assert set(shown["results"]) == set(RESULTS) == {
        name for name in read("docs/shadow.md").table("What is counted") if name != "result"
    }  # fmt: skip


def test_the_verdicts_that_are_shown_name_what_is_active(fleet: Fleet) -> None:
    taken, refused = example("POST /api/v1/reload")
    active = form(app.describe_routing(Control(fleet).daemon))
    assert form(taken) == {"ok": "bool", "active": active, "workers": "int", "notes": [], "examined": "str"}
    assert form(refused) == {"ok": "bool", "error": "str", "active": active}
    assert (taken["ok"], refused["ok"]) == (True, False)


def test_a_param_is_set_and_refused_as_the_page_shows(fleet: Fleet) -> None:
    control = Control(fleet)
    (refused,) = example("POST /api/v1/params")
    assert control.call("POST", "/api/v1/params", b'{"canary_percent": 500}') == refused
    assert control.call("POST", "/api/v1/params", b'{"canary_percent": 50}')["params"]["canary_percent"]["value"] == 50


def test_the_decision_that_is_shown_is_a_line_of_the_log() -> None:
    (shown,) = example("GET /api/v1/decisions/{request_id}")
    line = msgspec.convert(shown, Line)
    assert json.loads(msgspec.json.encode(line)) == shown


def test_the_explanation_that_is_shown_has_the_form_of_a_true_one(fleet: Fleet) -> None:
    request, shown = example("POST /api/v1/explain")
    true = Control(fleet).call("POST", "/api/v1/explain", json.dumps(request).encode())
    assert shown["worker"] == true["worker"]
    assert set(shown) == set(true) and set(shown["workers"][1]) == set(true["workers"][1])
    for row in (0, 1):
        assert [set(step) for step in shown["workers"][row]["steps"]] == [
            set(step) for step in true["workers"][row]["steps"]
        ]


def test_every_metric_has_its_row_and_no_rule_asks_for_another(fleet: Fleet) -> None:
    page = metrics.page(Control(fleet).daemon).decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", page, re.MULTILINE))
    assert len(kinds) > 10
    rows = OPERATING.table("Metrics")
    assert {name for name in rows if name.startswith("rbeerouter_")} == set(kinds)
    assert {name for name, cells in rows.items() if "histogram" in cells[1]} == {
        name for name, kind in kinds.items() if kind == "histogram"
    }
    named = {name for page in all_pages() for name in re.findall(r"\brbeerouter_[a-z_]+\b", page.text)}
    assert named - set(kinds) == set()


# Numbers in sentences.


def test_the_numbers_of_health_are_the_true_ones() -> None:
    rules, prose = HealthRules(), " ".join(OPERATING.prose.split())
    words = {2: "two", 3: "three", 5: "five"}
    assert f"{words[rules.failures]} requests in a row failed on it" in prose
    assert f"{words[rules.connect_failures]} requests in a row could not connect to it" in prose
    assert rules.error_rate == 0.5 and f"half of at least {rules.error_rate_requests} within the last minute" in prose
    assert rules.max_ejected == 0.5 and "At most half of all workers" in prose
    assert f"`rise` good probes in a row ({rules.rise}) bring it back" in prose
    assert f"`slow_start_s` ({rules.slow_start_s:g} s)" in prose
    assert f"`cool_down_cap_s` ({rules.cool_down_cap_s:g} s)" in prose
    sentence = r"lasts (\d+) seconds the first time, (\d+) seconds longer each\s+time in a row, and at most (\d+)"
    told = re.search(sentence, prose)
    assert told is not None
    assert [float(number) for number in told.groups()] == [rules.ejection_s, rules.ejection_s, rules.ejection_cap_s]


def test_the_patience_after_a_second_signal_is_the_true_one() -> None:
    assert f"stops within {_SECOND_SIGNAL_S:g} seconds" in OPERATING.section("Signals")


# The examples beside the documentation.


def said(table: dict[str, Any]) -> dict[str, Any]:
    """The table and those in it, without what has no default."""
    return {
        key: said(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value not in (None, [])
    }


def test_the_example_configuration_shows_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = (REPOSITORY / "config.example.toml").read_text()
    text = example[example.index("\n[server]") : example.index("# One block for each worker")]
    text = re.sub(r'^# (?= *"|\w+ = )', "", text, flags=re.MULTILINE)
    given = tomli.loads(text)
    for name in ("script", "log"):
        assert given["routing"].pop(name), "these have no default of their own"
    defaults = msgspec.json.decode(msgspec.json.encode(File()))
    defaults = {name: section for name, section in defaults.items() if isinstance(section, dict)}
    assert given == said(defaults)
    whole = read_config(example, tmp_path, monkeypatch)
    assert [worker.id for worker in whole.workers] == ["gpu1"]


def test_the_example_script_passes_its_trial_and_chooses_the_least_loaded(fleet: Fleet) -> None:
    script = Script(read_source(REPOSITORY / "routing.example.lua"), "routing.example.lua", env())
    assert script.self_test(fleet) is None
    chosen = script.route(msgspec.structs.replace(asked(), metadata={"type": "llm"}), fleet)
    assert (chosen.error, chosen.worker) == (None, fleet.workers["cpu1"])


def test_what_the_example_script_shows_to_try_works(fleet: Fleet) -> None:
    text = (REPOSITORY / "routing.example.lua").read_text()
    pieces = re.findall(r"(?:^--     .*\n)+", text[text.index("-- More to try") :], re.MULTILINE)
    assert len(pieces) >= 4
    for piece in pieces:
        tried = text.replace("  -- Everybody else:", re.sub("^--", "  ", piece, flags=re.MULTILINE) + "  -- Else:")
        assert tried != text
        assert [found for found in check(tried.encode(), NAME) if found.severity == ERROR] == []
        assert Script(tried.encode(), NAME, env()).route(asked(), fleet).error is None
