"""Tests of the header rules by themselves: what may pass, in which spelling, and what a status line says.

Run by pytest. What they do to real requests is in test_exchange.py.
"""

from __future__ import annotations

import pytest

from rbeerouter.core.types import Wishes
from rbeerouter.wire.headers import Shapes, chunk, client_of, header_value, status_line, with_headers

SHAPES = Shapes(["Accept", "openai-*"])


def test_only_allowed_names_pass_in_any_spelling_and_leave_in_lower_case() -> None:
    raw = {b"ACCEPT": b"a", b"Cookie": b"b", b"OpenAI-Beta": b"c", b"openai": b"d", b"x-openai-beta": b"e"}
    assert SHAPES.of(raw).lines(raw) == b"accept: a\r\nopenai-beta: c\r\n"


def test_headers_that_would_steer_an_engine_never_pass() -> None:
    """llama.cpp goes on for a client that has left; SGLang lets the caller choose its rank and priority."""
    raw = {b"X-Conversation-Id": b"a", b"X-Override-Priority": b"9", b"x-override-routed-dp-rank": b"0", b"X-Tier": b"b"}
    shapes = Shapes(["*"])
    assert shapes.of(raw).lines(raw) == b"x-tier: b\r\n"


def test_a_shape_holds_names_and_no_values() -> None:
    first, second = {b"Accept": b"1", b"X": b"2"}, {b"Accept": b"3", b"X": b"4"}
    assert SHAPES.of(first) is SHAPES.of(second)
    assert SHAPES.of(first).lines(second) == b"accept: 3\r\n"
    assert SHAPES.of(first).get(second, b"x") == b"4"
    assert SHAPES.of(first).get(second, b"y") is None


def test_the_order_of_names_makes_another_shape_with_the_same_meaning() -> None:
    one, other = {b"Accept": b"1", b"X": b"2"}, {b"X": b"2", b"Accept": b"1"}
    assert SHAPES.of(one).lines(one) == SHAPES.of(other).lines(other) == b"accept: 1\r\n"


def test_names_that_a_connection_header_lists_do_not_pass() -> None:
    raw = {b"Accept": b"a", b"OpenAI-Beta": b"b", b"Connection": b"keep-alive,  ACCEPT , x"}
    assert SHAPES.less(raw).lines(raw) == b"openai-beta: b\r\n"
    assert SHAPES.of(raw).lines(raw) == b"accept: a\r\nopenai-beta: b\r\n"


def test_only_the_headers_that_the_script_may_see_are_shown_to_it_under_lower_case_names() -> None:
    shapes = Shapes(["accept"], shown=["User-Agent", "x-tier"])
    raw = {b"user-AGENT": b"curl/8", b"X-Tier": "grün".encode() + b"\xff", b"Accept": b"a", b"x-rbee-priority": b"1"}
    assert shapes.of(raw).texts(raw) == {"user-agent": "curl/8", "x-tier": "grün\ufffd"}
    assert shapes.of({b"Accept": b"a"}).shown == SHAPES.of(raw).shown == []


def test_headers_for_us_are_found_in_any_spelling() -> None:
    raw = {b"X-Rbee-Priority": b"1", b"X-SESSION-ID": b"s", b"x-session": b"t"}
    assert SHAPES.of(raw).ours == [(b"x-rbee-priority", b"X-Rbee-Priority"), (b"x-session-id", b"X-SESSION-ID")]


WISHES = {
    b"Routing-Strategy": b" least-request:2 ", b"config-profile": b"auto", b"X-Rbee-Session-Key": b"k" * 256,
    b"x-slo-ttft-ms": b"250", b"x-slo-tpot-ms": b"12.5", b"x-slo-e2e-ms": b"999999999",
}  # fmt: skip


def test_a_clients_wishes_are_read_and_go_no_further() -> None:
    shape = Shapes(["*"]).of(WISHES)
    assert shape.wishes(WISHES) == Wishes("least-request:2", "auto", "k" * 256, 250.0, 12.5, 999_999_999.0)
    assert shape.lines(WISHES) == b""
    assert Shapes(["*"]).of({b"Accept": b"a"}).wishing == []


def test_wishes_that_are_empty_are_none() -> None:
    raw = {b"routing-strategy": b"  ", b"config-profile": b""}
    assert SHAPES.of(raw).wishes(raw) is None


@pytest.mark.parametrize(
    ("told", "hops", "client"),
    [
        (b"192.0.2.7", 1, "192.0.2.7"), (b"6.6.6.6, 192.0.2.7", 1, "192.0.2.7"), (b"6.6.6.6 , 192.0.2.7,10.0.0.1", 2, "192.0.2.7"),
        (b"192.0.2.7", 2, None), (b"192.0.2.7:5123", 1, "192.0.2.7"), (b"2001:DB8::1", 1, "2001:db8::1"),
        (b'"[2001:db8::1]:443"', 1, "2001:db8::1"), (b"unknown", 1, None), (b"", 1, None), (b"6.6.6.6,", 1, None),
    ],
)  # fmt: skip
def test_the_client_is_whom_the_first_of_our_own_proxies_names(told: bytes, hops: int, client: str | None) -> None:
    assert client_of(told, hops) == client


@pytest.mark.parametrize(
    ("added", "lines"),
    [
        ((("accept", "b"),), b"x-request-id: r\r\naccept: b\r\n"),
        ((("X-New", "1"),), b"accept: a\r\nx-request-id: r\r\nx-new: 1\r\n"),
        ((("x-new", "1"), ("x-new", "2")), b"accept: a\r\nx-request-id: r\r\nx-new: 2\r\n"),
        ((("x-new", "1\r\nx-evil: 2"),), b"accept: a\r\nx-request-id: r\r\nx-new: 1??x-evil: 2\r\n"),
    ],
)
def test_the_script_s_headers_take_the_place_of_those_of_the_same_name(added: tuple[tuple[str, str], ...], lines: bytes) -> None:
    assert with_headers(b"accept: a\r\nx-request-id: r\r\n", added) == lines
    assert with_headers(b"", added[:0]) == b"\r\n"


def test_peers_cannot_make_the_memory_of_shapes_grow_without_end() -> None:
    shapes = Shapes(["accept"])
    for number in range(5000):
        raw = {b"x-%d" % number: b"", b"Accept": b"yes"}
        assert shapes.of(raw).lines(raw) == b"accept: yes\r\n"
    assert len(shapes._known) <= 512


@pytest.mark.parametrize(
    ("status", "line"),
    [(200, b"HTTP/1.1 200 OK\r\n"), (404, b"HTTP/1.1 404 Not Found\r\n"), (599, b"HTTP/1.1 599 Unknown\r\n")],
)
def test_a_status_line_has_the_standard_phrase_or_none(status: int, line: bytes) -> None:
    assert status_line(status) == line


@pytest.mark.parametrize(
    ("text", "value"),
    [("plain: text!", b"plain: text!"), ("a\r\nset-cookie: b", b"a??set-cookie: b"), ("\u00e9\x00\x7f\U0001f41d", b"????")],
)
def test_any_text_becomes_one_harmless_header_value(text: str, value: bytes) -> None:
    assert header_value(text) == value


def test_a_chunk_says_its_size_in_hexadecimal() -> None:
    assert chunk(b"x" * 255) == b"ff\r\n" + b"x" * 255 + b"\r\n"


@pytest.mark.parametrize(
    ("raw", "stream", "seconds"),
    [
        ({b"X-Rbee-Timeout-Ms": b"1500"}, True, 1.5), ({b"x-stainless-read-timeout": b"600"}, False, 600.0),
        ({b"x-stainless-read-timeout": b"600"}, True, None), ({b"x-stainless-read-timeout": b"NOT_GIVEN"}, False, None),
        ({b"x-rbee-timeout-ms": b"500", b"x-stainless-read-timeout": b"600"}, False, 0.5),
    ],
)  # fmt: skip
def test_a_client_s_patience_is_read_where_it_is_told(raw: dict[bytes, bytes], stream: bool, seconds: float | None) -> None:
    shape = SHAPES.of(raw)
    assert (shape.hurried, shape.timeout_s(raw, stream)) == (True, seconds)


def test_most_requests_are_in_no_hurry_and_some_say_who_sends_them() -> None:
    assert (SHAPES.of({b"Accept": b"a"}).hurried, SHAPES.of({b"Accept": b"a"}).credential) == (False, None)
    assert SHAPES.of({b"X-API-Key": b"a"}).credential == b"X-API-Key"
    assert SHAPES.of({b"Authorization": b"a", b"x-api-key": b"b"}).credential == b"Authorization"
