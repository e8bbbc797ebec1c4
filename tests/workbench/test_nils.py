"""Where nil may come in: each warning, and each test of a value after which there is none."""

from __future__ import annotations

import pytest

from tests.support.builders import ask, fleet
from tests.workbench.scripts import hints, told


@pytest.mark.parametrize(
    ("body", "where", "hint"),
    [
        ("return workers:filter(function(w) return w.load > 5 end)[1].id", "2:8",
         "keep it in a local, and check that first"),
        ("return workers:first().id", "2:8", "keep it in a local, and check that first"),
        ("return workers:min_by('load').id", "2:8", "keep it in a local, and check that first"),
        ("return workers[1].id", "2:8", "check it first: if workers[1] then ... end"),
        ("local w = workers[1]\nreturn w.id", "3:8", "check it first: if w then ... end"),
        ("local w = workers[1]\nlog(w.id, w.load)", "3:5", "check it first: if w then ... end"),
        ("local best = workers:sample()\nreturn best.models:first()", "3:8", "check it first: if best then ... end"),
        ("log(workers:any(function(w) return w.vram > 30 end))", "2:36", "write (w.vram or 0)"),
        ("return workers:sort_by(function(a, b) return a.vram < (b.vram or 0) end)[1]", "2:46", "write (a.vram or 0)"),
        ("if request.max_tokens < 100 then return nil end", "2:4", "write (request.max_tokens or 0)"),
        ("local most = request.max_tokens\nif most < 100 then return nil end", "3:4", "write (most or 0)"),
        ("log('for ' .. request.user_id)", "2:15", 'write (request.user_id or "")'),
        ("log(hash_str(request.user_id))", "2:14", 'write request.user_id or ""'),
        ("log(request.metadata.budget / 2)", "2:5", "write (request.metadata.budget or 0)"),
        ("log(request.metadata:get('budget') + 2)", "2:5", "write (request.metadata:get('budget') or 0)"),
        ("log(request.user_id:lower())", "2:5", "check it first: if request.user_id then ... end"),
        ("log(state:get('x') + 1)", "2:5", "write (state:get('x') or 0)"),
        ("local g = workers:group_by('backend')\nreturn g.cuda:first()", "3:8", "check it first: if g.cuda then ... end"),
        ("log(tonumber(request.metadata.n) + 1)", "2:5", "write (tonumber(request.metadata.n) or 0)"),
        ("local function at(l) return l[1] end\nlog(at(workers).id)", "3:5", "keep it in a local, and check that first"),
    ],
)  # fmt: skip
def test_a_value_that_may_be_nil_is_told_of_once(body: str, where: str, hint: str) -> None:
    assert (told(body), hints(body)) == ([f"warning may-be-nil {where}"], [hint])


def test_what_is_warned_of_fails_when_there_are_no_workers() -> None:
    assert ask("return workers:first().id", fleet("w1")).error is None
    assert ask("return workers:filter(function(w) return w.load > 5 end)[1].id").error is not None


@pytest.mark.parametrize(
    "body",
    [
        "local w = workers[1]\nif w then return w.id end",
        "local w = workers[1]\nif not w then return nil end\nreturn w.id",
        "local w = workers[1]\nreturn w and w.id",
        "local w = workers[1]\nif w == nil then return nil end\nreturn w.id",
        "local w = assert(workers[1])\nreturn w.id",
        "local w = workers[1]\nassert(w, 'nobody')\nreturn w.id",
        "if workers[1] and workers[1].load < 1 then return workers[1] end",
        "if #workers > 0 then return workers[1].id end",
        "if workers:is_empty() then return nil end\nlocal w = workers:min_by('load')\nreturn w.id",
        "if workers:is_empty() then return nil end\nreturn workers:sort_by('load')[1].id",
        "local n = workers:len()\nif n == 0 then return nil end\nreturn workers:last().id",
        "for i = 1, #workers do log(workers[i].id) end",
        "for _, w in ipairs(workers) do log(w.id) end",
        "local best\nfor _, w in ipairs(workers) do if not best or w.load < best.load then best = w end end\nreturn best",
        "local best = workers[1]\nfor _, w in ipairs(workers) do if w.load < best.load then best = w end end",
        "local t = workers\nreturn t[math.random(#t)].id",
        "log(workers:any(function(w) return w.vram and w.vram > 30 end))",
        "log(workers:any(function(w) return (w.vram or 0) > 30 end))",
        "log(workers:any(function(w) return w.backend == 'cuda' end))",
        "if request.max_tokens and request.max_tokens < 100 then return nil end",
        "if not request.max_tokens then return nil end\nif request.max_tokens < 100 then return 'w1' end",
        "local most = request.max_tokens or 100\nif most < 100 then return nil end",
        "if request.user_id ~= nil then log(hash_str(request.user_id)) end",
        "log(request.metadata:get('budget', 1) + 2)",
        "log((tonumber(request.metadata.n) or 0) + 1)",
        "if request.metadata.tier then log(request.metadata.tier:lower()) end",
        "local tier = request.metadata.tier\nif tier and tier:starts_with('p') then return nil end",
        "log(workers:contains(request.user_id))",
        "return workers:min_by('load')",
        "return workers:filter(function(w) return w.load < 1 end)[1]",
        "if type(request.priority) == 'number' and request.priority > 5 then return nil end",
        "local x\nx = 5\nif request.stream then x = 6 end",
    ],
)
def test_a_value_that_was_looked_at_is_trusted(body: str) -> None:
    assert [line for line in told(body) if "unused" not in line] == []
