"""Tests of how a sweep is shown: the drawing, the choices and the lines to paste."""

from __future__ import annotations

from rbeerouter.routing.syntax import params
from rbeerouter.sim import trade_off
from rbeerouter.sim.tune import Objective, Tried, Tuned
from tests.sim.made_up import result

SOURCE = b'local share = param("share", 0.5, 0, 1)   -- of the dear one\n'
POINTS = ((0.5, 4.0, 5.0, True), (0.0, 10.0, 0.0, True), (1.0, 1.0, 10.0, True), (0.75, 9.0, 9.0, False), (0.25, 5.0, 2.0, True))


def made(knee: int | None = 4, objectives: tuple[str, ...] = ("p95_e2e_s", "cost"), broken: tuple[str, ...] = ()) -> Tuned:
    tried = tuple(
        Tried({"share": share}, 2, dict(zip(("p95_e2e_s", "cost"), (wait, cost), strict=True)), broken, front)
        for share, wait, cost, front in POINTS
    )
    ends = {} if knee is None else {"p95_e2e_s": 2, "cost": 1}
    return Tuned(tuple(map(Objective, objectives)), tried, 10, "made up", 0, knee, ends, result())


def test_the_drawing_has_each_point_in_its_place_and_its_axes() -> None:
    lines = trade_off.drawing(made()).splitlines()
    assert lines[0] == "cost"
    assert (lines[1].split("|")[0].strip(), lines[16].split("|")[0].strip()) == ("10.0", "0")
    assert lines[1].split("|")[1] == "o"                                                       # dear and quick
    assert lines[16].split("|")[1] == " " * 59 + "o"                                           # cheap and slow
    plot = "".join(line.split("|")[1] for line in lines[1:17])
    assert {mark: plot.count(mark) for mark in "*@o."} == {"*": 1, "@": 1, "o": 2, ".": 1}
    assert "1.00 s" in lines[18] and "10.0 s" in lines[18]
    assert max(map(len, lines)) <= 80


def test_one_objective_needs_no_drawing_and_equal_points_do_not_divide_by_nothing() -> None:
    assert trade_off.drawing(made(objectives=("cost",))) == ""
    equal = Tuned(tuple(map(Objective, ("p95_e2e_s", "cost"))), (Tried({"share": 0.5}, 1, {"p95_e2e_s": 1.0, "cost": 0.0}, (), True),),
                  1, "made up", 0, 0, {}, result())  # fmt: skip
    assert trade_off.drawing(equal).count("*") == 2            # one of them in the legend
    unknown = Tuned(equal.objectives, (Tried({"share": 0.5}, 1, {"p95_e2e_s": None, "cost": 0.0}),), 1, "", 0, None, {}, result())
    assert trade_off.drawing(unknown) == ""


def test_the_choices_are_in_order_with_what_each_is_good_for() -> None:
    table = trade_off.choices(made())
    assert table.rows == (
        ("best p95_e2e_s", "1.0", "1.00 s", "10.0", "2"), ("now", "0.5", "4.00 s", "5.00", "2"),
        ("recommended", "0.25", "5.00 s", "2.00", "2"), ("best cost", "0.0", "10.0 s", "0", "2"),
    )  # fmt: skip
    assert table.note == "5 points tried in 10 simulations"


def test_a_number_that_no_param_changes_is_told() -> None:
    tried = tuple(Tried({"share": share}, 1, {"p95_e2e_s": 1.0 + share, "cost": 0.0}, (), not share) for share in (0.0, 0.5))
    found = Tuned(tuple(map(Objective, ("p95_e2e_s", "cost"))), tried, 2, "made up", 1, 0, {}, result())
    assert "cost is the same wherever it was tried" in trade_off.choices(found).note


def test_the_lines_to_paste_are_lua_with_the_values_that_were_tried() -> None:
    text = trade_off.to_paste(made(), SOURCE, "routing.lua")
    assert 'recommended: share = 0.25\n  routing.lua:1: local share = param("share", 0.25, 0, 1)   -- of the dear one\n' in text
    assert "best cost: share = 0.0\n" in text and "best p95_e2e_s: share = 1.0\n" in text
    assert "rbeerouter param" not in text                      # it is read once, when the script is loaded
    inside = b"function route_request(request, workers)\n" + SOURCE + b"return nil end"
    assert "or, until the next restart: rbeerouter param share=0.25" in trade_off.to_paste(made(), inside, "routing.lua")
    lines = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("  routing.lua:1")]
    assert [params(line.encode())[0].default for line in lines] == [0.25, 1.0, 0.0]


def test_values_that_are_there_already_need_no_lines() -> None:
    assert "these are the values that the script has now" in trade_off.to_paste(made(knee=0), SOURCE, "routing.lua")


def test_where_nothing_can_be_recommended_it_says_why() -> None:
    broken = trade_off.to_paste(made(None, broken=("cost < 0",)), SOURCE, "routing.lua")
    assert broken == "Nothing can be recommended: every point breaks cost < 0.\n"
    assert "no point has all of the numbers" in trade_off.to_paste(made(None), SOURCE, "routing.lua")


def test_the_terminal_and_the_page_have_all_of_it() -> None:
    text = trade_off.terminal(made(), SOURCE, "routing.lua")
    page = trade_off.page(made(), SOURCE, "<b>.lua", "rbeerouter routing tune --script b.lua")
    assert "Worth choosing between" in text and "recommended" in text
    assert max(map(len, text.splitlines())) <= 80
    assert page.count('class="plot"') == 1 and "<b>.lua" not in page and "&lt;b&gt;.lua" in page
    assert "rbeerouter routing tune --script b.lua" in page and "All that was tried" in page
