"""Which frames of a recording are seen together, and which of them are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from unispeech.models.stft import Stft


class Plan(NamedTuple):
    """Sliding windows in frames; the defaults are 1.2 s of history, 0.8 s kept, 0.4 s of future.

    Source: Chen et al. 2020, "Continuous speech separation: dataset and analysis" (recalled).
    """

    size: int = 238
    """Of a window."""
    history: int = 120
    """Seen before what is kept."""
    hop: int = 80
    """Kept of a window."""

    @classmethod
    def of_seconds(
        cls, stft: Stft, rate: int, history: float, current: float, future: float
    ) -> Plan:
        """The plan whose windows have the frames of so many seconds.

        Args:
            stft: gives the frames.
            rate: samples in a second.
            history: seconds before what is kept.
            current: seconds that are kept.
            future: seconds behind.
        """
        before, kept = (round(seconds * rate / stft.hop) for seconds in (history, current))
        kept = max(kept, 1)
        whole = stft.frames(round((history + current + future) * rate))
        return cls(max(whole, before + kept), before, kept)


class Window(NamedTuple):
    """Frames `start` to `stop` are seen, `first` to `last` of them kept."""

    start: int
    stop: int
    first: int
    last: int


def windows(frames: int, plan: Plan) -> Iterator[Window]:
    """Windows whose kept parts make up the recording.

    The first one keeps its history too, and the last one, which ends with the recording, its
    future. A recording that is not longer than a window is one window.

    Args:
        frames: of the recording.
        plan: size of the windows; at least history and hop together.
    """
    kept = 0
    for start in range(0, frames, plan.hop):
        if start + plan.size >= frames:
            yield Window(max(0, frames - plan.size), frames, kept, frames)
            return
        last = start + plan.history + plan.hop
        yield Window(start, start + plan.size, kept, last)
        kept = last


class Grid:
    """The frames of a recording, with so much silence around it that no frame is missing.

    With `margin` zeros in front, every sample is in as many frames as any other, so that the
    inverse transform is exact up to the ends.

    Args:
        stft: makes the frames.
        samples: of the recording.
    """

    def __init__(self, stft: Stft, samples: int) -> None:
        self.stft = stft
        self.samples = samples
        self.frames = (stft.margin + samples - 1) // stft.hop + 1

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """First and behind the last sample of some frames; may lie outside of the recording."""
        first = start * self.stft.hop - self.stft.margin
        return first, first + self.stft.samples(stop - start)


class Synthesis:
    """Spectra that come piece by piece, to the samples of the recording.

    Args:
        grid: its frames.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._position = -grid.stft.margin
        self._tail: Tensor | None = None

    def __call__(self, spectra: Tensor) -> Tensor:
        """The next samples `(S, n)` that the next frames `(S, T, bins)` complete."""
        stft = self.grid.stft
        added = stft.overlap_add(spectra)
        if self._tail is not None:
            added[:, : stft.margin] += self._tail
        done = spectra.shape[1] * stft.hop
        self._tail = added[:, done:]
        period = stft.period(added.dtype).to(added.device)
        ready = (added[:, :done].reshape(len(added), -1, stft.hop) / period).flatten(1)
        begin, self._position = self._position, self._position + done
        inside = slice(max(0, -begin), max(0, self.grid.samples - begin))
        return ready[:, inside]


def silence_around(audio: Tensor, start: int, wanted: int) -> Tensor:
    """Samples `(..., wanted)` with zeros where a recording has none.

    Args:
        audio: `(..., n)`, what there is.
        start: number of zeros before it.
        wanted: samples in all.
    """
    return torch.nn.functional.pad(audio, (start, wanted - start - audio.shape[-1]))
