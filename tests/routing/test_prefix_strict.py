"""prefix-cache as AIBrix has it, by its worked examples."""

from __future__ import annotations

from collections import Counter

import pytest

from rbeerouter.config.sections import Prefix, Strategies
from rbeerouter.core.fleet import Fleet
from rbeerouter.routing.strategies.prefix import PrefixCache
from rbeerouter.routing.strategies.prefix_strict import StrictIndex, StrictPrefix
from tests.routing.prompts import DIED, Traffic, prompt
from tests.support.builders import context, fill, fleet, request

CODE = Prefix(strict_imbalance=8, strict_deviations=1.0)
"""AIBrix's defaults in the code, which its worked examples go by."""


class Scene:
    """Workers A, B and C, and who has how much of a prompt of ten blocks."""

    def __init__(self, counts: tuple[int, int, int], held: dict[str, int], prefix: Prefix = CODE) -> None:
        self.fleet: Fleet = fleet("A", "B", "C")
        self.context = context(3, options=Strategies(strict=True, prefix=prefix))
        self.strategy = PrefixCache(self.context)
        self.index = self.context.memory(StrictIndex, prefix)
        self.traffic = Traffic(self.fleet, self.context.memories)
        for name, blocks in held.items():
            self.traffic.serve(prompt(range(blocks)), name)
        for name, count in zip("ABC", counts, strict=True):
            fill(self.fleet, name, count)

    def pick(self, blocks: int = 10) -> str:
        self.context.chance.n += 1
        chosen = self.strategy.choose(prompt(range(blocks)), self.fleet.ordered)
        assert chosen is not None
        return chosen.id


@pytest.mark.parametrize(
    ("counts", "held", "chosen"),
    [
        ((2, 3, 9), {"C": 9, "A": 4}, "A"),                    # 9 > 4.667 + 3.786: C is passed over
        ((2, 3, 9), {"C": 9}, "A"),                            # nobody else has any of it: the fewest requests
        ((2, 6, 8), {"C": 9, "A": 4}, "C"),
        ((2, 3, 11), {"C": 9, "B": 4}, "A"),                   # 11 - 2 > 8: only A is asked, what C has is invisible
        ((2, 3, 11), {"C": 9, "A": 1}, "A"),
        ((4, 4, 3), {"A": 5, "B": 5}, "A or B"),
        ((4, 3, 4), {"A": 5, "B": 5}, "B"),
    ],
)  # fmt: skip
def test_worked_examples(counts: tuple[int, int, int], held: dict[str, int], chosen: str) -> None:
    scene = Scene(counts, held)
    assert {scene.pick() for _ in range(40)} == set(chosen.split(" or "))


def test_there_is_no_least_match() -> None:
    scene = Scene((0, 2, 3), {"C": 1}, Prefix(strict_deviations=2.0))
    assert scene.pick(100) == "C"


def test_the_score_in_a_list_is_the_match_in_whole_per_cent() -> None:
    scene = Scene((9, 0, 0), {"B": 1, "C": 2})
    assert scene.strategy.scores(prompt(range(3)), scene.fleet.ordered) == [0.0, 33.0, 66.0]


def test_without_a_prompt_the_fewest_requests_decide() -> None:
    scene = Scene((2, 1, 1), {"A": 4})
    counted = Counter()
    for _ in range(2000):
        scene.context.chance.n += 1
        counted[StrictPrefix(scene.context).choose(request(), scene.fleet.ordered).id] += 1
    assert set(counted) == {"B", "C"} and abs(counted["B"] - 1000) < 150


def test_one_list_for_all_workers_keeps_the_blocks_that_were_sent_last() -> None:
    scene = Scene((0, 0, 0), {}, Prefix(strict_blocks=4))
    scene.traffic.serve(prompt([1, 2, 3]), "A")
    scene.traffic.serve(prompt([1, 7]), "B")
    assert len(scene.index) == 4
    scene.traffic.serve(prompt([8]), "C")
    assert len(scene.index) == 4
    assert scene.index.match("m", [1, 2, 3], "ABC") == {"A": 33, "B": 33}


def test_models_share_nothing_and_a_worker_that_lacks_a_block_is_out_for_good() -> None:
    scene = Scene((0, 0, 0), {"A": 2})
    scene.traffic.serve(prompt([1, 2, 3]), "B")
    assert scene.index.match("m", [0, 1, 2, 3], "AB") == {"A": 50}
    assert scene.index.match("other", [0, 1, 2, 3], "AB") == {}
    assert scene.index.match("m", [0, 1], "B") == {}


def test_all_is_forgotten_after_a_time_and_nothing_before() -> None:
    scene = Scene((0, 0, 0), {"A": 3}, Prefix(strict_kept_s=60.0))
    scene.traffic.end(scene.traffic.send(prompt([5, 6]), "B"), DIED)
    scene.fleet.workers["A"].generation += 1
    scene.traffic.tick(59.0)
    assert len(scene.index) == 5
    scene.traffic.serve(prompt([0]), "B")
    scene.traffic.tick(2.0)
    assert len(scene.index) == 1
