"""Lists of mixtures as LibriMix publishes them: sources, gains and a noise, in a CSV file."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from unispeech.data.activity import speech_stretches
from unispeech.data.manifests import SAMPLING_RATE
from unispeech.data.rttm import Segment
from unispeech.errors import DataError

FloatArray = npt.NDArray[np.float32]


class Mixture(NamedTuple):
    """One line of a list: files below the corpora, and what they are multiplied by."""

    id: str
    sources: tuple[tuple[str, float], ...]
    noise: tuple[str, float] | None


def read_mixlist(path: Path, sources: str = "") -> list[Mixture]:
    """The mixtures of a list whose sources all begin with `sources`.

    Raises:
        DataError: the file is missing, or has not LibriMix's columns, or no such mixture.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError("cannot read the list of mixtures", where=path, found=error) from None
    mixtures = []
    for number, row in enumerate(rows, start=2):
        try:
            voices = []
            for index in itertools.count(1):
                if not row.get(f"source_{index}_path"):
                    break
                voices.append((row[f"source_{index}_path"], float(row[f"source_{index}_gain"])))
            noise = (row["noise_path"], float(row["noise_gain"])) if row.get("noise_path") else None
            name = row["mixture_ID"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                "not a line of a list of mixtures",
                where=f"{path}:{number}",
                expected="mixture_ID, source_1_path, source_1_gain, ..., noise_path, noise_gain",
                found=error,
            ) from None
        if len(voices) < 2:
            raise DataError("fewer than two sources", where=f"{path}:{number}")
        if all(voice.startswith(sources) for voice, _ in voices):
            mixtures.append(Mixture(name, tuple(voices), noise))
    if not mixtures:
        raise DataError("the list has no such mixtures", where=path, expected=f"{sources}...")
    return mixtures


def render(mixture: Mixture, corpora: Path) -> tuple[FloatArray, list[Segment]]:
    """The sound of a mixture, as long as its longest source, and who speaks when.

    Speech is found in each source by its energy; the speakers are called s1, s2 ...

    Raises:
        DataError: a file cannot be read or is not 16 kHz mono.
    """
    voices = [_read(corpora / path) * np.float32(gain) for path, gain in mixture.sources]
    audio = np.zeros(max(map(len, voices)), dtype=np.float32)
    segments = []
    for number, voice in enumerate(voices, start=1):
        audio[: len(voice)] += voice
        name = f"{mixture.id}-s{number}"
        segments += [Segment(start, end - start, name) for start, end in speech_stretches(voice)]
    if mixture.noise:
        path, gain = mixture.noise
        audio += np.resize(_read(corpora / path), len(audio)) * np.float32(gain)
    return audio / np.float32(max(1.0, float(np.abs(audio).max()))), segments


def _read(path: Path) -> FloatArray:
    try:
        audio, rate = soundfile.read(path, dtype="float32")
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError("cannot read the audio", where=path, found=error) from None
    if rate != SAMPLING_RATE or audio.ndim != 1 or len(audio) == 0:
        raise DataError("wrong audio format", where=path, expected=f"{SAMPLING_RATE} Hz, 1 channel")
    return np.asarray(audio, dtype=np.float32)
