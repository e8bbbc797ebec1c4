"""What a result says, as tables of words: made once here, drawn by `text`, `page` and `markdown`.

Columns that would be empty are left out: nothing is shown that is not known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from rbeerouter.sim.ledger import Ledger
from rbeerouter.sim.metrics import METRICS
from rbeerouter.sim.types import Group, Quantiles, Result, Scenario, Targets, WorkerResult
from rbeerouter.sim.units import count, duration, figure, percent, seconds, told

MOST_ROWS = 20
"""Users, reasons and errors beyond this many are summed up in a note: a trace has tens of thousands of users."""


GOOD, BAD = "good", "bad"


class Table(msgspec.Struct, frozen=True):
    """A table of words. The first column names the row; `wide` columns hold sentences, the others numbers.

    spare: columns that are left out, the first one first, where there is not room for all.
    tones: {words of a cell: GOOD or BAD}, which a page colours.
    """

    name: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    wide: frozenset[int] = frozenset({0})
    spare: tuple[str, ...] = ()
    tones: dict[str, str] = {}

    def without(self, column: str) -> Table:
        """The table without a column that is not the first."""
        place = self.head.index(column)
        cut = [row[:place] + row[place + 1 :] for row in (self.head, *self.rows)]
        wide = frozenset(other - (other > place) for other in self.wide if other != place)
        return msgspec.structs.replace(self, head=cut[0], rows=tuple(cut[1:]), wide=wide)


class Line(msgspec.Struct, frozen=True):
    """A line of the script, from 1 on, and how many requests it decided; 0 where it decided none."""

    number: int
    text: str
    decided: int


def table(
    name: str,
    title: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    note: str = "",
    wide: Iterable[int] = (0,),
    spare: Sequence[str] = (),
    tones: dict[str, str] | None = None,
) -> Table:
    """A table without its empty columns."""
    made = Table(name, title, tuple(head), tuple(map(tuple, rows)), note, frozenset(wide), tuple(spare), tones or {})
    for place in range(len(head) - 1, 0, -1):
        if not any(row[place] for row in made.rows):
            made = made.without(head[place])
    return made


def most(rows: Mapping[str, Any], weight: Callable[[Any], float], what: str) -> tuple[list[tuple[str, Any]], str]:
    """The MOST_ROWS heaviest rows, in order, and a note of how many are not shown."""
    ordered = sorted(rows.items(), key=lambda row: (-weight(row[1]), row[0]))
    left = len(ordered) - MOST_ROWS
    return ordered[:MOST_ROWS], f"{count(left, f'more {what}', f'more {what}s')} not shown" if left > 0 else ""


def headline(result: Result) -> str:
    """What was simulated, in a sentence."""
    by = result.script or f"strategy {result.strategy}"
    return (
        f"{by}: {count(result.all.requests, 'request')} to {count(len(result.workers), 'worker')} "
        f"in {duration(result.simulated_s)}"
    )


def served(worker: WorkerResult) -> str:
    return f"{count(worker.group.requests, 'request')} ({percent(worker.share)})"



def key_figures(result: Result) -> list[tuple[str, str, str]]:
    """(what, value, remark), the most important first; only what is known. Goodput needs targets to say anything."""
    every = result.all

    def part(number: int) -> str:
        return percent(number / every.requests) if every.requests else ""

    goodput = percent(every.goodput) if every.requests and every.goodput != every.ok / every.requests else ""
    rows = [
        ("Average latency", seconds(every.e2e_s.mean), f"p95 {seconds(every.e2e_s.p95)}"),
        ("Time to first token", seconds(every.ttft_s.p50), f"median; p95 {seconds(every.ttft_s.p95)}"),
        ("Queue time", seconds(every.queue_s.mean), f"mean; p95 {seconds(every.queue_s.p95)}"),
        ("Answered", count(every.ok), part(every.ok)),
        ("Rejected", count(every.rejected), part(every.rejected)),
        ("Failed", count(every.failed), part(every.failed)),
        ("Left by the client", count(every.gone) if every.gone else "", part(every.gone)),
        ("Retried", count(every.retried), part(every.retried)),
        ("Goodput", goodput, "answered within the targets"),
        ("Throughput", f"{figure(result.tokens_per_s)} tokens/s", f"{figure(result.requests_per_s)} requests/s"),
        ("Cost of tokens", figure(every.cost) if every.cost else "", "by the workers' prices"),
        ("Cost of machines", figure(result.machine_cost), "by the hour"),
        ("Energy", f"{figure(result.energy_wh)} Wh" if result.energy_wh is not None else "", "where watts are known"),
        ("KV cache hits", percent(result.kv_hit_rate), "of prompt tokens"),
        ("Fairness", figure(result.fairness), "of tokens among users; 1 is equal"),
        ("Time per decision", decision_time(result), "core and script"),
    ]
    return [row for row in rows if row[1]]


def decision_time(result: Result) -> str:
    taken = (result.timing or {}).get("decision_us")
    return f"{figure(taken)} µs" if isinstance(taken, int | float) else ""


def latency(every: Group) -> Table:
    def row(name: str, of: Quantiles) -> tuple[str, ...]:
        return (name, *(seconds(value) for value in (of.mean, of.p50, of.p90, of.p95, of.p99, of.most)))

    rows = [
        row("Time to first token", every.ttft_s), row("Whole answer", every.e2e_s),
        row("In the router's queue", every.queue_s), row("Per token after the first", every.tpot_s),
    ]  # fmt: skip
    note = "The time to first token is that of streams."
    return table("latency", "Latency", ("", "mean", "p50", "p90", "p95", "p99", "most"), rows, note)


GROUP_HEAD = ("requests", "answered", "rejected", "failed", "left", "TTFT p95", "e2e p50", "e2e p95", "goodput", "cost")
GROUP_SPARE = ("left", "answered", "e2e p50", "cost", "failed")


def group_row(name: str, group: Group) -> tuple[str, ...]:
    return (
        name, count(group.requests), count(group.ok), some(group.rejected), some(group.failed), some(group.gone),
        seconds(group.ttft_s.p95), seconds(group.e2e_s.p50), seconds(group.e2e_s.p95), percent(group.goodput),
        figure(group.cost) if group.cost else "",
    )  # fmt: skip


def some(number: int) -> str:
    return count(number) if number else ""


def workers(result: Result) -> Table:
    """What each worker served, and how well."""
    rows = [
        (
            worker.id, count(worker.group.requests), percent(worker.share), some(worker.failures),
            seconds(worker.group.ttft_s.p95), seconds(worker.group.e2e_s.mean), seconds(worker.group.e2e_s.p95),
        )
        for worker in result.workers
    ]  # fmt: skip
    head = ("worker", "requests", "share", "failed attempts", "TTFT p95", "e2e mean", "e2e p95")
    return table("workers", "Workers", head, rows, spare=("e2e mean", "TTFT p95"))


def machines(result: Result) -> Table:
    """How busy each worker was, and what it took."""
    rows = [
        (
            worker.id, percent(worker.busy), figure(worker.mean_in_flight), percent(worker.kv_hit_rate),
            some(worker.loads), figure(worker.group.cost) if worker.group.cost else "", figure(worker.machine_cost),
            figure(worker.energy_wh),
        )
        for worker in result.workers
    ]  # fmt: skip
    head = ("worker", "busy", "in flight", "KV hits", "model loads", "token cost", "machine cost", "Wh")
    return table("machines", "Machines", head, rows, spare=("model loads", "token cost"))


def groups(result: Result) -> list[Table]:
    """Per tier, user and model, where requests differ in them."""
    tables = []
    for what, plural, parts in (
        ("tier", "tiers", result.tiers), ("user", "users", result.users), ("model", "models", result.models),
    ):  # fmt: skip
        if parts:
            rows, note = most(parts, lambda group: group.requests, what)
            head = (what, *GROUP_HEAD)
            told = (group_row(name, group) for name, group in rows)
            tables.append(table(plural, f"By {what}", head, told, note, spare=GROUP_SPARE))
    return tables


def reasons(result: Result) -> Table:
    """Who decided, why, and how often."""
    rows, note = most(result.reasons, float, "reason")
    every = sum(result.reasons.values())
    split = ((*reversed(reason.partition(": ")), number) for reason, number in rows)
    told = [(why, by, count(number), percent(number / every)) for why, _, by, number in split]
    return table("reasons", "Why", ("reason", "decided by", "requests", "share"), told, note, (0, 1))


def errors(result: Result) -> list[Table]:
    tables = []
    for name, title, what, found in (
        ("errors", "Errors that clients got", "error", result.errors),
        ("script-errors", "Errors of the script", "error", result.script_errors),
    ):
        if found:
            rows, note = most(found, float, what)
            tables.append(table(name, title, (what, "times"), ((text, count(times)) for text, times in rows), note))
    return tables


def lines(result: Result, source: bytes | None) -> list[Line]:
    """The script's lines with how many requests each decided; empty without a script.

    A reason names the line as `routing.lua:6` (`Script.place`); what the strategy did after a line returned nil counts
    for that line, as it was asked first.
    """
    if source is None or result.script is None:
        return []
    place = re.compile(rf"(?:^|[\s;]){re.escape(result.script)}:(\d+)\b")
    decided: dict[int, int] = {}
    for reason, number in result.reasons.items():
        if found := place.search(reason):
            line = int(found[1])
            decided[line] = decided.get(line, 0) + number
    text = source.decode("utf-8", "replace").removesuffix("\n").split("\n")
    return [Line(number, line.rstrip("\r"), decided.get(number, 0)) for number, line in enumerate(text, 1)]


def ledger(found: Ledger) -> Table:
    """What the same traffic would have cost, and waited, under simpler rules."""
    shown = ("energy_wh", "p95_ttft_s", "p95_e2e_s", "p95_queue_s", "rejected", "failed", "goodput")
    rows = []
    for entry in found.entries:
        values = [told(entry.values[name], METRICS[name].unit) for name in shown]
        rows.append((entry.name, entry.about, figure(entry.spent), difference(entry.saved), *values))
    head = (
        "rule", "what it is", "cost in all", "you save", "energy", "TTFT p95", "e2e p95", "queue p95", "rejected",
        "failed", "goodput",
    )  # fmt: skip
    of = "the first " if found.sampled else ""
    note = f"Of {of}{count(found.requests, 'request')}, simulated again under each rule."
    if any(entry.spent for entry in found.entries):
        note += " The cost in all is that of tokens, and of machines by the hour."
    return table("ledger", "Under simpler rules", head, rows, note, (0, 1), ("what it is", "queue p95", "energy"))


def difference(value: float | None) -> str:
    """With its sign: +1.20, -3.00."""
    return f"{'+' if value > 0 else ''}{figure(value)}" if value is not None else ""


def facts(result: Result) -> list[tuple[str, str]]:
    """What must be known to run it again, and what it ran on."""
    params = ", ".join(f"{name} = {value:g}" for name, value in result.params.items())
    script = f"{result.script} (sha256 {result.script_hash})" if result.script and result.script_hash else result.script
    timing = result.timing or {}
    run = timing.get("run_s")
    rows = [
        ("Script", script or ""),
        ("Strategy", result.strategy),
        ("Params", params),
        ("Workload", result.workload),
        ("Seed", str(result.seed)),
        ("Simulated time", duration(result.simulated_s)),
        ("Took", seconds(run) if isinstance(run, int | float) else ""),
    ]
    return [row for row in rows if row[1]]


def targets(given: Targets) -> list[tuple[str, str]]:
    """The service levels that goodput counts by, as facts."""
    rows = [
        ("Target: first token within", seconds(given.ttft_s)),
        ("Target: per token within", seconds(given.tpot_s)),
        ("Target: whole answer within", seconds(given.e2e_s)),
    ]
    return [row for row in rows if row[1]]


def profiles(scenario: Scenario) -> Table:
    """What each worker is in truth, and who says so."""
    rows = []
    for worker in scenario.workers:
        spec, profile = worker.spec, worker.profile
        step = profile.step_s + profile.sequence_s
        alone = 1 / step if step else 0.0
        vram = f"{figure(spec.vram)} GiB" if spec.vram is not None else ""
        rows.append(
            (
                spec.id, ", ".join(spec.models), vram, str(profile.slots), f"{figure(alone)} tokens/s" if alone else "",
                f"{figure(1 / profile.prefill_s)} tokens/s" if profile.prefill_s else "",
                "yes" if profile.prefix_cache else "", profile.source,
            )
        )  # fmt: skip
    head = ("worker", "models", "memory", "slots", "decoding one", "prefill", "prefix cache", "source")
    return table("profiles", "Workers' profiles", head, rows, wide=(0, 1, 7), spare=("decoding one", "models"))


def faults(scenario: Scenario) -> Table:
    rows = [
        (
            fault.worker, fault.kind, duration(fault.at_s), duration(fault.for_s),
            figure(fault.amount) if fault.amount != 1 else "",
        )
        for fault in scenario.faults
    ]  # fmt: skip
    return table("faults", "Faults", ("worker", "kind", "from", "for", "amount"), rows, wide=(0, 1))
