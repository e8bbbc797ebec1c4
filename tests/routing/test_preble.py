"""prefix-cache-preble: what a prompt costs, by the worked example, and who gets one of which much or little is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.sections import Preble, Strategies
from rbeerouter.routing.strategies.preble import PrebleTree, PrefixCachePreble, prefill_ms
from tests.routing.prompts import Traffic, prompt
from tests.support.builders import context, fill, fleet, quick, request, worker


class Scene:
    """Workers, the strategy and traffic."""

    def __init__(self, options: Preble = Preble(), seed: int = 1) -> None:  # noqa: B008
        self.fleet = fleet()
        self.context = context(seed, options=Strategies(preble=options))
        self.strategy = PrefixCachePreble(self.context)
        self.tree = self.context.memory(PrebleTree, options)
        self.traffic = Traffic(self.fleet, self.context.memories)

    def picks(self, blocks: list[int], times: int = 30) -> set[str]:
        found = set()
        for _ in range(times):
            self.context.chance.n += 1
            chosen = self.strategy.choose(prompt(blocks), self.fleet.ordered)
            assert chosen is not None
            found.add(chosen.id)
        return found


def test_a_step_costs_what_preble_measured() -> None:
    assert prefill_ms(1000, 2000, 2.5) == pytest.approx(313.6, abs=0.05)
    assert prefill_ms(1000, 2000, 1.0) * 2.5 == pytest.approx(prefill_ms(1000, 2000, 2.5))
    assert prefill_ms(100, 100, 2.5) == pytest.approx((55 + 0.8) / 0.9)
    assert prefill_ms(300, 500, 2.5) == pytest.approx((-295 + 3.125 * 300 - 0.0064 * 300**2 + 0.8) / 0.9)
    quadratic = -18.425 + 9.65e-3 * 5000 + 5.4e-6 * 5000**2
    linear = 0.27106428 * 5000 + 10.52444263
    assert prefill_ms(5000, 5000, 2.5) == pytest.approx((linear + 4.65e-4 * 5000 + 0.398 + quadratic) / 0.9)


def test_the_worked_example() -> None:
    """1,000 tokens of its own behind 1,000, seen once, nothing of it cached: 0.3136 s and 45 x 0.15 s."""
    scene = Scene()
    end = prompt(range(20), block_tokens=100)
    scene.traffic.serve(end, "w1")
    node = scene.tree.match(end.text.blocks())[0][0]
    assert scene.tree.cost_us == {"w1": int(prefill_ms(2000, 2000, 2.5) * 1000 + 6.75e6)}
    scene.tree._split(node, 10)
    lower = scene.tree.match(end.text.blocks())[0][1]
    assert lower.cost_us == pytest.approx(7.0636e6, abs=50)


def test_a_prompt_of_which_more_than_half_is_known_goes_where_it_is() -> None:
    scene = Scene()
    scene.traffic.serve(prompt([1, 2, 3]), "w2")
    assert scene.picks([1, 2, 3, 4, 5]) == {"w2"}
    assert scene.picks([1, 2, 3, 4, 5, 6]) == {"w1", "w3"}, "half is not more than half"


def test_of_those_that_have_most_of_it_the_one_with_the_fewest_visits() -> None:
    scene = Scene()
    for name in ("w1", "w3"):
        scene.traffic.serve(prompt([1, 2, 3]), name)
    scene.traffic.serve(prompt([9]), "w3")
    assert scene.picks([1, 2, 3, 4]) == {"w1"}
    scene.traffic.serve(prompt([1, 2, 3, 4]), "w3")
    assert scene.picks([1, 2, 3, 4]) == {"w3"}, "it has more of it"
    scene.traffic.tick(400.0)
    assert scene.picks([1, 2, 3, 4]) == {"w1", "w2", "w3"}


def test_an_unknown_prompt_goes_where_the_cost_is_least() -> None:
    scene = Scene()
    scene.traffic.serve(prompt(range(50)), "w1")
    scene.traffic.serve(prompt(range(100, 120)), "w2")
    assert scene.picks([777]) == {"w3"}
    scene.traffic.serve(prompt(range(200, 290)), "w3")
    assert scene.picks([777]) == {"w2"}
    scene.traffic.tick(181.0)
    assert (scene.picks([777]), len(scene.tree)) == ({"w1", "w2", "w3"}, 3)


def test_a_part_that_several_have_costs_each_its_share() -> None:
    scene = Scene(Preble(decode_tokens=0))
    shared = prompt(range(100))
    scene.traffic.serve(shared, "w1")
    alone = scene.tree.cost_us["w1"]
    scene.traffic.serve(shared, "w2")
    assert scene.tree.cost_us == {"w1": alone, "w2": alone}, "two visits, two workers"
    scene.traffic.serve(shared, "w2")
    assert abs(scene.tree.cost_us["w1"] - alone) <= 1, "what was found in a cache costs nothing"


def test_what_prompts_share_counts_as_well_as_their_ends() -> None:
    scene = Scene(Preble(decode_tokens=0))
    for end in (1000, 2000, 3000):
        scene.traffic.serve(prompt([*range(100), *range(end, end + 10)]), "w1")
    assert (len(scene.tree), scene.tree.visits["w1"]) == (4, 6)
    parts, _ = scene.tree.match([*range(100), *range(2000, 2010)])
    assert [(node.depth, node.visits, node.ends) for node in parts] == [(100, 3, 0), (110, 1, 1)]
    assert parts[0].cost_us > 0


def test_while_requests_differ_much_only_the_idlest_are_asked() -> None:
    scene = Scene()
    scene.traffic.serve(prompt([1, 2, 3]), "w2")
    fill(scene.fleet, "w2", 17)
    assert scene.picks([1, 2, 3]) == {"w1", "w3"}


def test_a_restart_and_a_farewell_forget_what_a_worker_had() -> None:
    scene = Scene()
    for name in ("w1", "w2", "w3"):
        scene.traffic.serve(prompt([1, 2, 3]), name)
    scene.fleet.workers["w1"].generation += 1
    scene.fleet.configure([worker("w1", models=("m",)), worker("w2", models=("m",))])
    scene.traffic.tick()
    assert (set(scene.tree.cost_us), set(scene.tree.match([1, 2, 3])[0][0].workers)) == ({"w2"}, {"w2"})
    scene.traffic.serve(prompt([8]), "w1")
    scene.fleet.workers["w1"].generation += 1
    scene.traffic.serve(prompt([9]), "w1")
    assert scene.tree.match([8])[0][0].workers == {}


def test_many_long_prompts_at_once_are_forgotten_before_their_time() -> None:
    scene = Scene(Preble(most_prompts=100, most_blocks=1000))
    for number in range(1000):
        scene.traffic.serve(prompt(range(number * 50, number * 50 + 50)), "w1")
    tree = scene.tree
    assert (len(tree), len(tree._window), tree.visits, len(tree.match([*range(49_000, 49_050)])[0])) == (
        20, 100, {"w1": 20}, 1,
    )  # fmt: skip
    assert sum(len(visit.end.label) for visit in tree._window) == 1000, "what is forgotten is not kept by the window"


def test_without_a_prompt_there_is_nothing_to_go_by() -> None:
    scene = Scene()
    assert scene.strategy.choose(request(), scene.fleet.ordered) is None
    assert scene.strategy.scores(request(), scene.fleet.ordered) is None
    assert scene.strategy.scores(prompt([1]), scene.fleet.ordered) == [0, 0, 0]


SENT = st.lists(
    st.tuples(st.sampled_from(["w1", "w2", "w3"]), st.lists(st.integers(0, 2), max_size=7), st.integers(0, 90)),
    max_size=30,
)


@quick(max_examples=150)
@given(SENT, st.integers(1, 12), st.sampled_from([9, 1000]))
def test_the_tree_is_what_was_sent_and_its_sums_are_those_of_its_parts(
    sent: list[tuple[str, list[int], int]], most: int, most_blocks: int
) -> None:
    scene = Scene(Preble(window_s=60.0, kept_s=100.0, most_prompts=most, most_blocks=most_blocks))
    tree = scene.tree
    for name, path, pause_s in sent:
        # a block's name stands for all before it, too
        blocks = [hash(tuple(path[: place + 1])) for place in range(len(path))]
        scene.traffic.serve(prompt(blocks), name)
        bounded = most_blocks < 1000 or most < len(blocks) or len(tree) == most
        assert bounded or tree.match(blocks)[1] == len(blocks)
        scene.traffic.tick(float(pause_s))
        assert len(tree) <= most and len(tree._window) <= most
        assert sum(len(node.label) for node in tree._nodes) == tree._blocks <= most_blocks
        for worker_name in scene.fleet.workers:
            mine = [node for node in tree._nodes if worker_name in node.workers]
            assert tree.visits.get(worker_name, 0) == sum(node.visits for node in mine)
            assert tree.cost_us.get(worker_name, 0) == sum(node.cost_us for node in mine)
        for node in tree._nodes:
            assert node.parent is not None and node.parent.children[node.label[0]] is node
            assert node.visits >= node.ends >= 0
            assert node.depth - node.parent.depth == len(node.label) > 0
    scene.traffic.tick(101.0)
    assert (len(tree), tree._root.children, len(tree._window)) == (0, {}, 0)
    assert set(tree.cost_us.values()) | set(tree.visits.values()) <= {0}
