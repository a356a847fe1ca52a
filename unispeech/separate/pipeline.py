"""Recordings of any length to streams, in bounded memory: estimate, stitch, filter, synthesise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unispeech.models.separation import SeparationModel
from unispeech.models.stft import Stft
from unispeech.separate.alone import alone, leave_alone
from unispeech.separate.beamforming import mvdr
from unispeech.separate.stitching import Distance, Stitcher
from unispeech.separate.windows import Grid, Plan, Synthesis, silence_around, windows

Reader = Callable[[int, int], Tensor]
"""Samples from, up to: `(C, n)` float32 of all channels, the reference first."""
Estimate = Callable[[Sequence[tuple[int, int]], Tensor], Tensor]
"""Masks `(B, K, T, bins)` of spans of samples and the reference channel there, `(B, n)`."""
Method = Literal["mask", "mvdr"]


class Settings(NamedTuple):
    """How a recording is separated."""

    plan: Plan | None = Plan()
    """Windows; None sees the recording whole."""
    method: Method = "mask"
    distance: Distance = "magnitude"
    batch: int = 8
    """Windows that are estimated together."""
    beam: int = 400
    """Frames that one beamformer filters."""
    beam_context: int = 400
    """Frames on each side that its covariances see too."""
    alone: float = 0.0
    """Share of the speech below which the other speakers count as absent: the stream of the one who
    speaks is then the mixture, untouched by masks. Only of the method `mask`."""


class Piece(NamedTuple):
    """Consecutive frames before filtering."""

    spectra: Tensor
    """`(C, T, bins)` complex."""
    masks: Tensor
    """`(K, T, bins)`, speakers in the order of the streams."""
    gates: Tensor
    """`(S, T)`, how far each speaker speaks alone."""


class Part(NamedTuple):
    """What is finished of the streams."""

    audio: Tensor
    """`(S, n)` float32, the next samples."""
    share: Tensor
    """`(S, T)` of the next frames: part of the mixture's magnitudes that each mask keeps."""
    power: Tensor
    """`(S, T)` of the streams."""


def separate(
    read: Reader, samples: int, stft: Stft, estimate: Estimate, speakers: int, settings: Settings
) -> Iterator[Part]:
    """Streams of a recording, part by part; together they are as long as it is.

    Args:
        read: gives its samples.
        samples: its length, at least one.
        stft: what masks belong to, and what streams are synthesised by.
        estimate: gives masks.
        speakers: S, number of streams.
        settings: windows and method.
    """
    grid = Grid(stft, samples)
    pieces = _estimated(read, grid, estimate, speakers, settings)
    is_mvdr = settings.method == "mvdr"
    parts = (
        _beamformed(pieces, grid.frames, speakers, settings)
        if is_mvdr
        else _masked(pieces, speakers)
    )
    synthesis = Synthesis(grid)
    for spectra, masks, mixture in parts:
        magnitude = mixture.abs()
        share = (masks * magnitude).sum(2) / magnitude.sum(1).clamp(min=1e-20)
        power = spectra.abs().square().sum(2)
        yield Part(synthesis(spectra), share, power)


def _estimated(
    read: Reader, grid: Grid, estimate: Estimate, speakers: int, settings: Settings
) -> Iterator[Piece]:
    plan = settings.plan or Plan(grid.frames, 0, grid.frames)
    stitch = Stitcher(speakers, settings.distance)
    following = iter(windows(grid.frames, plan))
    while group := list(itertools.islice(following, settings.batch)):
        spans = [grid.span(window.start, window.stop) for window in group]
        audio = [_padded(read, *span, grid.samples) for span in spans]
        masks = estimate(spans, torch.stack([channels[0] for channels in audio])).float().cpu()
        for window, channels, estimated in zip(group, audio, masks, strict=True):
            spectra = grid.stft(channels)
            magnitude = spectra[0].abs()
            ordered = stitch(window, estimated, magnitude)
            gates = alone(ordered[:speakers], magnitude, settings.alone)
            kept = slice(window.first - window.start, window.last - window.start)
            yield Piece(spectra[:, kept], ordered[:, kept], gates[:, kept])


def _masked(pieces: Iterator[Piece], speakers: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Streams `(S, T, bins)`, the masks of speakers, and the mixture `(T, bins)`."""
    for spectra, masks, gates in pieces:
        own = masks[:speakers]
        yield leave_alone(own, gates) * spectra[0], own, spectra[0]


def _beamformed(
    pieces: Iterator[Piece], frames: int, speakers: int, settings: Settings
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """As `_masked`; every block has a filter of its own, from the covariances around it."""
    block, context = settings.beam, settings.beam_context
    if settings.plan is None or frames <= block + 2 * context:
        block, context = frames, 0
    held: list[Piece] = []
    begin = there = done = 0
    for piece in pieces:
        held.append(piece)
        there += piece.masks.shape[1]
        is_whole = there == frames
        while done < there and (is_whole or there >= done + block + context):
            # What is left behind the last block is filtered with it.
            stop = frames if is_whole and frames - done <= block + context else done + block
            spectra, masks, gates = (torch.cat(part, 1) for part in zip(*held, strict=True))
            seen, kept = min(frames, stop + context) - begin, slice(done - begin, stop - begin)
            seen_there = (spectra[:, :seen], masks[:, :seen])
            streams = mvdr(*seen_there, speakers, kept)
            yield streams, masks[:speakers, kept], spectra[0, kept]
            done = stop
            left = max(0, done - context)
            held = [Piece(*(part[:, left - begin :] for part in (spectra, masks, gates)))]
            begin = left


def _padded(read: Reader, start: int, stop: int, samples: int) -> Tensor:
    inside = read(max(0, start), min(stop, samples))
    return silence_around(inside, max(0, -start), stop - start)


class ModelMasks:
    """Masks of a model.

    Args:
        model: in evaluation mode.
        device: where it is.
    """

    def __init__(self, model: SeparationModel, device: str | torch.device = "cpu") -> None:
        self.model = model
        self.device = device

    def __call__(self, spans: Sequence[tuple[int, int]], waves: Tensor) -> Tensor:
        """Masks `(B, K, T, bins)`, see `Estimate`."""
        return self.model.estimate(waves.to(self.device))


class OracleMasks:
    """Ratios of the magnitudes of known sources and noise: `|x_s| / (sum |x| + |n|)`.

    Args:
        stft: what the masks belong to.
        read: references from, up to a sample: `(S + 1, n)`, the noise last.
        samples: length of the recording.
    """

    def __init__(self, stft: Stft, read: Reader, samples: int) -> None:
        self.stft = stft
        self.read = read
        self.samples = samples

    def __call__(self, spans: Sequence[tuple[int, int]], waves: Tensor) -> Tensor:
        """Masks `(B, S + 1, T, bins)`, see `Estimate`."""
        parts = torch.stack([_padded(self.read, *span, self.samples) for span in spans])
        magnitudes: Tensor = self.stft(parts).abs()
        return magnitudes / magnitudes.sum(1, keepdim=True).clamp(min=1e-12)
