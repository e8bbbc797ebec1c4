"""The page of a simulation, as text; test_page_in_chromium.py opens it."""

from __future__ import annotations

import re

from rbeerouter.core.types import WorkerSpec
from rbeerouter.sim.page import MOST_WORKERS, page
from rbeerouter.sim.types import Profile, SimWorker
from tests.sim import results
from tests.sim.test_document import plots_in


def test_the_page_of_16_workers_stays_below_250_kb() -> None:
    result = results.result(workers=16, requests=1_000_000, every_s=300, intervals=2000)
    made = page(result, source=results.SOURCE, scenario=results.scenario(16), ledger=results.LEDGER)
    assert len(made.encode()) < 250_000


def test_every_worker_has_a_timeline_with_its_own_faults() -> None:
    plots = {plot["caption"]: plot for plot in plots_in(page(results.result(), scenario=results.scenario()))}
    shades = {name: plot["shades"] for name, plot in plots.items()}
    assert shades["worker-gaming-pc"] == [[120, 180, "crash"]]
    assert shades["worker-old-server"] == [[300, 420, "slow"]]
    assert shades["worker-m2-macbook"] == []
    assert shades["Arrivals, requests a second"] == [[120, 180, "crash worker-gaming-pc"], [300, 420, "slow worker-old-server"]]


def test_the_timelines_of_workers_have_one_scale() -> None:
    result = results.result()
    most = max(max(values) for values in result.series.in_flight.values())
    assert {plot["most"] for plot in plots_in(page(result)) if plot["small"]} == {float(f"{most:.4g}")}


def test_of_very_many_workers_the_busiest_are_drawn_and_the_rest_is_counted() -> None:
    made = page(results.result(workers=MOST_WORKERS + 5, requests=10_000))
    assert sum(plot["small"] for plot in plots_in(made)) == MOST_WORKERS
    assert "5 less used ones left out" in made and "worker-68" in made


def test_latency_has_a_curve_for_the_first_token_and_one_for_the_whole_answer() -> None:
    result = results.result()
    (plot,) = (plot for plot in plots_in(page(result)) if plot["kind"] == "cdf")
    assert [curve["label"] for curve in plot["curves"]] == ["first token", "whole answer"]
    assert plot["curves"][0]["xs"] == [float(f"{x:.4g}") for x, _ in result.ttft_cdf]


def test_the_script_stands_there_with_what_each_line_decided() -> None:
    made = page(results.result(requests=1000), source=results.SOURCE)
    rows = re.findall(r'<tr class="decided"><td class="number">([\d,]+)</td>.*?<th scope="row">(\d+)</th>', made)
    assert rows == [("250", "6"), ("120", "9"), ("619", "11")]
    assert '<code>  local ready = workers:filter(function(w)</code>' in made
    assert '<table id="source">' not in page(results.result())


def test_what_is_needed_to_run_it_again_is_there() -> None:
    made = page(results.result(), scenario=results.scenario(), command="rbeerouter routing simulate --seed 7")
    for told in ("rbeerouter routing simulate --seed 7", "RTX 4090, llama.cpp, 8B Q4", "9f86d081884c7d65", "short = 50"):
        assert told in made
    assert '<pre class="command"' not in page(results.result())


def test_a_result_of_nothing_is_a_page_all_the_same() -> None:
    result = results.result(workers=0, requests=0)
    result.reasons, result.ttft_cdf, result.e2e_cdf = {}, [], []
    result.series.arrivals = result.series.waiting = result.series.ttft_p95_s = []
    made = page(result, source=b"")
    assert "0 requests to 0 workers" in made


def test_names_from_outside_are_never_markup() -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    result = results.result()
    result.users = {hostile: result.all}
    result.tiers = {hostile: result.all}
    result.reasons = {f"script: routing.lua:6: {hostile}": 5}
    result.workload = result.strategy = hostile
    result.errors = result.script_errors = {hostile: 1}
    result.workers[0].id = hostile
    result.series.in_flight[hostile] = result.series.in_flight.pop("worker-gaming-pc")
    scenario = results.scenario()
    workers = (SimWorker(WorkerSpec(hostile, "http://x", models=(hostile,)), Profile(source=hostile)),)
    made = page(
        result, source=hostile.encode() + b"\n" * 5, command=hostile,
        scenario=type(scenario)(scenario.config, workers, scenario.workload),
    )  # fmt: skip
    assert "<img" not in made and made.count("</script>") == 3
    assert made.count("&lt;img src=x") >= 10
