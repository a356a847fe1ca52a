"""Greedy decoding against an oracle made of itertools.groupby."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unispeech.decode.greedy import collapse, greedy

TOKENS = ["<blk>", "|", "A", "B"]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 3))
def test_collapse_equals_groupby(path: list[int], blank: int) -> None:
    assert collapse(path, blank) == [k for k, _ in itertools.groupby(path) if k != blank]


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ("", ""),
        ("___", ""),
        ("|", ""),
        ("AA_AB|", "AAB"),
        ("|A||_|BB_", "A B"),
        ("A|_|_B", "A B"),
    ],
)
def test_words(frames: str, words: str) -> None:
    columns = ["_|AB".index(symbol) for symbol in frames]
    log_probs = np.full((len(columns), 4), -9.0, np.float32)
    log_probs[np.arange(len(columns)), columns] = -0.1
    assert greedy(log_probs, TOKENS) == words
