"""The constants of a script by the field they are compared with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.workbench.literals import Literals, literals
from tests.docs.pages import REPOSITORY
from tests.support.builders import lua, quick


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return request.model == 'a' or 'b' ~= request.model", {"model": {"a", "b"}}),
        ("return request.max_tokens and request.max_tokens < 100 or (request.max_tokens or 0) > 500",
         {"max_tokens": {100, 500}}),
        ("return request.metadata.tier == 'premium' or request.metadata:get('region', 'eu') == 'us'",
         {"metadata.tier": {"premium"}, "metadata.region": {"eu", "us"}}),
        ("local tier = request.metadata.tier\nreturn tier == 'premium'", {"metadata.tier": {"premium"}}),
        ("local WANTED = 'a'\nreturn request.model == WANTED", {"model": {"a"}}),
        ("local levels = { gold = 1, ['silver'] = 2 }\nreturn levels[request.metadata.tier]",
         {"metadata.tier": {"gold", "silver"}}),
        ("return request.model:starts_with('llama-') or request.model:lower():contains('code')",
         {"model": {"llama-", "code"}}),
        ("return tonumber(request.metadata.budget) > 2.5", {"metadata.budget": {2.5}}),
        ("return request.priority == -1", {"priority": {-1}}),
        ("return request.stream == true", {}),
        ("return request.model == request.user_id", {}),
    ],
)  # fmt: skip
def test_constants_stand_under_the_field_of_the_request(body: str, expected: dict[str, set[object]]) -> None:
    assert literals(lua(body)).request == expected


def test_workers_and_the_clock_have_their_own() -> None:
    found = literals(
        lua(
            "local h = timestamp():hour()\nif h >= 9 and h < 17 then return nil end\n"
            "return workers:filter(function(w) return w.backend == 'cuda' and w.models:contains('m') and w.load < 0.5\n"
            "and w.metadata.region == 'eu' and w.id:starts_with('sd-') end)[1]"
        )
    )
    assert found == Literals(
        request={},
        worker={"backend": {"cuda"}, "models": {"m"}, "load": {0.5}, "metadata.region": {"eu"}, "id": {"sd-"}},
        clock={"hour": {9, 17}},
        texts={"cuda", "m", "eu", "sd-"},
        numbers={9, 17, 0.5, 1},
    )


def test_of_a_text_that_is_no_lua_the_constants_are_still_found() -> None:
    assert literals(b"if x == 'a' {") == Literals({}, {}, {}, {"a"}, set())


@pytest.mark.parametrize(
    ("name", "fields"),
    [("tiers", {"metadata.tier"}), ("region", {"metadata.region"}), ("cost", {"max_tokens"}), ("ab-test", {"model"})],
)
def test_the_examples_tell_what_they_ask_for(name: str, fields: set[str]) -> None:
    assert set(literals((REPOSITORY / f"docs/examples/{name}.lua").read_bytes()).request) == fields


@quick(max_examples=100)
@given(st.binary(max_size=200))
def test_nothing_makes_it_fail(source: bytes) -> None:
    literals(source)
