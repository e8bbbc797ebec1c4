"""Tests of how a comparison is shown: nothing is left out that matters, and no name of anything can do harm."""

from __future__ import annotations

import re

import pytest

from rbeerouter.sim import comparison
from rbeerouter.sim.diff import BETTER, NOWHERE, OTHER, SAME, UNSURE, WORSE, Change, Diff, Line, Move
from tests.sim.made_up import result

CHANGES = (
    Change("requests", "requests", 100, 100, 0, 0, 0, 5, SAME),
    Change("rejected", "requests", 0, 0, 0, 0, 0, 5, SAME),
    Change("failed", "requests", 0, 0, 0, 0, 0, 5, SAME),
    Change("goodput", "share", 0.9, 0.95, 0.05, 0.04, 0.06, 5, BETTER),
    Change("p95_ttft_s", "s", 2.0, 1.5, -0.5, -0.7, -0.3, 5, BETTER),
    Change("mean_ttft_s", "s", 1.0, 0.9, -0.1, -0.2, 0.0, 5, UNSURE),
    Change("p99_e2e_s", "s", 4.0, 4.2, 0.2, -0.1, 0.5, 5, UNSURE),
    Change("cost", "currency", 0.0, 3.0, 3.0, 2.5, 3.5, 5, WORSE),
    Change("energy_wh", "Wh", None, None, None, None, None, 0, UNSURE),
    Change('share["gpu-1"]', "share", 0.4, 0.6, 0.2, 0.1, 0.3, 5, OTHER),
    Change('tier["premium"].p95_ttft_s', "s", 1.0, 2.0, 1.0, 0.9, 1.1, 5, WORSE),
    Change('tier["free"].p95_ttft_s', "s", 1.0, 1.1, 0.1, -0.9, 1.1, 5, UNSURE),
)


def made(**changes: object) -> Diff:
    fields = {
        "before": "a.lua", "after": "b.lua", "workload": "made up", "seeds": (1, 2, 3, 4, 5), "requests": 500, "moved": 50,
        "moves": (
            Move("gpu-1", "gpu-2", 40, (
                Line("script: a.lua:2", "script: b.lua:7", 30),
                Line("script: a.lua:2", "strategy: least-request; b.lua:9 returned nil", 10),
            )),
            Move("gpu-1", NOWHERE, 10, (Line("strategy: round-robin", "script: b.lua:3", 10),)),
        ),
        "changes": CHANGES, "first": (result(), result()),
    }  # fmt: skip
    return Diff(**(fields | changes))  # type: ignore[arg-type]


def rows(table: object) -> dict[str, tuple[str, ...]]:
    return {row[0]: row[1:] for row in table.rows}  # type: ignore[attr-defined]


def test_the_headline_tells_who_moves_and_what_is_certain() -> None:
    assert comparison.headline(made()) == (
        "50 of 500 requests (10%) go elsewhere, over 5 seeds. Better: goodput, p95_ttft_s; worse: cost."
    )
    assert comparison.headline(made(changes=CHANGES[:3])).endswith("No difference seen in any number that has a better way.")
    assert "fewer than 3 seeds tell nothing" in comparison.headline(made(changes=CHANGES[:3], seeds=(1, 2))).lower()


def test_what_is_certain_of_one_day_is_not_taken_for_more() -> None:
    assert comparison.changes(made()).note == "With 95 % confidence, over 5 seeds, each the same on both sides."
    assert comparison.changes(made(same_traffic=True)).note.endswith("this is certain of them, not of another day's.")


def test_each_change_has_its_size_and_how_sure_that_is() -> None:
    found = rows(comparison.changes(made()))
    assert found["p95_ttft_s"] == ("2.00 s", "1.50 s", "-25.0%", "10.0%", "better")
    assert found["goodput"] == ("90%", "95%", "+5 pp", "1 pp", "better")
    assert found["cost"] == ("0", "3.00", "+3.00", "0.500", "WORSE")
    assert found["p99_e2e_s"] == ("4.00 s", "4.20 s", "+5.0%", "7.5%", "not sure")
    assert found["requests"] == ("100", "100", "0", "", "same")
    assert found['share["gpu-1"]'][-1] == "different"


def test_what_tells_nothing_is_left_out() -> None:
    found = rows(comparison.changes(made()))
    assert "rejected" in found
    assert [name for name in ("failed", "mean_ttft_s", "energy_wh", 'tier["premium"].p95_ttft_s') if name in found] == []


def test_parts_are_shown_where_they_changed_for_certain() -> None:
    assert list(rows(comparison.parts(made()))) == ['tier["premium"].p95_ttft_s']


def test_the_only_tier_is_the_whole_and_need_not_be_shown_again() -> None:
    only = Change('tier["premium"].p95_ttft_s', "s", 1.0, 2.0, 1.0, 0.9, 1.1, 5, WORSE)
    error = Change('error["upstream_timeout"]', "requests", 0, 9, 9, 8, 10, 5, WORSE)
    assert list(rows(comparison.parts(made(changes=(only, error))))) == ['error["upstream_timeout"]']


def test_moves_have_workers_counts_and_lines() -> None:
    table = comparison.moves(made())
    assert table.head[-2:] == ("by a.lua", "by b.lua")
    assert table.rows == (
        ("gpu-1", "gpu-2", "40", "8.0%", "a.lua:2", "b.lua:7 and 1 more"),
        ("gpu-1", NOWHERE, "10", "2.0%", "strategy: round-robin", "b.lua:3"),
    )


def test_a_line_that_returned_nil_is_named_rather_than_the_strategy() -> None:
    lines = (Line("strategy: least-request; a.lua:9 returned nil", "fallback: least-request", 10),)
    assert comparison.moves(made(moves=(Move("x", "y", 10, lines),))).rows[0][-2:] == (
        "a.lua:9 returned nil", "fallback: least-request",
    )  # fmt: skip


def test_a_terminal_gets_all_tables_within_80_columns() -> None:
    text = comparison.terminal(made())
    assert max(map(len, text.splitlines()[4:])) <= 80
    for part in ("a.lua -> b.lua on made up", "Who moves", "What changes", "Tiers, models", "95 % confidence"):
        assert part in text


def test_markdown_has_the_tables_and_no_name_is_taken_for_markup() -> None:
    text = comparison.markdown(made(after="b|<script>*.lua"))
    assert "### a.lua → b\\|\\<script\\>\\*.lua" in text
    assert "| p95\\_ttft\\_s | 2.00 s | 1.50 s | -25.0% | 10.0% | better |" in text
    assert text.count("<details>") == text.count("</details>") == 2
    widths = {line.count("|") - 2 * line.count("\\|") for line in text.splitlines() if line.startswith("| p9")}
    assert widths == {7}


@pytest.mark.parametrize("hostile", ["</script><script>alert(1)</script>", "\x1b[2J", "a\nb"])
def test_no_name_can_steer_a_terminal_or_a_page(hostile: str) -> None:
    found = made(after=hostile, workload=hostile, moves=(Move(hostile, hostile, 1, (Line(hostile, hostile, 1),)),))
    assert "\x1b" not in comparison.terminal(found)
    page = comparison.page(found)
    assert "<script>alert" not in page and "\x1b" not in page
    assert hostile not in comparison.markdown(found)


def test_the_page_has_tables_plots_and_how_to_make_it_again() -> None:
    cdf = [(0.1, 0.5), (1.0, 1.0)]
    found = made(first=(result(ttft_cdf=cdf, e2e_cdf=cdf), result(ttft_cdf=cdf, e2e_cdf=cdf)))
    page = comparison.page(found, "rbeerouter routing diff a.lua b.lua")
    assert len(re.findall('class="plot"', page)) == 2
    for part in ("What changes", "Who moves", "p95_ttft_s", "rbeerouter routing diff a.lua b.lua", "seeds 1, 2, 3, 4, 5"):
        assert part in page


def test_all_of_it_is_a_hundred_points() -> None:
    assert [f"{comparison._points(share):+g}" for share in (1.0, -1.0, 0.156, -0.048, 0.0996)] == ["+100", "-100", "+16", "-4.8", "+10"]
