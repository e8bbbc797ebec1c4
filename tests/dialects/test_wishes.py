"""What clients' headers say of how their requests are to be routed, and what of it is refused.

tests/wire/test_headers.py has how the headers are found.
"""

from __future__ import annotations

import pytest

from rbeerouter.core.errors import RouterError
from rbeerouter.core.types import Wishes
from rbeerouter.dialects.wishes import wishes_of

POSITIVE = "expected a positive number of milliseconds, such as 250"


def test_each_header_fills_its_field_and_spaces_around_it_do_not_count() -> None:
    given = {
        b"routing-strategy": b" least-request:2 ", b"config-profile": b"auto", b"x-rbee-session-key": b"k" * 256,
        b"x-slo-ttft-ms": b"250", b"x-slo-tpot-ms": b"12.5", b"x-slo-e2e-ms": b"999999999",
    }  # fmt: skip
    assert wishes_of(given.items()) == Wishes("least-request:2", "auto", "k" * 256, 250.0, 12.5, 999_999_999.0)


def test_wishes_that_are_empty_are_none() -> None:
    assert wishes_of([(b"routing-strategy", b"  "), (b"config-profile", b"")]) is None


def test_of_names_that_are_too_long_enough_is_kept_to_refuse_them_where_they_are_read() -> None:
    given = {b"routing-strategy": b"s" * 10_000, b"config-profile": b"p" * 257}
    assert wishes_of(given.items()) == Wishes("s" * 257, "p" * 257)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (b"x-slo-ttft-ms", b"0", f"x-slo-ttft-ms: '0': {POSITIVE}"),
        (b"x-slo-tpot-ms", b"-1", f"x-slo-tpot-ms: '-1': {POSITIVE}"),
        (b"x-slo-e2e-ms", b"soon", f"x-slo-e2e-ms: 'soon': {POSITIVE}"),
        (b"x-slo-e2e-ms", b"", f"x-slo-e2e-ms: '': {POSITIVE}"),
        (b"x-slo-e2e-ms", b"nan", f"x-slo-e2e-ms: 'nan': {POSITIVE}"),
        (b"x-slo-e2e-ms", b"1234567890", f"x-slo-e2e-ms: '1234567890': {POSITIVE}"),
        (b"x-rbee-session-key", b"", "x-rbee-session-key: '': expected 1 to 256 bytes, got 0"),
        (b"x-rbee-session-key", b"k" * 257, f"x-rbee-session-key: '{'k' * 40}': expected 1 to 256 bytes, got 257"),
    ],
)  # fmt: skip
def test_wishes_that_make_no_sense_are_refused_with_what_was_expected(name: bytes, value: bytes, message: str) -> None:
    with pytest.raises(RouterError) as caught:
        wishes_of([(name, value)])
    assert (caught.value.failure.code, caught.value.message) == ("invalid_header", message)
