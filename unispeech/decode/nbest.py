"""N-best lists: what every back-end that makes them returns."""

from __future__ import annotations

from typing import NamedTuple


class Hypothesis(NamedTuple):
    """One word sequence of an utterance, with its scores apart.

    Attributes:
        words: word ids of words.txt.
        acoustic: ln P(audio | tokens) of the best path, unscaled.
        lm: ln P(words) of the language model, unscaled, end of sentence included.
    """

    words: tuple[int, ...]
    acoustic: float
    lm: float
