"""The best token of every frame, without lexicon or language model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unispeech.data.config import Units
from unispeech.data.tokens import join


def collapse(path: Sequence[int], blank: int = 0) -> list[int]:
    """Merge equal neighbours, then drop blanks: the CTC map from a path to labels.

    Source: Graves et al. 2006, "Connectionist temporal classification", section 3.1.
    """
    labels = np.asarray(path, dtype=np.int64)
    if not labels.size:
        return []
    first = np.append(True, labels[1:] != labels[:-1])
    return [int(label) for label in labels[first & (labels != blank)]]


def greedy(
    log_probs: npt.NDArray[np.float32], tokens: Sequence[str], units: Units = "letters"
) -> str:
    """Words or phones of log-probabilities (frames, tokens), whose column 0 is the CTC blank."""
    labels = collapse(log_probs.argmax(axis=1).tolist() if len(log_probs) else [])
    return join([tokens[label] for label in labels], units)
