"""The command line of scripts/fault-worker: workers on the ports that were asked for, and what they see as JSON lines.

Called by scripts/fault-worker. It must not know what behaviours do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TextIO

from .control import PROBES, is_probe
from .names import BEHAVIOURS, find, listed
from .worker import FaultWorker

DESCRIPTION = """\
Runs OpenAI-compatible workers that misbehave, to see what a router makes of it.

Each PORT gets a worker. What it does with a request is said, in this order, by the request's model (`die@3`, or
`tiny:die@3`), by POST /_fault on its port, or by the command line: `PORT=BEHAVIOUR`, or `PORT=BEHAVIOUR,BEHAVIOUR,...`
for one per request, of which the last stays. GET /v1/models, /health and /metrics are answered as --probe says.
"""
EXAMPLES = """\
examples:
  scripts/fault-worker 9001 9002=die@3 9003=429@7      a good one, one that dies after three events, one that is busy
  scripts/fault-worker 9001=503,503,ok                 two refusals, then good answers
  scripts/fault-worker 9001 --models all               one model for every behaviour: a client asks for "hang@2"
  scripts/fault-worker 9001 --probe hang               serves, but does not answer probes
  curl localhost:9001/_fault -d '{"behaviour": "reset@start"}'     from now on
  curl localhost:9001/_fault -d '{"refuse_s": 30}'                 refuses connections for half a minute
  curl localhost:9001/_fault                                       what it does and has seen

The behaviours: scripts/fault-worker --list. The page: docs/fault-worker.md.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """0: stopped by a signal, or all was listed. 2: wrong arguments, or a port that cannot be had."""
    parser = made_parser()
    given = parser.parse_args(arguments)
    if given.list:
        print_list(sys.stdout)
        return 0
    if not given.worker:
        parser.error("name at least one port, such as 9001=die@3")
    if repeated := {port for port, _ in given.worker if [other for other, _ in given.worker].count(port) > 1}:
        parser.error(f"port {sorted(repeated)[0]} stands twice")
    try:
        with given.log.open("a") if given.log else sys.stdout as log:
            return asyncio.run(serve(given, log))
    except OSError as error:
        print(f"scripts/fault-worker: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def made_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/fault-worker", formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION, epilog=EXAMPLES,
    )  # fmt: skip
    parser.add_argument("worker", nargs="*", type=worker, metavar="PORT[=BEHAVIOUR,...]", help="`ok` if not said")
    parser.add_argument("--list", action="store_true", help="list the behaviours")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1)")
    parser.add_argument("--models", default="tiny", help='at /v1/models; "all": one for every behaviour (tiny)')
    parser.add_argument("--probe", default="ok", type=probe, help=f"what GET gets: {', '.join(PROBES)}, a status (ok)")
    parser.add_argument("--metrics", type=Path, metavar="FILE", help="what GET /metrics answers with (404)")
    parser.add_argument("--delay-s", type=float, default=0.05, help="the pause of those that are slow (0.05)")
    parser.add_argument("--idle-close-s", type=float, help="close idle connections after that (never)")
    parser.add_argument("--redirect-url", default="http://127.0.0.1:9", help="where `redirect` sends (port 9, closed)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="where the JSON lines go (standard output)")
    return parser


def worker(text: str) -> tuple[int, list[str]]:
    port, _, names = text.partition("=")
    behaviours = names.split(",") if names else ["ok"]
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r}: expected PORT or PORT=BEHAVIOUR")
    if unknown := [name for name in behaviours if find(name) is None]:
        raise argparse.ArgumentTypeError(f"no such behaviour: {unknown[0]!r}; see --list")
    return int(port), behaviours


def probe(text: str) -> str:
    if not is_probe(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected {', '.join(PROBES)} or a status")
    return text


def print_list(out: TextIO) -> None:
    for name, what in listed():
        lines = textwrap.wrap(what, 92) or [""]
        out.write(f"{name}\n" if len(name) > 23 else f"{name:24}{lines.pop(0)}\n")
        out.writelines(f"{'':24}{line}\n" for line in lines)


def teller(log: TextIO) -> Callable[[dict[str, Any]], None]:
    def tell(fields: dict[str, Any]) -> None:
        log.write(json.dumps({"time": round(time.time(), 6), **fields}) + "\n")
        log.flush()

    return tell


async def serve(given: argparse.Namespace, log: TextIO) -> int:
    """Run the workers until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    models = sorted(BEHAVIOURS) if given.models == "all" else given.models.split(",")
    tell = teller(log)
    async with AsyncExitStack() as stack:
        for port, behaviours in given.worker:
            made = FaultWorker(list(behaviours), models=models, host=given.host, port=port, tell=tell)
            made.probe, made.delay_s, made.idle_close_s = given.probe, given.delay_s, given.idle_close_s
            made.redirect_url = given.redirect_url
            made.fails_at_exit = False
            if given.metrics is not None:
                made.pages["/metrics"] = given.metrics.read_bytes()
            await stack.enter_async_context(made)
            made.tell("listening", url=made.url, behaviour=behaviours)
        await stop.wait()
    return 0
