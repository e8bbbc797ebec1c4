"""What can never run, and conditions that are no question."""

from __future__ import annotations

import pytest

from tests.workbench.scripts import told


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("if request.stream then return 'a' else return 'b' end\nreturn 'c'", ["unreachable 3:1"]),
        ("if request.stream then return 'a' elseif request.model == 'm' then error('x') else return 'b' end\nlog(1)",
         ["unreachable 3:1"]),
        ("do return nil end\nlog('x')\nlog('y')", ["unreachable 3:1"]),
        ("error('x')\nreturn nil", ["unreachable 3:1"]),
        ("while true do log('x') end\nreturn nil", ["unreachable 3:1"]),
        ("for i = 1, 3 do do break end log(i) end", ["unreachable 2:30"]),
        ("repeat return nil until request.stream\nlog('x')", ["unreachable 3:1"]),
        ("if true then return nil end\nlog('x')", ["constant-condition 2:4", "unreachable 3:1"]),
        ("if 0 then log('x') end", ["constant-condition 2:4"]),
        ("if false then log('x') end", ["constant-condition 2:4"]),
        ("if request.stream then log(1) elseif nil then log(2) end", ["constant-condition 2:38"]),
        ("while false do log('x') end", ["constant-condition 2:7"]),
    ],
)  # fmt: skip
def test_what_can_never_run_is_a_warning(body: str, lines: list[str]) -> None:
    assert told(body) == [f"warning {line}" for line in lines]


@pytest.mark.parametrize(
    "body",
    [
        "if request.stream then return 'a' end\nreturn 'b'",
        "if request.stream then return 'a' elseif request.model then return 'b' end\nreturn 'c'",
        "if request.stream then else return 'b' end\nreturn 'c'",
        "while true do if request.stream then break end end\nreturn nil",
        "while true do if request.stream then goto done end end\n::done::\nreturn nil",
        "for i = 1, 3 do if i == 2 then goto next end log(i) ::next:: end",
        "goto done\nlog('x')\n::done::\nreturn nil",
        "repeat if request.stream then break end return nil until true\nlog('x')",
        "for i = 1, 3 do return 'a' end\nreturn 'b'",
        "local function error(x) log(x) end\nerror('x')\nreturn nil",
        "workers:any(function() while true do break end return true end)\nreturn nil",
        "while true do workers:any(function() for i = 1, 2 do break end return true end) if rand() > 2 then break end end"
        "\nreturn nil",
    ],
)
def test_what_can_run_is_left_alone(body: str) -> None:
    assert told(body) == []
