"""The sizes of models whose names do not tell them, as requests are given them."""

from __future__ import annotations

import re

import pytest

from rbeerouter.dialects.model_sizes import BILLIONS, model_size


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mixtral", 46.7), ("mixtral:latest", 46.7), ("mistralai/Mixtral", 46.7), ("microsoft/Phi-3-mini-128k-instruct", 3.8),
        ("command-r", 35.0), ("command-r-plus-08-2024", 104.0), ("command-r-08-2024", 32.3), ("gpt-oss", 20.9),
        ("whisper-large-v3", 1.55), ("whisper-large-v3-turbo", 0.809), ("phi-4", 14.7), ("phi-4-mini-instruct", 3.8),
        ("deepseek-v3-0324", 671.0), ("flux.1-dev", 12.0), ("nomic-embed-text-v1.5", 0.137), ("bge-m3", 0.568),
    ],
)  # fmt: skip
def test_known_models_have_the_size_of_the_longest_name_that_fits(name: str, size: float) -> None:
    assert model_size(name) == size


@pytest.mark.parametrize(
    "name", ["mixtrals", "command-rx", "phi-4.5", "grok-1.5", "phi-40", "deepseek-v3.2", "my-mixtral", "mistral", "/", "a/"]
)
def test_a_name_that_only_looks_like_a_known_one_is_not_known(name: str) -> None:
    assert model_size(name) is None


@pytest.mark.parametrize(
    ("name", "size"), [("mixtral-8x7b", 56.0), ("gpt-oss:120b", 120.0), ("deepseek-r1-distill-llama-8b", 8.0)]
)
def test_a_size_in_the_name_goes_before_the_table(name: str, size: float) -> None:
    assert model_size(name) == size


def test_the_table_is_written_as_it_is_looked_up() -> None:
    assert [name for name in BILLIONS if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*[a-z0-9]", name)] == []
    assert all(0 < size <= 2000 for size in BILLIONS.values())


# The size that a model's name tells.


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("llama-3-8b", 8.0), ("Meta-Llama-3.1-70B-Instruct", 70.0), ("Qwen2.5-0.5B", 0.5),
        ("llama3.1:8b-instruct-q4_K_M", 8.0),
        ("mixtral-8x7b", 56.0), ("Mixtral-8x22B-v0.1", 176.0), ("gemma-3-270m-it", 0.27), ("smollm2:135m", 0.135),
        ("qwen3-30b-a3b", 30.0), ("org/model-1.5b", 1.5), ("7b", 7.0), ("TinyLlama-1.1B-Chat", 1.1),
        ("phi_3_14b", 14.0),
        ("gpt-4o", None), ("snowflake-v1.5", None), ("mini-128k", None), ("gemma-3n-e4b", None), ("model-8bit", None), ("a100b", None), ("", None), ("b", None), (".5b", None),
    ],
)  # fmt: skip
def test_the_size_of_a_model_is_read_from_its_name(name: str, size: float | None) -> None:
    assert model_size(name) == size
