"""The table of what a router must stand, row by row, and the tests that show that this one does.

Run by pytest. Each test that is named runs by itself; here it is only made certain that all of them are there. A row's
number is that of the list this table began with; some numbers were never given.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
WORKERS, RETRIES = "e2e/test_rows_workers.py", "e2e/test_rows_retries.py"
CLIENTS, HTTP = "e2e/test_rows_clients.py", "e2e/test_rows_http.py"
FAILOVER, LEAVING = "wire/test_failover.py", "wire/test_leaving.py"
LISTENER, SMUGGLING, UPSTREAM = "wire/test_listener.py", "wire/test_smuggling.py", "wire/test_upstream.py"

ROWS: dict[int, tuple[str, list[str]]] = {
    1: ("a worker refuses connections, another is good: its answer, under 500 ms later, two attempts", [
        f"{WORKERS}::test_a_worker_that_refuses_connections_costs_under_half_a_second",
        f"{FAILOVER}::test_a_worker_that_refuses_connections_is_replaced_and_taken_for_offline",
        f"{FAILOVER}::test_a_worker_that_does_not_take_the_connection_in_time_is_replaced",
    ]),
    2: ("a worker reads the request and closes without a byte: another's answer, and the first saw it once", [
        f"{WORKERS}::test_a_worker_that_dies_before_content_has_seen_the_request_once",
        f"{FAILOVER}::test_a_client_sees_no_opening_of_a_worker_that_died_before_content",
    ]),
    4: ("a reset after three events: three events, an error event, no end, under a second, nobody else asked", [
        f"{WORKERS}::test_a_stream_that_breaks_after_content_ends_with_an_error_event_within_a_second",
        f"{FAILOVER}::test_a_stream_cut_after_content_ends_with_an_error_event_and_no_end_mark",
    ]),
    5: ("a clean end after three events without [DONE]: the same", [
        f"{WORKERS}::test_a_stream_that_ends_in_the_middle_of_an_event_still_ends_with_a_whole_error_event",
        f"{WORKERS}::test_a_stream_that_breaks_after_content_ends_with_an_error_event_within_a_second",
    ]),
    7: ("a worker that hangs: 504 at the limit for the first content, its connection closed", [
        f"{WORKERS}::test_a_worker_that_says_nothing_is_a_504_at_the_limit_and_its_connection_is_closed",
        f"{FAILOVER}::test_a_worker_that_says_nothing_is_left_at_the_limit",
    ]),
    8: ("a worker that hangs after two events: an error event at the gap, its connection closed", [
        f"{WORKERS}::test_a_stream_that_falls_silent_ends_with_an_error_event_at_the_gap",
        f"{FAILOVER}::test_a_stream_that_stalls_or_lasts_too_long_ends_with_an_error_event",
    ]),
    9: ("a head that drips for ever: 504 at the limit, which no byte sets back", [
        f"{WORKERS}::test_a_worker_that_says_nothing_is_a_504_at_the_limit_and_its_connection_is_closed",
        f"{FAILOVER}::test_a_head_that_drips_is_ended_by_the_same_limit",
    ]),
    11: ("500, then a good worker: its answer; 500 from all: the last one's own error, three attempts at most", [
        f"{RETRIES}::test_a_worker_that_fails_or_is_busy_is_replaced",
        f"{RETRIES}::test_when_every_worker_fails_one_more_is_tried_and_its_error_object_is_passed_on",
        f"{RETRIES}::test_when_every_worker_fails_in_words_for_people_the_client_gets_an_error_object",
    ]),
    12: ("429 with a Retry-After: another worker's answer, and the busy one is left alone for so long", [
        f"{RETRIES}::test_a_busy_worker_is_left_alone_for_as_long_as_it_asked",
    ]),
    13: ("429 from all, with 9, 4 and 6 s: 429 with 4", [
        f"{RETRIES}::test_when_all_are_busy_the_client_is_told_the_shortest_time",
    ]),
    14: ("400 with an error object: passed on, one attempt, no blame", [
        f"{WORKERS}::test_a_refusal_of_the_request_itself_is_passed_on_and_blames_nobody",
    ]),
    15: ("two framings, two lengths, unknown codings, NUL: 502 each, and the next request goes well", [
        f"{WORKERS}::test_garbage_is_a_502_each_time_and_the_next_request_on_that_worker_goes_well",
        f"{WORKERS}::test_what_nobody_asked_for_is_a_502",
        f"{WORKERS}::test_bytes_behind_an_answer_are_nobody_s_answer",
        f"{UPSTREAM}::test_what_is_not_a_valid_answer_is_a_502_and_nothing_of_it_is_echoed",
    ]),
    17: ("a worker that closes idle connections just as the next request comes, 500 times: no error", [
        f"{WORKERS}::test_workers_that_close_idle_connections_at_that_very_moment_cost_no_error",
        f"{UPSTREAM}::test_a_worker_that_closes_idle_connections_just_then_costs_no_client_an_error",
        f"{UPSTREAM}::test_a_request_on_a_stale_connection_goes_to_the_same_worker_again_without_blame",
    ]),
    18: ("a redirect, also to another network: 502, and no connection is made there", [
        f"{WORKERS}::test_a_redirect_is_a_502_and_no_connection_is_made_there",
        f"{UPSTREAM}::test_a_redirect_is_never_followed",
    ]),
    20: ("an event of 2 MiB costs no memory: events are not collected, so it passes; one of 300 KiB passes unchanged", [
        f"{WORKERS}::test_a_long_event_passes_unchanged_and_a_huge_one_costs_no_memory",
    ]),
    21: ("events cut anywhere, every line end, data of many lines, comments: the client gets the worker's own bytes", [
        f"{WORKERS}::test_what_is_odd_but_right_reaches_the_client_as_the_worker_said_it",
        "wire/test_exchange.py::test_a_stream_passes_unchanged_wherever_it_is_split",
    ]),
    22: ("set-cookie, server, location, access-control-*: none reaches the client, none the next request", [
        f"{WORKERS}::test_what_a_worker_says_of_itself_reaches_neither_the_client_nor_the_next_request",
    ]),
    24: ("a worker comes back: probed first, then more and more requests", [
        f"{RETRIES}::test_a_worker_that_comes_back_is_probed_first_and_then_gets_more_and_more",
        "e2e/test_kill.py::test_a_worker_that_is_killed_costs_no_request_without_content_and_gets_its_share_again",
    ]),
    25: ("five of eight fail: never more than four are taken out", [
        f"{RETRIES}::test_of_eight_workers_of_which_five_fail_at_most_four_are_taken_out",
    ]),
    26: ("all workers are down: 503 with retry-after in under 50 ms, and no connection is tried", [
        f"{WORKERS}::test_with_all_workers_down_the_answer_is_a_503_at_once_and_nobody_connects",
        f"{LISTENER}::test_no_worker_to_be_reached_is_a_503_at_once",
    ]),
    27: ("a name moves to another address: new requests go there, the stream under way is finished", [
        f"{WORKERS}::test_a_name_that_moves_is_followed_and_streams_under_way_are_finished",
    ]),
    29: ("a client leaves the queue: its place is free within a second, no worker hears of it", [
        f"{CLIENTS}::test_a_client_that_leaves_the_queue_makes_room_and_its_worker_hears_nothing",
        "wire/test_waiting.py::test_a_client_that_leaves_while_it_waits_gives_up_its_place",
    ]),
    30: ("a client leaves during a silent prefill: the worker is free within a second, 499, no blame", [
        f"{CLIENTS}::test_a_client_that_leaves_during_a_silent_prefill_frees_the_worker_within_a_second",
        f"{LEAVING}::test_a_client_that_leaves_before_the_first_byte_frees_the_worker",
    ]),
    31: ("a client leaves mid-stream: the same, and nothing is left behind", [
        f"{CLIENTS}::test_a_client_that_leaves_mid_stream_frees_the_worker_within_a_second",
        f"{LEAVING}::test_a_client_that_leaves_mid_stream_frees_the_worker",
        "e2e/test_soak.py::test_ten_thousand_streams_that_are_left_leave_nothing_behind",
    ]),
    33: ("a client never reads: under 2 MiB of memory, and it is left at the limit", [
        f"{CLIENTS}::test_a_client_that_never_reads_costs_little_and_is_left_at_the_limit",
        "e2e/test_soak.py::test_clients_that_never_read_cost_little_memory_and_are_left",
    ]),
    34: ("a client reads slowly: the worker is slowed down, nothing is lost, nobody is left", [
        f"{CLIENTS}::test_a_client_that_reads_slowly_slows_the_worker_and_is_not_left",
        f"{CLIENTS}::test_a_client_that_reads_slowly_loses_nothing",
        f"{LEAVING}::test_a_client_that_reads_slowly_but_steadily_is_not_left",
    ]),
    35: ("a client that says it sends no more: taken for gone, as docs/operating.md says", [
        f"{CLIENTS}::test_a_client_that_leaves_mid_stream_frees_the_worker_within_a_second",
        f"{LEAVING}::test_a_client_that_leaves_mid_stream_frees_the_worker",
    ]),
    36: ("a body of 11 MiB: 413, which also a client that sends everything first can read", [
        f"{CLIENTS}::test_a_body_that_is_too_large_is_a_413_that_a_blocking_client_can_read",
        f"{LISTENER}::test_a_blocking_client_can_read_that_its_11_mib_are_too_large",
    ]),
    38: ("a body that comes too slowly or stops: 408", [
        f"{CLIENTS}::test_a_body_that_comes_too_slowly_is_a_408",
        f"{LEAVING}::test_a_request_that_comes_too_slowly_is_a_408_and_the_connection_is_closed",
    ]),
    39: ("slow headers: closed at the limit, and 2,000 such connections slow nobody down", [
        f"{CLIENTS}::test_two_thousand_slow_senders_do_not_slow_others_and_are_closed_in_time",
    ]),
    40: ("expect: 100-continue is honoured, another expectation is a 417", [
        f"{LISTENER}::test_expect_100_continue_is_answered_before_the_body_comes",
        f"{LISTENER}::test_an_unknown_expectation_is_a_417",
    ]),
    41: ("streamed or not, a client that leaves ends the worker's request", [
        f"{CLIENTS}::test_a_client_that_leaves_during_a_silent_prefill_frees_the_worker_within_a_second",
    ]),
    43: ("h2c and the preface of HTTP/2 on a plain connection: no 101, no SETTINGS", [
        f"{HTTP}::test_nobody_gets_http_2_on_a_plain_connection",
        f"{LISTENER}::test_an_upgrade_is_not_made_and_gets_exactly_one_answer",
    ]),
    44: ("behind nginx or HAProxy that pass upgrades on, a denied path stays denied", [
        f"{HTTP}::test_a_path_that_a_proxy_denies_stays_denied_whatever_is_upgraded",
    ]),
    45: ("content-length and transfer-encoding: 400, closed, and the rest is never looked at", [
        f"{SMUGGLING}::test_no_request_is_read_as_two_or_as_another",
    ]),
    46: ("every spelling of two framings: never two answers", [
        f"{HTTP}::test_no_spelling_of_two_lengths_ever_gets_two_answers",
    ]),
    48: ("framing that servers have read wrongly: refused and closed, or read as the RFC reads it", [
        f"{SMUGGLING}::test_no_request_is_read_as_two_or_as_another",
        f"{SMUGGLING}::test_a_refused_request_is_refused_in_single_bytes_too",
        f"{LISTENER}::test_what_is_not_http_1_1_is_a_400_and_the_connection_is_closed",
    ]),
    49: ("101 headers, or 33 KiB of them, at once or byte by byte: 431", [
        f"{LISTENER}::test_too_many_or_too_large_headers_are_a_431",
        f"{LISTENER}::test_33_kib_of_headers_byte_by_byte_are_a_431",
    ]),
    50: ("control bytes in a header: 400, never 500, and the log stays whole", [
        f"{HTTP}::test_control_bytes_and_line_ends_in_headers_leave_the_log_whole",
    ]),
    51: ("other versions of HTTP, no host, two hosts: refused", [
        f"{LISTENER}::test_what_is_not_http_1_1_is_a_400_and_the_connection_is_closed",
        f"{SMUGGLING}::test_no_request_is_read_as_two_or_as_another",
    ]),
    52: ("strange hosts and paths lead nowhere else", [
        f"{HTTP}::test_no_host_and_no_path_leads_elsewhere",
        f"{LISTENER}::test_what_is_not_served_here_is_refused_and_the_connection_goes_on",
        f"{LISTENER}::test_a_destination_named_by_the_request_changes_nothing",
    ]),
    54: ("JSON that two parsers could read differently: 400; what the router does not read: 400, or byte for byte", [
        f"{HTTP}::test_json_that_two_parsers_could_read_differently_is_a_400",
        f"{HTTP}::test_numbers_that_the_router_does_not_read_are_a_400_or_reach_the_worker_byte_for_byte",
        f"{LISTENER}::test_a_body_that_cannot_be_understood_is_a_400_and_the_connection_goes_on",
    ]),
}  # fmt: skip


@cache
def named_in(name: str) -> set[str]:
    tree = ast.parse((TESTS / name).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("number", ROWS)
def test_each_row_has_its_tests(number: int) -> None:
    missing = [name for name in ROWS[number][1] if name.partition("::")[2] not in named_in(name.partition("::")[0])]
    assert missing == []
