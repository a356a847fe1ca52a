"""Forced alignment: the most probable frames of given words under CTC log-probabilities.

Source: the Viterbi search over a label sequence with optional blanks, Graves et al. 2006,
"Connectionist temporal classification", section 4.1, with a choice of spellings at each word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Spelling = tuple[int, ...]


class Aligned(NamedTuple):
    """One token and its frames.

    Attributes:
        token: column of the log-probabilities.
        first, last: its frames, both included.
        probability: mean of the token's posterior over them.
    """

    token: int
    first: int
    last: int
    probability: float


class _States(NamedTuple):
    """Hidden states: one for each token of each spelling, and blanks around them."""

    labels: list[int]
    words: list[int]
    """Which word the state belongs to, -1 for a blank."""
    before: list[list[int]]
    """States a path may come from, itself among them."""
    begin: list[int]
    end: list[int]


def align(
    log_probs: npt.NDArray[np.float32], words: Sequence[Sequence[Spelling]], blank: int = 0
) -> list[list[Aligned]] | None:
    """The best path that spells the words, cut into their tokens.

    Args:
        log_probs: natural-log probabilities (frames, tokens).
        words: the spellings that each word may take, as token ids; the best one is chosen. An
            empty spelling lets the word be left out.
        blank: column of the CTC blank.

    Returns:
        For each word its tokens; None when the frames are too few for the words.
    """
    states = _states(words, blank)
    path = _best_path(log_probs, states)
    if path is None:
        return None
    found: list[list[Aligned]] = [[] for _ in words]
    for first, stop in _stretches(path):
        state = int(path[first])
        if states.words[state] >= 0:
            token = states.labels[state]
            mean = float(np.exp(log_probs[first:stop, token]).mean())
            found[states.words[state]].append(Aligned(token, first, stop - 1, mean))
    return found


def runs(log_probs: npt.NDArray[np.float32], blank: int = 0) -> list[Aligned]:
    """The tokens of the best path without lexicon: equal neighbours are one token."""
    path = log_probs.argmax(axis=1)
    return [
        Aligned(
            int(path[first]),
            first,
            stop - 1,
            float(np.exp(log_probs[first:stop, path[first]]).mean()),
        )
        for first, stop in _stretches(path)
        if path[first] != blank
    ]


def _stretches(path: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """First frame of each run of equal values and the one behind it."""
    begins = [int(place) for place in np.flatnonzero(np.diff(path, prepend=-1))]
    return list(zip(begins, [*begins[1:], len(path)], strict=False))


def _states(words: Sequence[Sequence[Spelling]], blank: int) -> _States:
    labels: list[int] = []
    owner: list[int] = []
    before: list[list[int]] = []

    def add(label: int, word: int, sources: Sequence[int]) -> int:
        place = len(labels)
        labels.append(label)
        owner.append(word)
        # Between two equal tokens there must be a blank.
        is_blank = label == blank
        before.append([place, *(s for s in sources if is_blank or labels[s] != label)])
        return place

    open_ends = [add(blank, -1, [])]
    # A word that begins the utterance needs no blank before it.
    begin, is_begin = set(open_ends), True
    for word, spellings in enumerate(words):
        ends = []
        for spelling in (s for s in spellings if s):
            sources = open_ends
            for number, token in enumerate(spelling):
                place = add(token, word, sources)
                if is_begin and number == 0:
                    begin.add(place)
                ends_here = number == len(spelling) - 1
                sources = [place] if ends_here else [place, add(blank, -1, [place])]
            ends.append(sources[0])
        may_be_left_out = any(not spelling for spelling in spellings)
        following = [*ends, add(blank, -1, ends)] if ends else []
        open_ends = [*open_ends, *following] if may_be_left_out else following
        is_begin = is_begin and may_be_left_out
    return _States(labels, owner, before, sorted(begin), open_ends)


def _best_path(log_probs: npt.NDArray[np.float32], states: _States) -> npt.NDArray[np.int64] | None:
    """The state of each frame, or None when no path fits."""
    count, frames = len(states.labels), len(log_probs)
    if not frames:
        # Without frames the words fit when all of them may be left out: nothing is aligned.
        return np.zeros(0, np.int64) if states.begin[0] in states.end else None
    width = max(map(len, states.before))
    # Row `count` stands for "no such state".
    before = np.full((count, width), count)
    for state, sources in enumerate(states.before):
        before[state, : len(sources)] = sources
    labels = np.array(states.labels)
    scores = np.full(count + 1, -np.inf)
    scores[states.begin] = log_probs[0, labels[states.begin]]
    rows = np.arange(count)
    choices = np.zeros((frames, count), np.int32)
    for frame in range(1, frames):
        candidates = scores[before]
        best = candidates.argmax(axis=1)
        choices[frame] = before[rows, best]
        scores[:count] = candidates[rows, best] + log_probs[frame, labels]
    state = max(states.end, key=lambda end: float(scores[end]))
    if scores[state] == -np.inf:
        return None
    path = np.empty(frames, np.int64)
    for frame in range(frames - 1, -1, -1):
        path[frame] = state
        state = int(choices[frame, state])
    return path
