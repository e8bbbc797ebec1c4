"""The table of failures: what the client sees, and what the router does next, stand in its rows alone."""

from __future__ import annotations

import pytest

from rbeerouter.core.errors import BROKEN, FAILURES, FULL, LOST, SLOW, UNSENT, RouterError, refusal


def codes(flag: str) -> set[str]:
    return {code for code, failure in FAILURES.items() if getattr(failure, flag)}


def test_each_failure_has_the_status_that_clients_expect() -> None:
    assert {code: failure.status for code, failure in FAILURES.items()} == {
        "invalid_json": 400,
        "invalid_form": 400,
        "invalid_header": 400,
        "bad_request": 400,
        "not_found": 404,
        "model_not_found": 404,
        "method_not_allowed": 405,
        "request_timeout": 408,
        "request_too_large": 413,
        "unsupported_media_type": 415,
        "expectation_failed": 417,
        "headers_too_large": 431,
        "script_rejected": 403,
        "no_healthy_worker": 503,
        "queue_full": 503,
        "queue_timeout": 503,
        "out_of_resources": 503,
        "draining": 503,
        "upstream_connect_failed": 502,
        "upstream_disconnected": 502,
        "upstream_protocol_error": 502,
        "upstream_first_content_timeout": 504,
        "upstream_stalled": 504,
        "upstream_deadline": 504,
        "upstream_overloaded": 503,
        "upstream_error_status": 502,
        "upstream_error_event": 502,
        "upstream_unusable": 502,
        "poison_request": 502,
        "client_gone": 499,
        "client_stalled": 499,
        "internal_error": 500,
    }


def test_only_a_worker_that_gave_nothing_is_replaced_by_another() -> None:
    assert {code: failure.retry for code, failure in FAILURES.items() if failure.retry} == {
        "upstream_connect_failed": UNSENT,
        "upstream_disconnected": LOST,
        "upstream_overloaded": FULL,
        "upstream_error_status": BROKEN,
        "upstream_error_event": BROKEN,
        "upstream_unusable": BROKEN,
        "upstream_first_content_timeout": SLOW,
    }


def test_only_what_a_worker_did_counts_against_it() -> None:
    assert codes("blame") == {
        "upstream_connect_failed",
        "upstream_disconnected",
        "upstream_protocol_error",
        "upstream_first_content_timeout",
        "upstream_stalled",
        "upstream_error_status",
        "upstream_error_event",
    }


def test_clients_are_told_to_try_again_only_where_it_can_help() -> None:
    later = {"no_healthy_worker", "out_of_resources", "queue_full", "queue_timeout", "draining"}
    later.add("upstream_overloaded")
    assert codes("should_retry") == {"request_timeout", *later}
    assert codes("retry_after") == later
    assert {failure.retry_after for failure in FAILURES.values()} == {0, 1, 5}


@pytest.mark.parametrize(
    ("status", "retry_after_s", "kind", "should_retry", "seconds"),
    [
        (403, None, "invalid_request_error", False, 0),
        (400, 0, "invalid_request_error", True, 0),
        (429, None, "rate_limit_error", True, 0),
        (429, 2.1, "rate_limit_error", True, 3),
        (503, 3600, "service_unavailable_error", True, 60),
        (500, None, "server_error", False, 0),
        (599, -1, "server_error", True, 0),
        (404, float("nan"), "invalid_request_error", True, 0),
        (404, float("inf"), "invalid_request_error", True, 60),
    ],
)
def test_a_script_that_rejects_may_say_how(
    status: int, retry_after_s: float | None, kind: str, should_retry: bool, seconds: int
) -> None:
    made = refusal(status, "not today", retry_after_s)
    row = made.failure
    assert (made.message, row.code, row.retry, row.blame, row.close) == ("not today", "script_rejected", "", False, False)
    assert (row.status, row.type, row.should_retry, row.retry_after) == (status, kind, should_retry, seconds)


@pytest.mark.parametrize("status", [0, 200, 302, 399, 600])
def test_a_script_cannot_reject_with_a_status_that_is_no_error(status: int) -> None:
    with pytest.raises(ValueError, match="expected 400 to 599"):
        refusal(status, "fine")


def test_the_connection_is_closed_where_what_follows_on_it_cannot_be_trusted() -> None:
    assert codes("close") == {
        "bad_request",
        "request_timeout",
        "request_too_large",
        "expectation_failed",
        "headers_too_large",
        "draining",
    }


def test_a_refusal_carries_its_row_its_sentence_and_the_field_it_is_about() -> None:
    refusal = RouterError("model_not_found", "no such model", "model")
    assert (refusal.failure, refusal.message, refusal.param, str(refusal)) == (
        FAILURES["model_not_found"], "no such model", "model", "no such model",
    )  # fmt: skip


def test_a_refusal_with_a_code_that_has_no_row_is_a_programming_error() -> None:
    with pytest.raises(KeyError):
        RouterError("no_such_code", "never")
