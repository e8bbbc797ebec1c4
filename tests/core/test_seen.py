"""What a decision saw is what has changed, told once, and as much of it as somebody needs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.chance import Chance
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.seen import FIGURES, Roll, Seen, Standing, Watch, pack, snapshot, unpack
from rbeerouter.core.types import BUSY, DRAINING, OFFLINE, READY, Report
from tests.support.builders import FULL_WORKER, WALL, down, fill, fleet, worker


def watch(made: Fleet) -> Watch:
    """One that has already looked."""
    one = Watch(Chance(1))
    one.look(made, WALL)
    return one


def changes(seen: Seen) -> list[tuple[str, int, int, str]]:
    return [(seen.workers[index].id, *rest) for index, *rest in map(unpack, seen.packed)]  # type: ignore[misc]


@given(st.integers(0, 1 << 15), st.integers(0, (1 << 22) - 1), st.integers(0, (1 << 22) - 1), st.sampled_from([READY, BUSY, OFFLINE, DRAINING]))
def test_what_is_packed_comes_out_again(index: int, in_flight: int, occupied: int, status: str) -> None:
    assert unpack(pack(index, in_flight, occupied, status)) == (index, in_flight, occupied, status)


def test_a_look_tells_who_has_changed_since_the_last_one_in_order_and_counts() -> None:
    made = fleet()
    one = watch(made)
    fill(made, "w3", 4)
    fill(made, "w1", 1)
    first, second = one.look(made, WALL + 0.0009), one.look(made, WALL)
    assert changes(first) == [("w1", 1, 1, READY), ("w3", 4, 4, BUSY)] and changes(second) == []
    assert (first.n, second.n, first.wall) == (2, 3, WALL)


def test_how_a_worker_stands_is_told_only_when_that_has_changed() -> None:
    made = fleet()
    one = watch(made)
    fill(made, "w1", 1)
    made.apply(Report("w2", True, None, 1.0))
    assert one.look(made, WALL).standings == ()
    down(made, "w2")
    made.drain("w3")
    assert one.look(made, WALL).standings == (
        (1, Standing(standing=OFFLINE, reachable=False)), (2, Standing(standing=DRAINING, draining=True)),
    )  # fmt: skip
    made.cool_down(made.workers["w1"], 5.0, 1.0)
    assert one.look(made, WALL).standings == ((0, Standing(standing=BUSY, held=True, cooling=True)),)


def test_figures_are_told_as_far_as_they_are_read_and_ages_of_all_when_they_grow() -> None:
    made = fleet()
    for name in ("w1", "w2"):
        made.apply(Report(name, True, None, 0.0, waiting=2, kv_usage=0.5))
    one, read = Watch(Chance(1)), ("kv_usage", "load_age_s")
    one.look(made, WALL, read)
    made.apply(Report("w1", True, None, 1.0, waiting=3, kv_usage=0.75))
    assert one.look(made, WALL, read).figures == ((0, {"kv_usage": 0.75, "load_age_s": 0.0}),)
    made.tick(5.0)
    assert [age["load_age_s"] for _, age in one.look(made, WALL, read).figures] == [4.0, 5.0, None]
    assert one.look(made, WALL, read).figures == ()
    made.apply(Report("w1", True, None, 6.0, waiting=4))
    assert one.look(made, WALL).figures == ()


def test_the_list_of_workers_is_told_when_it_changes_and_then_only_who_is_new() -> None:
    made, told = fleet(), list[Roll]()
    one = Watch(Chance(5), "run")
    one.tell(told.append)
    seen = one.look(made, WALL)
    assert [seen.roll] == told and one.look(made, WALL).roll is None
    roll = told[0]
    assert (roll.n, roll.run, roll.base, roll.whole, roll.order) == (1, "run", 5, True, ("w1", "w2", "w3"))
    assert roll.workers == tuple(map(snapshot, made.ordered))
    made.configure([worker("w2", models=("m",)), worker("w1", models=("m",), vram=8.0), worker("w4")])
    one.look(made, WALL)
    assert (told[1].whole, told[1].order, [row.id for row in told[1].workers]) == (False, ("w2", "w1", "w4"), ["w1", "w4"])
    one.tell_all()
    one.look(made, WALL)
    assert (told[2].whole, len(told[2].workers), len(told)) == (True, 3, 3)


def test_nobody_who_listens_costs_no_lists() -> None:
    one = Watch(Chance(5))
    one.tell_all()
    assert one.look(fleet(), WALL).roll is None


def test_a_snapshot_has_no_address_and_no_secret() -> None:
    made = fleet(worker("w1", url="http://secret.test:1", api_key="secret", ca_file="secret"))
    assert "secret" not in repr(snapshot(made.ordered[0]))


def test_a_snapshot_has_every_figure_that_is_known() -> None:
    made = fleet(FULL_WORKER)
    one = made.ordered[0]
    for number, name in enumerate(FIGURES):
        setattr(one, name, number)
    assert snapshot(one).figures == {name: number for number, name in enumerate(FIGURES)}
