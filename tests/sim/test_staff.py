"""The workers of a scenario, and how many requests they could serve."""

from __future__ import annotations

import pytest

from rbeerouter.cli.traffic import generated
from rbeerouter.core.types import WorkerSpec
from rbeerouter.sim import staff, world
from rbeerouter.sim.draws import Lengths
from rbeerouter.sim.scenario_file import WorkerTable
from rbeerouter.sim.types import Footprint, Profile, Scenario, SimWorker
from rbeerouter.sim.workload import Mix, Sessions, Traffic
from tests.sim.made_up import config

CONSTANT = Traffic(tokens_in=Lengths("constant", mean=100), tokens_out=Lengths("constant", mean=50), models={"m": 1.0})


def worker(worker_id: str, *models: str, slots: int = 4, **given: float) -> SimWorker:
    spec = WorkerSpec(worker_id, f"http://{worker_id}", models=models)
    return SimWorker(spec, Profile(**{"step_s": 0.02, "prefill_s": 0.001, "slots": slots, **given}))


def test_a_worker_alone_serves_what_its_profile_says() -> None:
    # 0.1 s of prefill, and 50 steps of 0.02 s that four share: 0.35 s for each request.
    assert staff.most_requests_per_s((worker("a", "m"),), CONSTANT) == pytest.approx(1 / 0.35)


def test_a_model_that_only_one_worker_has_limits_the_rate() -> None:
    traffic = Traffic(tokens_in=CONSTANT.tokens_in, tokens_out=CONSTANT.tokens_out, models={"m": 1.0, "big": 1.0})
    both = worker("a", "m", "big")
    small = tuple(worker(f"b{index}", "m") for index in range(9))
    assert staff.most_requests_per_s((both, *small), traffic) == pytest.approx(2 / 0.35)
    assert staff.most_requests_per_s((both,), traffic) == pytest.approx(1 / 0.35)


def test_a_model_s_footprint_makes_a_worker_slower() -> None:
    spec = WorkerSpec("a", "http://a", models=("m",))
    slow = SimWorker(spec, worker("a", "m").profile, {"m": Footprint(times=2.0)})
    assert staff.most_requests_per_s((slow,), CONSTANT) == pytest.approx(1 / 0.7)


def test_models_that_are_batches_of_their_own_share_a_worker_s_places() -> None:
    traffic = Traffic(tokens_in=CONSTANT.tokens_in, tokens_out=CONSTANT.tokens_out, models={"m": 1.0, "n": 1.0})
    plain = worker("a", "m", "n")
    swapped = worker("a", "m", "n", memory_gib=20.0)
    sized = SimWorker(plain.spec, plain.profile, {"m": Footprint(), "n": Footprint()})
    assert staff.most_requests_per_s((plain,), traffic) == pytest.approx(1 / 0.35)
    # 50 steps of 0.02 s that two share, while the other two wait for the other model's.
    assert staff.most_requests_per_s((swapped,), traffic) == pytest.approx(1 / 0.6)
    assert staff.most_requests_per_s((sized,), traffic) == pytest.approx(1 / 0.6)
    assert staff.most_requests_per_s((sized,), CONSTANT) == pytest.approx(1 / 0.35)


def test_the_home_lab_is_well_at_the_usual_load() -> None:
    workers = staff.sim_workers(staff.HOME_LAB, {})
    notes: list[str] = []
    for seed in (1, 2, 3):
        traffic = generated(Traffic(), workers, config(), seed, notes)
        for strategy in ("least-request", "round-robin"):
            found = world.run(Scenario(config(), workers, traffic, strategy=strategy, seed=seed)).all
            assert found.rejected == found.failed == 0
            assert found.queue_s.p95 is not None and found.queue_s.p95 < 1.0 and found.e2e_s.p50 < 6.0


def test_slots_the_operator_s_limit_and_the_cache_bound_what_runs_at_once() -> None:
    plain = staff.most_requests_per_s((worker("a", "m", slots=1),), CONSTANT)
    assert plain == pytest.approx(1 / 1.1)
    limited = SimWorker(WorkerSpec("a", "http://a", models=("m",), max_concurrency=1), worker("a", "m").profile)
    assert staff.most_requests_per_s((limited,), CONSTANT) == pytest.approx(plain)
    assert staff.most_requests_per_s((worker("a", "m", kv_tokens=150),), CONSTANT) == pytest.approx(plain)


def test_workers_that_list_no_models_serve_any() -> None:
    assert staff.most_requests_per_s((worker("a"),), CONSTANT) == pytest.approx(1 / 0.35)


def test_a_mix_s_tokens_and_models_are_weighed() -> None:
    mixed = Traffic(
        models={"m": 1.0},
        mix=(
            Mix(3.0, tokens_in=Lengths("constant", mean=100), tokens_out=Lengths("constant", mean=10)),
            Mix(1.0, tokens_in=Lengths("constant", mean=500), tokens_out=Lengths("constant", mean=50), models={"n": 2, "m": 2}),
        ),
    )  # fmt: skip
    assert staff.mean_tokens(mixed) == pytest.approx((200.0, 20.0))
    assert staff.model_weights(mixed) == pytest.approx({"m": 0.875, "n": 0.125})


def test_conversations_prompts_are_longer() -> None:
    talking = Traffic(
        tokens_in=CONSTANT.tokens_in, tokens_out=CONSTANT.tokens_out, sessions=Sessions(turns=3, system_tokens=(500,))
    )
    assert staff.mean_tokens(talking) == (100 + 500 + 2 * 150, 50)


def test_traffic_that_does_not_say_asks_for_what_the_workers_have() -> None:
    assert staff.usual_models([worker("a", "m", "n"), worker("b", "m")]) == {"m": 2.0, "n": 1.0}


def test_what_a_file_says_of_a_worker_goes_before_what_is_usual() -> None:
    table = WorkerTable(slots=3, loaded=("m",))
    changed, plain = staff.sim_workers([worker("a", "m").spec, worker("b", "m").spec], {"a": table})
    assert (changed.profile.slots, changed.loaded, plain.loaded) == (3, ("m",), None)


def test_workers_without_models_are_given_some() -> None:
    bare, named = staff.with_models([worker("a").spec, worker("b", "x").spec], ["m"])
    assert (bare.models, named.models) == (("m",), ("x",))


def test_the_home_lab_has_every_kind_of_worker_that_the_example_scripts_tell_apart() -> None:
    lab = staff.HOME_LAB
    assert {spec.backend for spec in lab} == {"cuda", "metal", "cpu"}
    assert any(spec.backend == "cuda" and (spec.performance or 0) > 100 for spec in lab)  # tiers.lua: premium,
    assert any((spec.performance or 0) < 50 for spec in lab)  # free,
    assert any(50 <= (spec.performance or 0) <= 100 for spec in lab)  # standard
    assert {spec.metadata["region"] for spec in lab} == {"eu", "us", "asia"}
    assert [spec.id for spec in lab if spec.metadata.get("canary")] == ["worker-macbook"]
    assert all(spec.cost_per_hour is not None and spec.vram is not None for spec in lab)
