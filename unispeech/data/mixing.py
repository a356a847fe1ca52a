"""Utterance and noise mixing of a batch (WavLM, algorithm 1)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unispeech.data.config import MixingConfig

FloatArray = npt.NDArray[np.float32]


def mix_batch(
    waveforms: FloatArray,
    config: MixingConfig,
    rng: np.random.Generator,
    noises: list[FloatArray] | None = None,
) -> list[int]:
    """Add a piece of another utterance, or of a noise, to some rows in place.

    Pieces come from the rows as they were before any mixing and never from the row itself; the
    labels stay those of the first speaker. Gains follow from the mean squares of whole rows.

    Args:
        waveforms: `(B, N)` float32, changed in place.
        config: probabilities and ratios.
        rng: draws of this batch.
        noises: float32 `(n,)` each, or None.

    Returns:
        The rows that were mixed.
    """
    rows, samples = waveforms.shape
    original = waveforms.copy()
    power = np.square(original, dtype=np.float64).mean(1)
    mixed = []
    for row in range(rows):
        if rng.random() >= config.prob:
            continue
        is_noise = bool(noises) and rng.random() < config.noise_prob
        if is_noise:
            assert noises is not None
            source = noises[rng.integers(len(noises))]
            source_power = float(np.square(source, dtype=np.float64).mean())
        elif rows > 1:
            other = int(rng.integers(rows - 1))
            other += other >= row
            source, source_power = original[other], float(power[other])
        else:
            continue
        snr = rng.uniform(*(config.noise_snr if is_noise else config.snr))
        longest = min(int(samples * config.max_share), len(source))
        length = int(rng.integers(longest + 1))
        start = int(rng.integers(len(source) - length + 1))
        target = int(rng.integers(samples - length + 1))
        if source_power == 0:
            continue
        gain = np.sqrt(power[row] / (source_power * 10.0 ** (snr / 10.0)))
        piece = source[start : start + length]
        waveforms[row, target : target + length] += (gain * piece).astype(np.float32)
        mixed.append(row)
    return mixed
