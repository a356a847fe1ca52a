"""Who said what: words with times, and segments of speakers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unispeech.diarize.recording import Segment


class Passage(NamedTuple):
    """Words that one speaker says without a longer pause."""

    start: float
    end: float
    speaker: str
    text: str


def speakers_of_words(
    words: Sequence[tuple[float, float]], segments: Sequence[Segment]
) -> list[str]:
    """The speaker of each word: who speaks most of its time, or else is closest to it.

    Args:
        words: start and end in seconds.
        segments: start, end and speaker; where there is none, the names are empty.
    """
    if not segments:
        return [""] * len(words)
    names = sorted({name for _, _, name in segments})
    starts, ends = (np.array([segment[side] for segment in segments]) for side in (0, 1))
    owners = np.array([names.index(name) for _, _, name in segments])
    found = []
    for start, end in words:
        shared = np.minimum(ends, end) - np.maximum(starts, start)
        if shared.max() > 0:
            totals = np.bincount(owners, np.maximum(shared, 0.0), len(names))
            found.append(names[int(totals.argmax())])
        else:
            found.append(names[int(owners[shared.argmax()])])
    return found


def passages(words: Sequence[tuple[str, float, float, str]], pause: float = 1.0) -> list[Passage]:
    """Consecutive words of one speaker with shorter pauses in between.

    Args:
        words: word, start and end in seconds, and speaker, in the order of their times.
        pause: seconds that end a passage.
    """
    found: list[Passage] = []
    for word, start, end, speaker in words:
        last = found[-1] if found else None
        if last and last.speaker == speaker and start - last.end < pause:
            found[-1] = last._replace(end=end, text=f"{last.text} {word}")
        else:
            found.append(Passage(start, end, speaker, word))
    return found


def to_stm(spoken: Sequence[Passage], recording: str) -> str:
    """NIST's STM: recording, channel, speaker, start, end, words; one passage a line."""
    rows = [
        f"{recording} 1 {one.speaker} {one.start:.3f} {one.end:.3f} {one.text}\n" for one in spoken
    ]
    return "".join(rows)
