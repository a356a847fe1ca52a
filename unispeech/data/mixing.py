"""Utterance and noise mixing of a batch (WavLM, algorithm 1).

`draw_mixes` chooses, `apply_mixes` adds: the choices can be made elsewhere and handed in. What
`mix_batch` does where the audio is read, `draw_later` and `mixed` do in two places: draw there, add
on the device of the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from unispeech.data.config import MixingConfig

FloatArray = npt.NDArray[np.float32]


class Mix(NamedTuple):
    """One piece that is added to one row."""

    row: int
    """Utterance that it is added to, whose labels stay."""
    source: int
    """Row that it comes from, or number of the noise."""
    is_noise: bool
    start: int
    """First sample of the piece in its source."""
    target: int
    """First sample of the row that it is added to."""
    length: int
    """Samples."""
    snr: float
    """Decibels of the row over the source, both over their whole length."""


class DrawnMixes(NamedTuple):
    """The mixes of one batch, drawn but not yet added; see `mixed`."""

    mixes: list[Mix]
    """In order. The source of a noise is a number in `noises`, its start 0."""
    noises: list[Tensor]
    """`(length,)` float32 pieces."""
    noise_powers: list[float]
    """Mean square of the whole noise that each piece comes from."""
    is_sequential: bool
    """Whether pieces and energies are of rows that may already be mixed."""
    lengths: list[int] | None
    """Valid samples of each row, where mixed rows are normalised again."""


def mix_batch(
    waveforms: FloatArray,
    config: MixingConfig,
    seed: int,
    noises: Sequence[FloatArray] = (),
    finish: Callable[[int], None] | None = None,
) -> None:
    """Add a piece of another utterance, or of a noise, to some rows in place.

    Args:
        waveforms: `(B, N)` float32, changed in place.
        config: probabilities, ratios and the stream of the draws.
        seed: of this batch.
        noises: float32 `(n,)` each.
        finish: called with each mixed row once it is mixed, to normalise it again.
    """
    mixes = _draw(waveforms.shape, config, seed, noises)
    apply_mixes(waveforms, mixes, noises, config.stream == "reference", finish)


def draw_later(
    shape: tuple[int, int],
    config: MixingConfig,
    seed: int,
    noises: Sequence[FloatArray] = (),
    lengths: list[int] | None = None,
) -> DrawnMixes:
    """The mixes that `mix_batch` would add, with the pieces of noise that they take.

    Args:
        shape: `(B, N)` of the waveforms.
        config: probabilities, ratios and the stream of the draws.
        seed: of this batch.
        noises: float32 `(n,)` each.
        lengths: valid samples of each row, to normalise mixed rows again; None does not.
    """
    mixes, pieces, powers = [], [], []
    for mix in _draw(shape, config, seed, noises):
        if mix.is_noise:
            noise = noises[mix.source]
            powers.append(_power(noise))
            # A copy: what a worker hands on must not hold the whole noise.
            pieces.append(torch.from_numpy(noise[mix.start : mix.start + mix.length].copy()))
            mix = mix._replace(source=len(pieces) - 1, start=0)
        mixes.append(mix)
    return DrawnMixes(mixes, pieces, powers, config.stream == "reference", lengths)


def _draw(
    shape: tuple[int, ...], config: MixingConfig, seed: int, noises: Sequence[FloatArray]
) -> list[Mix]:
    rows, samples = shape
    lengths = [len(noise) for noise in noises]
    if config.stream == "reference":
        stream = np.random.RandomState(seed % 2**32)
        return draw_reference_mixes(rows, samples, config, stream, lengths)
    return draw_mixes(rows, samples, config, np.random.default_rng(seed), lengths)


def draw_mixes(
    rows: int,
    samples: int,
    config: MixingConfig,
    rng: np.random.Generator,
    noise_lengths: Sequence[int] = (),
) -> list[Mix]:
    """Which pieces are mixed where; an utterance is never mixed with itself.

    Args:
        rows: utterances of the batch.
        samples: of each row.
        config: probabilities and ratios.
        rng: draws of this batch.
        noise_lengths: samples of each noise.
    """
    mixes = []
    for row in range(rows):
        if rng.random() >= config.prob:
            continue
        is_noise = bool(noise_lengths) and rng.random() < config.noise_prob
        if is_noise:
            source = int(rng.integers(len(noise_lengths)))
            available = noise_lengths[source]
        elif rows > 1:
            other = int(rng.integers(rows - 1))
            source, available = other + (other >= row), samples
        else:
            continue
        snr = rng.uniform(*(config.noise_snr if is_noise else config.snr))
        length = int(rng.integers(min(int(samples * config.max_share), available) + 1))
        start = int(rng.integers(available - length + 1))
        target = int(rng.integers(samples - length + 1))
        mixes.append(Mix(row, source, is_noise, start, target, length, float(snr)))
    return mixes


def draw_reference_mixes(
    rows: int,
    samples: int,
    config: MixingConfig,
    stream: np.random.RandomState,
    noise_lengths: Sequence[int] = (),
) -> list[Mix]:
    """The same as the released collater draws them from NumPy's global stream.

    An utterance may be mixed with itself; pieces end inclusively, at most at the last sample.

    Args:
        rows: utterances of the batch.
        samples: of each row.
        config: probabilities and ratios.
        stream: stands for the global stream, `RandomState(7)` for `np.random.seed(7)`.
        noise_lengths: samples of each noise.
    """
    mixes = []
    longest = int(samples * config.max_share)
    for row in range(rows):
        if stream.random_sample() > config.prob:
            continue
        if noise_lengths and stream.random_sample() < config.noise_prob:
            source = int(stream.choice(len(noise_lengths), 1)[0])
            available = noise_lengths[source]
            snr = stream.uniform(*config.noise_snr)
            length = int(stream.randint(0, min(longest, available) + 1))
            end = int(stream.randint(length, available + 1))
            target = int(stream.randint(length, samples + 1)) - length
            mixes.append(Mix(row, source, True, end - length, target, length, float(snr)))
            continue
        source = int(stream.choice(rows, 1)[0])
        length = int(stream.randint(0, longest + 1))
        end = int(stream.randint(length, samples + 1))
        target = int(stream.randint(length, samples + 1)) - length
        snr = stream.uniform(*config.snr)
        mixes.append(Mix(row, source, False, end - length, target, length, float(snr)))
    return mixes


def apply_mixes(
    waveforms: FloatArray,
    mixes: Sequence[Mix],
    noises: Sequence[FloatArray] = (),
    is_sequential: bool = False,
    finish: Callable[[int], None] | None = None,
) -> None:
    """Add the pieces in place, with gains from the mean squares of whole rows.

    Args:
        waveforms: `(B, N)` float32, changed in place.
        mixes: what to add, in order.
        noises: float32 `(n,)` each.
        is_sequential: take pieces and energies from rows that may already be mixed, as the
            reference does, instead of from the rows as they came.
        finish: called with each row once it is mixed.
    """
    sources = waveforms if is_sequential else waveforms.copy()
    for mix in mixes:
        source = noises[mix.source] if mix.is_noise else sources[mix.source]
        source_power = _power(source)
        if source_power > 0:
            gain = np.sqrt(_power(sources[mix.row]) / (source_power * 10.0 ** (mix.snr / 10.0)))
            piece = source[mix.start : mix.start + mix.length]
            span = slice(mix.target, mix.target + mix.length)
            waveforms[mix.row, span] += (gain * piece).astype(np.float32)
        if finish is not None:
            finish(mix.row)


def _power(waveform: FloatArray) -> float:
    return float(np.square(waveform, dtype=np.float64).mean())


def mixed(waveforms: Tensor, drawn: DrawnMixes) -> Tensor:
    """The waveforms with their mixes: `apply_mixes` on the tensor's own device.

    Nothing waits for the device: gains stay on it.

    Args:
        waveforms: `(B, N)` float32, which stays as it is.
        drawn: what to add.

    Returns:
        `(B, N)` float32; gains and products are float64, as in `apply_mixes`.
    """
    result = waveforms.clone()
    sources = result if drawn.is_sequential else waveforms
    powers = waveforms.double().square().mean(1)
    for mix in drawn.mixes:
        row = result[mix.row]
        ratio = 10.0 ** (mix.snr / 10.0)
        if mix.is_noise:
            source = drawn.noises[mix.source].to(waveforms.device, non_blocking=True)
            source_power = torch.full_like(powers[mix.row], drawn.noise_powers[mix.source])
        else:
            source, source_power = sources[mix.source], powers[mix.source]
        gain = torch.sqrt(powers[mix.row] / (source_power * ratio))
        gain = torch.where(source_power > 0, gain, torch.zeros_like(gain))
        piece = source[mix.start : mix.start + mix.length]
        row[mix.target : mix.target + mix.length] += (gain * piece.double()).float()
        if drawn.lengths is not None:
            valid = row[: drawn.lengths[mix.row]]
            valid.copy_(F.layer_norm(valid, valid.shape))
        if drawn.is_sequential:
            powers[mix.row] = row.double().square().mean()
    return result
