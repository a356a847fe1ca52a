"""Reverberation or noise for crops of speech, drawn while reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from lhotse import MonoCut
from scipy.signal import fftconvolve

from unispeech.data.config import SpeakerDataConfig
from unispeech.data.manifests import SAMPLING_RATE, audio_file, conversion, load_cuts
from unispeech.errors import ConfigError, DataError

FloatArray = npt.NDArray[np.float32]

KINDS = ("noise", "speech", "music")


class Augmenter:
    """Adds one of reverberation and noise to a share of the crops, as wespeaker does.

    A crop gets nothing, or an impulse response, or a noise of one kind at a ratio of that kind.
    Recordings are read when they are drawn: MUSAN has a hundred hours.

    Args:
        noises: cuts of each kind: noise, speech, music.
        responses: cuts of impulse responses.
        config: probabilities and ratios.

    Raises:
        ConfigError: a kind of noise has no ratio.
    """

    def __init__(
        self,
        noises: Mapping[str, Sequence[MonoCut]],
        responses: Sequence[MonoCut],
        config: SpeakerDataConfig,
    ) -> None:
        for kind in noises:
            if kind not in KINDS:
                raise ConfigError(
                    f"no ratio for noises of kind '{kind}'",
                    where="data.noise",
                    expected=f"one of {', '.join(KINDS)}",
                )
        self.noises = {kind: list(noises[kind]) for kind in sorted(noises) if noises[kind]}
        self.responses = list(responses)
        self.config = config

    @classmethod
    def from_config(cls, config: SpeakerDataConfig) -> Augmenter:
        """The augmenter of the manifests that a configuration names.

        Raises:
            DataError: a manifest is missing or damaged.
        """
        noises: dict[str, list[MonoCut]] = {}
        for cut in load_cuts(config.noise):
            noises.setdefault(str((cut.custom or {}).get("kind", "noise")), []).append(cut)
        return cls(noises, list(load_cuts(config.rir)), config)

    def __call__(self, audio: FloatArray, rng: np.random.Generator) -> FloatArray:
        """A crop, float32 (samples,), with what `rng` draws for it; the length stays.

        Raises:
            DataError: a noise or a response cannot be read.
        """
        if rng.random() >= self.config.augment_prob or not (self.noises or self.responses):
            return audio
        share = self.config.reverb_share if self.noises else 1.0
        if self.responses and rng.random() < share:
            return full_scale(reverberate(audio, self._response(rng)))
        if not self.noises:
            return audio
        kinds = list(self.noises)
        kind = kinds[int(rng.integers(len(kinds)))]
        snr = float(rng.uniform(*getattr(self.config.snr, kind)))
        return full_scale(add_noise(audio, self._noise(kind, len(audio), rng), snr))

    def _response(self, rng: np.random.Generator) -> FloatArray:
        cut = self.responses[int(rng.integers(len(self.responses)))]
        return read_channel(cut, 0, cut.num_samples)

    def _noise(self, kind: str, samples: int, rng: np.random.Generator) -> FloatArray:
        cuts = self.noises[kind]
        cut = cuts[int(rng.integers(len(cuts)))]
        start = int(rng.integers(max(cut.num_samples - samples, 0) + 1))
        return np.resize(read_channel(cut, start, samples), samples)


def reverberate(audio: FloatArray, response: FloatArray) -> FloatArray:
    """Speech (samples,) in a room: convolved with the response over its L2 norm, same length."""
    norm = float(np.linalg.norm(response.astype(np.float64)))
    if norm == 0.0:
        return audio
    return np.asarray(fftconvolve(audio, response / norm)[: len(audio)], dtype=np.float32)


def add_noise(audio: FloatArray, noise: FloatArray, snr: float) -> FloatArray:
    """Speech plus noise, both (samples,), whose mean power is `snr` decibels below."""
    power, noise_power = (
        float(np.square(part, dtype=np.float64).mean()) for part in (audio, noise)
    )
    if power == 0.0 or noise_power == 0.0:
        return audio
    gain = np.sqrt(power / (noise_power * 10.0 ** (snr / 10.0)))
    return np.asarray(audio + gain * noise, dtype=np.float32)


def full_scale(audio: FloatArray) -> FloatArray:
    """The same (samples,) with a peak of 1, as wespeaker does after every augmentation."""
    peak = float(np.abs(audio).max(initial=0.0))
    return audio / np.float32(peak) if peak > 0 else audio


def read_channel(cut: MonoCut, start: int, samples: int) -> FloatArray:
    """Up to `samples` samples of the cut's channel from sample `start` of the cut, float32.

    Measured impulse responses have several channels, one of which is the cut's.

    Raises:
        DataError: the file is missing, damaged, at another rate, or has no sound there.
    """
    path = audio_file(cut)
    where = f"{cut.id}, {path}"
    first = round(cut.start * SAMPLING_RATE) + start
    _check_file(path, where)
    try:
        with soundfile.SoundFile(path) as file:
            rate = int(file.samplerate)
            file.seek(min(first, file.frames))
            audio = file.read(min(samples, cut.num_samples - start), "float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(
            "damaged audio file", where=where, found=error, remedy="copy the file again"
        ) from None
    if rate != SAMPLING_RATE:
        raise DataError(
            "wrong sampling rate",
            where=where,
            expected=f"{SAMPLING_RATE} Hz",
            found=f"{rate} Hz",
            remedy=conversion(path),
        )
    if len(audio) == 0 or cut.channel >= audio.shape[1] or not np.isfinite(audio).all():
        raise DataError(
            "no usable sound", where=where, expected="finite samples", remedy="remove it"
        )
    return np.ascontiguousarray(audio[:, cut.channel])


def _check_file(path: Path, where: str) -> None:
    if not path.is_file():
        raise DataError(
            "no such audio file",
            where=where,
            remedy="restore the corpus of noises, or prepare its manifest again",
        )
