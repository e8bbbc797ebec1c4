"""Everything that can go wrong, in one table. Nobody branches on a class: what to do next stands in the row.

`status`, `type` and `code` are what the client sees (OpenAI's error object). `retry`: may another worker be tried for
the same request, and by which rule of core/retry.py? `blame`: does it count against the worker? `should_retry` is sent
as `x-should-retry`, which the OpenAI and Anthropic SDKs obey: false where trying again cannot help or the router has
already tried every worker. `retry_after` is sent as a header, in seconds; 0 sends none.
"""

from __future__ import annotations

import math

import msgspec

UNSENT, LOST, FULL, BROKEN, SLOW = "unsent", "lost", "full", "broken", "slow"
"""Why another worker may be tried: it was never sent, the worker died over it, had no room, failed, or said nothing."""


class Failure(msgspec.Struct, frozen=True):
    code: str
    status: int
    type: str
    retry: str = ""
    blame: bool = False
    should_retry: bool = False
    retry_after: int = 0
    close: bool = False


def _table(*rows: Failure) -> dict[str, Failure]:
    return {row.code: row for row in rows}


_INVALID = "invalid_request_error"
_UPSTREAM = "upstream_error"
_UNAVAILABLE = "service_unavailable_error"

FAILURES = _table(
    # the client's doing
    Failure("invalid_json", 400, _INVALID),
    Failure("invalid_form", 400, _INVALID),
    Failure("invalid_header", 400, _INVALID),
    Failure("bad_request", 400, _INVALID, close=True),
    Failure("not_found", 404, _INVALID),
    Failure("model_not_found", 404, _INVALID),
    Failure("method_not_allowed", 405, _INVALID),
    Failure("request_timeout", 408, _INVALID, should_retry=True, close=True),
    Failure("request_too_large", 413, _INVALID, close=True),
    Failure("unsupported_media_type", 415, _INVALID),
    Failure("expectation_failed", 417, _INVALID, close=True),
    Failure("headers_too_large", 431, _INVALID, close=True),
    # the script's
    Failure("script_rejected", 403, _INVALID),
    # the fleet's
    Failure("no_healthy_worker", 503, _UNAVAILABLE, should_retry=True, retry_after=5),
    Failure("out_of_resources", 503, _UNAVAILABLE, should_retry=True, retry_after=5),
    Failure("queue_full", 503, _UNAVAILABLE, should_retry=True, retry_after=5),
    Failure("queue_timeout", 503, _UNAVAILABLE, should_retry=True, retry_after=5),
    Failure("draining", 503, _UNAVAILABLE, should_retry=True, retry_after=5, close=True),
    # one worker's
    Failure("upstream_connect_failed", 502, _UPSTREAM, retry=UNSENT, blame=True),
    Failure("upstream_disconnected", 502, _UPSTREAM, retry=LOST, blame=True),
    Failure("upstream_overloaded", 503, "overloaded_error", retry=FULL, should_retry=True, retry_after=1),
    Failure("upstream_error_status", 502, _UPSTREAM, retry=BROKEN, blame=True),     # the worker's own 5xx
    Failure("upstream_error_event", 502, _UPSTREAM, retry=BROKEN, blame=True),      # or its error in a stream
    Failure("upstream_unusable", 502, _UPSTREAM, retry=BROKEN),     # it refuses our key, or has lost the model
    Failure("upstream_first_content_timeout", 504, _UPSTREAM, retry=SLOW, blame=True),
    Failure("upstream_protocol_error", 502, _UPSTREAM, blame=True),
    Failure("upstream_stalled", 504, _UPSTREAM, blame=True),
    Failure("upstream_deadline", 504, _UPSTREAM),
    Failure("poison_request", 502, _UPSTREAM),
    # nobody's, and ours
    Failure("client_gone", 499, _INVALID),
    Failure("client_stalled", 499, _INVALID),
    Failure("internal_error", 500, "server_error"),
)


_MOST_RETRY_AFTER_S = 60
"""Clients that are told to stay away for longer often take it for an error, or sleep through what comes meanwhile."""


def retry_after(seconds: float) -> int:
    """What stands in a Retry-After header: whole seconds, rounded up, at least one and never too many."""
    return math.ceil(min(max(1, seconds), _MOST_RETRY_AFTER_S))


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """What a client is told in place of an answer: by a script's reject{...}, or when nobody can serve it."""

    failure: Failure
    message: str
    param: str | None = None


def refusal(status: int, message: str, retry_after_s: float | None = None) -> Refusal:
    """The row of `script_rejected` with the script's own status, and how long the client should stay away.

    Raises:
        ValueError: for a status that does not tell of an error.
    """
    if not 400 <= status <= 599:
        raise ValueError(f"status {status}: expected 400 to 599")
    seconds = 0 if retry_after_s is None else math.ceil(min(max(0, retry_after_s), _MOST_RETRY_AFTER_S))
    kind = {429: "rate_limit_error", 503: _UNAVAILABLE}.get(status, _INVALID if status < 500 else "server_error")
    again = status in (429, 503) or retry_after_s is not None
    row = msgspec.structs.replace(
        FAILURES["script_rejected"], status=status, type=kind, should_retry=again, retry_after=seconds
    )
    return Refusal(row, message)


class RouterError(Exception):
    """A refusal on its way to the client.

    Args:
        code: a key of FAILURES.
        message: one sentence a person can act on; it never quotes a prompt or a key.
        param: the body field it is about, as in OpenAI's error object.
        retry_after_s: when trying again may help, where that is known better than the table says.
    """

    def __init__(self, code: str, message: str, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.failure = FAILURES[code]
        if retry_after_s is not None:
            self.failure = msgspec.structs.replace(self.failure, retry_after=retry_after(retry_after_s))
        self.message = message
        self.param = param
