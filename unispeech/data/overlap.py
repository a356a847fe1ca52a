"""Where utterances overlap in a mixture, and how loud they and the noise are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unispeech.data.config import PatternsConfig

FloatArray = npt.NDArray[np.float32]

PATTERNS = tuple(PatternsConfig.model_fields)
PEAK = 0.99
"""Greatest absolute sample of a mixture."""


def draw_starts(
    pattern: str, lengths: Sequence[int], gap: int, rng: np.random.Generator
) -> list[int]:
    """First sample of each utterance in a mixture, the smallest 0.

    Args:
        pattern: a name of PATTERNS.
        lengths: samples of one utterance for `single`, else of two.
        gap: samples between two that follow each other.
        rng: of the draws.
    """
    if pattern == "single":
        return [0]
    first, second = lengths
    if pattern == "sequential":
        return [0, first + gap]
    shorter = min(first, second)
    if pattern == "partial":
        # At least a tenth of the shorter one, so that there is an overlap worth the name.
        least = min(max(shorter // 10, 1), shorter - 1)
        return [0, first - int(rng.integers(least, shorter))]
    inside = int(rng.integers(abs(first - second) + 1))
    return [0, inside] if first >= second else [inside, 0]


def draw_window(total: int, samples: int, rng: np.random.Generator) -> int:
    """First sample of a window anywhere in a mixture, or anywhere about a shorter one."""
    low, high = sorted((0, total - samples))
    return int(rng.integers(low, high + 1))


def balance(
    sources: FloatArray, present: npt.NDArray[np.bool_], ratio: float
) -> npt.NDArray[np.float32]:
    """Gains (2,) after which the first source has `ratio` decibels more power than the second.

    Args:
        sources: (2, samples).
        present: (2, samples), where each of them speaks; power is measured there.
        ratio: decibels.
    """
    powers = [
        float(np.square(own[there], dtype=np.float64).mean()) if there.any() else 0.0
        for own, there in zip(sources, present, strict=True)
    ]
    if min(powers) == 0.0:
        return np.ones(2, np.float32)
    return np.array([1.0, np.sqrt(powers[0] / powers[1] / 10.0 ** (ratio / 10.0))], np.float32)


def noise_gain(
    speech: FloatArray, present: npt.NDArray[np.bool_], noise: FloatArray, snr: float
) -> float:
    """Factor of a noise (samples,) that lies `snr` decibels below the speech where it is present.

    Noise without speech, and silence for a noise, keep their level.
    """
    there = speech[present]
    power = float(np.square(there, dtype=np.float64).mean()) if len(there) else 0.0
    noise_power = float(np.square(noise, dtype=np.float64).mean())
    if power == 0.0 or noise_power == 0.0:
        return 1.0
    return float(np.sqrt(power / noise_power / 10.0 ** (snr / 10.0)))


def level_gain(mixture: FloatArray, level: float) -> float:
    """Factor that brings a mixture (samples,) to a level in dB of full scale, unless it clips."""
    power = float(np.square(mixture, dtype=np.float64).mean())
    peak = float(np.abs(mixture).max(initial=0.0))
    if power == 0.0:
        return 1.0
    return float(min(10.0 ** (level / 20.0) / np.sqrt(power), PEAK / peak))
