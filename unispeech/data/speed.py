"""Speed perturbation while reading, as in Kaldi's recipes, for audio and its frame labels."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
from lhotse.augmentation import Speed
from lhotse.utils import perturb_num_samples

from unispeech.data.sampling import stable_seed

FloatArray = npt.NDArray[np.float32]
AnyLabels = TypeVar("AnyLabels", bound=npt.NDArray[np.generic])


def draw_speed(speeds: tuple[float, ...], seed: int, epoch: int, utterance: str) -> float:
    """The speed of one utterance in one epoch; each of `speeds` is equally likely."""
    if len(speeds) == 1:
        return speeds[0]
    rng = np.random.default_rng(stable_seed(seed, epoch, utterance, "speed"))
    return speeds[int(rng.integers(len(speeds)))]


def change_speed(audio: FloatArray, sampling_rate: int, speed: float) -> FloatArray:
    """Resample `audio (samples,)` so that it plays `speed` times as fast; pitch changes too."""
    if speed == 1.0:
        return audio
    changed = Speed(speed)(audio[None], sampling_rate)[0]
    return np.asarray(changed[: samples_at_speed(len(audio), speed)], dtype=np.float32)


def samples_at_speed(samples: int, speed: float) -> int:
    """Length of `samples` samples that are played `speed` times as fast."""
    return int(perturb_num_samples(samples, speed)) if speed != 1.0 else samples


def change_label_speed(labels: AnyLabels, speed: float) -> AnyLabels:
    """Labels `(n,)` of the same speech at another speed, same rate: each frame keeps its label."""
    if speed == 1.0 or len(labels) == 0:
        return labels
    count = int(perturb_num_samples(len(labels), speed))
    centres = (np.arange(count) + 0.5) * speed
    return labels[np.minimum(centres.astype(np.int64), len(labels) - 1)]  # type: ignore[return-value]
