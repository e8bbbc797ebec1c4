"""Bodies of several parts: what is read of them, and which are refused because they can be read in two ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.errors import RouterError
from rbeerouter.dialects import multipart
from tests.support.builders import quick

WANTED = frozenset({"model", "user", "stream"})
AUDIO = bytes(range(256)) * 4


def text_part(name: str, value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return b'Content-Disposition: form-data; name="%b"\r\n\r\n%b' % (name.encode(), value)


FILE = (
    b'Content-Disposition: form-data; name="file"; filename="speech; model.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    + AUDIO
)


def form(*parts: bytes, boundary: bytes = b"xYz") -> bytes:
    return b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts) + b"--%b--\r\n" % boundary


def refused(body: bytes) -> tuple[str, str | None]:
    with pytest.raises(RouterError) as raised:
        multipart.fields(body, b"xYz", WANTED, 100)
    assert raised.value.failure.code == "invalid_form"
    return raised.value.message, raised.value.param


def test_text_fields_are_found_wherever_the_files_stand() -> None:
    body = form(FILE, text_part("model", "whisper-1"), text_part("language", "en"), text_part("user", "anñ"))
    assert multipart.fields(body, b"xYz", WANTED, 100) == {"model": "whisper-1", "user": "anñ"}
    assert multipart.fields(form(text_part("model", "")), b"xYz", WANTED, 100) == {"model": ""}


@pytest.mark.parametrize(
    "part",
    [
        b"content-disposition:form-data;name=model\r\n\r\nm",
        b'Content-Type: text/plain; charset=utf-8\r\nCONTENT-DISPOSITION: Form-Data; Name="model"\r\n\r\nm',
        b'Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: 8bit\r\n\r\nm',
    ],
)
def test_the_spellings_of_a_parts_head_are_alike(part: bytes) -> None:
    assert multipart.fields(form(FILE, part), b"xYz", WANTED, 100) == {"model": "m"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (form(text_part("model", "a"), text_part("model", "b")), "model"),
        (form(text_part("model", "m" * 401)), "model"),
        (form(text_part("model", b"\xff")), "model"),
        (form(b'Content-Disposition: form-data; name="model"; filename="m"\r\n\r\nm'), "model"),
        (form(text_part("model", "m"))[:-4], None),
        (form(text_part("model", "m"))[:-8], None),
        (b"preamble\r\n" + form(text_part("model", "m")), None),
        (form(text_part("model", "m")) + b"epilogue", None),
        (form(text_part("model", "m")) + b"\r\n" * 50 + form(text_part("model", "b")), None),
        (form(text_part("model", "a--xYz")), None),
        (form(text_part("x", "y") + b"\n--xYz--"), None),
        (form(b'Content-Disposition: form-data; name="model"; x="--xYz"\r\n\r\nm'), None),
        (form(text_part("model", "m"), boundary=b"other"), None),
        (form(text_part("model", "m")).replace(b"--xYz\r\n", b"--xYzz\r\n"), None),
        (form(b'X: %b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm' % (b"x" * 5000)), None),
        (form(b"\r\nm"), None),
        (form(b'Content-Disposition: attachment; name="model"\r\n\r\nm'), None),
        (form(b'Content-Disposition: form-data; name="model"; name="x"\r\n\r\nm'), None),
        (form(b"Content-Disposition: form-data; name=\"x\"; name*=utf-8''model\r\n\r\nm"), None),
        (form(b'Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: base64\r\n\r\nbQ=='), None),
        (form(b'Content-Disposition: form-data; name="x"\r\nContent-Disposition: form-data; name="model"\r\n\r\nm'), None),
        (form(text_part("file", b"\n--xYz\n" + text_part("model", "b")), text_part("model", "a")), None),
        (form(*[text_part("x", "y")] * 257), None),
        (b"", None),
    ],
)
def test_what_is_broken_or_can_be_read_in_two_ways_is_refused(body: bytes, param: str | None) -> None:
    assert refused(body)[1] == param


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=xYz", b"xYz"), (b'Multipart/Form-Data; charset=utf-8; boundary="x y"', b"x y"),
        (b'multipart/form-data ; boundary="----=_Part_1_2.3";', b"----=_Part_1_2.3"),
        (b"multipart/form-data;boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW", b"----WebKitFormBoundary7MA4YWxkTrZu0gW"),
    ],
)  # fmt: skip
def test_the_boundary_is_read_from_the_content_type(content_type: bytes, boundary: bytes) -> None:
    assert multipart.boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        (b"multipart/mixed; boundary=x", "unsupported_media_type"), (b"text/plain", "unsupported_media_type"),
        (b"multipart/form-data", "invalid_form"), (b"multipart/form-data; boundary=", "invalid_form"),
        (b"multipart/form-data; boundary=a; boundary=b", "invalid_form"),
        (b"multipart/form-data; boundary=a, multipart/form-data; boundary=b", "invalid_form"),
        (b"multipart/form-data; xboundary=a", "invalid_form"), (b"multipart/form-data; xboundary=a; boundary =b", "invalid_form"),
        (b"multipart/form-data; boundary=a; boundary*0=b", "invalid_form"), (b"multipart/form-data; boundary*=utf-8''a", "invalid_form"),
        (b'multipart/form-data; x="; boundary=b;"; boundary=a', "invalid_form"),
        (b'multipart/form-data; x="\\"; boundary=b; y="; boundary=a', "invalid_form"),
        (b"multipart/form-data; boundary=%b" % (b"x" * 71), "invalid_form"),
        (b'multipart/form-data; boundary="a\xff"', "invalid_form"),
    ],
)
def test_a_content_type_without_a_usable_boundary_is_refused(content_type: bytes, code: str) -> None:
    with pytest.raises(RouterError) as raised:
        multipart.boundary_of(content_type)
    assert raised.value.failure.code == code


def test_renaming_the_model_rewrites_that_part_alone() -> None:
    parts = (FILE, text_part("model", "old"), text_part("user", "ann"))
    assert multipart.rename_model(form(*parts), "new") == form(FILE, text_part("model", "new"), parts[2])


def test_a_body_without_a_model_is_given_one() -> None:
    named = multipart.rename_model(form(FILE), "new")
    assert multipart.fields(named, b"xYz", WANTED, 100) == {"model": "new"} and named.endswith(form(FILE))


@quick()
@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 30))
def test_any_bytes_are_read_or_refused(noise: bytes, at: int, cut: int) -> None:
    whole = form(FILE[:160], text_part("model", "m"))
    body = whole[:at] + noise + whole[at + cut :]
    for text in (noise, b"--xYz" + noise, body):
        try:
            found = multipart.fields(text, b"xYz", WANTED, 100)
        except RouterError as refusal:
            assert refusal.failure.code == "invalid_form"
        else:
            assert found.keys() <= WANTED


@quick()
@given(st.binary(max_size=2000).filter(lambda content: b"xYz" not in content), st.text(max_size=20))
def test_whatever_a_file_holds_the_model_is_found(content: bytes, model: str) -> None:
    body = form(text_part("file", content), text_part("model", model))
    assert multipart.fields(body, b"xYz", WANTED, 100) == {"model": model}
