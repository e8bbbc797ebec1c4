"""`scripts/compare-strategies`: each strategy has something that shows what it is for, and what came of it is told right."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec
import pytest

from rbeerouter.core.types import WorkerSpec
from rbeerouter.routing.strategies import STRATEGIES
from scripts.comparing import __main__ as comparing
from scripts.comparing import measures, picture, shown, traffic
from scripts.comparing.cases import CASES, RANDOM
from scripts.comparing.measures import MEASURES, Line
from scripts.comparing.run import BETTER, LIKE, WORSE, Compared
from tests.docs.pages import read

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "compare-strategies"


def test_every_strategy_has_a_case_whose_measures_there_are() -> None:
    assert [name for name in STRATEGIES if name not in CASES] == []
    assert {name for case in CASES.values() for name in case.measures} <= set(MEASURES)
    assert all(RANDOM in case.against for name, case in CASES.items() if name != RANDOM)


def test_a_quick_run_on_traffic_that_is_made_up_has_a_row_for_each_that_was_asked_for(tmp_path: Path) -> None:
    names = ["round-robin", "least-request"]
    done = subprocess.run(
        [str(SCRIPT), *names, "--quick", "--data", str(tmp_path), "--out", str(tmp_path), "--jobs", "1"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| [")]
    assert [row.split("]")[0].removeprefix("| [") for row in rows] == names
    assert all(row.endswith("| better |") for row in rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.svg" for name in sorted(names)]
    for path in tmp_path.iterdir():
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_a_strategy_that_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        comparing.main(["round-robbin"])
    assert "round-robbin: expected one of" in capsys.readouterr().err


def made_up(strategy: str = "least-request", mine: float = 1.0, others: float = 2.0) -> Compared:
    """Three seeds, between which both change alike."""
    case = CASES[strategy]
    values = {
        name: [(seed + (mine if name == strategy else others),) * len(case.measures) for seed in range(3)]
        for name in case.contenders
    }
    return Compared(case, "made-up chats", False, 100, values)


@pytest.mark.parametrize(("mine", "others", "verdict"), [(1.0, 2.0, BETTER), (2.0, 1.0, WORSE), (1.0, 1.0, LIKE)])
def test_a_strategy_is_better_or_worse_only_where_the_seeds_are_certain(mine: float, others: float, verdict: str) -> None:
    found = made_up(mine=mine, others=others)
    assert found.verdict() == verdict
    assert (shown.failures([found]) == []) == (verdict == BETTER)


def test_the_table_has_every_strategy_and_says_what_is_not_better() -> None:
    table = shown.table([made_up(name) for name in STRATEGIES])
    assert [row.split("]")[0].removeprefix("| [") for row in table.splitlines()[2:]] == list(STRATEGIES)
    row = shown.table([made_up(mine=2.5)]).splitlines()[2].split(" | ")
    assert row[2:] == ["3.50 s", "3.00 s", "+500 ms ± 0 ms", "3.50 s", "**worse** |"]


def test_a_page_gets_its_table_and_figures_once_and_keeps_what_people_wrote() -> None:
    page = f"# Strategies\n\nHead.\n\n{shown.BEGIN}\nold\n{shown.END}\n\n## least-request\n\nRule.\n\n## random\n\nAny.\n"
    found = [made_up()]
    once = shown.updated(page, found, "images/strategies", True)
    assert once == shown.updated(once, found, "images/strategies", True)
    assert "old" in shown.updated(page, found, "images/strategies", False)
    assert "old" not in once and (
        "Rule.\n\n![P95 TTFT, least-request beside random, round-robin](images/strategies/least-request.svg)\n\n"
        "**Measured:** p95 TTFT"
    ) in once
    assert once.endswith("serve at most.\n\n## random\n\nAny.\n")
    assert max(map(len, once.replace(shown.table(found), "").splitlines())) <= 120


def test_a_picture_is_small_and_shows_each_contender_and_each_seed() -> None:
    found = made_up()
    drawn = picture.picture(found)
    assert drawn == picture.picture(found) and len(drawn) < 20_000
    root = ElementTree.fromstring(drawn)
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert set(found.case.contenders) <= set(texts)
    circles = [element for element in root.iter() if element.tag.endswith("circle")]
    assert len(circles) == 3 * len(found.case.contenders) * len(found.case.measures)


def test_every_strategy_has_a_small_figure_which_its_section_of_the_page_shows() -> None:
    page = read("docs/strategies.md")
    assert sorted(path.stem for path in comparing.FIGURES.iterdir()) == sorted(STRATEGIES)
    for name in STRATEGIES:
        figure = comparing.FIGURES / f"{name}.svg"
        assert figure.stat().st_size < 20_000 and ElementTree.parse(figure).getroot().tag.endswith("svg")
        assert re.search(rf"!\[.*{name} beside .*\]\(images/strategies/{name}\.svg\)\n\n\*\*Measured:\*\* ", page.section(name))
    rows = [row[0].partition("]")[0].removeprefix("[") for row in page.rows("What they bring")]
    assert rows == list(STRATEGIES)


# What is measured


def line(user: str, tokens: int, end_s: float, at_s: float = 0.0, session: str | None = None, worker: str = "a") -> Line:
    return Line(at_s, end_s, user, session, worker, True, 0.1, 0.01, tokens, 0, None)


@dataclasses.dataclass
class Ran:
    lines: list[Line]
    asked: dict[str, int]
    choices: list[int] = dataclasses.field(default_factory=list)
    workers: tuple[object, ...] = ()


def test_fair_shares_give_nobody_more_than_it_asked_for_and_the_others_alike() -> None:
    assert measures.max_min({"a": 10, "b": 100, "c": 1000}, 310.0) == {"a": 10.0, "b": 100.0, "c": 200.0}
    assert measures.max_min({"a": 10, "b": 100, "c": 1000}, 90.0) == {"a": 10.0, "b": 40.0, "c": 40.0}


def test_jain_is_one_of_fair_shares_and_less_where_one_gets_what_is_others() -> None:
    asked = {"flood": 1000, "b": 100, "c": 100}
    fair = [line("flood", 100, 5.0), line("b", 100, 5.0), line("c", 100, 5.0), line("flood", 900, 99.0, at_s=10.0)]
    assert measures.jain(Ran(fair, asked)) == pytest.approx(1.0)
    unfair = [line("flood", 280, 5.0), line("b", 10, 5.0), line("c", 10, 5.0), line("flood", 900, 99.0, at_s=10.0)]
    assert measures.jain(Ran(unfair, asked)) < 0.5


def test_shares_are_looked_at_over_the_whole_time() -> None:
    ran = Ran([], {}, choices=[0, 0, 1, 1], workers=(1, 2))
    assert measures.off_share(ran, measures.even_weights(ran)) == 1.0
    assert measures.off_share(ran, [3.0, 1.0]) == 1.0


def test_who_goes_on_where_it_was_has_stayed() -> None:
    talk = [line("u", 1, 1.0, at, "talk", worker) for at, worker in ((1.0, "a"), (3.0, "b"), (2.0, "a"))]
    assert measures.stayed(Ran([*talk, line("u", 1, 1.0, 0.0, "other", "b")], {})) == 0.5


# The traffic


def test_conversations_of_a_trace_are_told_by_the_blocks_they_go_on_with() -> None:
    one = traffic.chats(None, 3, 1)
    blocks = ((0, 1, 2), (0, 5, 6), (0, 1, 2, 3))
    arrivals = tuple(
        msgspec.structs.replace(arrival, blocks=own) for arrival, own in zip(one.arrivals, blocks, strict=True)
    )
    named = traffic.with_conversations(msgspec.structs.replace(one, arrivals=arrivals))
    assert [arrival.request.session_id for arrival in named] == ["talk-1", "talk-2", "talk-1"]
    assert [arrival.request.client for arrival in named] == ["10.0.0.1", "10.0.0.2", "10.0.0.1"]


def test_traffic_comes_as_fast_as_the_load_says() -> None:
    kept = traffic.chats(None, 500, 1)
    setting = CASES["least-request"].setting(None, 500, 1)
    slow, fast = (traffic.at_load(kept, setting.workers, load).arrivals[-1].at_s for load in (0.4, 0.8))
    assert slow == pytest.approx(2 * fast)
    assert all(isinstance(worker.spec, WorkerSpec) for worker in setting.workers)
