"""Tests of `--assert`: what it takes, what it refuses, and how it judges."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies

from rbeerouter.config.sections import ConfigError
from rbeerouter.sim.asserts import MOST_CHARS, Assertion, judge_all
from rbeerouter.sim.metrics import metrics
from tests.sim.made_up import result
from tests.support.builders import quick

NUMBERS = metrics(result())


@pytest.mark.parametrize(("expression", "ok"), [
    ("p95_ttft_s < 2 and rejected == 0", False),
    ("p95_ttft_s < 2 and rejected == 1", True),
    ("p95_ttft_s < 1", False),
    ("0.5 < p95_ttft_s <= 1 < 2", True),
    ("0.5 < p95_ttft_s <= 0.9 < 2", False),
    ("not failed > 2", True),
    ("rejected + failed + gone + ok == requests", True),
    ("(failed - 1) / requests * 100 <= 1", True),
    ("-failed < +failed", True),
    ("min(failed, rejected) == 1 and max(failed, rejected, 7) == 7 and abs(-failed) == 2", True),
    ("ok != requests or ok == 1", True),
    ('tier["premium"].p95_ttft_s < 0.5 and share["gpu-1"] <= 0.45', True),
    ("tier['premium'].requests == 10", True),
    ("user['o\"k'].requests == 40", True),
    ('error["upstream_timeout"] == 2 and error["upstream_stalled"] == 0 and reason["nobody"] == 0', True),
    (' goodput\n>= 0.9 ', True),
])  # fmt: skip
def test_what_holds_and_what_does_not(expression: str, ok: bool) -> None:
    verdict = Assertion(expression).judge(NUMBERS)
    assert (verdict.ok, verdict.problem) == (ok, None)


def test_a_verdict_tells_the_values_that_were_looked_at() -> None:
    assert str(Assertion("p95_ttft_s < 2 and rejected == 0").judge(NUMBERS)) == (
        "FAILED: p95_ttft_s < 2 and rejected == 0   (p95_ttft_s = 1, rejected = 1)"
    )
    assert str(Assertion("rejected == 0 and p95_ttft_s < 2").judge(NUMBERS)).endswith("(rejected = 1)")
    assert str(Assertion("1 < 2").judge(NUMBERS)) == "holds: 1 < 2"


@pytest.mark.parametrize(("expression", "said"), [
    ("p99_queue_s < 1", "p99_queue_s has no value: nothing in this result has such a number"),
    ('tier["gold"].ok > 1', 'this result has no tier["gold"]; it has tier["premium"]'),
    ('share["gpu-3"] < 1', 'this result has no share["gpu-3"]; it has share["gpu-1"], share["gpu-2"]'),
    ("requests / (ok - 96) > 1", "it divides by zero: requests = 100, ok = 96"),
])  # fmt: skip
def test_what_cannot_be_judged_fails_and_says_why(expression: str, said: str) -> None:
    verdict = Assertion(expression).judge(NUMBERS)
    assert not verdict.ok
    assert said in str(verdict)


def test_what_is_not_looked_at_need_not_have_a_value() -> None:
    assert Assertion("requests == 100 or p99_queue_s < 1").judge(NUMBERS).ok


@pytest.mark.parametrize(("expression", "said"), [
    ("p95_tfft_s < 2", "did you mean p95_ttft_s"),
    ("p95_tfft_s < 2", "`--assert help` lists what there is"),
    ("colour == 1", "no result has 'colour'; `--assert help` lists"),
    ('tier["premium"].p95_tfft_s < 2', 'did you mean tier["premium"].p95_ttft_s'),
    ("before.ok < 2", "no result has 'before.ok'"),
    ("p95_ttft_s", "expected a comparison, as in p95_ttft_s < 2"),
    ("p95_ttft_s and ok > 1", "'p95_ttft_s': expected a comparison"),
    ("(ok > 1) + 1 > 1", "'ok > 1': expected a number"),
    ("(ok > 1) == (failed > 1)", "expected a number"),
    ("not ok", "expected a comparison"),
    ("ok >", "cannot be read at character"),
    ("", "cannot be read"),
    ("ok = 1", "cannot be read"),
    ("\0", "cannot be read"),
    ("min(ok) > 1", "min() has 1 arguments; expected 2 to 20"),
    ("abs(ok, ok) > 1", "abs() has 2 arguments"),
    ("min(ok, key=ok) > 1", "cannot be asserted"),
    ("min(ok, *ok) > 1", "cannot be asserted"),
    ("ok ** 9 > 1", "cannot be asserted; expected only numbers, names"),
    ("ok % 2 > 1", "cannot be asserted"),
    ("ok // 2 > 1", "cannot be asserted"),
    ("ok << 2 > 1", "cannot be asserted"),
    ("~ok > 1", "cannot be asserted"),
    ("ok is 1", "cannot be asserted"),
    ("ok in (1, 2)", "cannot be asserted"),
    ("True", "cannot be asserted"),
    ("'a' < 'b'", "cannot be asserted"),
    ("1j < 2", "cannot be asserted"),
    ("[ok][0] < 2", "cannot be asserted"),
    ("tier[0].ok < 2", "cannot be asserted"),
    ('tier["a"]["b"] < 2', "cannot be asserted"),
    ("ok.__class__ < 2", "no result has 'ok.__class__'"),
    ("().__class__ < 2", "cannot be asserted"),
    ("__import__('os').system('true') < 2", "cannot be asserted"),
    ("open('/etc/passwd') < 2", "cannot be asserted"),
    ("(lambda: 1)() < 2", "cannot be asserted"),
    ("(ok := 1) < 2", "cannot be asserted"),
    ("f'{ok}' < 2", "cannot be asserted"),
    ("[x for x in ok] < 2", "cannot be asserted"),
    ("(ok if ok > 1 else 2) < 2", "cannot be asserted"),
    ("ok < 1e999", "a number that is too large"),
    ("-" * 60 + "ok > 1", "nested too deep"),
    ("(" * 300 + "ok" + ")" * 300 + " > 1", "cannot be read"),
    ("ok > 1 and " * 200 + "ok > 1", f"expected at most {MOST_CHARS}"),
])  # fmt: skip
def test_what_is_no_assertion_is_refused_when_it_is_read(expression: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Assertion(expression)
    assert said in str(refused.value) and str(refused.value).startswith("--assert")


@given(strategies.text("ok<>=()[]'\".,+-*/ 019andnoteifr:{}\\\n_", max_size=60))
@quick(max_examples=400)
def test_any_text_is_judged_or_refused(text: str) -> None:
    try:
        assertion = Assertion(text)
    except ConfigError:
        return
    assert isinstance(assertion.judge(NUMBERS).ok, bool)


def test_a_command_may_have_names_of_its_own() -> None:
    assertion = Assertion(
        "ok >= before.ok and moved < 0.1 and before.error['x'] == 0", more=["moved"], prefixes=["before"]
    )
    assert assertion.judge(NUMBERS | {"before.ok": 90, "moved": 0.05}).ok
    with pytest.raises(ConfigError, match=r"did you mean before\.ok"):
        Assertion("before.okk > 1", prefixes=["before"])


def test_every_assertion_of_several_is_judged() -> None:
    verdicts = judge_all([Assertion("ok < 1"), Assertion("ok > 1")], NUMBERS)
    assert [verdict.ok for verdict in verdicts] == [False, True]
