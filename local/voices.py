"""Voices that sound like people, and recordings of them with levels, margins and noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter, resample_poly

SAMPLING_RATE = 16000

# Variants of espeak-ng that sound like people and differ from one another.
FEMALE = """f1 f2 f3 f4 f5 Alicia Andrea Annie anika belinda grandma linda steph steph2 steph3
    shelby"""
MALE = """Alex Andy Denis Gene Hugo Jacky Lee Marco Mario Michael Mike Nguyen Reed antonio
    benjamin boris caleb david ed edward ian iven john m1 m2 m3 m5 m7 m8 marcelo miguel norbert
    pablo paul pedro quincy rob sandro travis victor zac"""
# Recording conditions: level of the speech in dBFS, signal-to-noise ratio in dB, margins in s.
LEVEL, SNR, MARGIN = (-32.0, -16.0), (20.0, 40.0), (0.1, 0.35)
PEAK = 0.95


def record(
    speech: npt.NDArray[np.float32],
    rate: int,
    generator: np.random.Generator,
    sampling_rate: int = SAMPLING_RATE,
) -> tuple[npt.NDArray[np.float32], float]:
    """Speech with margins, a level and noise; and the seconds before the speech.

    Args:
        speech: float32 (samples,) in [-1, 1].
        rate: its sampling rate.
        generator: draws level, noise and margins.
        sampling_rate: of the result.
    """
    loud = np.flatnonzero(np.abs(speech) > 1e-3)
    # espeak-ng ends with a pause of its own, whose length depends on the voice.
    speech = speech[: loud[-1] + 1]
    speech = resample_poly(speech, sampling_rate, rate).astype(np.float32)
    level, snr = generator.uniform(*LEVEL), generator.uniform(*SNR)
    gain = 10 ** (level / 20) / np.sqrt(np.mean(speech**2))
    speech = speech * min(gain, PEAK / np.abs(speech).max())
    before, after = (round(sampling_rate * m) for m in generator.uniform(*MARGIN, size=2))
    audio = np.pad(speech, (before, after))
    noise = generator.standard_normal(len(audio))
    if generator.random() < 0.5:
        noise = pink(noise)
    power = np.mean(speech**2) / 10 ** (snr / 10)
    audio = audio + noise * np.sqrt(power / np.mean(noise**2))
    return np.clip(audio, -1.0, 1.0).astype(np.float32), before / sampling_rate


def pink(noise: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """White noise through Kellet's filter for a spectrum of about 1/f (musicdsp.org, no. 76)."""
    b = [0.049922035, -0.095993537, 0.050612699, -0.004408786]
    a = [1.0, -2.494956002, 2.017265875, -0.522189400]
    return np.asarray(lfilter(b, a, noise), dtype=np.float64)
