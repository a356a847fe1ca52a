"""Sessions, rooms and noises of synthesised corpora."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from espeak import Espeak, Voice
from scipy.signal import butter, fftconvolve, resample_poly, sosfilt
from sentences import Grammar
from voices import PEAK, SAMPLING_RATE, pink

ROOMS = {"small": (0.15, 0.4), "medium": (0.4, 0.7), "large": (0.7, 1.2)}

FloatArray = npt.NDArray[np.float32]


class Session:
    """The room, the microphone and the background of one session.

    Args:
        generator: draws them.
        rate: sampling rate of the speech.
    """

    def __init__(self, generator: np.random.Generator, rate: int) -> None:
        self._room = response(float(generator.uniform(0.1, 0.4)), generator, rate)
        edges = [generator.uniform(60.0, 300.0), generator.uniform(3400.0, 7600.0)]
        self._band = butter(2, edges, "bandpass", fs=rate, output="sos")
        self._generator = generator
        self._snr = float(generator.uniform(8.0, 25.0))

    def __call__(self, speech: FloatArray) -> FloatArray:
        """Speech (samples,) as it is recorded there, of the same length."""
        heard = fftconvolve(speech, self._room)[: len(speech)]
        noise = pink(self._generator.standard_normal(len(speech)))
        gain = np.sqrt(np.mean(heard**2) / np.mean(noise**2) / 10.0 ** (self._snr / 10.0))
        return np.asarray(sosfilt(self._band, heard + gain * noise), dtype=np.float32)


def response(seconds: float, generator: np.random.Generator, rate: int) -> FloatArray:
    """An impulse response whose sound decays by 60 dB in so many seconds."""
    time = np.arange(round(rate * seconds)) / rate
    tail = generator.standard_normal(len(time)) * 10.0 ** (-3.0 * time / seconds)
    tail *= 0.3 / np.linalg.norm(tail)
    tail[0] = 1.0
    return tail.astype(np.float32)


def write_noises(folder: Path, seed: int) -> None:
    """Noises, chords and voices in MUSAN's layout, and rooms in that of RIRS_NOISES."""
    generator = np.random.default_rng(seed)
    espeak = Espeak()
    sentences = Grammar(seed + 1).sentences()
    time = np.arange(8 * SAMPLING_RATE) / SAMPLING_RATE
    for number in range(6):
        white = generator.standard_normal(len(time))
        swell = 1.0 + 0.8 * np.sin(2 * np.pi * generator.uniform(0.1, 3.0) * time)
        _write(folder / f"musan/noise/synthetic/noise-{number:04d}.wav", pink(white) * swell)
        notes = generator.choice(220.0 * 2.0 ** (np.arange(24) / 12), (16, 3))
        chords = notes[np.minimum((2 * time).astype(int), 15)]
        tones = np.sin(2 * np.pi * np.cumsum(chords, axis=0) / SAMPLING_RATE).sum(axis=1)
        _write(folder / f"musan/music/synthetic/music-{number:04d}.wav", tones)
        voice = Voice("en-us", 150 + 5 * number, 30 + 8 * number, 50)
        speech, _ = espeak.speak(". ".join(itertools.islice(sentences, 3)) + ".", voice, number)
        changed = resample_poly(speech, SAMPLING_RATE, espeak.sampling_rate)
        _write(folder / f"musan/speech/synthetic/speech-{number:04d}.wav", changed)
    (folder / "musan/music/synthetic/ANNOTATIONS").write_text(
        "".join(f"music-{number:04d} chords N synthesis\n" for number in range(6)), "utf-8"
    )
    for size, limits in ROOMS.items():
        for number in range(1, 5):
            room = response(generator.uniform(*limits), generator, SAMPLING_RATE)
            place = folder / f"RIRS_NOISES/simulated_rirs/{size}room/Room001"
            _write(place / f"Room001-{number:05d}.wav", room)


def _write(path: Path, audio: npt.NDArray[np.floating]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, PEAK * audio / np.abs(audio).max(), SAMPLING_RATE, subtype="PCM_16")
