"""Traffic that is made up: the same for the same seed, with the shares that were asked for, as the daemon reads it."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter, defaultdict
from typing import Any

import msgspec
import pytest

from rbeerouter.config.sections import ConfigError, Limits
from rbeerouter.dialects.bodies import parse
from rbeerouter.dialects.surfaces import KINDS_OF_PATHS, SURFACES
from rbeerouter.sim import workload
from rbeerouter.sim.draws import Lengths
from rbeerouter.sim.types import Arrival
from rbeerouter.sim.workload import Generated, Mix, Sessions, Traffic, check_traffic, kind_of

MODELS = {"llama-3-8b": 3.0, "llama-3-70b": 1.0}


def arrivals(seed: int = 1, **given: Any) -> list[Arrival]:
    return list(Generated(Traffic(**{"requests": 5000, "rate": 4.0, "models": MODELS, **given}), seed))


def share(found: list[Arrival], what: Any) -> float:
    return sum(map(bool, map(what, found))) / len(found)


def test_the_same_seed_brings_the_same_and_another_seed_other_traffic() -> None:
    made = Generated(Traffic(requests=300, rate=4.0, models=MODELS, sessions=Sessions()), 1)
    first = msgspec.json.encode(list(made))
    assert first == msgspec.json.encode(list(made))
    assert first != msgspec.json.encode(list(Generated(made.traffic, 2)))


def test_another_rate_brings_the_same_requests_at_other_times() -> None:
    slow, fast = arrivals(requests=200, rate=1.0), arrivals(requests=200, rate=10.0)
    assert [one.request for one in slow] == [one.request for one in fast]
    assert slow[-1].at_s == pytest.approx(10 * fast[-1].at_s)


def test_there_are_as_many_as_was_said_in_order_of_time() -> None:
    for sessions in (None, Sessions()):
        found = arrivals(requests=777, sessions=sessions)
        assert len(found) == 777
        assert all(one.at_s <= other.at_s for one, other in itertools.pairwise(found))
        assert len({one.request.id for one in found}) == 777


@pytest.mark.parametrize("name", workload.draws.ARRIVALS)
def test_every_kind_of_arrivals_has_the_rate(name: str) -> None:
    found = arrivals(requests=20_000, rate=50.0, arrivals=name, period_s=100.0, peak_s=25.0, burst_s=1.0,
                     pause_s=5.0)  # fmt: skip
    assert len(found) / found[-1].at_s == pytest.approx(50.0, rel=0.15 if name == "bursts" else 0.04)


def test_tiers_regions_models_and_priorities_have_their_shares() -> None:
    found = arrivals(requests=20_000)
    tiers = Counter(one.request.metadata["tier"] for one in found)
    assert [tiers[tier] / len(found) for tier in ("premium", "standard", "free")] == pytest.approx(
        [0.2, 0.5, 0.3], abs=0.015
    )
    assert share(found, lambda one: one.request.metadata["region"] == "asia") == pytest.approx(0.2, abs=0.015)
    assert share(found, lambda one: one.request.model == "llama-3-70b") == pytest.approx(0.25, abs=0.015)
    assert share(found, lambda one: one.request.priority == "high") == pytest.approx(0.1, abs=0.01)
    assert share(found, lambda one: one.request.priority is None) == pytest.approx(0.8, abs=0.015)
    assert share(found, lambda one: one.request.stream) == pytest.approx(0.7, abs=0.015)
    assert share(found, lambda one: one.request.max_tokens is not None) == pytest.approx(0.6, abs=0.015)


def test_a_user_has_one_tier_and_one_region() -> None:
    of_user = defaultdict(set)
    for one in arrivals():
        of_user[one.request.user_id].add((one.request.metadata["tier"], one.request.metadata["region"]))
    assert 45 <= len(of_user) <= 55
    assert {len(found) for found in of_user.values()} == {1}


def test_a_user_asks_from_one_address_which_is_nobody_elses() -> None:
    pairs = {(one.request.user_id, one.request.client) for one in arrivals(users=2000)}
    assert len(pairs) == len(dict(pairs)) == len({client for _, client in pairs})
    assert ("user-1", "10.0.0.1") in pairs
    assert (workload.address_of("user-70000"), workload.address_of("anna"), workload.address_of(None)) == (
        "10.1.17.112", None, None,
    )  # fmt: skip


def test_users_ask_as_zipf_says() -> None:
    found = arrivals(requests=20_000, users=100, tiers={"free": 1}, regions={"eu": 1}, zipf=1.0)
    (first, most), (second, next_most) = Counter(one.request.user_id for one in found).most_common(2)
    assert (first, second) == ("user-1", "user-2")
    assert most / next_most == pytest.approx(2.0, rel=0.1)


def test_lengths_are_as_said_and_no_answer_is_longer_than_max_tokens() -> None:
    found = arrivals(
        requests=20_000, tokens_in=Lengths("exponential", mean=300), tokens_out=Lengths("uniform", low=5, high=25)
    )
    assert statistics.fmean(one.tokens_in for one in found) == pytest.approx(300, rel=0.03)
    assert statistics.fmean(one.tokens_out for one in found) == pytest.approx(15, rel=0.02)
    assert all(one.request.max_tokens is None or one.tokens_out <= one.request.max_tokens for one in found)


def test_a_request_is_what_the_daemon_makes_of_such_a_body() -> None:
    one = next(one for one in arrivals() if one.request.max_tokens and one.request.priority and one.request.stream)
    asked = one.request
    text = ("word " * one.tokens_in)[: 4 * one.tokens_in]  # some four bytes for a token
    named = {name: value for name, value in asked.metadata.items() if name != "type"}
    body = {"model": asked.model, "stream": True, "max_tokens": asked.max_tokens, "user": asked.user_id,
            "priority": asked.priority, "metadata": named, "messages": [{"role": "user", "content": text}]}  # fmt: skip
    read = parse(SURFACES[asked.path.encode()], asked.id, {}, msgspec.json.encode(body), Limits())
    assert read == msgspec.structs.replace(asked, prompt_tokens=read.prompt_tokens, client=None)
    assert list(read.metadata) == list(asked.metadata)  # scripts may walk through it
    low, high = workload.estimate(one.tokens_in, 0.0), workload.estimate(one.tokens_in, 1.0)
    assert low <= read.prompt_tokens <= high and low <= asked.prompt_tokens <= high


def test_equal_metadata_is_one_object() -> None:
    assert len({id(one.request.metadata) for one in arrivals(requests=1000)}) <= 9


def test_the_path_and_the_type_are_those_of_the_model() -> None:
    found = arrivals(models={"bge-m3": 1, "sdxl": 1, "llama-3-8b": 1, "whisper-large-v3": 1})
    assert {(one.request.model, one.request.path, one.request.metadata["type"]) for one in found} == {
        ("bge-m3", "/v1/embeddings", "embedding"), ("sdxl", "/v1/images/generations", "image"),
        ("llama-3-8b", "/v1/chat/completions", "llm"), ("whisper-large-v3", "/v1/audio/speech", "audio"),
    }  # fmt: skip
    assert not any(one.request.stream or one.request.max_tokens for one in found if "chat" not in one.request.path)
    assert {one.tokens_out for one in found if one.request.model == "bge-m3"} == {1}
    assert all(KINDS_OF_PATHS[path] == kind for kind, path in workload.PATHS.items())


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("llama-3-8b", "llm"), ("nomic-embed-text", "embedding"), ("BAAI/bge-m3", "embedding"), ("flux.1", "image"),
        ("stabilityai/stable-diffusion-3.5-large", "image"), ("kokoro", "audio"), ("sdk-helper-7b", "llm"),
    ],
)  # fmt: skip
def test_the_name_of_a_model_tells_its_kind(model: str, kind: str) -> None:
    assert kind_of(model) == kind


def test_kinds_of_requests_are_mixed_by_weight_and_take_what_they_do_not_say_from_the_workload() -> None:
    found = arrivals(
        requests=10_000, tokens_in=Lengths("constant", mean=100),
        mix=(
            Mix(weight=3, tokens_out=Lengths("constant", mean=10), tiers={"free": 1}),
            Mix(weight=1, tokens_out=Lengths("constant", mean=99), models={"own": 1}, type="image", users=2),
        ),
    )  # fmt: skip
    assert share(found, lambda one: one.tokens_out == 99) == pytest.approx(0.25, abs=0.015)
    assert {one.tokens_in for one in found} == {100}
    assert {one.request.metadata["tier"] for one in found if one.tokens_out == 10} == {"free"}
    assert {(one.request.model, one.request.metadata["type"]) for one in found if one.tokens_out == 99} == {
        ("own", "image")
    }
    chat, pictures = ({one.request.user_id for one in found if one.tokens_out == tokens} for tokens in (10, 99))
    assert not chat & pictures


def test_who_has_no_patience_leaves() -> None:
    assert {one.leaves_after_s for one in arrivals(requests=10, patience_s=3.0)} == {3.0}
    assert {one.leaves_after_s for one in arrivals(requests=10)} == {None}


# Conversations.


def conversations(found: list[Arrival]) -> dict[str, list[Arrival]]:
    talks = defaultdict(list)
    for one in found:
        talks[one.request.session_id].append(one)
    return talks


def test_conversations_have_their_turns_and_the_rate_counts_requests() -> None:
    found = arrivals(requests=30_000, sessions=Sessions(turns=4.0, think_s=5.0))
    whole = [turns for turns in conversations(found).values() if turns[0].at_s < 0.8 * found[-1].at_s]
    assert statistics.fmean(map(len, whole)) == pytest.approx(4.0, rel=0.05)
    assert len(found) / found[-1].at_s == pytest.approx(4.0, rel=0.06)


def test_a_turn_s_prompt_is_the_conversation_so_far_and_a_question() -> None:
    found = arrivals(sessions=Sessions(), tokens_in=Lengths("constant", mean=50))
    for turns in conversations(found).values():
        assert turns[0].tokens_in in (250, 1050, 3050)
        for one, following in itertools.pairwise(turns):
            assert following.tokens_in == one.tokens_in + one.tokens_out + 50
            assert following.at_s >= one.at_s + one.tokens_out / 30.0
            assert following.blocks[: len(one.blocks)] == one.blocks
            assert {one.request.user_id, one.request.model} == {following.request.user_id, following.request.model}


def test_blocks_are_as_many_as_fill_the_prompt_and_shared_exactly_by_who_has_the_same_beginning() -> None:
    found = arrivals(sessions=Sessions(system_tokens=(0, 640, 6400)), tokens_in=Lengths("constant", mean=100))
    assert all(len(one.blocks) == one.tokens_in // Generated.block_tokens for one in found)
    assert all(len(set(one.blocks)) == len(one.blocks) for one in found)
    firsts = [turns[0] for turns in conversations(found).values()]
    by_system = defaultdict(list)
    for one in firsts:
        by_system[one.tokens_in - 100].append(one.blocks)
    assert set(by_system) == {0, 640, 6400}
    for system, blocks in by_system.items():
        shared = set.intersection(*map(set, blocks))
        assert len(shared) == system // 64  # and the rest is each one's own
        rest = Counter(block for some in blocks for block in some if block not in shared)
        assert set(rest.values()) == {1}


def test_block_ids_mean_the_same_beginning_in_all_of_a_mix() -> None:
    found = arrivals(
        mix=(Mix(sessions=Sessions(system_tokens=(640,))), Mix(sessions=Sessions(system_tokens=(640, 1280)))),
    )
    before: dict[int, tuple[int, ...]] = {}
    for one in found:
        for index, block in enumerate(one.blocks):
            assert before.setdefault(block, one.blocks[:index]) == one.blocks[:index]


def test_who_has_filled_the_context_begins_a_new_conversation() -> None:
    found = arrivals(sessions=Sessions(turns=1000.0, most_tokens=2000, system_tokens=(64,)))
    talks = conversations(found)
    assert all(one.tokens_in + one.tokens_out < 2000 for turns in talks.values() for one in turns[:-1])
    full = sum(turns[-1].tokens_in + turns[-1].tokens_out >= 2000 for turns in talks.values())
    assert full > 50 and full / len(talks) > 0.9  # the others were under way at the end
    assert {turns[0].blocks[0] for turns in talks.values() if turns[0].blocks} == {0}


# What is refused.


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"arrivals": "brust"}, "f: workload.arrivals = 'brust': expected one of poisson, constant, gamma, weibull, bursts, diurnal"),
        ({"arrivals": "gamma", "cv": 0.001}, 'f: workload.cv = 0.001: expected at least 0.01; arrivals = "constant" has 0'),
        ({"arrivals": "weibull", "cv": 50}, 'f: workload.cv = 50: expected at most 20 with arrivals = "weibull"'),
        ({"tokens_in": Lengths("normal")}, "f: workload.tokens_in.kind = 'normal': expected one of constant, uniform, exponential, lognormal, list"),
        ({"tokens_out": Lengths("lognormal", mean=3)}, "f: workload.tokens_out.sigma: is missing; kind = 'lognormal' needs mean and sigma"),
        ({"tokens_out": Lengths("constant", mean=3, low=1)}, "f: workload.tokens_out.low: means nothing with kind = 'constant'"),
        ({"tokens_out": Lengths("uniform", low=9, high=1)}, "f: workload.tokens_out: low = 9, high = 1: expected 0 <= low <= high"),
        ({"tokens_out": Lengths("list", values=(4, -1))}, "f: workload.tokens_out.values: -1: expected 0 or more tokens"),
        ({"tokens_out": Lengths("constant", mean=3, least=9, most=8)}, "f: workload.tokens_out: least = 9, most = 8: expected 0 <= least <= most"),
        ({"tiers": {"a": 0.0}}, "f: workload.tiers: all weights are 0; expected one that is more"),
        ({"regions": {"": 1.0}}, "f: workload.regions: '' is no name"),
        ({"sessions": Sessions(system_tokens=())}, "f: workload.sessions.system_tokens = []: expected one size or more; [0] is none"),
        ({"mix": (Mix(), Mix(type="text"))}, "f: workload.mix[1].type = 'text': expected one of llm, embedding, image, audio"),
        ({"mix": (Mix(models={"a": 0.0}),)}, "f: workload.mix[0].models: all weights are 0; expected one that is more"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_the_key_and_the_value(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_traffic(Traffic(**given), "f")
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"models": MODELS}, "workload.rate: is missing; expected requests per second"),
        ({"rate": 1.0}, "workload.models: is missing; expected {model: weight}"),
        (
            {"rate": 1.0, "mix": (Mix(models=MODELS), Mix())},
            "workload.mix[1].models: is missing; expected {model: weight}",
        ),
    ],
)
def test_traffic_needs_a_rate_and_models(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Generated(Traffic(**given), 1)
    assert str(refused.value) == said
