"""The command line of scripts/fuzz: a parent that watches, and a child that plays and may hang or die.

The child writes the number of each program to a pipe before it plays it, so the parent can tell which one it was.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence

HANG_S = 20.0
MEMORY_EVERY = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """0: nothing found. 1: something found, and told. 2: wrong arguments."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=(
        "Runs made-up routing scripts on made-up fleets, and fails when one raises into Python, hangs, crashes, leaves "
        "memory or a wrong decision behind, or sees what it must not."
    ))  # fmt: skip
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--seed", type=int, help="the same programs again; by default another one each time, printed")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="play one program of the seed, and show it")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first finding")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 31)
    if given.child is not None:
        return child(seed, given.child, given.seconds)
    if given.only is not None:
        return show(seed, given.only)
    return watch(seed, given.seconds, given.keep_going)


def show(seed: int, number: int) -> int:
    from .play import Broken, Player

    player = Player(seed)
    text = player.text(number)
    print(text)
    try:
        player.play(number, text)
    except Broken as broken:
        print(f"-- broken: {broken}")
        return 1
    print(f"-- {player.came}")
    return 0


def child(seed: int, number: int, seconds: float) -> int:
    """Plays programs from `number` on, and tells the parent: their numbers, then what was wrong or how it went."""
    from .play import Player

    player, ends = Player(seed), time.monotonic() + seconds
    while time.monotonic() < ends:
        print(number, flush=True)
        try:
            player.play(number, player.text(number))
            if player.played % MEMORY_EVERY == 1 and player.played > 1:
                player.check_memory()
        except Exception:
            print("broken", traceback.format_exc().replace("\n", "\x1f"), flush=True)
            return 1
        number += 1
    print("done", player.played, player.came, flush=True)
    return 0


def watch(seed: int, seconds: float, keep_going: bool) -> int:
    print(f"seed {seed}", flush=True)
    ends, number, found = time.monotonic() + seconds, 0, 0
    while (left := ends - time.monotonic()) > 0:
        last, how = run_child(seed, number, left)
        if how.startswith("done"):
            print(how)
            break
        found += 1
        print(
            f"FOUND seed {seed}, program {last}: {how}\n  again: scripts/fuzz --seed {seed} --only {last}", flush=True
        )
        if not keep_going:
            break
        number = last + 1
    print(f"{found} found in {seconds:.0f} s")
    return 1 if found else 0


def run_child(seed: int, number: int, seconds: float) -> tuple[int, str]:
    """(the last program's number, how it ended)."""
    fuzz = ["-m", "fuzzing", "--seed", str(seed), "--child", str(number), "--seconds", f"{seconds:.3f}"]
    command = [sys.executable, *fuzz]
    last, buffer = number, b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        descriptor = process.stdout.fileno()
        while True:
            if not select.select([descriptor], [], [], HANG_S)[0]:
                process.kill()
                return last, f"did not come back within {HANG_S:.0f} s"
            got = os.read(descriptor, 1 << 16)
            *lines, buffer = (buffer + got).split(b"\n")
            for line in (line.decode() for line in lines):
                if line.startswith("broken"):
                    process.wait()
                    return last, line.removeprefix("broken ").replace("\x1f", "\n")
                if line.startswith("done"):
                    process.wait()
                    return last, line
                with contextlib.suppress(ValueError):
                    last = int(line)
            if not got:
                code = process.wait()
                return (
                    last,
                    f"the process ended with {code}: {process.stderr.read()[-2000:].decode('utf-8', 'replace')}",
                )
