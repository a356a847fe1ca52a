"""Which chunks a recording has, and from their activities to segments of speakers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]


class Chunk(NamedTuple):
    """Frames of a recording that are diarized together, and those that are kept of them."""

    start: int
    stop: int
    first: int
    """First frame that is kept, of the recording."""
    last: int
    """Frame behind the last that is kept."""


class Turn(NamedTuple):
    """Frames from `first` to before `last` in which a speaker speaks."""

    first: int
    last: int
    speaker: int


def plan(frames: int, size: int, overlap: int) -> Iterator[Chunk]:
    """Chunks that cover a recording; every frame is kept of exactly one.

    All have `size` frames, unless there are fewer: the last one begins so early that it is whole.
    Of the frames that two share, each keeps its half; without overlap, the last chunk keeps only
    what no other has.

    Args:
        frames: of the recording.
        size: of a chunk.
        overlap: frames that neighbours share, less than `size`.
    """
    kept = start = 0
    while kept < frames:
        start = max(0, min(start, frames - size))
        stop = min(start + size, frames)
        last = frames if stop == frames else stop - overlap // 2
        yield Chunk(start, stop, kept, last)
        kept, start = last, start + size - overlap


def median_filtered(blocks: Iterable[BoolArray], width: int) -> Iterator[BoolArray]:
    """Median over time of decisions that come in blocks; silence lies behind both ends.

    Args:
        blocks: `(t, K)` consecutive frames.
        width: frames, odd.
    """
    half = width // 2
    held: BoolArray | None = None
    for block in blocks:
        edge = np.zeros((half, block.shape[1]), dtype=np.bool_)
        held = np.concatenate([edge if held is None else held, block])
        if len(held) > 2 * half:
            yield _majority(held, width)
            held = held[len(held) - 2 * half :]
    if held is not None and half > 0:
        edge = np.zeros((half, held.shape[1]), dtype=np.bool_)
        yield _majority(np.concatenate([held, edge]), width)


def turns(blocks: Iterable[BoolArray]) -> list[Turn]:
    """Uninterrupted speech of each speaker in decisions `(t, K)` that come in blocks."""
    found: list[Turn] = []
    begun: dict[int, int] = {}
    place = 0
    for block in blocks:
        before = np.zeros((1, block.shape[1]), dtype=np.bool_)
        before[0, list(begun)] = True
        for frame, speaker in np.argwhere(np.diff(np.concatenate([before, block]), axis=0)):
            one = int(speaker)
            if one in begun:
                found.append(Turn(begun.pop(one), place + int(frame), one))
            else:
                begun[one] = place + int(frame)
        place += len(block)
    found += [Turn(first, place, speaker) for speaker, first in begun.items()]
    return sorted(found)


def cleaned(found: Iterable[Turn], min_speech: int, min_silence: int) -> list[Turn]:
    """Turns whose gaps shorter than `min_silence` are filled, then those of `min_speech` frames."""
    latest: dict[int, Turn] = {}
    kept = []
    for turn in sorted(found):
        previous = latest.get(turn.speaker)
        if previous is not None and turn.first - previous.last < min_silence:
            turn = previous._replace(last=turn.last)
        elif previous is not None:
            kept.append(previous)
        latest[turn.speaker] = turn
    kept += latest.values()
    return sorted(turn for turn in kept if turn.last - turn.first >= min_speech)


def _majority(frames: BoolArray, width: int) -> BoolArray:
    """Whether most of each window are set, which is the median of an odd number of decisions."""
    sums = np.cumsum(np.concatenate([np.zeros((1, frames.shape[1])), frames]), axis=0)
    return np.asarray(sums[width:] - sums[:-width] > width // 2, dtype=np.bool_)
