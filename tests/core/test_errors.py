"""The table of failures: what the client sees, and what the router does next, stand in its rows alone."""

from __future__ import annotations

import pytest

from rbeerouter.core.errors import FAILURES, RouterError


def codes(flag: str) -> set[str]:
    return {code for code, failure in FAILURES.items() if getattr(failure, flag)}


def test_each_failure_has_the_status_that_clients_expect() -> None:
    assert {code: failure.status for code, failure in FAILURES.items()} == {
        "invalid_json": 400,
        "bad_request": 400,
        "not_found": 404,
        "model_not_found": 404,
        "method_not_allowed": 405,
        "request_timeout": 408,
        "request_too_large": 413,
        "unsupported_media_type": 415,
        "expectation_failed": 417,
        "headers_too_large": 431,
        "no_healthy_worker": 503,
        "out_of_resources": 503,
        "draining": 503,
        "upstream_connect_failed": 502,
        "upstream_disconnected": 502,
        "upstream_protocol_error": 502,
        "upstream_first_content_timeout": 504,
        "upstream_stalled": 504,
        "upstream_deadline": 504,
        "upstream_error_status": 502,
        "client_gone": 499,
        "client_stalled": 499,
        "internal_error": 500,
    }


def test_only_a_worker_that_gave_nothing_is_replaced_by_another() -> None:
    assert codes("retry") == {"upstream_connect_failed", "upstream_disconnected"}


def test_only_what_a_worker_did_counts_against_it() -> None:
    assert codes("blame") == {
        "upstream_connect_failed",
        "upstream_disconnected",
        "upstream_protocol_error",
        "upstream_first_content_timeout",
        "upstream_stalled",
        "upstream_error_status",
    }


def test_clients_are_told_to_try_again_only_where_it_can_help() -> None:
    assert codes("should_retry") == {"request_timeout", "no_healthy_worker", "out_of_resources", "draining"}
    assert codes("retry_after") == {"no_healthy_worker", "out_of_resources", "draining"}


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
