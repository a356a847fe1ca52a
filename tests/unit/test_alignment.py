"""Forced alignment against all paths, the search for pauses, words of the best path."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unispeech.decode.alignment import align, runs
from unispeech.decode.greedy import collapse, greedy
from unispeech.decode.long import greedy_words, split

TOKENS = ["<blk>", "|", "A", "B"]
spellings = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)
words_of = st.lists(st.lists(spellings, min_size=1, max_size=2), min_size=1, max_size=2)
path_of = st.lists(st.integers(0, 3), max_size=60)


def log_probs(frames: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.log(generator.dirichlet(np.full(4, 0.5), frames)).astype(np.float32)


def emissions(path: list[int]) -> np.ndarray:
    """Log-probabilities whose best path is the given one."""
    rows = np.full((len(path), 4), 0.1, np.float32)
    rows[np.arange(len(path)), path] = 0.7
    return np.log(rows)


@settings(deadline=None, max_examples=40)
@given(words_of, st.booleans(), st.integers(1, 5), st.integers(0, 1000))
def test_the_best_of_all_paths(words: list, may_lack: bool, frames: int, seed: int) -> None:
    if may_lack:
        words = [[(), (1,)], *words]
    scores = log_probs(frames, seed)
    wanted = {sum(choice, ()) for choice in itertools.product(*words)}
    fits = {
        path: float(sum(scores[t, s] for t, s in enumerate(path)))
        for path in itertools.product(range(4), repeat=frames)
        if tuple(collapse(path)) in wanted
    }
    found = align(scores, words)
    if not fits:
        assert found is None
        return
    assert found is not None
    path = [0] * frames
    for one in itertools.chain.from_iterable(found):
        path[one.first : one.last + 1] = [one.token] * (one.last + 1 - one.first)
        mean = np.exp(scores[one.first : one.last + 1, one.token]).mean()
        assert one.probability == pytest.approx(mean, rel=1e-5)
    assert fits[tuple(path)] == pytest.approx(max(fits.values()), abs=1e-4)
    assert all(
        tuple(one.token for one in spelled) in choices
        for spelled, choices in zip(found, words, strict=True)
    )


def test_no_frames() -> None:
    nothing = np.zeros((0, 4), np.float32)
    assert align(nothing, []) == []
    assert align(nothing, [[(2,)]]) is None
    assert align(nothing, [[(), (1,)]]) == [[]]


@settings(deadline=None, max_examples=40)
@given(path_of.filter(bool))
def test_runs_are_the_collapsed_path(path: list[int]) -> None:
    found = runs(emissions(path))
    assert [one.token for one in found] == collapse(path)
    for one in found:
        assert path[one.first : one.last + 1] == [one.token] * (one.last - one.first + 1)
        assert one.probability == pytest.approx(0.7)


@settings(deadline=None, max_examples=60)
@given(path_of, st.integers(1, 20), st.integers(2, 5), st.integers(10, 15))
def test_cuts_do_not_change_the_words(path: list[int], size: int, pause: int, longest: int) -> None:
    """Neither pieces nor segments do, and what is left out between segments is blank."""
    scores = emissions(path)
    pieces = [scores[start : start + size] for start in range(0, len(scores), size)]
    segments = list(split(pieces, pause, longest))
    (same, others) = (list(split([scores], pause, longest)), segments)
    assert [s.first for s in same] == [s.first for s in others]
    assert all(len(s.log_probs) <= longest for s in segments)
    rest = list(path)
    for segment in segments:
        stop = segment.first + len(segment.log_probs)
        np.testing.assert_array_equal(segment.log_probs, scores[segment.first : stop])
        rest[segment.first : stop] = [0] * (stop - segment.first)
    assert not any(rest)
    words = list(greedy_words(segments, TOKENS, "letters", pause=len(path)))
    assert " ".join(word.text for word in words) == greedy(scores, TOKENS)
    phones = list(greedy_words(segments, TOKENS, "phones", pause=len(path)))
    assert [word.text for word in phones] == [TOKENS[t] for t in collapse(path) if t != 1]


def test_a_pause_ends_a_word() -> None:
    path = [2, 0, 0, 3, 0, 0, 0, 0, 2, 2, 1, 3]
    words = list(greedy_words(split([emissions(path)], 4, 20), TOKENS, "letters", pause=4))
    assert [(w.text, w.first, w.last) for w in words] == [("AB", 0, 3), ("A", 8, 9), ("B", 11, 11)]
    assert [w.confidence for w in words] == pytest.approx([0.7] * 3)


def test_word_pieces() -> None:
    tokens = ["<blk>", "\u2581A", "B", "\u2581C"]
    words = list(greedy_words(split([emissions([1, 2, 0, 3, 2])], 2, 20), tokens, "pieces", 9))
    assert [(w.text, w.first, w.last) for w in words] == [("AB", 0, 1), ("CB", 3, 4)]
