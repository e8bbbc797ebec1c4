"""A script in a process of its own: it decides as one in the daemon does, and nothing that happens to it does harm."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.control.script_process import ScriptProcess, ScriptProcesses
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.sandbox import Abilities, Limits, RuntimeLost, Sandbox
from rbeerouter.routing.script import Choice, Script, ScriptError
from tests.support.builders import FULL_WORKER, down, env, fill, fleet, lua, request, worker

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT.parent / "shared" / "hostile"
LATE_S = 0.5
"""No decision takes longer; on an idle machine it is 0.1 s and what a new process takes to load a script."""
SOON_S = 10.0
GONE = "routing.lua: the script's process "
KILLED = GONE + "ended by signal 9, Killed"
ABILITIES = Abilities(request_headers=("x-team",), set_headers=("x-tier",), expose_prompt=True)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")


@pytest.fixture(scope="module")
def shared() -> Iterator[ScriptProcesses]:
    processes = ScriptProcesses()
    yield processes
    processes.close()


@pytest.fixture
def processes() -> Iterator[ScriptProcesses]:
    """Processes of this test alone."""
    made = ScriptProcesses()
    yield made
    made.close()


def load(source: str | bytes, runtime: Any, limits: Limits | None = None, abilities: Abilities = ABILITIES) -> Script:
    whole = source if isinstance(source, bytes) else lua(source)
    return Script(whole, "routing.lua", env(), limits, abilities, runtime)


def process_of(script: Script) -> subprocess.Popen[bytes]:
    runtime = script._runtime
    assert isinstance(runtime, ScriptProcess)
    return runtime._process


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.005)


def spare_is_ready(processes: ScriptProcesses) -> None:
    """Waits for the spare to sleep, as it does when it listens."""
    spare = processes._spare
    assert spare is not None
    until(lambda: os.listdir(f"/proc/{spare._process.pid}/fd") == ["0", "1", "2", "3"])
    until(lambda: state_of(spare._process.pid) == "S")


def state_of(pid: int) -> str:
    """R, S, T, Z ... of a process; X when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def children() -> list[int]:
    """Our own, zombies included."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def choose(name: str, request: Request, workers: list[Worker]) -> Worker | None:
    return workers[-1] if name == "least-request" else None


def told(choice: Choice) -> tuple[Any, ...]:
    """A choice in values that can be compared between two fleets."""
    order = tuple(one.id for one in choice.workers) if choice.workers else None
    late = choice.error is not None and "gave no answer in 0.08 s" in choice.error      # on a busy machine
    error = "routing.lua:2: budget exceeded (hint: this loop may not end, or walks too much for one decision)" if late else choice.error
    return (
        choice.worker and choice.worker.id, choice.line, error, choice.deliberate, order, choice.answer,
        choice.log,
    )  # fmt: skip


# The same as in the daemon.

ALIKE = {
    "a worker": "return workers[2]",
    "nil": "return nil",
    "an id": "return 'w3'",
    "lines": "if request.stream then\nreturn workers[1]\nend\nreturn workers[3]",
    "an order": "return {workers[3], 'w1'}",
    "chance": "return workers[1 + math.floor(rand() * 3)]",
    "a sample": "return workers:sample()",
    "a reason": "return workers[1], 'because'",
    "odd text": "return workers[1], 'd\u00e9j\u00e0 \U0001f41d\\0\\r\\n'",
    "bytes that are no text": "return workers[1], '\\xff\\xfe'",
    "a log": "log('a', 1, nil) log(request.path, {1, 2}) return workers[1]",
    "too much of a log": "for i = 1, 100 do log(('x'):rep(3000)) end",
    "a wait": "return queue(workers[1], {timeout_s = 3, priority = 'high'})",
    "a refusal": "return reject{status = 429, message = 'later', retry_after = 5}",
    "a rewrite": "return {worker = 'w1', model = 'big', headers = {['x-tier'] = 'gold'}}",
    "a header that is not allowed": "return {worker = 'w1', headers = {host = 'x'}}",
    "an error": "local x = nil\nreturn x.y",
    "an error of its own": "error('No workers available')",
    "an error that is a table": "error({})",
    "a wrong field": "return workers[1].lod",
    "a wrong answer": "return 17",
    "an unknown id": "return 'w9'",
    "a loop": "while true do end",
    "memory": "local s = 'x' while true do s = s .. s end",
    "state": "local n = state:incr('n') return workers[(n - 1) % 3 + 1], tostring(n)",
    "a strategy": "return strategy('least_request')(request, workers)",
    "two strategies": "return strategy('round-robin')(request, workers) or strategy('least-request')(request, workers)",
    "a strategy without end": "while true do strategy('round-robin')(request, workers) end",
    "a parameter": "return workers[math.floor(param('n', 2, 1, 3))]",
    "the request": "return 'w1', request.model .. ' ' .. tostring(request.max_tokens) .. ' ' .. tostring(request.prompt)",
    "headers": "return 'w1', tostring(request.headers['x-team'])",
    "metadata": "return 'w1', tostring(request.metadata.tier) .. math.type(request.metadata.n or 1.5)",
    "a worker's fields": "local w = workers[1] return w, w.backend .. w.vram .. tostring(w.metadata.spot) .. #w.models",
    "measures": "return 'w1', tostring(workers[1].latency_ms) .. tostring(workers[1].kv_usage)",
    "the clock": "return 'w1', timestamp():iso()",
    "load": "return workers:sort_by('load')[1]",
}
REQUESTS: list[dict[str, Any]] = [
    {},
    {"stream": True, "max_tokens": 12, "headers": {"x-team": "r\u00e9d"}, "metadata": {"type": "llm", "tier": "a", "n": 3}},
    {"model": "a\ud800b", "prompt": "p" * 100_000},
    {"max_tokens": 1 << 62, "metadata": {"n": 1 << 63}},
    {"max_tokens": 1 << 64},
    {"max_tokens": -(1 << 64), "user_id": "\x00\n\u2028"},
    {"metadata": {"\ud800": 1}, "prompt": "\U0001f41d" * 20_000},
]  # fmt: skip


def history(script: Script) -> list[tuple[Any, ...]]:
    """What a script says to a series of requests while the fleet changes."""
    made = fleet(FULL_WORKER, worker("w1", models=("m",)), "w2", "w3")
    said = []
    for turn in range(2):
        for fields in REQUESTS:
            said.append(told(script.route(request(**fields), made, choose)))
            fill(made, f"w{turn + 1}", 1)
    down(made, "w2")
    said.append(told(script.route(request(), made, choose)))
    made.configure([worker("w3"), worker("w4")])
    said.append(told(script.route(request(), made, choose)))
    return said


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in ALIKE.items()])
def test_a_script_decides_as_it_does_in_the_daemon(body: str, shared: ScriptProcesses) -> None:
    here, there = load(body, Sandbox), load(body, shared)
    pairs = zip(history(here), history(there), strict=True)
    assert [pair for pair in pairs if pair[0] != pair[1]] == []
    assert (here.state(), here.params()) == (there.state(), there.params())
    there.close()


HOOKS = b"""
log("loading")
function route_request(request, workers) return workers[1] end
function on_failure(request, attempt, workers)
  log(attempt.worker_id, attempt.error, attempt.number)
  if attempt.number == 1 then return strategy("least-request")(request, workers), "again" end
  if attempt.number == 2 then return false end
  return attempt.x
end
function on_complete(request, outcome)
  if outcome.status == 200 then log(outcome.tokens_out) end
  if outcome.status == 500 then error("boo") end
  state:set("last", outcome.status)
end
"""


def test_the_hooks_are_asked_as_in_the_daemon(shared: ScriptProcesses) -> None:
    both = load(HOOKS, Sandbox), load(HOOKS, shared)
    made = fleet(), fleet()
    assert {(one.has_on_failure, one.has_on_complete, tuple(one.notes)) for one in both} == {(True, True, ("loading",))}
    for number in (1, 2, 3):
        attempt = {"worker_id": "w1", "error": "upstream_reset", "duration_ms": 1.5, "number": number}
        one, other = (
            told(script.after_failure(request(), attempt, ["w1"], workers, choose))
            for script, workers in zip(both, made, strict=True)
        )
        assert one == other
    for status in (200, 500, 404):
        outcome = {"worker_id": "w1", "ok": True, "status": status, "outcome": "ok", "error": "", "ttft_ms": 1.5,
                   "total_ms": 2.5, "tokens_in": "", "tokens_out": 3, "attempts": 1}  # fmt: skip
        one, other = (
            told(script.completed(request(), outcome, workers)) for script, workers in zip(both, made, strict=True)
        )
        assert one == other
    assert both[0].state() == both[1].state() == [["last", 404, False]]
    both[1].close()


@pytest.mark.parametrize(
    "source",
    [
        b"", b"x = ", b"\xef\xbb\xbffunction route_request() return nil end", b"\xff\xfe\x00", b"error('no')",
        b"while true do end", b"local s = 'x' while true do s = s .. s end", b"route_request = 1",
        lua("return " + " or ".join(["a"] * 3000)),
        b"-- caf\xe9\nfunction route_request() return 'w1', 'caf\xe9' end", b"x" * 40_000,
    ],
)  # fmt: skip
def test_a_script_that_does_not_load_is_told_in_the_same_words(source: bytes, shared: ScriptProcesses) -> None:
    words = []
    for runtime in (Sandbox, shared):
        try:
            script = load(source, runtime)
        except ScriptError as error:
            words.append(str(error))
        else:
            words.append(str(told(script.route(request(), fleet()))))
            script.close()
    assert words[0] == words[1]


def test_a_swollen_script_is_rebuilt_and_its_state_goes_with_it(shared: ScriptProcesses) -> None:
    body = (
        "state:incr('n') if request.stream then for i = 1, 100 do kept[i] = ('x'):rep(60000) .. i end end "
        "return workers[1], tostring(#kept)"
    )
    whole, limits = b"kept = {}\n" + lua(body), Limits(instructions=50_000_000, cpu_s=1.0)
    here, there = load(whole, Sandbox, limits), load(whole, shared, limits)
    before = process_of(there).pid
    made = fleet(), fleet()
    for stream in (True, False, False):
        assert told(here.route(request(stream=stream), made[0])) == told(there.route(request(stream=stream), made[1]))
    assert here.state() == there.state() == [["n", 3, False]]
    assert process_of(there).pid != before
    there.close()


def test_a_fleet_that_is_larger_than_the_socket_holds_comes_across(shared: ScriptProcesses) -> None:
    made = fleet(*(worker(f"w{number}", metadata={"note": "x" * 500}) for number in range(2000)))
    script = load("return workers[#workers], tostring(#workers[7].metadata.note)", shared)
    choice = script.route(request(), made)
    assert told(choice)[:3] == ("w1999", 2, None)
    script.close()


def test_a_full_state_is_taken_over_by_the_next_script(shared: ScriptProcesses) -> None:
    body = "for i = 1, 9000 do state:set('key ' .. i, ('v'):rep(40)) end return workers[1]"
    limits = Limits(cpu_s=1.0, instructions=50_000_000, memory_bytes=8 << 20)
    old, new = load(body, shared, limits), load("return workers[1], state:get('key 9000')", shared, limits)
    assert old.route(request(), fleet()).error is None
    new.adopt(old)
    choice = new.route(request(), fleet())
    assert choice.answer is not None and choice.answer.reason == "v" * 40
    assert len(new.state()) == 9000
    for script in (old, new):
        script.close()


# Hostile scripts.

GOOD = "local able = workers:filter(function(w) return w.status == 'ready' end) return able:sort_by('load')[1]"


def corpus() -> list[Any]:
    if not CORPUS.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{CORPUS} is not there"))]
    return [pytest.param(path, id=path.stem) for path in sorted(CORPUS.glob("*.lua"))]


def hostile_fleet() -> Fleet:
    """The fixture of the corpus."""
    made = fleet(
        *(
            worker(
                f"w{number}", models=("m-small", "m-big") if number in (2, 5) else ("m-small",),
                metadata={"region": "us" if number % 2 else "eu"}, max_concurrency=100,
            )
            for number in range(1, 9)
        )
    )  # fmt: skip
    for number, load in enumerate((50, 20, 90, 10, 20, 70, 0, 30), 1):
        fill(made, f"w{number}", load)
    down(made, "w7")
    for name in ("w4", "w8"):
        made.workers[name].status = "busy"
    made.version += 1
    return made


_STOPPED = ("budget exceeded", "not enough memory", "stack overflow", "gave no answer in 0.08 s")


def outcome(choice: Choice) -> str:
    if choice.worker is not None or choice.error is None:
        return f"pick:{choice.worker and choice.worker.id}"
    if any(text in choice.error for text in _STOPPED):
        return "stopped"                                       # by what and at which line, chance decides
    return f"error: {choice.error}"


def outcomes(source: bytes, runtime: Any, made: Fleet) -> list[str]:
    asked = request(model="m-small", user_id="u@example.com", metadata={"tier": "premium", "region": "eu"})
    try:
        script = load(source, runtime, abilities=Abilities())
    except ScriptError:
        return ["load-error"]
    found = []
    for _ in range(4):
        started = time.monotonic()
        found.append(outcome(script.route(asked, made)))
        assert time.monotonic() - started < LATE_S, "a decision took too long"
    script.close()
    return found


@pytest.mark.parametrize("path", corpus())
def test_a_hostile_script_ends_as_in_the_daemon_and_the_next_one_is_fine(
    path: Path, shared: ScriptProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = outcomes(path.read_bytes(), shared, hostile_fleet())
    assert there == outcomes(path.read_bytes(), Sandbox, hostile_fleet())
    assert outcomes(lua(GOOD), shared, hostile_fleet()) == ["pick:w2"] * 4
    assert list(tmp_path.iterdir()) == []


# A process that comes to grief.


def test_a_process_that_was_killed_between_decisions_costs_one(processes: ScriptProcesses) -> None:
    script, made = load("return workers[2]", processes), fleet()
    assert told(script.route(request(), made))[0] == "w2"
    process_of(script).kill()
    process_of(script).wait()
    choices = [told(script.route(request(), made)) for _ in range(3)]
    assert [(choice[0], choice[2]) for choice in choices] == [(None, KILLED), ("w2", None), ("w2", None)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_process_that_is_killed_during_a_decision_costs_one(number: int, processes: ScriptProcesses) -> None:
    body = "if request.stream then while true do end end return workers[2]"
    script, made = load(body, processes, Limits(cpu_s=5.0, instructions=1 << 40)), fleet()
    hand = threading.Timer(0.1, process_of(script).send_signal, [number])
    hand.start()
    choice = script.route(request(stream=True), made)
    hand.join()
    assert choice.error == f"{GONE}ended by signal {int(number)}, {signal.strsignal(number)}"
    assert told(script.route(request(), made))[0] == "w2"


@on_linux
@pytest.mark.parametrize("large", [False, True])
def test_a_process_that_hangs_is_killed_in_time(large: bool, processes: ScriptProcesses) -> None:
    script = load("return workers[2]", processes)
    made = fleet(*(worker(f"w{number}", metadata={"note": "x" * 2000}) for number in range(300 if large else 3)))
    spare_is_ready(processes)
    hung = process_of(script)
    hung.send_signal(signal.SIGSTOP)
    until(lambda: state_of(hung.pid) == "T")
    started = time.monotonic()
    choice = script.route(request(), made)
    assert time.monotonic() - started < LATE_S
    assert choice.error == GONE + "gave no answer in 0.08 s and was killed"
    assert script.route(request(), made).error is None
    until(lambda: state_of(hung.pid) == "X")


@on_linux
def test_with_the_spare_a_lost_process_holds_up_nobody(processes: ScriptProcesses) -> None:
    script, made = load("return workers[2]", processes), fleet()
    times = []
    for _ in range(5):
        spare_is_ready(processes)
        process_of(script).kill()
        process_of(script).wait()
        started = time.monotonic()
        assert script.route(request(), made).error == KILLED
        times.append(time.monotonic() - started)
    assert min(times) < 0.03, "a new Python alone would take longer"


def test_a_spare_that_died_is_not_handed_out(processes: ScriptProcesses) -> None:
    assert processes._spare is not None
    processes._spare._process.kill()
    processes._spare._process.wait()
    assert told(load("return workers[2]", processes).route(request(), fleet()))[0] == "w2"


def test_a_script_that_kills_its_process_while_it_loads_does_not_load() -> None:
    processes = ScriptProcesses(("-c", "import os; os.abort()"))
    with pytest.raises(ScriptError, match="the script's process ended by signal 6"):
        load("return workers[1]", processes)
    processes.close()


def test_without_room_for_a_process_the_runtime_is_lost(processes: ScriptProcesses, monkeypatch: Any) -> None:
    processes.close()
    with pytest.raises(RuntimeLost, match="the daemon stops"):
        processes(Limits(), Abilities())
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RuntimeLost, match="cannot be started"):
        ScriptProcesses()(Limits(), Abilities())


# A process that was taken over.

LIAR = """
import socket, struct, sys, time
import msgspec
talk = socket.socket(fileno=int(sys.argv[1]))
def frame(answer): data = msgspec.msgpack.encode((False, answer)); return struct.pack(">I", len(data)) + data
while True:
    data = talk.recv(65536)
    while len(data) < 4 + struct.unpack_from(">I", data)[0]: data += talk.recv(65536)
    name, arguments = msgspec.msgpack.decode(data[4:])[-1]
    if name == "load": talk.sendall(frame((0, "")))
    elif name == "ask": talk.sendall(frame(0 if arguments == ["hooks"] else "[]"))
    else:
        LIE
"""
NONSENSE = GONE + "answered nonsense and was killed"
LIES = {
    "a worker that is not there": ("talk.sendall(frame(9 << 16))", NONSENSE),
    "garbage": ("talk.sendall(b'\\xff' * 256)", GONE + "answered with more than 10485760 bytes and was killed"),
    "garbage of a good length": ("talk.sendall(struct.pack('>I', 5) + b'\\xff' * 5)", NONSENSE),
    "two answers": ("talk.sendall(frame(0) * 2)", NONSENSE),
    "a flood": ("talk.sendall(struct.pack('>I', 1 << 23)); [talk.sendall(bytes(1 << 16)) for _ in range(1 << 20)]", NONSENSE),
    "a flood without end": ("while True: talk.sendall(b'\\xff' * 65536)", GONE + "answered with more than 10485760 bytes"),
    "a drip": ("talk.sendall(struct.pack('>I', 999)); [(talk.sendall(b'x'), time.sleep(0.02)) for _ in range(999)]", GONE + "gave no answer in 0.08 s"),
    "half an answer": ("talk.sendall(frame(0)[:5]); time.sleep(60)", GONE + "gave no answer in 0.08 s"),
    "half an answer and the end": ("talk.sendall(frame(0)[:5]); sys.exit(3)", GONE + "ended with status 3"),
    "the end": ("sys.exit(0)", GONE + "ended with status 0"),
    "a closed socket": ("talk.close(); time.sleep(60)", GONE + "closed its socket and was killed"),
    "questions without end": ("talk.sendall(frame((1, 'strategy', 'round-robin 1')))", GONE + "gave no answer in 0.08 s"),
    "a question that none asks": ("talk.sendall(frame((1, 'strategy', 'eval 1')))", NONSENSE),
}  # fmt: skip


@pytest.mark.parametrize(("lie", "error"), [pytest.param(*lie, id=name) for name, lie in LIES.items()])
def test_whatever_a_process_answers_costs_its_decision_and_no_more(lie: str, error: str) -> None:
    processes = ScriptProcesses(("-P", "-c", LIAR.replace("LIE", lie)))
    script, made = load("return workers[1]", processes), fleet()
    for _ in range(2):
        time.sleep(0.1)                                        # for the next one to have started
        started = time.monotonic()
        choice = script.route(request(), made, choose)
        assert time.monotonic() - started < LATE_S
        assert choice.worker is None and (choice.error or "").startswith(error)
    processes.close()


# What is left behind: nothing.


@on_linux
def test_after_50_rebuilds_there_are_as_many_files_and_processes_as_before(processes: ScriptProcesses) -> None:
    script, made = load("return workers[2]", processes), fleet()
    strangers = set(children()) - {process_of(script).pid, processes._spare._process.pid}  # type: ignore[union-attr]
    script.route(request(), made)
    gc.collect()
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        process_of(script).kill()
        assert script.route(request(), made).error in (KILLED, GONE + "closed its socket and was killed")
    assert script.route(request(), made).error is None
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == files
    until(lambda: len(set(children()) - strangers) == 2)
    until(lambda: not any(thread.name == "reap a script's process" for thread in threading.enumerate()))


@on_linux
def test_closing_ends_all_processes_also_those_in_use(processes: ScriptProcesses) -> None:
    scripts = [load("return workers[1]", processes) for _ in range(3)]
    pids = [process_of(script).pid for script in scripts] + [processes._spare._process.pid]  # type: ignore[union-attr]
    assert len(set(pids)) == 4
    processes.close()
    assert [state_of(pid) for pid in pids] == ["X"] * 4
    assert "the daemon stops" in str(scripts[0].route(request(), fleet()).error)


@on_linux
def test_a_script_that_nobody_holds_any_more_takes_its_process_with_it(processes: ScriptProcesses) -> None:
    script = load("return workers[1]", processes)
    script.route(request(), fleet())
    pid = process_of(script).pid
    del script
    until(lambda: state_of(pid) == "X")


PARENT = """
import sys, time, os
from rbeerouter.control.script_process import ScriptProcesses
from rbeerouter.routing.sandbox import Abilities, Limits
processes = ScriptProcesses()
one, other = processes(Limits(), Abilities()), processes(Limits(cpu_s=60.0, instructions=1 << 40), Abilities())
for runtime in (one, other):
    assert runtime.load(b"function route_request() while true do end end", "x") == (0, "")
    runtime.finish_puts(0)
print(one._process.pid, other._process.pid, processes._spare._process.pid, flush=True)
END
"""
ENDS = {
    "returns": "",
    "raises": "raise SystemExit(1)",
    "ends at once": "os._exit(0)",
    "waits": "time.sleep(60)",
    "decides": "other.route(0, 0, 0.0, 0, 'm', *[None] * 9, 0)",
}


@on_linux
@pytest.mark.parametrize("end", list(ENDS))
def test_no_process_outlives_the_daemon_however_it_ends(end: str) -> None:
    source = PARENT.replace("END", ENDS[end])
    parent = subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3
        if end == "waits":
            os.kill(pids[0], signal.SIGSTOP)
        if end == "decides":
            until(lambda: state_of(pids[1]) == "R")
        if end in ("waits", "decides"):
            parent.kill()
    try:
        until(lambda: all(state_of(pid) in "XZ" for pid in pids))      # Z where nobody takes in orphans
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@on_linux
def test_the_process_gets_none_of_the_daemon_s_secrets_and_files(processes: ScriptProcesses, monkeypatch: Any) -> None:
    monkeypatch.setenv("API_KEY", "secret")
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    load("return nil", processes)                              # takes the spare; the next one starts with the key about
    script = load("return nil", processes)
    pid = process_of(script).pid
    assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2", "3"]
    for descriptor in (reading, writing):
        os.close(descriptor)
