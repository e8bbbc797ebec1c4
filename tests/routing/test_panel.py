"""The strategies of one decider: made when somebody names them, and asked in turn where one has nothing to go by."""

from __future__ import annotations

from rbeerouter.config.strategies import StrategyError
from rbeerouter.core.types import Wishes
from rbeerouter.routing.panel import Panel
from rbeerouter.routing.strategies.base import Context
from tests.support.builders import context, fleet, request, worker


def panel(strategy: str = "least-request", *fallback: str, parts: Context | None = None) -> Panel:
    return Panel(parts or context(), strategy, fallback, True, lambda: None)


def test_a_strategy_is_made_once_whoever_names_it_and_however_it_is_spelled() -> None:
    made = panel()
    assert made.of("Round_Robin") is made.of("round-robin") is made.named("round-robin")
    assert made.of("least-request:2,session-affinity:1") is made.of("Least_Request:2,session-affinity")
    assert set(made.by_name) == {"least-request", "round-robin", "session-affinity"}


def test_clients_may_write_what_they_like_and_leave_no_more_than_a_few_texts() -> None:
    made = panel()
    for weight in range(1, 1000):
        made.of(f"least-request:{weight},session-affinity:1")
    assert len(made._lists) <= 257 and len(made.by_name) == 2


def test_where_one_has_nothing_to_go_by_the_next_is_asked_and_at_last_the_load() -> None:
    workers = fleet().ordered
    made = panel("prefix-cache", "session-affinity", "round-robin")
    choice, asked = made.pick(made.strategy, request(), workers, False)
    assert (choice in workers, asked.name) == (True, "round-robin")
    made = panel("prefix-cache", "session-affinity")
    assert made.pick(made.strategy, request(), workers, False)[1].name == "least-request"


def test_a_worker_in_slow_start_is_kept_from_the_last_resort_too() -> None:
    workers = fleet(*(worker(name, models=("m",)) for name in ("w1", "w2", "w3"))).ordered
    workers[0].weight = 0.1
    for one in workers[1:]:
        one.load = 0.5
    made = panel("prefix-cache", "session-affinity")
    taken = 0
    for _ in range(1000):
        made.context.chance.n += 1
        choice, asked = made.pick(made.strategy, request(), workers, True)
        assert asked.name == "least-request"
        taken += choice is workers[0]
    assert 15 <= taken <= 55, "a tenth of a third, though it has least to do"


def test_a_name_that_there_is_not_is_an_error_and_changes_nothing() -> None:
    made = panel("round-robin")
    try:
        made.use("nonesuch", "runtime")
    except StrategyError as error:
        assert "nonesuch" in str(error)
    else:
        raise AssertionError("it was taken")
    assert (made.strategy.name, made.source) == ("round-robin", "config")


def test_turns_go_on_from_panel_to_panel_though_a_strategy_is_made_later() -> None:
    workers = fleet().ordered
    old = panel("round-robin")
    for _ in range(2):
        old.pick(old.strategy, request(), workers, False)
    turn = old.strategy.state()
    new = panel()
    new.succeed(old)
    last = panel()
    last.succeed(new)
    assert last.of("round-robin").state() == turn


def test_what_a_client_asked_for_is_kept_over_a_reload_and_goes_with_the_next_if_nobody_asks_again() -> None:
    old, new, last = panel(), panel(), panel()
    old.use("weighted", "runtime")
    asked = request(wishes=Wishes(strategy="vtc_basic:2,Prefix-Cache"))
    assert old.selected(asked).name == "vtc-basic:2,prefix-cache:1"
    new.succeed(old)
    assert set(new.by_name) == {"least-request", "vtc-basic", "prefix-cache"}
    last.succeed(new)
    assert set(last.by_name) == {"least-request"}


def test_lists_that_clients_make_up_leave_nothing_but_the_names_in_them() -> None:
    made = panel()
    for weight in range(1, 1000):
        made.selected(request(wishes=Wishes(strategy=f"least-request:{weight},lmetric:1")))
    assert made._asked == {"least-request", "lmetric"}
