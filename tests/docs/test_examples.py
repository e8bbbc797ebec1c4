"""The policies of docs/examples keep what they promise, and nothing that arrives upsets them.

The rules are told here a second time, in Python, and compared over 10,000 requests on random fleets. Everything is
seeded: the same requests in every run.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import READY, Worker
from rbeerouter.routing.sandbox import Limits
from rbeerouter.routing.script import Choice, Script
from rbeerouter.workbench import suite
from tests.docs.pages import REPOSITORY
from tests.support.builders import Clock, down, fill, fleet, request, script, worker

FOLDER = REPOSITORY / "docs" / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.lua") if not path.stem.endswith("_test"))
REQUESTS = 10_000


def load(name: str, clock: Clock | None = None) -> Script:
    """An example as the daemon runs it; a busy machine must not spend its budget."""
    return script((FOLDER / f"{name}.lua").read_bytes(), limits=Limits(cpu_s=5.0), clock=clock)


def picked(choice: Choice) -> str | None:
    assert choice.error is None, choice.error
    return choice.worker.id if choice.worker else None


def action(choice: Choice) -> str:
    """What the script wants: "send" (also when it leaves the choice to the strategy), "wait" or "reject"."""
    assert choice.error is None, choice.error
    return (choice.answer and choice.answer.action) or "send"


def sent_model(choice: Choice) -> str | None:
    return choice.answer and choice.answer.model


def shares(example: Script, made: Fleet, ask: Callable[[int], dict[str, Any]]) -> dict[str | None, float]:
    """{worker id: its part of 10,000 requests}."""
    counted = Counter(picked(example.route(request(**ask(number)), made)) for number in range(REQUESTS))
    return {name: count / REQUESTS for name, count in counted.items()}


def random_worker(dice: random.Random, name: str) -> Any:
    metadata = {"region": dice.choice(["eu", "us", "asia", "mars"])} if dice.random() < 0.8 else {}
    return worker(
        name,
        backend=dice.choice(["cuda", "cuda", "rocm", "cpu", None]),
        performance=dice.choice([None, 10.0, 49.0, 50.0, 80.0, 100.0, 101.0, 150.0]),
        cost_per_hour=dice.choice([None, 0.1, 0.5, 2.0]),
        models=dice.choice([("m",), ("m", "other"), ("other",), ()]),
        metadata=metadata,
    )


def random_fleet(dice: random.Random, prefixes: tuple[str, ...] = ("w-",)) -> Fleet:
    """Up to twelve workers, some of them full, some down."""
    made = fleet(*(random_worker(dice, f"{dice.choice(prefixes)}{number}") for number in range(dice.randint(1, 12))))
    for one in made.ordered:
        if dice.random() < 0.2:
            down(made, one.id)
        else:
            fill(made, one.id, dice.choice([0, 0, 1, 2, 3, 4]))
    return made


def able(made: Fleet) -> list[Worker]:
    """Those that every example begins with: ready, and listing the model m."""
    return [one for one in made.ordered if one.status == READY and "m" in one.model_set]


def least_loaded(workers: list[Worker]) -> str | None:
    return min(workers, key=lambda one: one.load).id if workers else None


def on_random_fleets(
    name: str,
    ask: Callable[[random.Random], dict[str, Any]],
    expected: Callable[[Fleet, dict[str, Any]], str | None],
    prefixes: tuple[str, ...] = ("w-",),
) -> None:
    """Compares 10,000 answers of an example with the rule, on 200 fleets."""
    dice, taken = random.Random(11), 0
    for _ in range(200):
        made, example = random_fleet(dice, prefixes), load(name)
        for _ in range(REQUESTS // 200):
            asked = ask(dice)
            got = picked(example.route(request(**asked), made))
            assert got == expected(made, asked), (asked, [one.id for one in able(made)])
            taken += got is not None
    assert taken > REQUESTS / 4, "too few of the fleets had somebody to choose"


# The shares.


def test_one_request_in_ten_goes_to_the_variant() -> None:
    made = fleet(worker("old", models=("llama-3-8b",)), worker("new", models=("llama-3.1-8b",)))
    split = shares(load("ab-test"), made, lambda number: {"model": "llama-3-8b"})
    assert abs(split["new"] - 0.10) <= 0.01
    assert split["old"] == pytest.approx(1 - split["new"])


def test_one_user_in_ten_gets_the_variant_and_keeps_it() -> None:
    made = fleet(worker("old", models=("llama-3-8b",)), worker("new", models=("llama-3.1-8b",)))
    example = load("ab-test")
    first, second = Counter[str | None](), []
    for number in range(REQUESTS):
        asked = request(model="llama-3-8b", user_id=f"user-{number}@example.com")
        got = picked(example.route(asked, made))
        first[got] += 1
        second.append(picked(example.route(asked, made)) == got)
    assert abs(first["new"] / REQUESTS - 0.10) <= 0.01
    assert all(second)


def test_the_variant_is_sent_under_its_own_name_by_workers_that_have_both() -> None:
    made = fleet(worker("both", models=("llama-3-8b", "llama-3.1-8b")))
    example = load("ab-test")
    sent = Counter(sent_model(example.route(request(model="llama-3-8b"), made)) for _ in range(REQUESTS))
    assert abs(sent["llama-3.1-8b"] / REQUESTS - 0.10) <= 0.01
    assert sent[None] == REQUESTS - sent["llama-3.1-8b"]


def canary_fleet() -> Fleet:
    return fleet(worker("stable", models=("m",)), worker("canary", models=("m",), metadata={"canary": True}))


def test_a_quarter_of_the_requests_goes_to_the_canary() -> None:
    split = shares(load("canary"), canary_fleet(), lambda number: {})
    assert abs(split["canary"] - 0.25) <= 0.01
    assert split["stable"] == pytest.approx(1 - split["canary"])


@pytest.mark.parametrize("percent", [0, 5, 50, 100])
def test_the_share_of_the_canary_is_what_the_parameter_says(percent: int) -> None:
    example = load("canary")
    example.set_param("canary_percent", percent)
    split = shares(example, canary_fleet(), lambda number: {})
    assert abs(split.get("canary", 0.0) - percent / 100) <= 0.01
    if percent in (0, 100):
        assert len(split) == 1


# The rules.


def tier_of(one: Worker) -> str:
    if one.backend == "cpu" or (one.performance is not None and one.performance < 50):
        return "free"
    if one.backend == "cuda" and one.performance is not None and one.performance > 100:
        return "premium"
    return "between"


def test_each_tier_gets_the_least_loaded_of_its_own_workers_and_else_waits_for_one() -> None:
    dice, seen = random.Random(11), Counter[tuple[str, str]]()
    for _ in range(200):
        made, example = random_fleet(dice), load("tiers")
        for _ in range(REQUESTS // 200):
            tier = dice.choice(["premium", "free", "standard", "gold", None])
            choice = example.route(request(metadata={"type": "llm"} | ({"tier": tier} if tier else {})), made)
            assert choice.error is None, choice.error
            wanted = tier if tier in ("premium", "free") else "between"
            own = [one for one in made.ordered if "m" in one.model_set and tier_of(one) == wanted]
            ready = [one for one in own if one.status == READY]
            if ready:
                assert picked(choice) == least_loaded(ready)
            elif any(one.status == "busy" for one in own):
                assert action(choice) == "wait" and choice.worker in own
            else:
                assert choice.worker is None and action(choice) == "send"
            seen[wanted, action(choice)] += 1
    assert min(seen[tier, action] for tier in ("premium", "free", "between") for action in ("send", "wait")) > 20


def test_all_premium_requests_go_to_cuda_above_100_and_no_free_one_does() -> None:
    made = fleet(
        *(worker(f"fast{n}", backend="cuda", performance=101.0 + n, models=("m",)) for n in range(3)),
        *(worker(f"slow{n}", backend="cuda", performance=40.0 + n, models=("m",)) for n in range(2)),
        *(worker(f"cpu{n}", backend="cpu", performance=200.0, models=("m",)) for n in range(2)),
        worker("middle", backend="cuda", performance=100.0, models=("m",)),
    )
    for tier, names in (("premium", ("fast",)), ("free", ("slow", "cpu")), ("standard", ("middle",))):
        asked = {"metadata": {"tier": tier}}
        split = shares(load("tiers"), made, lambda number, asked=asked: asked)  # type: ignore[misc]
        assert all(str(name).startswith(names) for name in split), (tier, split)


def cost_rule(made: Fleet, asked: dict[str, Any]) -> str | None:
    ready, tokens = able(made), asked["max_tokens"]
    gpus = [one for one in ready if one.backend in ("cuda", "rocm")]
    if tokens is not None and tokens < 100:
        wanted = least_loaded([one for one in ready if one.backend == "cpu"])
    elif tokens is not None and tokens < 500:
        wanted = min(gpus, key=lambda one: one.cost_per_hour or 1e9).id if gpus else None
    else:
        wanted = max(gpus, key=lambda one: one.performance or 0).id if gpus else None
    return wanted or least_loaded(ready)


def test_the_length_of_the_answer_decides_the_machine() -> None:
    lengths = [None, 1, 99, 100, 101, 499, 500, 501, 32_000]
    on_random_fleets("cost", lambda dice: {"max_tokens": dice.choice(lengths)}, cost_rule)


def test_the_hour_decides_the_machine() -> None:
    dice, clock, hours = random.Random(11), Clock(), Counter[int]()
    midnight = clock.wall_s - clock.wall_s % 86_400
    for _ in range(200):
        made, example = random_fleet(dice), load("time-of-day", clock)
        ready = able(made)
        for _ in range(REQUESTS // 200):
            clock.wall_s = midnight + dice.uniform(0, 10 * 86_400)
            hour = int(clock.wall_s % 86_400 // 3600)
            hours[hour] += 1
            backends = ("cpu",) if hour < 6 else ("cuda", "rocm") if 9 <= hour < 17 else ("cpu", "cuda", "rocm", None)
            wanted = [one for one in ready if one.backend in backends]
            assert picked(example.route(request(), made)) == least_loaded(wanted or ready), hour
    assert set(hours) == set(range(24))


NEAREST = {"eu": ["eu", "us", "asia"], "us": ["us", "eu", "asia"], "asia": ["asia", "us", "eu"]}


def region_rule(made: Fleet, asked: dict[str, Any]) -> str | None:
    ready = able(made)
    for region in NEAREST.get(asked["metadata"].get("region"), []):
        there = [one for one in ready if one.metadata.get("region") == region]
        if there:
            return least_loaded(there)
    return least_loaded(ready)


def test_a_request_stays_in_its_region_as_long_as_somebody_there_is_ready() -> None:
    regions = ["eu", "us", "asia", "mars", None]

    def ask(dice: random.Random) -> dict[str, Any]:
        region = dice.choice(regions)
        return {"metadata": {"type": "llm"} | ({"region": region} if region else {})}

    on_random_fleets("region", ask, region_rule)


PREFIXES = {"image": "sd-worker-", "llm": "llm-worker-"}


def kind_rule(made: Fleet, asked: dict[str, Any]) -> str | None:
    prefix = PREFIXES.get(asked["metadata"]["type"])
    return least_loaded([one for one in able(made) if prefix and one.id.startswith(prefix)])


def test_pictures_and_texts_go_to_the_workers_named_for_them() -> None:
    kinds = ["image", "image", "llm", "llm", "embedding"]

    def ask(dice: random.Random) -> dict[str, Any]:
        return {"metadata": {"type": dice.choice(kinds)}}

    on_random_fleets("multi-modal", ask, kind_rule, ("sd-worker-", "sd-worker-", "llm-worker-", "llm-worker-", "sd-"))


def test_errors_answers_each_trouble_in_its_own_way() -> None:
    dice, seen = random.Random(11), Counter[str]()
    for _ in range(200):
        made, example = random_fleet(dice), load("errors")
        for _ in range(REQUESTS // 200):
            tokens = dice.choice([None, 1, 32_000, 32_001])
            choice = example.route(request(max_tokens=tokens), made)
            running = [one for one in made.ordered if one.status != "offline"]
            serving = [one for one in running if "m" in one.model_set]
            if tokens == 32_001:
                trouble = "refused"
                assert action(choice) == "reject"
            elif not running:
                trouble = "no workers"
                assert choice.deliberate and str(choice.error).endswith("No workers available")
            elif not serving:
                trouble = "no such model"
                assert picked(choice) is None and action(choice) == "send"
            elif not able(made):
                trouble = "all busy"
                assert action(choice) == "wait" and choice.worker is None
            else:
                trouble = "none"
                assert picked(choice) == least_loaded(able(made))
            seen[trouble] += 1
    assert set(seen) == {"refused", "no workers", "no such model", "all busy", "none"}


def attempt(worker_id: str, number: int) -> dict[str, Any]:
    return {"worker_id": worker_id, "error": "upstream_connect_failed", "duration_ms": 1.0, "number": number}


def test_errors_tries_another_worker_and_lets_the_failed_one_rest_for_a_minute() -> None:
    made, clock = fleet("w1", "w2"), Clock()
    example = load("errors", clock)
    assert picked(example.route(request(), made)) == "w1"
    assert picked(example.after_failure(request(), attempt("w1", 1), ["w1"], made)) == "w2"
    assert picked(example.route(request(), made)) == "w2"
    clock.advance(61)
    assert picked(example.route(request(), made)) == "w1"


def test_errors_refuses_after_two_failures_and_asks_the_strategy_when_nobody_is_left() -> None:
    made = fleet("w1")
    example = load("errors")
    assert picked(example.after_failure(request(), attempt("w1", 1), ["w1"], made)) is None
    refused = example.after_failure(request(), attempt("w1", 2), ["w1", "w1"], made)
    assert action(refused) == "reject" and refused.answer is not None
    assert (refused.answer.status, refused.answer.retry_after) == (503, 30)


def test_errors_writes_of_requests_that_failed_and_of_no_other() -> None:
    made, example = fleet("w1"), load("errors")
    ended = {
        "worker_id": "w1", "ok": True, "status": 200, "outcome": "done", "error": "", "ttft_ms": 1.0, "total_ms": 2.0,
        "tokens_in": 1, "tokens_out": 1, "attempts": 1,
    }  # fmt: skip
    assert example.completed(request(), ended, made).log == ()
    failed = {**ended, "worker_id": "", "ok": False, "status": 502, "error": "upstream_reset", "attempts": 2}
    told = example.completed(request(), failed, made)
    assert (told.error, told.log) == (None, ("m ended with upstream_reset after 2 attempts",))


# Whatever arrives.


FLEETS: dict[str, Callable[[], Fleet]] = {
    "no workers": Fleet,
    "all offline": lambda: fleet("w1", "w2", up=False),
    "one": lambda: fleet("w1"),
    "all busy": lambda: full(fleet("w1", "w2")),
    "nobody lists a model": lambda: fleet(worker("w1"), worker("w2")),
    "nothing is known of them": lambda: fleet(*(worker(f"w{number}", models=("m",)) for number in range(3))),
    "odd names": lambda: fleet(
        worker("größe-日本-🦙", models=("🦙-8b", "m"), metadata={"region": "eu\0", "canary": "true", "get": 1}),
        worker("sd-worker-", models=("m",), backend="CUDA", metadata={"region": 5, "canary": 1}),
    ),
}
ODD_TEXTS = ["", " ", "🦙", "für", "日本語", "e\u0301", "\u202eabc", "a\0b", "\ufeff", "%d%s%", "x" * 1000, "[[", "nil"]
REQUEST_FIELDS: list[dict[str, Any]] = [
    {},
    {"metadata": {}},
    *({"model": text, "user_id": text, "metadata": {"tier": text, "region": text, "type": text}} for text in ODD_TEXTS),
    *({"metadata": {"tier": odd, "region": odd, "type": odd}} for odd in (0, -1, 2.5, True, False, 2**63 - 1)),
    {"metadata": {"get": "hides the method"}},
    *({"max_tokens": tokens} for tokens in (0, -1, 1, 99, 100, 500, 2**63 - 1)),
    {"model": "llama-3-8b", "user_id": None, "priority": 7, "stream": True},
]


def full(made: Fleet) -> Fleet:
    for one in made.ordered:
        fill(made, one.id, one.capacity)
    return made


@pytest.mark.parametrize("kind", FLEETS)
@pytest.mark.parametrize("name", NAMES)
def test_no_example_raises_anything_but_its_own_words(name: str, kind: str) -> None:
    made, example = FLEETS[kind](), load(name)
    for fields in REQUEST_FIELDS:
        choice = example.route(request(**fields), made)
        assert choice.error is None or (name == "errors" and choice.deliberate), (fields, choice.error)
        if choice.worker is not None and action(choice) == "send":
            assert choice.worker.status == READY, fields


@pytest.mark.parametrize("name", NAMES)
def test_each_example_passes_the_trial_of_a_reload(name: str) -> None:
    assert load(name).self_test(fleet("w1", "w2", worker("w3"))) is None


# The tests that a user copies beside the script.


def test_each_example_has_its_tests_beside_it() -> None:
    tests = sorted(path.stem for path in FOLDER.glob("*_test.lua"))
    assert tests == [f"{name}_test" for name in NAMES]
    assert {"ab-test", "canary", "tiers", "cost", "time-of-day", "region", "multi-modal", "errors"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_tests_of_each_example_pass(name: str) -> None:
    done = suite.run(FOLDER / f"{name}.lua", FOLDER / f"{name}_test.lua")
    assert (done.problem, [test for test in done.tests if test.problem is not None]) == (None, [])
    assert len(done.tests) > 2
