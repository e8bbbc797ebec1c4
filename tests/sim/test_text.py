"""A result in a terminal."""

from __future__ import annotations

import re

from rbeerouter.sim import text
from rbeerouter.sim.tables import table
from rbeerouter.sim.units import width
from tests.sim import results


def test_the_summary_tells_the_distribution_the_average_latency_and_the_rejected() -> None:
    result = results.result(workers=2, requests=1000)
    first, second = result.workers
    first.group.requests, first.share = 450, 0.45
    second.group.requests, second.share = 1, 0.001
    told = re.sub(" +", " ", text.summary(result))
    assert "worker-gaming-pc: 450 requests (45%) ████████████████████\n" in told
    assert "worker-m2-macbook: 1 request (0.10%) ▏\n" in told
    assert "average latency: 4.42 s (p95 10.5 s)\n" in told
    assert "rejected: 20 (2.0%)\n" in told


def test_the_summary_tells_of_a_script_that_failed_and_no_error_can_steer_the_terminal() -> None:
    result = results.result(workers=2, requests=1000)
    result.script_errors = {"routing.lua:3: boom \x1b[31m" + "x" * 100: 400, "routing.lua:9: no": 100}
    told = text.summary(result)
    assert "script errors:   500 (50%), most often\n    routing.lua:3: boom " in told
    assert "\x1b" not in told and max(map(width, told.split("\n"))) <= 80
    result.script_errors = {}
    assert "script errors" not in text.summary(result)


def test_a_bar_is_as_long_as_the_share_is_large() -> None:
    assert [text._bar(share) for share in (0, 1e-6, 0.5, 1)] == ["", "▏", "█" * 10, "█" * 20]


def test_the_full_text_has_everything_and_fits_80_columns() -> None:
    told = text.full(results.result(workers=16, requests=120_310), source=results.SOURCE)
    for title in ("Figures", "Latency", "Workers", "Machines", "By tier", "By user", "By model", "Why", "To run it again"):
        assert f"\n{title}\n" in told
    assert "queue_timeout" in told and "attempt to index a nil value" in told
    assert 'return ready:max_by("vram")' in told and "  local ready" not in told
    assert max(map(width, told.split("\n"))) <= 80


def test_numbers_stand_below_each_other() -> None:
    made = table("t", "Title", ("name", "served requests"), [("a", "5"), ("日本", "1,204")], "a note")
    assert text.section(made).split("\n") == [
        "Title", "          served", "  name  requests", "  a            5", "  日本     1,204", "  a note", "",
    ]  # fmt: skip


def test_a_table_that_is_too_wide_leaves_out_what_it_can_spare_and_shortens_names() -> None:
    wide = ["1" * 25, "2" * 25, "3" * 25]
    made = table("t", "Title", ("name", "a", "b", "c"), [("n" * 40, *wide)], spare=("b", "a"))
    told = text.section(made)
    assert "2222" not in told and "1111" in told and "3333" in told
    assert "n" * 19 + "…" in told
    assert max(map(len, told.split("\n"))) <= 80


def test_there_is_no_colour_unless_asked_for() -> None:
    result = results.result()
    assert "\x1b" not in text.full(result, source=results.SOURCE)
    coloured = text.full(result, source=results.SOURCE, colour=True)
    assert "\x1b[1mLatency\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == text.full(result, source=results.SOURCE)


def test_no_name_steers_the_terminal() -> None:
    result = results.result()
    result.users = {"\x1b[2J\x1b]0;owned\x07": result.all}
    result.reasons = {"script: routing.lua:6: \x1b[31mred\r\nx": 3}
    told = text.full(result, source=b"\n\n\n\n\nreturn '\x1b[2J'\n")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", told)
    assert r"\x1b[31mred\r\nx" in told


def test_nothing_simulated_is_told_without_falling_over() -> None:
    result = results.result(workers=0, requests=0)
    result.workers, result.reasons = [], {}
    told = text.full(result)
    assert told.startswith("routing.lua: 0 requests to 0 workers in 10 min\n")
    assert "average latency" not in told and "rejected:        0\n" in told


def test_the_ledger_stands_among_the_tables_where_there_is_one() -> None:
    told = text.full(results.result(), ledger=results.LEDGER)
    assert "\nUnder simpler rules\n" in told and "round-robin" in told
    assert "Under simpler rules" not in text.full(results.result())
