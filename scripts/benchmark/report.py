"""The report: medians of the repeats, added latency, ratios, a table per case, a JSON file.

Called by cli.py with the settings and results of run.py.
"""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from .cases import CASES
from .routers import ROUTERS
from .run import DIRECT, WARM_UP_SECONDS, Results, Sample, Settings
from .workers import WORKER_COUNT

REFERENCES = ("nginx-lua", "vllm-router")


@dataclass(frozen=True)
class Row:
    """One router in one case: medians over the repeats."""

    router: str
    case: str
    repeats: int
    cpu_us: float | None  # per request at full load, user + system, whole process tree
    light_cpu_us: float | None  # per request with one connection
    requests_per_second: float
    busy_cores: float | None
    other_cores: float | None  # used by programs that are no part of the bench
    light_p50_ms: float
    light_p99_ms: float
    p50_ms: float
    p99_ms: float
    added_light_p50_ms: float | None  # router minus direct, in the same repeat
    added_light_p99_ms: float | None
    added_p50_ms: float | None
    added_p99_ms: float | None
    peak_rss_mb: float | None
    stream_reads: float | None
    cpu_ratio: dict[str, float]  # to each reference: below 1 is cheaper
    throughput_ratio: dict[str, float]  # to each reference: above 1 is faster


def make_rows(settings: Settings, results: Results) -> list[Row]:
    """A row for every router and case that gave numbers, the direct runs first."""
    rows = []
    for case in settings.cases:
        of_case = {name: _pairs(results, name, case) for name in (DIRECT, *settings.routers)}
        references = {name: of_case[name] for name in REFERENCES if of_case.get(name)}
        rows += [_row(name, case, pairs, references) for name, pairs in of_case.items() if pairs]
    return rows


_Pairs = list[tuple[Sample, Sample]]  # a router's sample, the direct one of the same repeat


def _pairs(results: Results, router: str, case: str) -> _Pairs:
    pairs = []
    for repeat in results.samples:
        found = {sample.router: sample for sample in repeat if sample.case == case}
        if router in found and f"{router}: {case}" not in results.failed:
            pairs.append((found[router], found[DIRECT]))
    return pairs


def _row(router: str, case: str, pairs: _Pairs, references: dict[str, _Pairs]) -> Row:
    samples = [sample for sample, _ in pairs]

    def median(name: str) -> float | None:
        return _median(getattr(sample, name) for sample in samples)

    def added(name: str) -> float | None:
        if router == DIRECT:
            return None
        return _median(getattr(sample, name) - getattr(direct, name) for sample, direct in pairs)

    def ratios(name: str) -> dict[str, float]:
        own = median(name)
        theirs = {
            reference: _median(getattr(sample, name) for sample, _ in reference_pairs)
            for reference, reference_pairs in references.items()
        }
        return {key: own / value for key, value in theirs.items() if own and value}

    return Row(
        router=router,
        case=case,
        repeats=len(pairs),
        cpu_us=median("cpu_us"),
        light_cpu_us=median("light_cpu_us"),
        requests_per_second=median("requests_per_second") or 0.0,
        busy_cores=median("busy_cores"),
        other_cores=median("other_cores"),
        light_p50_ms=median("light_p50_ms") or 0.0,
        light_p99_ms=median("light_p99_ms") or 0.0,
        p50_ms=median("p50_ms") or 0.0,
        p99_ms=median("p99_ms") or 0.0,
        added_light_p50_ms=added("light_p50_ms"),
        added_light_p99_ms=added("light_p99_ms"),
        added_p50_ms=added("p50_ms"),
        added_p99_ms=added("p99_ms"),
        peak_rss_mb=median("peak_rss_mb"),
        stream_reads=median("stream_reads"),
        cpu_ratio=ratios("cpu_us"),
        throughput_ratio=ratios("requests_per_second"),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


# --- text ----------------------------------------------------------------------------


def method_text(settings: Settings, results: Results, machine: dict[str, object]) -> str:
    """How the numbers were made, on what, and with which versions."""
    paragraphs = [
        _machine_text(results, machine),
        _load_text(settings),
        *_numbers_texts(settings),
        f"vllm-router and sglang-router run with the policy {settings.policy}. Routers:",
    ]
    routers = [f"  {name} {version}: {ROUTERS[name].describe}" for name, version in results.versions.items()]
    return "\n".join([*(textwrap.fill(text, 100) for text in paragraphs), *routers])


def _machine_text(results: Results, machine: dict[str, object]) -> str:
    cores = results.cores
    where = (
        f"The router is pinned to core {cores.router}; the mock workers and wrk share core {cores.load}."
        if cores.pinned
        else "Nothing is pinned: router, workers and wrk share all cores."
    )
    return (
        f"How this measures. One machine: {machine['cpu']}, {machine['core_count']} cores, "
        f"kernel {machine['kernel']}, load average {machine['load_average']} at the start. The "
        f"workers are mocks: one nginx process with Lua that answers fixed texts on "
        f"{WORKER_COUNT} ports. Each router runs alone, in turn, in front of the same workers. "
        f"{where}"
    )


def _load_text(settings: Settings) -> str:
    return (
        f"wrk (1 thread) sends one kind of request per case: {WARM_UP_SECONDS} s of warm-up, "
        f"{settings.light_seconds} s with one connection (c=1), then {settings.seconds} s with "
        f"{settings.connections} connections (c={settings.connections}). Repeats: "
        f"{settings.repeat}, in rotated order; the numbers are medians. Answers are checked for "
        "content before and after each run; a router with any error under load (status, socket, "
        "timeout) is listed as failed instead of getting a number."
    )


def _numbers_texts(settings: Settings) -> list[str]:
    full = f"c={settings.connections}"
    return [
        "CPU us/request, the main number: user + system time of the router's whole process tree "
        f"(/proc) over the {full} run, divided by the answered requests. The ratios under "
        "it are this router / the reference: below 1 is cheaper.",
        f'requests/s at {full}, and its ratios: above 1 is faster. "busy" is how many cores the '
        "router used meanwhile. Near 1: the router was the limit. Below: wrk and the workers were, "
        'and the rate says little about the router. "others" is how many cores programs used that are no '
        "part of this bench: much above 0.05 that line is disturbed, its rate and latencies most, and in the "
        "stream case the CPU too (a router that waits for its core finds more events in one read).",
        "Added latency: a percentile of the router minus the same percentile of wrk asking a "
        "worker directly, in the same repeat; for streams, to the end of the stream. At c=1 there "
        "is no queue, but two wake-ups of another core are part of it; at "
        f"{full} it is mostly queueing. In the paced case the workers' timers (1 ms steps) vary by "
        "more than a router adds: a few ms, also below zero, mean nothing there.",
        "Peak RSS: VmHWM since the start, summed over the router's processes (pages they share count in each).",
    ]


@dataclass(frozen=True)
class Column:
    """A column of the table: two lines of heading and how to print the value of a row."""

    top: str
    bottom: str
    value: Callable[[Row], float | None]
    digits: int

    def text(self, row: Row) -> str:
        value = self.value(row)
        return "-" if value is None else f"{value:.{self.digits}f}"


def _columns(connections: int) -> list[Column]:
    def ratio(kind: str, reference: str) -> Callable[[Row], float | None]:
        return lambda row: getattr(row, kind).get(reference)

    full = f"c={connections}"
    return [
        Column("CPU us", "/request", lambda row: row.cpu_us, 1),
        Column("x", "nginx", ratio("cpu_ratio", "nginx-lua"), 2),
        Column("x", "vllm", ratio("cpu_ratio", "vllm-router"), 2),
        Column("requests", "/s", lambda row: row.requests_per_second, 0),
        Column("x", "nginx", ratio("throughput_ratio", "nginx-lua"), 2),
        Column("x", "vllm", ratio("throughput_ratio", "vllm-router"), 2),
        Column("busy", "cores", lambda row: row.busy_cores, 2),
        Column("others", "cores", lambda row: row.other_cores, 2),
        Column("+p50 ms", "c=1", lambda row: row.added_light_p50_ms, 3),
        Column("+p99 ms", "c=1", lambda row: row.added_light_p99_ms, 3),
        Column("+p50 ms", full, lambda row: row.added_p50_ms, 2),
        Column("+p99 ms", full, lambda row: row.added_p99_ms, 2),
        Column("peak", "RSS MB", lambda row: row.peak_rss_mb, 1),
    ]


def table_text(settings: Settings, rows: list[Row]) -> str:
    """A table per case."""
    columns = _columns(settings.connections)
    parts = []
    for case in settings.cases:
        of_case = [row for row in rows if row.case == case]
        parts += ["", f"{case}: {CASES[case].title}", *_table(columns, of_case)]
        parts += [_direct_line(row, settings) for row in of_case if row.router == DIRECT]
        reads = [f"{row.router} {row.stream_reads:.0f}" for row in of_case if row.stream_reads]
        if reads:
            parts.append(f"  reads in which one client got the stream: {', '.join(reads)}")
    return "\n".join(parts)


def _direct_line(row: Row, settings: Settings) -> str:
    return (
        f"  direct to a worker: c=1 p50 {row.light_p50_ms:.3f} ms, p99 {row.light_p99_ms:.3f} ms;"
        f" c={settings.connections} p50 {row.p50_ms:.2f} ms, p99 {row.p99_ms:.2f} ms"
    )


def _table(columns: list[Column], rows: list[Row]) -> list[str]:
    lines = [
        ["router", *(column.top for column in columns)],
        ["", *(column.bottom for column in columns)],
        *([row.router, *(column.text(row) for column in columns)] for row in rows),
    ]
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]


def left_out_text(results: Results) -> str:
    """Who has no numbers, and why."""
    lines = [f"skipped: {name}: {reason}" for name, reason in results.skipped.items()]
    lines += [f"FAILED: {where}: {why}" for where, why in results.failed.items()]
    return "\n".join(lines)


# --- JSON ----------------------------------------------------------------------------


def write_json(
    path: Path,
    settings: Settings,
    results: Results,
    machine: dict[str, object],
    rows: list[Row],
) -> None:
    """Everything the text says, and each single sample, for other programs."""
    document = {
        "method": method_text(settings, results, machine),
        "machine": machine,
        "settings": {**asdict(settings), "peers_folder": str(settings.peers_folder)},
        "cores": asdict(results.cores),
        "routers": {
            name: {
                "version": version,
                "description": ROUTERS[name].describe,
                "command": results.commands.get(name),
            }
            for name, version in results.versions.items()
        },
        "skipped": results.skipped,
        "failed": results.failed,
        "rows": [asdict(row) for row in rows],
        "samples": [[asdict(sample) for sample in repeat] for repeat in results.samples],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
