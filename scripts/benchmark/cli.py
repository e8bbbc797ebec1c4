"""The command line of scripts/bench."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

from .cases import CASES
from .decisions import DECISIONS, QUICK_DECISIONS, decisions_text, run_decisions
from .install import install_peers
from .machine import describe
from .measure import wrk_path
from .probes import probes_text, run_probes
from .processes import Failed
from .report import left_out_text, make_rows, method_text, table_text, write_json
from .routers import DEFAULT_PEERS_FOLDER, ROUTERS
from .run import Settings, run_bench
from .simulate import QUICK_REQUESTS, REQUESTS, run_simulation, simulation_text
from .workers import missing_nginx

DESCRIPTION = """\
Measure rbeerouter and its peers side by side on this machine: CPU per request, throughput,
added latency and peak memory, for short and long prompts and for SSE streams, in front of
the same mock workers. A router that is not installed is skipped by name."""

EXAMPLES = """\
examples:
  scripts/bench --install-peers            fetch the peers (apt-get, pip)
  scripts/bench --quick                    one short look at everything
  scripts/bench --repeat 3 --json out.json the numbers to keep
  scripts/bench --routers rbeerouter,nginx-lua --cases stream
  scripts/bench --peers litellm            with LiteLLM (large) as well
  scripts/bench --probes --repeat 3        what probes and scrapes of 64 workers cost
  scripts/bench --decisions                what each strategy costs, at 64 workers
  scripts/bench --simulate                 how fast the policy lab simulates a million requests"""


# Those that vllm-router and sglang-router have in common.
POLICIES = ("round_robin", "cache_aware", "power_of_two", "random")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 0 when every router that is installed gave all its numbers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    options = _parser().parse_args(arguments)
    optional = {name for name, router in ROUTERS.items() if router.optional}
    asked = set(options.peers)
    try:
        if options.install_peers:
            return install_peers(options.peers_dir, asked & optional)
        if options.simulate is not None:
            requests = min(options.simulate, QUICK_REQUESTS) if options.quick else options.simulate
            print(simulation_text(run_simulation(requests, options.pin)))
            return 0
        if options.decisions:
            print(decisions_text(run_decisions(QUICK_DECISIONS if options.quick else DECISIONS, options.pin)))
            return 0
        if reason := missing_nginx() or (None if wrk_path() else "wrk is not installed"):
            print(f"bench: {reason}: scripts/bench --install-peers", file=sys.stderr)
            return 2
        settings = _settings(options, asked)
        if options.probes:
            print(probes_text(run_probes(settings.seconds, settings.repeat, settings.pin)))
            return 0
        return _run(settings, options.json)
    except Failed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130


def _run(settings: Settings, json_file: Path | None) -> int:
    machine = describe()
    results = run_bench(settings)
    rows = make_rows(settings, results)
    if json_file:
        write_json(json_file, settings, results, machine, rows)
    print(method_text(settings, results, machine))
    print(table_text(settings, rows))
    if left_out := left_out_text(results):
        print(f"\n{left_out}")
    return 1 if results.failed else 0


def _settings(options: argparse.Namespace, asked: set[str]) -> Settings:
    routers = options.routers or [name for name, router in ROUTERS.items() if not router.optional or name in asked]
    settings = Settings(
        routers=routers,
        cases=options.cases,
        seconds=options.seconds,
        light_seconds=options.light_seconds,
        connections=options.connections,
        repeat=options.repeat,
        policy=options.policy,
        pin=options.pin,
        peers_folder=options.peers_dir,
    )
    return replace(settings, seconds=1, light_seconds=1, repeat=1) if options.quick else settings


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM, and SIGINT also in the background: everything that was started is stopped."""
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_what(parser.add_argument_group("what is measured"))
    _add_how(parser.add_argument_group("how"))
    _add_peers(parser.add_argument_group("peers"))
    return parser


def _add_what(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--routers", type=_names(ROUTERS), metavar="A,B", help=f"of {', '.join(ROUTERS)}")
    every_case = list(CASES)
    add("--cases", type=_names(CASES), metavar="A,B", default=every_case, help=f"of {', '.join(CASES)} (default: all)")
    add(
        "--policy",
        choices=POLICIES,
        default=POLICIES[0],
        help=f"of vllm-router, sglang-router (default: {POLICIES[0]})",
    )
    add("--probes", action="store_true", help="only what probes and scrapes of 64 workers cost this daemon")
    add("--decisions", action="store_true", help="only what a decision of each strategy costs, at 64 workers")
    what = f"only the policy lab: simulate N requests (default: {REQUESTS}; {QUICK_REQUESTS} at most with --quick)"
    add("--simulate", type=_positive, nargs="?", const=REQUESTS, metavar="N", help=what)
    add("--json", type=Path, metavar="FILE", help="write everything measured to FILE as well")


def _add_how(group: argparse._ArgumentGroup) -> None:
    add = partial(group.add_argument, type=_positive, metavar="N")
    add("--seconds", default=5, help="length of each run at full load (default: 5)")
    add("--light-seconds", default=2, help="length of each run with one connection (default: 2)")
    add("--connections", default=16, help="connections at full load (default: 16)")
    add("--repeat", default=1, help="measure everything N times and print medians (default: 1)")
    switch = group.add_argument
    switch("--quick", action="store_true", help="1 s per run, one repeat: a look, not a result")
    switch("--no-pin", dest="pin", action="store_false", help="no cores of their own for router and load")


def _add_peers(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--install-peers", action="store_true", help="fetch the peers that are missing, and stop")
    add("--peers", type=_names(ROUTERS), metavar="A,B", default=[], help="also these optional ones: litellm (large)")
    folder = DEFAULT_PEERS_FOLDER
    add("--peers-dir", type=_folder, default=folder, metavar="DIR", help=f"where their venvs are (default: {folder})")


def _names(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    """For argparse: a list of names with commas, all of them known."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r}; known: {', '.join(known)}")
        return names

    return parse


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _folder(text: str) -> Path:
    return Path(text).expanduser().absolute()
