"""The strategies that give a client or a session the same worker each time: who moves when workers come and go, how even
the shares are, how much a worker may get, and what the headers say."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.sections import ConsistentHash as Options
from rbeerouter.config.sections import Strategies
from rbeerouter.core.types import Request, Wishes, Worker
from rbeerouter.routing.strategies.affinity import (
    ConsistentHash,
    Fnv,
    IpHash,
    Rendezvous,
    SessionAffinity,
    StrictRendezvous,
    address_of,
    fnv,
)
from tests.support.builders import context, fill, fleet, quick, request, worker

KEYS = [f"key-{number}" for number in range(8000)]


def at(count: int, **changes: float) -> list[Worker]:
    """That many workers at 10.0.0.1, 10.0.0.2, ...: w1, w2, ..., of the weights that are given by name."""
    return fleet(
        *(
            worker(f"w{number}", url=f"http://10.0.0.{number}:8000", weight=changes.get(f"w{number}", 1.0))
            for number in range(1, count + 1)
        )
    ).ordered


def from_client(client: str | None) -> Request:
    return request(client=client)


def in_session(key: str | None = None, named: str | None = None) -> Request:
    """key: x-rbee-session-key; named: x-session-id."""
    return request(wishes=Wishes(session_key=key) if key is not None else None, session_id=named)


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


STRICT = Strategies(strict=True)
Mapped = Callable[[list[Worker]], dict[str, str]]


# Rendezvous hashing


def by_key(workers: list[Worker]) -> dict[str, str]:
    rendezvous = Rendezvous()
    return {key: rendezvous.choice(key, workers).id for key in KEYS}


def by_strict_key(workers: list[Worker]) -> dict[str, str]:
    rendezvous = StrictRendezvous()
    return {key: rendezvous.choice(key.encode(), workers).id for key in KEYS}


@pytest.mark.parametrize(
    ("mapped", "count", "most"), [(by_key, 4, 0.08), (by_key, 8, 0.12), (by_key, 64, 0.3), (by_strict_key, 4, 0.15), (by_strict_key, 8, 0.35)]
)
def test_8000_keys_are_shared_evenly_but_less_so_by_the_hash_of_strict_mode(mapped: Mapped, count: int, most: float) -> None:
    counted = Counter(mapped(at(count)).values())
    assert len(counted) == count
    assert all(abs(many / (8000 / count) - 1) < most for many in counted.values()), counted


@pytest.mark.parametrize("mapped", [by_key, by_strict_key])
def test_only_the_keys_of_a_worker_that_leaves_move_and_they_go_to_all_others(mapped: Mapped) -> None:
    workers = at(6)
    before, after = mapped(workers), mapped(workers[:2] + workers[3:])
    moved = {key for key in KEYS if before[key] != after[key]}
    assert moved == {key for key in KEYS if before[key] == "w3"}
    assert {after[key] for key in moved} == {"w1", "w2", "w4", "w5", "w6"}


def test_the_keys_of_a_worker_that_leaves_spread_evenly() -> None:
    workers = at(6)
    before, after = by_key(workers), by_key(workers[:5])
    spread = Counter(after[key] for key in KEYS if before[key] == "w6")
    expected = spread.total() / 5
    assert sum((many - expected) ** 2 / expected for many in spread.values()) < 18.47        # 4 degrees, once in a thousand


@pytest.mark.parametrize("mapped", [by_key, by_strict_key])
def test_a_worker_that_comes_only_takes_its_share(mapped: Mapped) -> None:
    before, after = mapped(at(5)), mapped(at(6))
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {after[key] for key in moved} == {"w6"} and abs(len(moved) / (8000 / 6) - 1) < 0.15


def test_the_order_of_the_workers_does_not_matter() -> None:
    assert by_key(at(5)) == by_key(at(5)[::-1])


def test_a_worker_has_as_many_keys_as_its_weight_says() -> None:
    counted = Counter(by_key(at(3, w1=0.5, w2=1.5, w3=2.0)).values())
    assert [round(counted[name] / 8000, 2) for name in ("w1", "w2", "w3")] == pytest.approx([0.125, 0.375, 0.5], abs=0.015)


def test_a_worker_that_gets_more_weight_only_takes_keys() -> None:
    before, after = by_key(at(4)), by_key(at(4, w2=3.0))
    moved = [key for key in KEYS if before[key] != after[key]]
    assert moved and {after[key] for key in moved} == {"w2"}


def test_keys_stay_where_they_were_in_the_version_before() -> None:
    """What the hash gives is part of what users can rely on: several daemons, and one after an update, agree."""
    mapped = by_key(at(4))
    assert [mapped[key] for key in KEYS[:8]] == ["w3", "w1", "w4", "w1", "w1", "w4", "w4", "w1"]


@pytest.mark.parametrize(
    ("key", "scores", "winner"),
    [
        ("alice", [9458449215385963085, 14522281601275404066, 5253026256417418463], "w2"),
        ("session-42", [2827046136665256022, 14484801699868944913, 15558346254337326924], "w3"),
    ],
)
def test_strict_rendezvous_gives_the_numbers_of_aibrix(key: str, scores: list[int], winner: str) -> None:
    workers = at(3)
    hashes = Fnv([address_of(one.url).encode() for one in workers]).continued(fnv(key.encode() + b"\0"))
    assert hashes == scores
    assert StrictRendezvous().choice(key.encode(), workers).id == winner


@quick(max_examples=60)
@given(st.binary(max_size=20), st.lists(st.binary(max_size=24), max_size=9))
def test_lanes_give_what_a_byte_at_a_time_gives(beginning: bytes, texts: list[bytes]) -> None:
    assert Fnv(texts).continued(fnv(beginning)) == [fnv(beginning + text) for text in texts]


def test_of_equal_numbers_the_smaller_address_wins() -> None:
    workers = fleet(worker("b", url="http://h:1/b"), worker("a", url="http://h:1/a")).ordered
    assert StrictRendezvous().choice(b"k", workers).id == "b", "one address twice: the first of the list"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://10.0.0.1:8000", "10.0.0.1:8000"),
        ("http://10.0.0.1:8000/engine", "10.0.0.1:8000"),
        ("http://gpu.lan", "gpu.lan:80"),
        ("https://gpu.lan/v", "gpu.lan:443"),
        ("http://[::1]:9", "[::1]:9"),
        ("http://[::1]", "[::1]:80"),
    ],
)
def test_the_address_of_a_worker_has_a_port(url: str, address: str) -> None:
    assert address_of(url) == address


# ip-hash


def test_a_client_has_one_worker() -> None:
    workers, strategy = at(8), IpHash(context())
    chosen = {client: strategy.choose(from_client(client), workers) for client in ("10.1.2.3", "10.1.2.4", "2001:db8::1")}
    again = IpHash(context(9))
    assert {client: again.choose(from_client(client), workers[::-1]) for client in chosen} == chosen
    assert len({one.id for number in range(200) if (one := strategy.choose(from_client(f"10.9.8.{number}"), workers))}) == 8


def test_who_has_no_address_is_left_to_the_next_strategy() -> None:
    assert IpHash(context()).choose(from_client(None), at(3)) is None


# consistent-hash


def test_the_key_is_the_session_key_or_the_session_or_the_user_or_the_client() -> None:
    workers, strategy = at(16), ConsistentHash(context())

    def chosen(**changes: object) -> str | None:
        worker = strategy.choose(request(**changes), workers)
        return worker.id if isinstance(worker, Worker) else None

    (a, b, c, d) = (chosen(client=key) for key in ("k1", "k2", "k4", "k8"))
    assert len({a, b, c, d}) == 4, "four keys that tell the workers apart"
    rest = {"client": "k8"}
    assert chosen(**rest) == d
    assert chosen(user_id="k4", **rest) == c
    assert chosen(session_id="k2", user_id="k4", **rest) == b
    assert chosen(wishes=Wishes(session_key="k1"), session_id="k2", user_id="k4", **rest) == a
    assert chosen(wishes=Wishes(), session_id="k2", user_id="k4", **rest) == b
    assert chosen() is None


@quick(max_examples=80)
@given(
    st.lists(st.floats(0.1, 10), min_size=1, max_size=8), st.floats(1, 3), st.lists(st.integers(0, 3), min_size=1, max_size=80)
)
def test_no_worker_gets_more_than_its_share_of_what_is_in_flight(weights: list[float], factor: float, keys: list[int]) -> None:
    made = fleet(*(worker(f"w{index}", weight=weight, max_concurrency=1000) for index, weight in enumerate(weights)))
    strategy = ConsistentHash(context(options=Strategies(consistent_hash=Options(factor))))
    for sent, key in enumerate(keys, 1):
        chosen = strategy.choose(request(user_id=f"user-{key}"), made.ordered)
        assert isinstance(chosen, Worker)
        made.sent(chosen, 0.0)
        assert chosen.in_flight <= ceil(factor * sent * chosen.spec.weight / sum(weights) + 1e-9)


def test_a_hot_key_spreads_in_its_own_order_and_others_stay() -> None:
    workers = at(4)
    strategy = ConsistentHash(context())
    asked = request(user_id="hot")
    order = sorted(workers, key=lambda one: Rendezvous().scores("hot", [one])[0], reverse=True)
    for busy in range(3):
        assert strategy.choose(asked, workers) is order[busy]
        order[busy].in_flight = 10
    others = [f"user-{number}" for number in range(200)]
    chosen = {user: strategy.choose(request(user_id=user), workers) for user in others}
    calm = {user: Rendezvous().choice(user, workers) for user in others}
    assert set(map(id, chosen.values())) == {id(order[3])}, "at 10, 10, 10 and 0 only one has room: 1.25 * 31 / 4 = 9.7"
    for one in order:
        one.in_flight = 7
    assert {user: strategy.choose(request(user_id=user), workers) for user in others} == calm


def test_a_worker_takes_a_quarter_more_than_the_mean_as_it_is_configured_by_default() -> None:
    made = fleet(*(f"w{number}" for number in range(1, 5)))
    strategy, asked = ConsistentHash(context()), request(user_id="hot")
    first = strategy.choose(asked, made.ordered)
    assert isinstance(first, Worker)
    for one in made.ordered:
        fill(made, one.id, 9)
    fill(made, first.id, 2)
    assert strategy.choose(asked, made.ordered) is first, "11 of 38, and the 12th is allowed: 1.25 * 39 / 4 = 12.2 -> 13"
    fill(made, first.id, 2)
    assert strategy.choose(asked, made.ordered) is not first, "13 of 40: 1.25 * 41 / 4 = 12.8 -> 13"


# session-affinity


def test_the_answer_names_the_worker_and_who_sends_it_back_stays() -> None:
    made = fleet("w1", "w2", "w3")
    strategy = SessionAffinity(context())
    for one in made.ordered:
        ((name, value),) = strategy.headers(one)
        assert (name, value) == ("x-session-id", base64_of(one.id))
        assert strategy.choose(in_session(named=value), made.ordered) is one
        fill(made, one.id, 3)
        assert strategy.choose(in_session("some-key", value), made.ordered) is one, "whatever its load and the key"


def test_the_header_is_set_for_an_only_worker_too() -> None:
    only = fleet("w1").ordered
    strategy = SessionAffinity(context())
    assert (strategy.choose(in_session(), only), strategy.headers(only[0])) == (None, (("x-session-id", "dzE="),))


def test_strict_names_the_address_as_aibrix_does() -> None:
    workers = at(3)
    strategy = SessionAffinity(context(options=STRICT))
    assert strategy.headers(workers[0]) == (("x-session-id", "MTAuMC4wLjE6ODAwMA=="),)
    assert strategy.choose(in_session(named="MTAuMC4wLjE6ODAwMA=="), workers) is workers[0]
    assert SessionAffinity(context()).choose(in_session(named="MTAuMC4wLjE6ODAwMA=="), workers) is workers[0]


@pytest.mark.parametrize("options", [Strategies(), STRICT], ids=["usual", "strict"])
@pytest.mark.parametrize("named", ["%%%", "MTAuMC4wLjE6ODAwMA", "MTAuMC4wLjk5OjE=", "/w==", "é", "", base64_of("w9")])
def test_a_session_id_that_names_nobody_is_left_aside_for_the_key(named: str, options: Strategies) -> None:
    workers, strategy = at(8), SessionAffinity(context(options=options))
    for key in KEYS[:20]:
        assert strategy.choose(in_session(key, named), workers) is strategy.choose(in_session(key), workers)


def test_a_worker_that_cannot_have_it_now_is_not_chosen_and_the_session_moves_as_a_whole() -> None:
    workers, strategy = at(4), SessionAffinity(context())
    asked = in_session(named=base64_of("w1"))
    assert strategy.choose(asked, workers) is workers[0]
    moved = strategy.choose(asked, workers[1:])
    assert moved in workers[1:]
    assert {strategy.choose(asked, workers[1:]) for _ in range(5)} == {moved}


def test_the_name_that_a_client_gives_its_session_is_a_key_but_not_in_strict_mode() -> None:
    workers = at(16)
    assert SessionAffinity(context()).choose(in_session(named="chat-7"), workers) is Rendezvous().choice("chat-7", workers)
    strategy, counted = SessionAffinity(context(3, options=STRICT)), Counter[str]()
    for _ in range(800):
        strategy.context.chance.n += 1
        worker = strategy.choose(in_session(named="chat-7"), workers)
        assert isinstance(worker, Worker)
        counted[worker.id] += 1
    assert len(counted) == 16 and sum((many - 50) ** 2 / 50 for many in counted.values()) < 37.7


def test_a_session_key_has_one_worker_and_strict_mode_has_that_of_aibrix() -> None:
    workers = at(3)
    strict = SessionAffinity(context(options=STRICT))
    assert strict.choose(in_session("alice"), workers) is workers[1]
    assert strict.choose(in_session("session-42"), workers) is workers[2]
    usual = SessionAffinity(context())
    assert usual.choose(in_session("alice"), workers) is Rendezvous().choice("alice", workers)


def test_who_has_no_key_is_left_to_the_next_strategy() -> None:
    strategy = SessionAffinity(context())
    assert strategy.choose(in_session(), at(3)) is None
    assert strategy.choose(in_session("", ""), at(3)) is None


def test_in_a_list_of_strategies_it_speaks_for_its_worker_alone() -> None:
    workers, strategy = at(3), SessionAffinity(context())
    assert strategy.scores(in_session(named=base64_of("w2")), workers) == [0.0, 1.0, 0.0]
    assert strategy.scores(in_session(), workers) is None
    assert strategy.least is False
