"""`rbeerouter demo`, run as a person runs it."""

from __future__ import annotations

import re
import subprocess
import sys


def test_the_demo_shows_where_requests_went_and_why_and_survives_a_lost_worker() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rbeerouter", "demo"], capture_output=True, text=True, timeout=120, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    answers = re.findall(r"^  (.+?) +(\d{3})  -> (\S+) +because (.*?)   \(decided", done.stdout, re.MULTILINE)
    assert len(answers) == 13
    assert [worker for kind, _, worker, _ in answers if kind.startswith("short")] == ["cpu", "cpu"]
    assert {status for _, status, _, _ in answers} == {"200"}
    assert ("premium", "200", "gpu-fast", "routing.lua:4") in answers
    assert ("premium", "200", "gpu-slow", "routing.lua:4") in answers, "the changed script was not taken"
    assert "routing.lua:6: error: unexpected symbol near '&'" in done.stdout
    assert re.search(r"routing.lua:4; then least-request after gpu-fast failed .* 2 workers tried", done.stdout)
