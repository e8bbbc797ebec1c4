"""Tests of reading Prometheus pages: exact names, labels, and no trouble with nonsense."""

from __future__ import annotations

import random
import timeit

from rbeerouter.dialects.engines.prometheus import Metrics, count, labels, share
from tests.dialects.engines import PAYLOADS

PAGE = b"""# HELP a_total The a_total of all.
# TYPE a_total counter
a_total{engine="0",model="x"} 3
a_total{engine="1",model="x"} 4.5
a_created{engine="0",model="x"} 1.79e+09
a_total_more 100
b 7 1395066363000
c{path="C:\\\\x",text="a \\"b\\" } 9",line="1\\n2"} 2.0 # {trace_id="q"} 5
d NaN
e{x="1"} +Inf
e{x="2"} 1
f
g{x="1" 5
h{} 8"""


def test_a_name_is_matched_whole_and_its_series_are_summed() -> None:
    page = Metrics(PAGE)
    assert page.total("a_total") == 7.5
    assert page.mean("a_total") == 3.75
    assert page.total("a") is None
    assert page.total("total") is None


def test_the_first_name_that_is_there_counts() -> None:
    assert Metrics(PAGE).total("new", "a_total", "b") == 7.5
    assert Metrics(PAGE).mean("new", "older") is None


def test_times_and_exemplars_behind_a_value_are_no_part_of_it() -> None:
    page = Metrics(PAGE)
    assert (page.total("b"), page.total("c"), page.total("h")) == (7.0, 2.0, 8.0)
    assert page.labels("c") == [{"path": "C:\\x", "text": 'a "b" } 9', "line": "1\n2"}]


def test_what_is_no_number_is_left_out() -> None:
    page = Metrics(PAGE)
    assert (page.total("d"), page.total("e"), page.total("f"), page.total("g")) == (None, 1.0, None, None)


def test_a_page_with_carriage_returns_reads_the_same() -> None:
    assert Metrics(PAGE.replace(b"\n", b"\r\n")).total("a_total") == 7.5


def test_numbers_that_cannot_be_are_not_known() -> None:
    assert (count(None), count(-1.0), count(1e300), count(3.9)) == (None, None, None, 3)
    assert (share(None), share(-0.1), share(0.5), share(1.7)) == (None, None, 0.5, 1.0)
    assert labels(b'nonsense,="x",a="b"') == {"a": "b"}


def test_a_page_of_one_endless_series_is_read_to_its_limit() -> None:
    page = Metrics(b"".join(b'a{n="%d"} 1\n' % number for number in range(20_000)))
    assert page.total("a") == 4096


def test_no_damage_to_a_page_makes_it_raise() -> None:
    whole = (PAYLOADS / "vllm_metrics.txt").read_bytes()[6000:12000]
    chance = random.Random(5)
    for _ in range(300):
        page = bytearray(whole)
        for _ in range(chance.randrange(1, 40)):
            page[chance.randrange(len(page))] = chance.randrange(256)
        read = Metrics(bytes(page))
        for name in ("vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:engine_sleep_state"):
            read.total(name)
            read.labels(name)


def test_a_page_of_a_large_server_is_read_in_less_than_a_millisecond() -> None:
    """Eight data-parallel ranks: 300 kilobytes. The best of several turns, as the machine has other work."""
    page = (PAYLOADS / "vllm_metrics.txt").read_bytes()
    lines = [
        line.replace(b'engine="0"', b'engine="%d"' % rank)
        for line in page.split(b"\n")
        for rank in range(1 if line.startswith(b"#") or b"vllm:" not in line else 8)
    ]
    large = b"\n".join(lines)
    names = ("running", "waiting")

    def read() -> None:
        for name in names:
            assert Metrics(large).total(f"vllm:num_requests_{name}")

    assert len(large) > 250_000
    assert min(timeit.repeat(read, number=1, repeat=20)) < 0.001


def test_a_sum_that_is_larger_than_any_number_is_not_known() -> None:
    page = Metrics(b'x{a="1"} 1e308\nx{a="2"} 1e308\n')
    assert (page.total("x"), page.mean("x")) == (None, None)
