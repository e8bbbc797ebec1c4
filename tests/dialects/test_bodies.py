"""Which bodies are requests, what is read of them, and what is refused and why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.sections import Limits
from rbeerouter.core.errors import FAILURES, RouterError
from rbeerouter.core.types import Request
from rbeerouter.dialects import bodies
from rbeerouter.dialects.surfaces import SURFACES
from tests.support.builders import quick

CHAT = b"/v1/chat/completions"
LIMITS = Limits()


def parse(
    body: bytes | str | dict[str, Any],
    headers: dict[bytes, bytes] | None = None,
    path: bytes = CHAT,
    limits: Limits = LIMITS,
) -> Request:
    """A body as bytes, as text or as what JSON makes of it."""
    text = json.dumps(body) if isinstance(body, dict) else body
    return bodies.parse(SURFACES[path], "id-1", headers or {}, text.encode() if isinstance(text, str) else text, limits)


def refusal(*arguments: Any, **named: Any) -> tuple[str, str | None]:
    """(message, param) of a body that is not a request."""
    with pytest.raises(RouterError) as raised:
        parse(*arguments, **named)
    assert raised.value.failure is FAILURES["invalid_json"]
    return raised.value.message, raised.value.param


# What is read.


def test_a_whole_request_is_read() -> None:
    body = {
        "model": "llama-3-8b", "messages": [{"role": "user", "content": "secret"}], "stream": True, "max_tokens": 64,
        "user": "ann", "priority": 3, "metadata": {"tier": "premium"}, "temperature": 0.5,
    }  # fmt: skip
    assert parse(body) == Request(
        id="id-1", path="/v1/chat/completions", model="llama-3-8b", model_size=8.0, user_id="ann", priority=3,
        max_tokens=64,
        stream=True, metadata={"tier": "premium", "type": "llm"}, prompt_tokens=48,
    )  # fmt: skip


def test_a_request_that_says_nothing_but_its_model_is_read() -> None:
    assert parse({"model": "m"}) == Request(
        "id-1", "/v1/chat/completions", "m", None, None, None, None, False, {"type": "llm"}, prompt_tokens=3
    )


def test_what_nobody_could_read_is_still_a_request_for_the_log() -> None:
    assert SURFACES[b"/v1/embeddings"].unread("id-1") == Request(
        "id-1", "/v1/embeddings", "", None, None, None, None, False, {"type": "embedding"}
    )


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/v1/chat/completions", "llm"), (b"/v1/completions", "llm"), (b"/v1/responses", "llm"),
        (b"/v1/embeddings", "embedding"), (b"/v1/rerank", "embedding"), (b"/v1/score", "embedding"),
        (b"/v1/pooling", "embedding"), (b"/v1/classify", "embedding"), (b"/v1/moderations", "llm"),
        (b"/v1/images/generations", "image"), (b"/v1/audio/speech", "audio"),
    ],
)  # fmt: skip
def test_the_type_of_a_request_comes_from_its_endpoint(path: bytes, kind: str) -> None:
    assert (parse({"model": "m"}, path=path).metadata, parse({"model": "m"}, path=path).path) == (
        {"type": kind}, path.decode(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({}, None),
        ({"max_tokens": 1}, 1),
        ({"max_completion_tokens": 2}, 2),
        ({"max_output_tokens": 3}, 3),
        ({"max_tokens": 1, "max_completion_tokens": 2, "max_output_tokens": 3}, 1),
        ({"max_completion_tokens": 2, "max_output_tokens": 3}, 2),
        ({"max_tokens": None, "max_completion_tokens": 2}, 2),
        ({"max_tokens": 0, "max_completion_tokens": 2}, 0),
        ({"max_completion_tokens": 0, "max_output_tokens": 3}, 0),
        ({"max_tokens": 2**63 - 1}, 2**63 - 1),
        ({"max_tokens": -1}, -1),
    ],
)
def test_the_limit_on_tokens_has_three_spellings(fields: dict[str, Any], value: int | None) -> None:
    assert parse({"model": "m", **fields}).max_tokens == value


@pytest.mark.parametrize(
    ("fields", "headers", "value"),
    [
        ({}, {}, None),
        ({"priority": "high"}, {}, "high"),
        ({"priority": -3}, {}, -3),
        ({}, {b"x-rbee-priority": b"low"}, "low"),
        ({"priority": None}, {b"x-rbee-priority": b"low"}, "low"),
        ({"priority": 0}, {b"x-rbee-priority": b"low"}, 0),
        ({"priority": "high"}, {b"x-rbee-priority": b"low"}, "high"),
        ({}, {b"x-rbee-priority": b"\xfc"}, "ü"),
    ],
)
def test_priority_comes_from_the_body_or_else_from_its_header(
    fields: dict[str, Any], headers: dict[bytes, bytes], value: str | int | None
) -> None:
    assert parse({"model": "m", **fields}, headers).priority == value


@pytest.mark.parametrize(("stream", "value"), [("true", True), ("false", False), ("null", False)])
def test_only_true_asks_for_a_stream(stream: str, value: bool) -> None:
    assert parse(f'{{"model": "m", "stream": {stream}}}').stream is value


# Metadata.


def test_metadata_keeps_texts_numbers_and_booleans_and_drops_the_rest() -> None:
    given_metadata = {"a": "x", "b": 1, "c": 1.5, "d": True, "e": None, "f": [1], "g": {"h": 1}, "i": ""}
    assert parse({"model": "m", "metadata": given_metadata}).metadata == {
        "a": "x", "b": 1, "c": 1.5, "d": True, "i": "", "type": "llm",
    }  # fmt: skip


def test_metadata_headers_come_over_the_body_and_the_type_may_be_given_by_either() -> None:
    headers = {b"x-rbee-meta-tier": b"gold", b"x-rbee-meta-no": "grün".encode(), b"x-other": b"1"}
    body = {"model": "m", "metadata": {"tier": "free", "n": 1}}
    assert parse(body, headers).metadata == {"tier": "gold", "n": 1, "no": "grün", "type": "llm"}
    assert parse({"model": "m", "metadata": {"type": "code"}}).metadata == {"type": "code"}
    assert parse({"model": "m"}, {b"x-rbee-meta-type": b"code"}).metadata == {"type": "code"}


def test_a_metadata_header_that_is_not_utf_8_is_read_as_well_as_it_can_be() -> None:
    assert parse({"model": "m"}, {b"x-rbee-meta-a": b"\xff"}).metadata == {"a": "\ufffd", "type": "llm"}


def test_integers_that_lua_cannot_hold_are_refused() -> None:
    edges = {"a": 2**63 - 1, "b": -(2**63)}
    assert parse({"model": "m", "metadata": edges}).metadata == {**edges, "type": "llm"}
    for number in (2**63, -(2**63) - 1, 10**400):
        assert refusal({"model": "m", "metadata": {"a": number}}) == (
            "metadata: an integer of over 64 bits", "metadata",
        )  # fmt: skip


def pairs(count: int) -> dict[str, Any]:
    return {"model": "m", "metadata": {f"k{index}": 1 for index in range(count)}}


def test_more_metadata_than_the_limit_is_refused() -> None:
    assert len(parse(pairs(64)).metadata) == 65
    assert refusal(pairs(65)) == ("metadata has more than 64 entries", "metadata")
    assert refusal(pairs(1), {b"x-rbee-meta-a": b"1"}, limits=Limits(metadata_pairs=1))[1] == "metadata"


def test_a_long_entry_of_metadata_is_refused() -> None:
    limits = Limits(field_chars=10)
    assert parse({"model": "m", "metadata": {"key": "1234567"}}, limits=limits).metadata["key"] == "1234567"
    expected = ("metadata: an entry has over 10 characters", "metadata")
    assert refusal({"model": "m", "metadata": {"key": "12345678"}}, limits=limits) == expected
    assert refusal({"model": "m"}, {b"x-rbee-meta-key": b"12345678"}, limits=limits) == expected
    assert refusal({"model": "m", "metadata": {"type": "1234567"}}, limits=limits) == expected


@pytest.mark.parametrize("value", [1, True])
def test_a_long_name_of_metadata_is_refused_whatever_its_value(value: object) -> None:
    assert refusal({"model": "m", "metadata": {"x" * 11: value}}, limits=Limits(field_chars=10))[1] == "metadata"


@pytest.mark.parametrize(
    ("fields", "headers", "name"),
    [
        ({"model": "x" * 11}, {}, "model"),
        ({"model": "m", "user": "x" * 11}, {}, "user"),
        ({"model": "m", "priority": "x" * 11}, {}, "priority"),
        ({"model": "m"}, {b"x-rbee-priority": b"x" * 11}, "priority"),
    ],
)
def test_a_long_field_is_refused(fields: dict[str, Any], headers: dict[bytes, bytes], name: str) -> None:
    assert refusal(fields, headers, limits=Limits(field_chars=10)) == (f"{name} is longer than 10 characters", name)


# What is no request.

ROWS: dict[str, tuple[bytes | str, str, str | None]] = {
    "nothing": ("", "the body is not valid JSON: Input data was truncated", None),
    "cut off": ('{"model": "m"', "the body is not valid JSON: Input data was truncated", None),
    "a word": ("hello", "the body is not valid JSON: JSON is malformed: invalid character (byte 0)", None),
    "single quotes": ("{'model': 'm'}",
                      "the body is not valid JSON: JSON is malformed: object keys must be strings (byte 1)",
                      None),
    "a comma too many": ('{"model":"m",}',
                         "the body is not valid JSON: JSON is malformed: trailing comma in object (byte 13)",
                         None),
    "more after it": ('{"model":"m"}{}',
                      "the body is not valid JSON: JSON is malformed: trailing characters (byte 14)", None),
    "NaN": ('{"model":"m","x":NaN}', "the body is not valid JSON: JSON is malformed: invalid character (byte 17)",
            None),
    "Infinity": ('{"model":"m","x":[-Infinity]}',
                 "the body is not valid JSON: JSON is malformed: invalid character (byte 19)", None),
    "a leading zero": ('{"model":"m","x":01}',
                       "the body is not valid JSON: JSON is malformed: invalid number (byte 18)", None),
    "a raw control character": ('{"model":"m","x":"\x01"}',
                                "the body is not valid JSON: JSON is malformed: invalid character (byte 18)", None),
    "an unknown escape": ('{"model":"m","x":"\\q"}',
                          "the body is not valid JSON: JSON is malformed: invalid escaped character (byte 19)", None),
    "a byte order mark": (b'\xef\xbb\xbf{"model":"m"}',
                          "the body is not valid JSON: JSON is malformed: invalid character (byte 0)", None),
    "UTF-16": ('{"model":"m"}'.encode("utf-16"),
               "the body is not valid JSON: JSON is malformed: invalid character (byte 0)", None),
    "not UTF-8, unread": (b'{"model":"m","x":"\xff"}', "the body is not UTF-8 text (byte 18)", None),
    "not UTF-8, read": (b'{"model":"\xff"}',
                        "the body is not valid JSON: 'utf-8' codec can't decode byte 0xff in position 0: "
                        "invalid start byte", None),
    "a surrogate as UTF-8": (b'{"model":"m","x":"\xed\xa0\x80"}', "the body is not UTF-8 text (byte 18)", None),
    "a lone surrogate, read": ('{"model":"\\ud800"}', "the body is not valid JSON: Input data was truncated", None),
    "a lone surrogate, unread": ('{"model":"m","x":"\\ud800"}', "the body is not valid JSON: Input data was truncated",
                                 None),
    "an array": ('["model"]', "the body: expected `object`, got `array`", None),
    "a text": ('"model"', "the body: expected `object`, got `str`", None),
    "a number": ("5", "the body: expected `object`, got `int`", None),
    "null": ("null", "the body: expected `object`, got `null`", None),
    "no model": ("{}", "model: this field is required", "model"),
    "model null": ('{"model":null}', "model: expected `str`, got `null`", "model"),
    "model a number": ('{"model":5}', "model: expected `str`, got `int`", "model"),
    "model empty": ('{"model":""}', "model: expected the name of a model, got an empty string", "model"),
    "model twice": ('{"model":"a","model":"b"}', "model: the body has this field twice", "model"),
    "model twice, the same": ('{"model":"a","x":1,"model":"a"}', "model: the body has this field twice", "model"),
    "model twice, once escaped": ('{"model":"a","\\u006dodel":"b"}', "model: the body has this field twice", "model"),
    "model twice, escaped inside": ('{"mod\\u0065l":"a","model":"b"}', "model: the body has this field twice", "model"),
    "model twice, both escaped": ('{"\\u006Dodel":"a","mode\\u006c":"b"}', "model: the body has this field twice",
                                  "model"),
    "model twice, one inside": ('{"model":"a","m":[{"model":"x"}],"model":"b"}', "model: the body has this field twice",
                                "model"),
    "stream a text": ('{"model":"m","stream":"true"}', "stream: expected `bool | null`, got `str`", "stream"),
    "stream a number": ('{"model":"m","stream":1}', "stream: expected `bool | null`, got `int`", "stream"),
    "max_tokens a text": ('{"model":"m","max_tokens":"5"}', "max_tokens: expected `int | null`, got `str`",
                          "max_tokens"),
    "max_tokens a fraction": ('{"model":"m","max_tokens":5.5}', "max_tokens: expected `int | null`, got `float`",
                              "max_tokens"),
    "max_tokens true": ('{"model":"m","max_tokens":true}', "max_tokens: expected `int | null`, got `bool`",
                        "max_tokens"),
    "max_tokens too large": ('{"model":"m","max_tokens":9223372036854775808}',
                             "max_tokens: expected `int` <= 9223372036854775807", "max_tokens"),
    "max_completion_tokens a list": ('{"model":"m","max_completion_tokens":[]}',
                                     "max_completion_tokens: expected `int | null`, got `array`",
                                     "max_completion_tokens"),
    "user a number": ('{"model":"m","user":5}', "user: expected `str | null`, got `int`", "user"),
    "priority a fraction": ('{"model":"m","priority":0.5}', "priority: expected `int | str | null`, got `float`",
                            "priority"),
    "priority true": ('{"model":"m","priority":true}', "priority: expected `int | str | null`, got `bool`", "priority"),
    "metadata a text": ('{"model":"m","metadata":"x"}', "metadata: expected `object | null`, got `str`", "metadata"),
    "metadata a list": ('{"model":"m","metadata":[]}', "metadata: expected `object | null`, got `array`", "metadata"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "message", "param"), ROWS.values(), ids=list(ROWS))
def test_a_body_that_is_no_request_is_refused_with_the_field_it_is_about(
    body: bytes | str, message: str, param: str | None
) -> None:
    assert refusal(body) == (message, param)


@pytest.mark.parametrize("inner", ["", '"model"', '{"model": 1}'], ids=["plain", "with a text", "with a key"])
def test_a_body_that_is_nested_too_deep_is_refused(inner: str) -> None:
    body = '{"model":"m","x":' + "[" * 100_000 + inner + "]" * 100_000 + "}"
    message, param = refusal(body)
    assert message.startswith("the body is not valid JSON: maximum recursion depth exceeded") and param is None


def test_a_body_that_is_nested_as_deep_as_people_do_is_a_request() -> None:
    assert parse('{"model":"m","x":' + "[" * 500 + '"model"' + "]" * 500 + "}").model == "m"


@pytest.mark.parametrize(
    "body",
    [
        '{"\\u006dodel":"m"}',
        '{"messages":[{"model":"x"},{"model":"y"}],"model":"m"}',
        '{"x":{"model":"a","model":"b"},"model":"m"}',
        '{"model":"m","x":"model"}',
        '{"model":"m","Model":"y","models":"z"}',
        '{"model":"m","mode\\u006cs":"y"}',
        '{"model":"m","stream":false,"stream":false}',
        '  {"model" : "m"}\r\n',
        '{"model":"m","x":"grün 日本 \\u00fc \\ud83d\\ude00"}',
        '{"model":"m","x":1' + "0" * 5000 + "}",
    ],
)  # fmt: skip
def test_a_body_that_is_only_unusual_is_a_request(body: str) -> None:
    assert parse(body).model == "m"


def test_a_refusal_never_quotes_what_the_client_wrote() -> None:
    for _, (_, message, _) in ROWS.items():
        assert "hello" not in message
    for body in (
        '{"model":"m","user":["secret"]}',
        '{"model":"m","metadata":"secret"}',
        '{"messages":"secret"}',
        '"secret"',
    ):
        assert "secret" not in refusal(body)[0]


@quick(max_examples=150)
@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_request_or_a_refusal(body: bytes) -> None:
    try:
        parse(body)
    except RouterError as error:
        assert error.failure is FAILURES["invalid_json"]
    else:
        assert json.loads(body)["model"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "a", "user"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@quick(max_examples=150)
@given(
    st.dictionaries(st.sampled_from(["model", "stream", "max_tokens", "user", "priority", "metadata", "x"]), JSON),
    st.booleans(),
)
def test_any_json_is_read_as_python_reads_it_or_refused(body: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(body, ensure_ascii=ascii_only)
    try:
        made = parse(text.encode("utf-8", "surrogatepass"))
    except RouterError as error:
        assert error.param in {None, *body, "model"} or str(error.param).startswith("metadata")
        return
    assert (made.model, made.stream, made.user_id) == (body["model"], body.get("stream") is True, body.get("user"))


def test_a_model_name_of_digits_is_only_a_name() -> None:
    assert parse({"model": "9" * 400 + "x7b"}).model_size is None


# What is read for scripts only.


@pytest.mark.parametrize(
    ("given", "session"),
    [(b"s-1", "s-1"), ("grün".encode(), "grün"), (b"\xff", "\ufffd"), (b"", None), (b"x" * 256, "x" * 256), (b"x" * 257, None)],
)
def test_a_session_is_named_by_its_header_if_it_is_short(given: bytes, session: str | None) -> None:
    assert parse({"model": "m"}, headers={b"x-session-id": given}).session_id == session


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b'{"model":"m"}', 3),
        (b'{"model":"m","prompt":"%b"}' % (b"x" * 8000), 2006),
        (b'{"model":"m","x":"data:image/png;base64,%b"}' % (b"A" * 40_000), 8),
        (b'{"model":"m","x":["data:a;base64,%b","data:b;base64,%b"]}' % (b"A" * 40_000, b"B" * 8000), 9),
        (b'{"model":"m","x":"data:image/png;base64,%b"}' % (b"A" * 1000), 260),
        (b'{"model":"m","x":"' + b";base64," * 100_000 + b'"}', 5),
        (b'{"model":"m","x":[' + b",".join([b'";base64,A"'] * 100_000) + b"]}", (20 + 12 * 100_000 - 1 - 9 * 256) // 4),
    ],
    ids=["least", "text", "picture", "two pictures", "small picture", "one mark within another", "too many to look at"],
)
def test_the_tokens_of_a_prompt_are_a_quarter_of_its_bytes_without_pictures(body: bytes, tokens: int) -> None:
    found = bodies.parse(SURFACES[CHAT], "id-1", {}, body, LIMITS).prompt_tokens
    assert found == tokens


def prompt_of(body: Any, chars: int = 1000) -> str | None:
    whole = json.dumps({"model": "m", **body}).encode()
    return bodies.parse(SURFACES[CHAT], "id-1", {}, whole, LIMITS, {}, chars).prompt


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        ({"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "kind\n!"}]}, "be\nkind\n!"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, PICTURE, {"text": "this"}]}]}, "see\nthis"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, {"content": "x"}]}, "x"),
        ({"prompt": "once"}, "once"),
        ({"prompt": ["once", "twice"]}, "once\ntwice"),
        ({"prompt": [1, 2, 3]}, None),
        ({"prompt": [[1, 2], [3]]}, None),
        ({"input": "embed me"}, "embed me"),
        ({"input": ["a", "b"]}, "a\nb"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "ask"}]}]}, "ask"),
        ({"messages": []}, None),
        ({}, None),
        ({"messages": "what"}, None),
        ({"messages": [{"content": 5}]}, None),
        ({"messages": [{"content": {"text": "x"}}]}, None),
        ({"messages": [[["x"]]]}, None),
        ({"prompt": [1.5]}, None),
        ({"prompt": [2**70]}, None),
        ({"prompt": ["a", *range(5000), "b"]}, "a"),
    ],
)
def test_the_prompt_is_the_text_of_what_is_said(body: Any, prompt: str | None) -> None:
    assert prompt_of(body) == prompt


def test_a_prompt_is_read_only_when_it_is_asked_for_and_only_its_beginning() -> None:
    messages = {"messages": [{"content": "x" * 10}, {"content": "y" * 10}]}
    assert [prompt_of(messages, chars) for chars in (0, 4, 10, 12, 99)] == [
        None, "xxxx", "x" * 10, "x" * 10 + "\ny", "x" * 10 + "\n" + "y" * 10,
    ]  # fmt: skip


def test_a_prompt_that_is_nested_too_deeply_is_no_error() -> None:
    for levels in (10, 100, 200, 300, 400):
        deep = b'{"model":"m","messages":[' + b'{"content":[' * levels + b'"x"' + b"]}" * levels + b"]}"
        made = bodies.parse(SURFACES[CHAT], "id-1", {}, deep, LIMITS, {}, 1000)
        assert made.prompt in ("x", None)
    assert prompt_of({"messages": [{"content": [{"content": ["x"]}]}]}) == "x"


def test_headers_for_the_script_are_handed_through() -> None:
    made = bodies.parse(SURFACES[b"/v1/completions"], "id-1", {}, b'{"model":"m"}', LIMITS, {"user-agent": "curl"})
    assert made.headers == {"user-agent": "curl"}


# Another model's name.


def test_the_model_is_renamed_and_every_other_value_keeps_its_bytes() -> None:
    values = [
        b'[1,  2.50 ,{"x" : 1e5}]',
        b'"\\u00e9\xc3\xa9\\/"',
        b"100000000000000000000000",
        b"-0.0",
        b"null",
        b"{ }",
    ]
    body = b'{"messages":%b,"model":"old","b":%b,"c":%b,"d":%b,"e":%b,"f":%b}' % tuple(values)
    assert bodies.rename_model(body, "new") == body.replace(b'"old"', b'"new"')


@pytest.mark.parametrize(
    ("body", "renamed"),
    [
        (b' { "model" : "old" , "x" : [ 1 ] } ', b'{"model":"new","x":[ 1 ]}'),
        (b'{"\\u006dodel":"old"}', b'{"model":"new"}'),
        (b'{"x":{"model":"inner"},"model":"old"}', b'{"x":{"model":"inner"},"model":"new"}'),
    ],
)
def test_only_the_outermost_model_is_renamed_however_it_is_spelled(body: bytes, renamed: bytes) -> None:
    assert bodies.rename_model(body, "new") == renamed


@pytest.mark.parametrize("name", ['with "quotes"', "grün", "a\\b", "line\nbreak", "日本"])
def test_any_name_is_written_as_json(name: str) -> None:
    assert json.loads(bodies.rename_model(b'{"model":"old","x":1}', name)) == {"model": name, "x": 1}


@quick(max_examples=100)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), JSON, max_size=5))
def test_renaming_changes_nothing_but_the_name(fields: dict[str, Any]) -> None:
    body = json.dumps({**fields, "model": "old"}).encode()
    try:
        renamed = bodies.rename_model(body, "new")
    except ValueError:
        assert "\\ud" in body.decode()
        return
    assert json.loads(renamed) == {**fields, "model": "new"}


# Other protocols.


def read(path: bytes, body: Any, headers: dict[bytes, bytes] | None = None, content_type: bytes = b"") -> Request:
    surface = SURFACES[path]
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return surface.parse(surface, "id-1", headers or {}, text, LIMITS, {}, 100, content_type)


@pytest.mark.parametrize(("given", "stream"), [({}, True), ({"stream": None}, True), ({"stream": False}, False)])
def test_ollama_streams_unless_it_is_told_not_to(given: dict[str, Any], stream: bool) -> None:
    made = read(b"/api/chat", {"model": "llama3", "messages": [{"role": "user", "content": "hi"}], **given})
    assert (made.stream, made.protocol, made.metadata, made.prompt) == (stream, "ollama", {"type": "llm"}, "hi")


def test_ollama_never_streams_embeddings() -> None:
    assert not read(b"/api/embed", {"model": "m", "input": "x"}).stream
    assert not read(b"/api/embed", {"model": "m", "input": "x", "stream": True}).stream


@pytest.mark.parametrize(("options", "most"), [({"num_predict": 5}, 5), ({"num_predict": -1}, None), (None, None), ({}, None)])
def test_ollama_says_among_its_options_how_much_may_be_written(options: Any, most: int | None) -> None:
    assert read(b"/api/generate", {"model": "m", "prompt": "x", "options": options}).max_tokens == most


@pytest.mark.parametrize("key", ["MODEL", "Model", "\\u004dodel", "NAME"])
def test_ollama_would_read_other_spellings_of_the_model_so_they_are_refused(key: str) -> None:
    with pytest.raises(RouterError) as raised:
        read(b"/api/chat", f'{{"model":"a","{key}":"b","messages":[]}}'.encode())
    assert raised.value.failure.code == "invalid_json"
    assert read(b"/api/chat", b'{"model":"a","tools":[{"Model":"x","text":"\\u0001"}]}').model == "a"


def test_ollama_once_called_the_model_name() -> None:
    assert read(b"/api/show", {"name": "llama3:8b"}).model == "llama3:8b"
    with pytest.raises(RouterError, match="model: expected the name"):
        read(b"/api/show", {})


def test_a_request_of_anthropics_names_its_user_in_its_metadata() -> None:
    body = {
        "model": "m", "max_tokens": 9, "stream": True, "metadata": {"user_id": "ann"}, "system": [{"type": "text", "text": "Be"}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    }  # fmt: skip
    made = read(b"/v1/messages", body, {b"x-rbee-priority": b"high", b"x-rbee-meta-tier": b"gold", b"x-session-id": b"s"})
    assert made == Request(
        "id-1", "/v1/messages", "m", None, "ann", "high", 9, True, {"tier": "gold", "type": "llm"}, "s",
        len(json.dumps(body)) // 4, {}, "Be\nhi", "anthropic",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "model"),
    [({"query": "select 1"}, "data"), ([1, {"model": "x"}], "data"), ("text", "data"), ({"model": "sql"}, "sql"), ({"model": 1}, "data")],
)  # fmt: skip
def test_a_query_of_data_may_be_any_json(body: Any, model: str) -> None:
    made = read(b"/api/v1/data/query", body)
    assert (made.model, made.metadata, made.protocol, made.stream) == (model, {"type": "data"}, "data", False)


def test_a_query_of_data_that_is_no_json_is_refused() -> None:
    with pytest.raises(RouterError, match="not valid JSON"):
        read(b"/api/v1/data/query", b"select 1")


def test_only_a_query_that_is_an_object_is_given_another_model() -> None:
    assert bodies.rename_in_data(b'{"q":1}', "m") == b'{"q":1,"model":"m"}'
    assert bodies.rename_in_data(b"[1]", "m") == b"[1]"


def upload(*fields: tuple[str, str]) -> bytes:
    parts = [b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\x00\xff']
    parts += [b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b' % (n.encode(), v.encode()) for n, v in fields]
    return b"\r\n".join([*parts, b"--b--\r\n"])


def test_an_upload_is_read_from_its_text_fields() -> None:
    body = upload(("model", "whisper-large-v3"), ("user", "ann"), ("stream", "true"))
    made = read(b"/v1/audio/transcriptions", body, content_type=b"multipart/form-data; boundary=b")
    assert made == Request(
        "id-1", "/v1/audio/transcriptions", "whisper-large-v3", 1.55, "ann", None, None, True, {"type": "audio"},
    )  # fmt: skip
    assert b"tiny" in bodies.rename_model(body, "tiny") and b"whisper" not in bodies.rename_model(body, "tiny")


def test_an_upload_without_a_model_is_refused_and_json_is_taken_too() -> None:
    with pytest.raises(RouterError, match="model: this field is required"):
        read(b"/v1/images/edits", upload(), content_type=b"multipart/form-data; boundary=b")
    with pytest.raises(RouterError, match="longer than"):
        read(b"/v1/images/edits", upload(("model", "m" * 5000)), content_type=b"multipart/form-data; boundary=b")
    assert read(b"/v1/images/edits", {"model": "m"}, content_type=b"application/json; charset=utf-8").model == "m"
