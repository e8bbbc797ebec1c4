"""What the tests of clients share: one daemon with its engines, started once for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.client_fleet import ClientFleet, client_fleet
from tests.support.llama import EngineMissing


@pytest.fixture(name="fleet", scope="session")
def start_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientFleet]:
    try:
        with client_fleet(tmp_path_factory.mktemp("clients")) as fleet:
            yield fleet
    except EngineMissing as missing:
        pytest.skip(str(missing))
