"""GET /metrics: what the core has counted, in Prometheus' words.

The hot path counts in plain integers; they become metrics here, when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from rbeerouter.core.types import OFFLINE, Worker
from rbeerouter.routing.shadow import RESULTS
from rbeerouter.server.shadow import OFF, ON

if TYPE_CHECKING:
    from rbeerouter.server.daemon import Daemon

_Families = Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


_OF_WORKERS: tuple[tuple[str, str, Callable[[Worker, float], float | None]], ...] = (
    ("in_flight", "Requests of this daemon on a worker now", lambda worker, now: worker.in_flight),
    ("up", "1 unless the worker is offline", lambda worker, now: worker.status != OFFLINE),
    ("load", "Requests there for its capacity, those of others included", lambda worker, now: worker.load),
    ("foreign", "Requests of others there at the last report", lambda worker, now: worker.foreign),
    ("running", "Requests that the engine works on", lambda worker, now: worker.running),
    ("waiting", "Requests in the engine's own queue", lambda worker, now: worker.waiting),
    ("kv_usage", "How full the engine's KV cache is, 0 to 1", lambda worker, now: worker.kv_usage),
    ("vram_used", "Memory in use, in GiB", lambda worker, now: worker.vram_used),
    ("ejected", "1 while its failures keep it out", lambda worker, now: now < worker.health.ejected_until),
    ("cooling", "1 while it is left alone as it asked for", lambda worker, now: now < worker.cooling_until),
    ("draining", "1 while it gets nothing new", lambda worker, now: worker.draining),
    ("weight", "Below 1 in slow start", lambda worker, now: worker.weight),
    ("ttft_seconds", "Until the first content, risen at once", lambda worker, now: _seconds(worker.ttft_ms)),
    ("latency_seconds", "Of a whole answer, on average", lambda worker, now: _seconds(worker.latency_ms)),
    ("inter_token_seconds", "Between tokens, on average", lambda worker, now: _seconds(worker.inter_token_ms)),
    ("tokens_per_second", "Generated in the last minute", lambda worker, now: worker.tokens_per_s),
    ("error_rate", "Of the last minute's answers, 0 to 1", lambda worker, now: worker.error_rate),
    ("temperature_celsius", "As its agent tells", lambda worker, now: worker.temperature_c),
    ("watts", "As its agent tells", lambda worker, now: worker.watts),
)
"""What is shown of each worker; no sample where it is None."""


_OF_KV_EVENTS = (
    ("events", "Events of the engine's KV cache that were taken"),
    ("gaps", "Times that messages were missing"),
    ("replayed", "Messages that were had again"),
    ("garbage", "Messages and events that made no sense"),
)
_KV_GAUGES = (
    ("live", "live", "1 while all that a worker tells of its KV cache is heard"),
    ("blocks", "blocks", "Blocks that it is known to have"),
    ("lag_seconds", "lag_s", "How old its last message was when it came, by both clocks"),
)


class DaemonCollector(Collector):
    """Reads the daemon's counters at the time of a scrape."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def collect(self) -> _Families:
        self._daemon.recorder.catch_up()
        yield from self._requests()
        yield from self._split()
        yield from self._shadow()
        yield from self._workers()
        yield from self._caches()
        yield from self._process()

    def _requests(self) -> _Families:
        recorder = self._daemon.recorder
        requests = CounterMetricFamily("rbeerouter_requests", "Requests that have ended", labels=["outcome"])
        for outcome, count in recorder.outcomes.items():
            requests.add_metric([outcome], count)
        yield requests
        decisions = CounterMetricFamily("rbeerouter_decisions", "Who chose the worker", labels=["by"])
        for by, count in recorder.decided_by.items():
            decisions.add_metric([by], count)
        yield decisions
        attempts = CounterMetricFamily("rbeerouter_attempts", "Requests sent to workers", labels=["worker", "result"])
        for (worker, result), count in recorder.attempts.items():
            attempts.add_metric([worker, result], count)
        yield attempts
        cost = CounterMetricFamily("rbeerouter_cost", "What answers have cost by their tokens", labels=["worker"])
        for worker_id, total in recorder.costs.items():
            cost.add_metric([worker_id], total)
        yield cost
        yield CounterMetricFamily(
            "rbeerouter_script_errors", "Decisions in which the script failed", value=recorder.script_errors
        )
        for name, histogram, help_text in (
            ("decision", recorder.decision_s, "Time to choose a worker"),
            ("ttft", recorder.ttft_s, "Time from a request's arrival to its first content"),
            ("total", recorder.total_s, "Time from a request's arrival to its end"),
        ):
            family = HistogramMetricFamily(f"rbeerouter_{name}_seconds", help_text)
            family.add_metric([], histogram.cumulative(), histogram.sum_s)
            yield family

    def _split(self) -> _Families:
        taken = CounterMetricFamily("rbeerouter_split_requests", "Turns of the split, by who got them", labels=["side"])
        given = CounterMetricFamily(
            "rbeerouter_split_fallbacks", "Turns that a side had to give to the other", labels=["side"]
        )
        split = self._daemon.decider.split
        counts = split.counts() if split is not None else {}
        for side, (requests, fallbacks) in counts.items():
            taken.add_metric([side], requests)
            given.add_metric([side], fallbacks)
        yield taken
        yield given

    def _shadow(self) -> _Families:
        shadowing = self._daemon.shadowing
        tally = shadowing.tally
        requests = CounterMetricFamily(
            "rbeerouter_shadow_requests", "Requests that the shadow script decided as well", labels=["result"]
        )
        for result in RESULTS if shadowing.state != OFF else ():
            requests.add_metric([result], tally.results[result])
        yield requests
        differences = CounterMetricFamily(
            "rbeerouter_shadow_differences", "Requests on which it differs, by the lines that decided",
            labels=["live", "shadow", "result"],
        )  # fmt: skip
        for labels, count in tally.pairs.items():
            differences.add_metric(labels, count)
        yield differences
        yield CounterMetricFamily(
            "rbeerouter_shadow_skipped", "Requests that it had no time for", value=tally.skipped
        )
        yield CounterMetricFamily("rbeerouter_shadow_seconds", "Time of the loop that it took", value=tally.spent_s)
        yield GaugeMetricFamily(
            "rbeerouter_shadow_up", "1 while a shadow script decides", value=int(shadowing.state == ON)
        )

    def _workers(self) -> _Families:
        now, workers = self._daemon.env.now(), self._daemon.fleet.ordered
        for name, help_text, read in _OF_WORKERS:
            gauge = GaugeMetricFamily(f"rbeerouter_worker_{name}", help_text, labels=["worker"])
            for worker in workers:
                value = read(worker, now)
                if value is not None:                           # what is not known has no sample, rather than a zero
                    gauge.add_metric([worker.id], value)
            yield gauge
        restarts = CounterMetricFamily(
            "rbeerouter_worker_restarts", "Times that a worker's engine was found restarted", labels=["worker"]
        )
        for worker in workers:
            restarts.add_metric([worker.id], worker.restarts)
        yield restarts

    def _caches(self) -> _Families:
        caches = self._daemon.caches
        told = {one.id: found for one in self._daemon.fleet.ordered if (found := caches.describe(one.id)) is not None}
        for name, help_text in _OF_KV_EVENTS:
            counter = CounterMetricFamily(f"rbeerouter_kv_{name}", help_text, labels=["worker"])
            for worker_id, found in told.items():
                counter.add_metric([worker_id], found[name])
            yield counter
        for name, key, help_text in _KV_GAUGES:
            gauge = GaugeMetricFamily(f"rbeerouter_kv_{name}", help_text, labels=["worker"])
            for worker_id, found in told.items():
                if found[key] is not None:
                    gauge.add_metric([worker_id], found[key])
            yield gauge
        read = CounterMetricFamily(
            "rbeerouter_prompts_read", "Prompts whose tokens were wanted, by what came of it", labels=["result"]
        )
        for result, count in caches.tokenizers.results.items() if caches.tokenizers is not None else ():
            read.add_metric([result], count)
        yield read

    def _process(self) -> _Families:
        daemon = self._daemon
        listener = daemon.listener
        yield GaugeMetricFamily("rbeerouter_connections", "Client connections open", value=len(listener.connections))
        yield GaugeMetricFamily(
            "rbeerouter_idle_upstream_connections", "Connections kept for reuse", value=listener.pools.idle_count()
        )
        refused = CounterMetricFamily("rbeerouter_refused", "Refused before they were requests", labels=["reason"])
        for reason, count in listener.counts.items():
            refused.add_metric([reason.removeprefix("refused_")], count)
        yield refused
        reloads = CounterMetricFamily("rbeerouter_reloads", "Reloads asked for", labels=["result"])
        for result, count in daemon.reloads.items():
            reloads.add_metric([result], count)
        yield reloads
        retries = CounterMetricFamily("rbeerouter_retries", "Requests given to another worker", labels=["reason"])
        for reason, count in listener.dispatcher.retries.made.items():
            retries.add_metric([reason], count)
        yield retries
        yield CounterMetricFamily(
            "rbeerouter_retries_refused", "Retries that the budget did not allow",
            value=listener.dispatcher.retries.exhausted,
        )
        yield GaugeMetricFamily(
            "rbeerouter_suspects", "Bodies that a worker died over lately", value=len(listener.dispatcher.poison)
        )
        waiting = len(listener.dispatcher.waiting)
        yield GaugeMetricFamily("rbeerouter_waiting", "Requests that wait for a worker", value=waiting)
        yield GaugeMetricFamily(
            "rbeerouter_script_suspended", "1 while a script is out of service because it failed too often",
            value=int(daemon.decider.suspended is not None),
        )
        yield CounterMetricFamily(
            "rbeerouter_log_lines_lost", "Lines that could not be written", value=daemon.log_file.lost
        )


def page(daemon: Daemon) -> bytes:
    """The metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(DaemonCollector(daemon))
    return generate_latest(registry)
