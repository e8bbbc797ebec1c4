"""The page of a simulation in a real browser, opened as a file. Skipped where there is no chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.sim import tables
from rbeerouter.sim.document import Curve, Document, Plot
from rbeerouter.sim.page import page
from rbeerouter.sim.units import figure
from tests.sim import results
from tests.support import chromium
from tests.support.chromium import COLOURED, opened

DRAWN = "(() => document.querySelector('.uplot canvas').toDataURL())"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.browser() as started:
        yield started


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "out.html"
    path.write_text(
        page(
            results.result(), source=results.SOURCE, scenario=results.scenario(), ledger=results.LEDGER,
            command="rbeerouter routing simulate --script routing.lua --seed 7 --report out.html",
        )
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def shown(browser: Any, file: Path) -> Iterator[chromium.Opened]:
    """The page, for tests that leave it as it is."""
    with opened(browser, file) as page:
        yield page


def test_it_opens_without_a_complaint_and_asks_for_nothing(shown: chromium.Opened) -> None:
    assert (shown.complaints, shown.requests) == ([], [])


def test_its_policy_refuses_any_other_script(browser: Any, file: Path) -> None:
    with opened(browser, file) as page:
        for foreign in (
            "Object.assign(document.createElement('script'), {text: 'window.bad = 1'})",
            "Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'})",
            "Object.assign(document.createElement('style'), {textContent: 'p { display: none }'})",
        ):
            with page.tab.expect_console_message() as said:
                page.tab.evaluate(f"document.body.append({foreign})")
            assert "violates the following Content Security Policy" in said.value.text
        assert page.tab.evaluate("window.bad") is None


def test_every_plot_is_drawn_in_colour(shown: chromium.Opened) -> None:
    canvases = shown.tab.query_selector_all(".uplot canvas")
    assert len(canvases) == 1 + 3 + 4
    assert all(canvas.evaluate(COLOURED) >= 1 for canvas in canvases)
    cdf, *_ = canvases
    assert cdf.evaluate(COLOURED) >= 2, "one colour for each curve"


def test_every_worker_has_its_bar_as_long_as_its_share(shown: chromium.Opened) -> None:
    result = results.result()
    wide = [bar.bounding_box()["width"] for bar in shown.tab.query_selector_all("#workers .bar rect")]
    shares = [worker.share for worker in result.workers]
    assert wide == pytest.approx([wide[0] * share / shares[0] for share in shares], abs=1)
    assert wide[0] > 200


@pytest.mark.parametrize("make", [tables.workers, tables.machines, lambda result: tables.latency(result.all)])
def test_the_tables_say_what_the_result_says(shown: chromium.Opened, make: Any) -> None:
    table = make(results.result())
    rows = shown.tab.eval_on_selector_all(
        f"#{table.name} tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    if table.name == "workers":
        for row in rows:
            assert row.pop(1) == "", "the bar"
    assert rows == [list(row) for row in table.rows]


def test_a_click_or_enter_on_the_legend_hides_a_curve_and_brings_it_back(browser: Any, file: Path) -> None:
    with opened(browser, file) as page:
        canvas = page.tab.query_selector(".uplot canvas")
        entry = page.tab.query_selector(".u-legend .u-series:nth-child(2) th")
        assert (entry.text_content(), entry.get_attribute("aria-pressed")) == ("whole answer", "true")
        before = canvas.evaluate(COLOURED)
        entry.click()
        assert entry.get_attribute("aria-pressed") == "false" and canvas.evaluate(COLOURED) < before
        entry.focus()
        page.tab.keyboard.press("Enter")
        assert entry.get_attribute("aria-pressed") == "true" and canvas.evaluate(COLOURED) == before


def test_the_arrow_keys_read_a_plot_out(browser: Any, file: Path) -> None:
    with opened(browser, file) as page:
        page.tab.focus("[data-plot='1']")
        page.tab.keyboard.press("ArrowRight")
        page.tab.keyboard.press("ArrowRight")
        told = page.tab.text_content("#read-out")
    assert told == f"Arrivals, requests a second, 10 s: {figure(results.result().series.arrivals[1])}"


def test_the_values_behind_a_plot_open_as_a_table(browser: Any, file: Path) -> None:
    result = results.result()
    with opened(browser, file) as page:
        page.tab.click("details[data-plots='4 5 6 7'] summary")
        page.tab.wait_for_selector("details[data-plots='4 5 6 7'] table")
        head = page.tab.eval_on_selector_all("details[data-plots='4 5 6 7'] thead th", "all => all.map(one => one.textContent)")
        rows = page.tab.query_selector_all("details[data-plots='4 5 6 7'] tbody tr")
    assert head == ["time", *(worker.id for worker in result.workers)]
    assert len(rows) == len(result.series.arrivals)


def test_plots_with_other_xs_have_tables_of_their_own(browser: Any, tmp_path: Path) -> None:
    made = Document("Two")
    shares = [Curve("a", [0.5, 1.0], [1.0, 2.0])], [Curve("a", [0.25, 1.0], [3.0, 4.0])]
    made.plots(*(Plot(name, "cdf", curves, "share", x_label="latency") for name, curves in zip(("one", "two"), shares, strict=True)))
    file = tmp_path / "out.html"
    file.write_text(made.text())
    with opened(browser, file) as page:
        page.tab.click("details summary")
        page.tab.wait_for_selector("details table")
        cells = page.tab.eval_on_selector_all("details table", "all => all.map(one => [...one.querySelectorAll('caption, tbody tr')].map(row => row.textContent))")
    assert cells == [["one", "1.00 s50.0%", "2.00 s100.0%"], ["two", "3.00 s25.0%", "4.00 s100.0%"]]


def test_a_long_script_is_shown_from_where_it_decides(browser: Any, tmp_path: Path) -> None:
    result = results.result()
    result.reasons = {"script: routing.lua:206": 5}
    file = tmp_path / "out.html"
    file.write_text(page(result, source=b"-- a comment\n" * 200 + results.SOURCE + b"\n" * 200))
    with opened(browser, file) as shown:
        box, row = (shown.tab.query_selector(which).bounding_box() for which in (".source", "#source .decided"))
    assert box["y"] < row["y"] < box["y"] + box["height"] / 2


def test_dark_mode_turns_background_and_plots(browser: Any, file: Path) -> None:
    looks = {}
    for scheme in ("light", "dark"):
        with opened(browser, file, color_scheme=scheme) as page:
            back = page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
            curve = page.tab.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--curve-1')")
            before = page.tab.evaluate(f"{DRAWN}()")
            page.tab.emulate_media(color_scheme="dark" if scheme == "light" else "light")
            page.until(f"before => ({DRAWN})() !== before", before)
            after = page.tab.evaluate(f"{DRAWN}()")
            assert page.complaints == []
            looks[scheme] = back, curve, before, after
    assert looks["light"][:2] != looks["dark"][:2]
    assert looks["light"][2] == looks["dark"][3], "what was switched looks like what was opened so"
    assert sum(map(int, re.findall(r"\d+", looks["dark"][0]))) < 120


@pytest.mark.parametrize("width", [400, 320])
def test_a_phone_shows_it_without_scrolling_sideways(browser: Any, file: Path, width: int) -> None:
    with opened(browser, file, viewport={"width": width, "height": 800}) as page:
        assert page.tab.evaluate("document.documentElement.scrollWidth") == width
        rooms = page.tab.eval_on_selector_all(".uplot", "all => all.map(one => one.getBoundingClientRect().right)")
        assert max(rooms) <= width


def test_plots_follow_the_window(browser: Any, file: Path) -> None:
    with opened(browser, file) as page:
        page.tab.set_viewport_size({"width": 500, "height": 800})
        page.until("document.querySelector('.uplot').getBoundingClientRect().right <= 500")
        assert page.complaints == []


def test_points_of_a_scatter_are_drawn_and_told_one_by_one(browser: Any, tmp_path: Path) -> None:
    made = Document("Points")
    curves = [Curve("best", [0.5], [1.0]), Curve("tried", [0.7, 0.9], [2.0, 1.0])]
    made.plots(Plot("wait by cost", "scatter", curves, "s", x_label="cost", y_label="wait"))
    file = tmp_path / "out.html"
    file.write_text(made.text())
    with opened(browser, file) as page:
        page.tab.focus("[data-plot]")
        told = []
        for _ in range(3):
            page.tab.keyboard.press("ArrowRight")
            told.append(page.tab.text_content("#read-out"))
        assert told == ["wait by cost, 1.00: best 500 ms", "wait by cost, 1.00: tried 900 ms", "wait by cost, 2.00: tried 700 ms"]
        assert page.tab.query_selector(".uplot canvas").evaluate(COLOURED) >= 2 and page.complaints == []


def test_hostile_names_stay_text(browser: Any, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=\"window.bad=1\"><b>&lt;"
    result = results.result()
    result.users = {hostile: result.all}
    result.reasons = {f"script: routing.lua:6: {hostile}": 5}
    result.workload = hostile
    result.workers[0].id = hostile
    result.series.in_flight[hostile] = result.series.in_flight.pop("worker-gaming-pc")
    file = tmp_path / "out.html"
    file.write_text(page(result, source=hostile.encode() + b"\n" * 5, command=hostile))
    with opened(browser, file) as shown:
        for details in shown.tab.query_selector_all("details.values summary"):
            details.click()
        shown.until("[...document.querySelectorAll('details.values')].every(one => one.querySelector('table'))")
        assert (shown.complaints, shown.requests) == ([], [])
        assert shown.tab.evaluate("window.bad") is None
        assert shown.tab.query_selector_all("main img, main b") == []
        assert shown.tab.text_content("#users tbody th") == hostile
        assert hostile in shown.tab.text_content("#source") and hostile in shown.tab.title()


def test_it_prints_in_light_colours_and_in_full(browser: Any, file: Path) -> None:
    with opened(browser, file, color_scheme="dark", viewport={"width": 720, "height": 1000}) as page:
        page.tab.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.tab.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--back')") == "#ffffff"
        page.tab.emulate_media(media="print")
        assert page.tab.evaluate("document.documentElement.scrollWidth") == 720
        page.tab.emulate_media(media="screen")
        page.tab.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.tab.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--back')") != "#ffffff"
        assert page.tab.pdf(format="A4").startswith(b"%PDF") and page.complaints == []
