"""The page of a simulation: one HTML file that a person opens, keeps and sends around.

`rbeerouter routing simulate --report out.html` writes what `page` returns. `document` knows how things are drawn;
this module says what is shown, in which order.
"""

from __future__ import annotations

from collections.abc import Sequence

from rbeerouter.sim import tables
from rbeerouter.sim.document import Curve, Document, Plot, Shade, bar, escaped
from rbeerouter.sim.ledger import Ledger
from rbeerouter.sim.types import Fault, Result, Scenario
from rbeerouter.sim.units import count, duration

MOST_WORKERS = 64
"""Workers whose timelines are drawn, those with the most attempts: a thousand small plots help nobody."""


def page(
    result: Result,
    *,
    source: bytes | None = None,
    scenario: Scenario | None = None,
    command: str | None = None,
    ledger: Ledger | None = None,
) -> str:
    """One result as a page.

    source: the script's text. scenario: for its workers, faults and targets. command: the command line that gives this
    result again. ledger: the same traffic under simpler rules.
    """
    made = Document(f"{result.script or result.strategy} on {result.workload}")
    made.add(_header(result))
    made.add(_figures(result))
    _distribution(made, result)
    _latency(made, result)
    _over_time(made, result, scenario.faults if scenario is not None else ())
    _script(made, result, source)
    compared = [tables.ledger(ledger)] if ledger is not None else []
    for table in (*compared, *tables.groups(result), *tables.errors(result)):
        made.heading(table.title)
        made.table(table)
    _again(made, result, scenario, command)
    return made.text()


def _header(result: Result) -> str:
    told = (
        f"{count(result.all.requests, 'request')} to {count(len(result.workers), 'worker')} in "
        f"{duration(result.simulated_s)} of simulated time"
    )
    return (
        f"<header><h1>{escaped(result.script or f'Strategy {result.strategy}')}</h1>"
        f"<p>{escaped(told)}<br>{escaped(result.workload)}, seed {result.seed}</p></header>"
    )


def _figures(result: Result) -> str:
    cards = [
        f"<div><dt>{escaped(what)}</dt><dd>{_value(value)}</dd><dd class=\"remark\">{escaped(remark)}</dd></div>"
        for what, value, remark in tables.key_figures(result)
    ]
    return f'<dl class="figures">{"".join(cards)}</dl>'


def _value(value: str) -> str:
    """With its unit smaller than the number."""
    number, space, unit = value.partition(" ")
    return f"{escaped(number)} <small>{escaped(unit)}</small>" if space else escaped(number)


def _distribution(made: Document, result: Result) -> None:
    made.heading("Workers", "Who served the requests. Shares are of those that a worker ended up with.")
    most = max((worker.share for worker in result.workers), default=0.0) or 1.0
    made.table(tables.workers(result), [worker.share / most for worker in result.workers])
    made.table(tables.machines(result))


def _latency(made: Document, result: Result) -> None:
    made.heading("Latency", "How many of the requests took at most so long, from their arrival at the router.")
    curves = [
        Curve(label, [share for _, share in points], [seconds for seconds, _ in points])
        for label, points in (("first token", result.ttft_cdf), ("whole answer", result.e2e_cdf))
        if points
    ]
    if curves:
        made.plots(
            Plot("Share of requests by latency", "cdf", curves, "share", x_unit="s", x_label="latency (logarithmic)")
        )
    made.table(tables.latency(result.all))


def _over_time(made: Document, result: Result, faults: Sequence[Fault]) -> None:
    made.heading("Over time", "Drag to zoom into a stretch of time, double-click to see all of it.")
    series = result.series
    shades = [Shade(fault.at_s, fault.at_s + fault.for_s, f"{fault.kind} {fault.worker}") for fault in faults]

    def timeline(caption: str, values: Sequence[float | None], unit: str = "") -> Plot:
        return Plot(caption, "time", [Curve(caption, values)], unit, series.every_s, shades)

    made.plots(
        timeline("Arrivals, requests a second", series.arrivals),
        timeline("Waiting in the router's queue, requests", series.waiting),
        timeline("Time to first token, p95", series.ttft_p95_s, "s"),
    )
    order = sorted(result.workers, key=lambda worker: -worker.attempts)[:MOST_WORKERS]
    shown = [worker.id for worker in result.workers if worker in order and worker.id in series.in_flight]
    left = len(result.workers) - len(shown)
    remark = f", {left:,} less used ones left out" if left else ""
    made.add(f"<h3>Requests in flight on each worker{remark}</h3>")
    if not shown:
        return
    most = max((value for worker in shown for value in series.in_flight[worker]), default=0.0)
    own = {worker: [Shade(f.at_s, f.at_s + f.for_s, f.kind) for f in faults if f.worker == worker] for worker in shown}
    made.plots(
        *(
            Plot(worker, "time", [Curve(worker, curve)], "", series.every_s, own[worker], most, small=True)
            for worker, curve in ((worker, series.in_flight[worker]) for worker in shown)
        )
    )


def _script(made: Document, result: Result, source: bytes | None) -> None:
    made.heading("Why", "Who decided, and by which line of the script.")
    made.table(tables.reasons(result))
    lines = tables.lines(result, source)
    if not lines:
        return
    most = max(max(line.decided for line in lines), 1)
    rows = [_line(line, line.decided / most) for line in lines]
    name = escaped(result.script or "")
    made.add(
        f'<div class="scroll source" tabindex="0" role="region" aria-label="The script"><table id="source">'
        f"<caption>{name}: requests that each line decided</caption>"
        '<thead><tr><th scope="col" class="number">requests</th><td class="bars"></td><th scope="col">line</th>'
        f'<th scope="col"></th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _line(line: tables.Line, share: float) -> str:
    code = f'<th scope="row">{line.number}</th><td><code>{escaped(line.text.expandtabs(4))}</code></td></tr>'
    if not line.decided:
        return f"<tr><td></td><td></td>{code}"
    return f'<tr class="decided"><td class="number">{count(line.decided)}</td><td>{bar(share)}</td>{code}'


def _again(made: Document, result: Result, scenario: Scenario | None, command: str | None) -> None:
    made.heading("To run it again")
    if command is not None:
        made.add(f'<pre class="command" tabindex="0"><code>{escaped(command)}</code></pre>')
    facts = [*tables.facts(result), *(tables.targets(scenario.targets) if scenario is not None else [])]
    rows = "".join(f"<dt>{escaped(what)}</dt><dd>{escaped(told)}</dd>" for what, told in facts)
    made.add(f'<dl class="facts">{rows}</dl>')
    if scenario is not None:
        made.table(tables.faults(scenario))
        made.table(tables.profiles(scenario))
