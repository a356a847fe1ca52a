"""The best token of every frame, without lexicon or language model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BOUNDARY = "|"


def collapse(path: Sequence[int], blank: int = 0) -> list[int]:
    """Merge equal neighbours, then drop blanks: the CTC map from a path to labels.

    Source: Graves et al. 2006, "Connectionist temporal classification", section 3.1.
    """
    labels = np.asarray(path, dtype=np.int64)
    if not labels.size:
        return []
    first = np.append(True, labels[1:] != labels[:-1])
    return [int(label) for label in labels[first & (labels != blank)]]


def greedy(log_probs: npt.NDArray[np.float32], tokens: Sequence[str]) -> str:
    """Words of log-probabilities (frames, tokens): `|` separates them, the blank is column 0."""
    labels = collapse(log_probs.argmax(axis=1).tolist() if len(log_probs) else [])
    text = "".join(" " if tokens[label] == BOUNDARY else tokens[label] for label in labels)
    return " ".join(text.split())
