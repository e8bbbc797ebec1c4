"""The few nouns that do something: which model a worker may serve, and what stays when it is described anew."""

from __future__ import annotations

from rbeerouter.core.types import OFFLINE, Env, Worker
from tests.support.builders import env, worker


def test_a_worker_serves_the_models_it_names() -> None:
    one = Worker(worker(models=("a", "b")))
    assert [one.serves(model) for model in ("a", "b", "c", "")] == [True, True, False, False]


def test_a_worker_that_has_named_no_models_may_serve_any() -> None:
    assert Worker(worker(models=())).serves("whatever")


def test_a_worker_nobody_has_looked_at_is_offline_and_idle() -> None:
    one = Worker(worker())
    assert (one.status, one.in_flight, one.load, one.served, one.failed, one.index) == (OFFLINE, 0, 0.0, 0, 0, -1)


def test_a_new_description_changes_what_the_operator_says_and_nothing_that_was_seen() -> None:
    one = Worker(worker(backend="cuda", vram=24))
    one.in_flight, one.served, one.health.reachable = 3, 9, True
    one.describe(worker(backend="rocm", vram=48, max_concurrency=8, metadata={"region": "eu"}))
    assert (one.backend, one.vram, one.capacity, one.metadata) == ("rocm", 48, 8, {"region": "eu"})
    assert (one.in_flight, one.served, one.health.reachable) == (3, 9, True)


def test_a_worker_shows_itself_without_its_key() -> None:
    one = Worker(worker(api_key="sk-secret"))
    assert repr(one) == "Worker(w1 offline 0/4)"


def test_two_environments_of_one_seed_throw_the_same_dice() -> None:
    rolls = [[made.rng.random() for _ in range(3)] for made in (env(seed=5), env(seed=5), env(seed=6))]
    assert rolls[0] == rolls[1] != rolls[2]


def test_local_time_is_utc_unless_someone_says_otherwise() -> None:
    made = env()
    assert Env(made.now, made.wall, made.rng).utc_offset_s() == 0
