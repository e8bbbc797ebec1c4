"""A mirror that follows what was seen is the fleet again, as far as a decision can tell."""

from __future__ import annotations

import random

import msgspec
import pytest

from rbeerouter.core.chance import Chance
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.health import HealthRules
from rbeerouter.core.mirror import Mirror
from rbeerouter.core.seen import FIGURES, Roll, Snapshot, Watch, snapshot
from rbeerouter.core.types import Report, Worker
from tests.support.builders import FULL_WORKER, WALL, fleet, worker


def shown(made: Fleet) -> list[tuple[object, ...]]:
    """All of each worker that decisions read."""
    return [(snapshot(one), one.load, one.model_set, one.takes_more, one in made.ramping) for one in made.ordered]


def step(made: Fleet, dice: random.Random, now: float, sent: list[Worker]) -> None:
    """Something happens to the fleet."""
    one = dice.choice(made.ordered)
    what = dice.randrange(7)
    if what <= 1:
        made.sent(one, now)
        sent.append(one)
    elif what <= 3 and sent:
        failure = None if dice.random() < 0.6 else FAILURES[dice.choice(("upstream_disconnected", "upstream_connect_failed"))]
        made.finished(sent.pop(0), failure, now, now - 0.1, 0.05, 20)
    elif what == 4:
        made.apply(
            Report(
                one.id, dice.random() < 0.8, dice.choice((None, ("m",), ("m", "n:latest"))), now, waiting=dice.choice((None, 0, 9)),
                running=dice.choice((None, 0, 20)), most=dice.choice((None, 64)), kv_usage=dice.random(), slots=dice.choice((None, 8)),
                engine=dice.choice((None, "ollama", "vllm")), owner_active=dice.choice((None, True)),
            )
        )  # fmt: skip
    elif what == 5:
        made.cool_down(one, 2.0, now)
    else:
        (made.undrain if one.draining else made.drain)(one.id)
    made.tick(now)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_the_mirror_shows_it(seed: int) -> None:
    dice, made, mirror = random.Random(seed), Fleet(HealthRules(slow_start_s=5.0, ejection_s=2.0, max_ejected=1.0)), Mirror()
    made.configure([worker("a", max_concurrency=None), worker("b", models=("m",)), FULL_WORKER, worker("d", engine="ollama")])
    watch, rolls, sent = Watch(Chance(1)), list[Roll](), list[Worker]()
    watch.tell(rolls.append)
    for number in range(400):
        step(made, dice, number * 0.3, sent)
        if dice.random() < 0.01:
            made.configure([one.spec for one in dice.sample(made.ordered, 4)])
        seen = watch.look(made, WALL, FIGURES)
        if seen.roll is not None:
            mirror.enroll(seen.roll)
        mirror.follow(seen)
        assert mirror.complete and shown(mirror) == shown(made), number
    assert len(rolls) > 5


def test_a_list_that_names_workers_which_nobody_told_of_is_not_complete() -> None:
    mirror = Mirror()
    mirror.enroll(Roll(1, WALL, "run", 1, False, ("a", "b"), (Snapshot("b", 4),)))
    assert ([one.id for one in mirror.ordered], mirror.complete) == (["b"], False)


def test_what_is_seen_of_places_where_nobody_is_known_is_passed_over() -> None:
    made, mirror = fleet(), Mirror()
    seen = Watch(Chance(1)).look(made, WALL, FIGURES)
    mirror.follow(seen)
    assert mirror.ordered == []


def test_a_snapshot_goes_through_json_and_stays_what_it_is() -> None:
    one = snapshot(fleet(FULL_WORKER).ordered[0])
    assert msgspec.json.decode(msgspec.json.encode(one), type=Snapshot) == one
