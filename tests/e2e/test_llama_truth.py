"""The simulated engine against a genuine llama.cpp server: what is learned from one load foretells another.

Run by pytest; takes a good minute, three where the machine has other work. Skipped where the engine's package is not
installed, and where the machine's own noise, measured in the same run, is too large to tell a good model from a bad one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.llama import EngineMissing, need
from tests.support.truth import Truth, measure, write_model

TOLERANCE = 0.2
MOST_NOISE = 0.12
"""Two equal loads in one run must not differ by more, nor the pace of the two that are learned from. Then their middle
is half of that away from either, and what goes beyond the tolerance is the model's fault."""
MOST_TRIES = 3


@pytest.fixture(name="model", scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        need("xllamacpp")
        return write_model(tmp_path_factory.mktemp("model"))
    except EngineMissing as missing:
        pytest.skip(str(missing))


def test_a_profile_learned_from_one_load_foretells_another_within_a_fifth(model: Path, tmp_path: Path) -> None:
    noisy: list[Truth] = []
    for attempt in range(MOST_TRIES):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        truth = measure(model, folder, seed=100 * attempt)
        if truth.noisiest <= MOST_NOISE:
            assert truth.worst <= TOLERANCE, truth
            return
        noisy.append(truth)
    pytest.skip(f"the machine is too busy to tell: equal loads differed by {[f'{one.noisiest:.0%}' for one in noisy]}")
