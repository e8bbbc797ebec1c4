"""The commands. Each parses its arguments, calls one function elsewhere and prints."""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rbeerouter import __version__
from rbeerouter.cli import bench, calibrate, diff, replay, shadow, simulate, strategy, tune, versions
from rbeerouter.cli.arguments import config_option, count, number, pairs, script_and_config
from rbeerouter.config.sections import ConfigError
from rbeerouter.routing.script import ScriptError

EXIT_FAILED, EXIT_REFUSED = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns its exit code: 0 done, 1 failed, 2 refused for its input."""
    options = _parser().parse_args(arguments)
    options.command = shlex.join(["rbeerouter", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        code = options.run(options)
        sys.stdout.flush()                                    # at the exit, nobody could say what is wrong with it
        return code
    except ScriptError as error:
        print(f"rbeerouter: {error.problem.rendered() if error.problem else error}", file=sys.stderr)
        return EXIT_REFUSED
    except ConfigError as error:
        print(f"rbeerouter: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_FAILED
    except BrokenPipeError:                                   # whoever read what is printed wants no more of it
        _print_no_more()
        return EXIT_FAILED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _print_no_more()
        print(f"rbeerouter: what is written finds no room: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED


def _print_no_more() -> None:
    """What is left to print goes nowhere: at the exit it would fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rbeerouter", description="Routes LLM requests to GPU workers by a Lua script you edit while it runs."
    )
    parser.add_argument("--version", action="version", version=f"rbeerouter {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the daemon")
    config_option(serve)
    serve.add_argument("--worker", metavar="URL", action="append", default=[], help="a worker; may be repeated")
    serve.add_argument("--script", metavar="FILE", type=Path, help="the routing script, in place of [routing] script")
    serve.add_argument("--bind", metavar="HOST:PORT", help="where to listen, in place of [server] bind")
    serve.set_defaults(run=_serve)

    reload = commands.add_parser("reload", help="make the running daemon load its config and script again")
    config_option(reload)
    reload.set_defaults(run=_reload)

    param = commands.add_parser("param", help="show or set the numbers that the script names with param()")
    config_option(param)
    param.add_argument("settings", metavar="NAME=VALUE", nargs="*", help="without any, all params are shown")
    param.set_defaults(run=_param)

    _explain_options(commands.add_parser("explain", help="decide one request without sending it, and say why"))
    _routing_options(commands.add_parser("routing", help="check, test, simulate, replay, compare and tune scripts"))

    _workers_options(commands.add_parser("workers", help="show the workers; drain, add or remove one"))
    _agent_options(commands.add_parser("agent", help="on a GPU machine: register its engines with a router"))

    strategy.options(commands)
    versions.options(commands)
    shadow.options(commands)

    demo = commands.add_parser("demo", help="start fake workers and a daemon, send requests, show where they went")
    demo.add_argument("--stay", action="store_true", help="keep running afterwards, to try things by hand")
    demo.set_defaults(run=_demo)
    return parser


def _workers_options(workers: argparse.ArgumentParser) -> None:
    config_option(workers)
    workers.add_argument("action", nargs="?", choices=("list", "drain", "undrain", "remove", "add"), default="list")
    workers.add_argument("worker", metavar="ID or URL", nargs="?", help="which one; a URL to add")
    workers.add_argument("--id", help="with add: its name; default: HOST:PORT of the URL")
    workers.set_defaults(run=_workers)


def _agent_options(agent: argparse.ArgumentParser) -> None:
    agent.add_argument("--router", metavar="URL", default="http://127.0.0.1:8882", help="the router's control plane")
    agent.add_argument("--token", help="its [registration] token; @FILE reads it from a file")
    agent.add_argument("--engine-url", metavar="URL", action="append", default=[], help="as the router reaches it; may "
                       "be repeated; default: look at the usual ports")  # fmt: skip
    agent.add_argument("--name", help="beginning of the workers' ids; default: this machine's name")
    agent.add_argument("--api-key", help="what the engines want as Bearer; @FILE reads it from a file")
    agent.add_argument("--interval", metavar="S", type=float, default=15.0, help="between heartbeats (default 15)")
    agent.add_argument("--yield-to-owner", action="store_true", help="take nothing new while somebody uses the machine")
    agent.add_argument("--idle-after", metavar="S", type=float, default=300.0, help="without input (default 300)")
    agent.set_defaults(run=_agent)


def _explain_options(explain: argparse.ArgumentParser) -> None:
    config_option(explain)
    explain.add_argument("request", metavar="FILE", nargs="?", type=Path, help="a request's JSON body; - reads it here")
    explain.add_argument("--model", help="the model asked for; this and the next in place of a file")
    explain.add_argument("--user")
    explain.add_argument("--max-tokens", type=int)
    explain.add_argument("--priority")
    explain.add_argument("--stream", action="store_true")
    explain.add_argument("--meta", metavar="NAME=VALUE", action="append", default=[], help="metadata; may be repeated")
    explain.add_argument("--header", metavar="NAME=VALUE", action="append", default=[], help="may be repeated")
    explain.add_argument("--path", default="/v1/chat/completions")
    explain.add_argument("--fleet", metavar="FILE", type=Path, help="JSON of /api/v1/workers, in place of the daemon's")
    explain.add_argument("--script", metavar="FILE", type=Path, help="with --fleet; without it the strategy decides")
    explain.add_argument("--json", action="store_true")
    explain.set_defaults(run=_explain)


def _routing_options(routing: argparse.ArgumentParser) -> None:
    commands = routing.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="find faults in a script without running requests")
    test = commands.add_parser("test", help="try a script on made-up requests and run its own tests")
    for command in (check, test):
        config_option(command)
        command.add_argument("--script", metavar="FILE", type=Path, help="default: the configured one")
        command.add_argument("--json", action="store_true")
    check.add_argument("--static", action="store_true", help="only read the script: no trial runs, no timing")
    check.set_defaults(run=_check)
    test.add_argument("--test", metavar="FILE", type=Path, help="default: NAME_test.lua beside NAME.lua, if it exists")
    test.add_argument("--seed", type=int, help="repeats a run")
    test.add_argument("--cases", type=count, default=500, help="made-up requests (default 500)")
    test.add_argument("--junit", metavar="FILE", type=Path, help="write the results for CI")
    test.add_argument("--lcov", metavar="FILE", type=Path, help="write which lines ran")
    test.add_argument("--watch", action="store_true", help="run again whenever a file is saved")
    test.set_defaults(run=_test)
    simulate.options(commands)
    replay.options(commands)
    diff.options(commands)
    tune.options(commands)
    bench.options(commands)
    calibrate.options(commands)



def _serve(options: argparse.Namespace) -> int:
    from rbeerouter.server import daemon

    def read() -> daemon.Config:
        return daemon.read_config(options.config, tuple(options.worker), options.script, options.bind)

    daemon.serve(read(), read)
    return 0


def _reload(options: argparse.Namespace) -> int:
    from rbeerouter.config.loading import control_access
    from rbeerouter.server import client

    verdict = client.call(control_access(options.config), "POST", client.RELOAD)
    print(client.verdict_text(verdict))
    return 0 if verdict["ok"] else EXIT_FAILED


def _param(options: argparse.Namespace) -> int:
    from rbeerouter.config.loading import control_access
    from rbeerouter.server import client

    access = control_access(options.config)
    given = {name: number(name, value) for name, value in pairs(options.settings).items()}
    answer = client.call(access, "POST" if given else "GET", "/api/v1/params", given or None)
    if not answer["ok"]:
        print(answer["error"])
        return EXIT_FAILED
    for name, param in answer["params"].items():
        value, default, low, high = (f"{param[key]:.15g}" for key in ("value", "default", "min", "max"))
        print(f"{name} = {value}   (default {default}, {low} to {high})")
    if not answer["params"]:
        print("the script has no param()")
    return 0


def _explain(options: argparse.Namespace) -> int:
    from rbeerouter.workbench import asking

    asked = asking.asked(
        options.request, options.path, pairs(options.header), model=options.model, user=options.user,
        max_tokens=options.max_tokens, priority=options.priority, stream=options.stream or None,
        metadata=pairs(options.meta) or None,
    )  # fmt: skip
    if options.script is not None and options.fleet is None:
        raise ConfigError("--script needs --fleet FILE; without it the running daemon's script is explained")
    if options.fleet is not None:
        record, source = asking.offline(asked, options.fleet, options.script, options.config)
    else:
        record, source = _explained_by_daemon(options, asked)
    if "ok" in record:
        print(record["error"])
        return EXIT_FAILED
    print(asking.shown(record, source, options.json))
    return 0


def _explained_by_daemon(options: argparse.Namespace, asked: dict[str, Any]) -> tuple[dict[str, Any], bytes | None]:
    from rbeerouter.config.loading import control_access
    from rbeerouter.server import client

    access = control_access(options.config)
    record = client.call(access, "POST", "/api/v1/explain", asked)
    script = client.call(access, "GET", "/routing")["script"]
    path = Path(script["file"]) if script else None
    source = path.read_bytes() if path is not None and path.is_file() else b""
    active = script is not None and hashlib.sha256(source).hexdigest().startswith(script["hash"])
    return record, source if active else None                  # a file that was changed has other lines


def _check(options: argparse.Namespace) -> int:
    from rbeerouter.workbench import examine

    script, config = script_and_config(options)
    return 0 if examine.run(script, config, sys.stdout, options.json, options.static) else EXIT_FAILED


def _test(options: argparse.Namespace) -> int:
    from rbeerouter.workbench import trial, watch

    script, config = script_and_config(options)

    def run() -> bool:
        return trial.run(
            script, options.test, seed=options.seed, cases=options.cases, junit=options.junit, lcov=options.lcov,
            as_json=options.json, out=sys.stdout, config=config,
        )  # fmt: skip

    if options.watch:
        watch.watch(script, options.test, run, sys.stdout)
        return 0
    return 0 if run() else EXIT_FAILED






def _workers(options: argparse.Namespace) -> int:
    from rbeerouter.config.loading import control_access
    from rbeerouter.server import client

    access = control_access(options.config)
    if options.action == "list":
        print(client.workers_text(client.call(access, "GET", client.WORKERS)))
        return 0
    if options.worker is None:
        raise ConfigError(f"workers {options.action}: expected {'a URL' if options.action == 'add' else 'an ID'}")
    answer = client.change_worker(access, options.action, options.worker, options.id)
    print(answer["error"] if not answer["ok"] else answer.get("note", "done"))
    return 0 if answer["ok"] else EXIT_FAILED


def _agent(options: argparse.Namespace) -> int:
    from rbeerouter.agent import service
    from rbeerouter.config.sections import Secret
    from rbeerouter.config.workers import check_url

    if options.token is None:
        raise ConfigError("agent: --token is missing: the router's [registration] token, or @FILE with it")
    if not 1 <= options.interval <= 3600:
        raise ConfigError(f"--interval {options.interval:g}: expected 1 to 3600 seconds")
    service.run(
        service.Settings(
            check_url(options.router, "--router"), Secret(_text(options.token)),
            tuple(check_url(url, "--engine-url") for url in options.engine_url), options.name,
            options.interval, options.yield_to_owner, options.idle_after,
            Secret(_text(options.api_key)) if options.api_key else None,
        )
    )
    return 0


def _text(given: str) -> str:
    """What was given, or the first line of @FILE: arguments can be seen by everybody on the machine."""
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text().split("\n")[0].strip()
    except OSError as error:
        raise ConfigError(f"{given[1:]}: cannot be read: {error.strerror}") from None


def _demo(options: argparse.Namespace) -> int:
    from rbeerouter.demo import tour

    return tour.run(stay=options.stay)
