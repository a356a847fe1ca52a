"""Mixtures of two speakers with their sources: made while reading, or read as they were stored.

All draws come from seeds of (seed, epoch, batch, row, utterance), so that batches do not depend on
how many workers make them, and a run continues from any position.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from lhotse import CutSet, MonoCut
from scipy.signal import fftconvolve
from torch import Tensor
from torch.utils.data import Dataset

from unispeech.data.augmentation import read_channel
from unispeech.data.config import MixtureDataConfig, SpeakerBatchingConfig
from unispeech.data.datasets import load_manifests
from unispeech.data.manifests import SAMPLING_RATE, audio_file, load_cuts, read_audio, speaker
from unispeech.data.overlap import (
    PATTERNS,
    balance,
    draw_starts,
    draw_window,
    level_gain,
    noise_gain,
)
from unispeech.data.rooms import early_part
from unispeech.data.sampling import BEGINNING, BatchSpec, Position, stable_seed
from unispeech.data.speakers import SpeakerSampler
from unispeech.errors import DataError

FloatArray = npt.NDArray[np.float32]

SPEAKERS = 2


class MixtureBatch(NamedTuple):
    """Mixtures of one length and what they are the sum of."""

    wavs: Tensor
    """`(B, samples)` float32 in [-1, 1] at 16 kHz: channel 0 of the mixtures."""
    lengths: Tensor
    """`(B,)` int64: samples of each; less than all only where a stored mixture is shorter."""
    sources: Tensor
    """`(B, 2, samples)` float32: each speaker as heard at channel 0; zeros when absent."""
    noise: Tensor
    """`(B, samples)` float32: what is left of the mixture without the sources."""
    position: Position
    seconds: float
    ids: list[str]


class Mixture(NamedTuple):
    """One mixture: (samples,), (2, samples) and (samples,) float32, the last two its parts."""

    mixture: FloatArray
    sources: FloatArray
    noise: FloatArray


class MixtureDataset(Dataset[MixtureBatch]):
    """Mixes each utterance of a batch with one of another speaker, in a room and with noise.

    Args:
        config: patterns, ratios, noises and responses.
        cuts: the utterances that second speakers are drawn from.
        seed: of all draws.

    Raises:
        DataError: there are fewer than two speakers, or noises or responses cannot be read.
    """

    def __init__(self, config: MixtureDataConfig, cuts: CutSet, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.samples = round(config.seconds * SAMPLING_RATE)
        self.cuts = [cut for cut in cuts if cut.duration >= config.min_seconds]
        people = {speaker(cut) for cut in self.cuts}
        if "" in people or len(people) < SPEAKERS:
            raise DataError(
                "mixtures need utterances of two speakers at least",
                where=", ".join(config.train),
                expected=f"speakers of all utterances of {config.min_seconds:g} s and more",
                found=", ".join(sorted(people - {""})[:3]) or "none",
                remedy="check the field `speaker` of the supervisions, or lower data.min_seconds",
            )
        self.noises = list(load_cuts(config.noise))
        self.rooms = group_rooms(load_cuts(config.rir))

    def __getitem__(self, spec: BatchSpec) -> MixtureBatch:
        examples = []
        for row, cut in enumerate(spec.cuts):
            rng = np.random.default_rng(stable_seed(self.seed, *spec.position, row, cut.id))
            examples.append(self.simulate(cut, rng))
        return _collate(examples, [self.samples] * len(examples), spec)

    def simulate(self, cut: MonoCut, rng: np.random.Generator) -> Mixture:
        """The mixture that `rng` draws for an utterance.

        Raises:
            DataError: an utterance, noise or response cannot be read.
        """
        config = self.config
        shares = np.array([getattr(config.patterns, name) for name in PATTERNS])
        pattern = PATTERNS[int(rng.choice(len(PATTERNS), p=shares / shares.sum()))]
        pair = [cut] if pattern == "single" else [cut, self._other(cut, rng)]
        gap = round(float(rng.uniform(*config.gap)) * SAMPLING_RATE)
        lengths = [c.num_samples for c in pair]
        starts = draw_starts(pattern, lengths, gap, rng)
        total = max(start + length for start, length in zip(starts, lengths, strict=True))
        first = draw_window(total, self.samples, rng)
        sources = np.zeros((SPEAKERS, self.samples), np.float32)
        wanted = sources.copy()
        present = np.zeros((SPEAKERS, self.samples), bool)
        responses = self._responses(len(pair), rng)
        for row, (own, start) in enumerate(zip(pair, starts, strict=True)):
            offset = start - first
            present[row, max(offset, 0) : max(offset + own.num_samples, 0)] = True
            sources[row], wanted[row] = self._heard(own, offset, responses[row])
        gains = balance(sources, present, float(rng.uniform(*config.energy_ratio)))
        speech = (gains[:, None] * sources).sum(axis=0)
        noise = self._noise(rng)
        noise *= noise_gain(speech, np.logical_or(*present), noise, float(rng.uniform(*config.snr)))
        mixture = speech + noise
        gain = level_gain(mixture, float(rng.uniform(*config.level)))
        mixture, wanted = gain * mixture, gain * gains[:, None] * wanted
        return Mixture(mixture, wanted, mixture - wanted.sum(axis=0))

    def _other(self, cut: MonoCut, rng: np.random.Generator) -> MonoCut:
        own = speaker(cut)
        while True:
            other = self.cuts[int(rng.integers(len(self.cuts)))]
            if speaker(other) != own:
                return other

    def _responses(self, count: int, rng: np.random.Generator) -> list[FloatArray | None]:
        if not self.rooms:
            return [None] * count
        room = self.rooms[int(rng.integers(len(self.rooms)))]
        # A room with a single response has no place for two.
        pool = room if len(room) >= count else list(itertools.chain(*self.rooms))
        chosen = rng.choice(len(pool), count, replace=len(pool) < count)
        return [read_channel(pool[int(i)], 0, pool[int(i)].num_samples) for i in chosen]

    def _heard(
        self, cut: MonoCut, offset: int, response: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """An utterance as heard in the window that begins `offset` before it, and its reference."""
        heard = np.zeros(self.samples, np.float32)
        history = 0 if response is None else len(response) - 1
        begin = max(0, -offset - history)
        end = min(cut.num_samples, self.samples - offset)
        if end <= begin:
            return heard, heard
        piece = MonoCut(
            cut.id, cut.start + begin / SAMPLING_RATE, (end - begin) / SAMPLING_RATE, cut.channel,
            recording=cut.recording,
        )  # fmt: skip
        dry = read_audio(piece)
        _add(heard, dry if response is None else fftconvolve(dry, response), offset + begin)
        if response is None or self.config.reference == "reverberant":
            return heard, heard
        wanted = np.zeros(self.samples, np.float32)
        early = early_part(response, self.config.early_seconds)
        _add(wanted, fftconvolve(dry, early), offset + begin)
        return heard, wanted

    def _noise(self, rng: np.random.Generator) -> FloatArray:
        if not self.noises:
            return rng.standard_normal(self.samples, dtype=np.float32)
        cut = self.noises[int(rng.integers(len(self.noises)))]
        start = int(rng.integers(max(cut.num_samples - self.samples, 0) + 1))
        return np.array(np.resize(read_channel(cut, start, self.samples), self.samples))


class StoredMixtureDataset(Dataset[MixtureBatch]):
    """Pieces of mixtures that were stored with their references.

    Args:
        config: length of the pieces.
        seed: of where they begin.
    """

    def __init__(self, config: MixtureDataConfig, seed: int) -> None:
        self.seed = seed
        self.samples = round(config.seconds * SAMPLING_RATE)

    def __getitem__(self, spec: BatchSpec) -> MixtureBatch:
        examples, lengths = [], []
        for row, cut in enumerate(spec.cuts):
            rng = np.random.default_rng(stable_seed(self.seed, *spec.position, row, cut.id))
            begin = int(rng.integers(max(cut.num_samples - self.samples, 0) + 1))
            examples.append(read_mixture(cut, begin, self.samples))
            lengths.append(min(cut.num_samples, self.samples))
        return _collate(examples, lengths, spec)


class MixtureTraining:
    """The data of a configuration: dataset, batches from any position, validation batches.

    Args:
        config: what to train and validate on.
        seed: of order and draws.

    Raises:
        DataError: manifests are missing or damaged, or there are fewer than two speakers.
    """

    def __init__(self, config: MixtureDataConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        cuts = load_manifests(config.train)
        self.dataset: MixtureDataset | StoredMixtureDataset
        if all(is_mixture(cut) for cut in cuts):
            self.dataset, self.cuts = StoredMixtureDataset(config, seed), cuts
        else:
            self.dataset = MixtureDataset(config, cuts, seed)
            self.cuts = CutSet.from_cuts(self.dataset.cuts)

    def stream(
        self, start: Position = BEGINNING, rank: int = 0, world_size: int = 1
    ) -> SpeakerSampler:
        """Endless batches of one process from `start` on, for `unispeech.data.loading.batches`.

        Every utterance, or stored mixture, is there once an epoch.
        """
        batching = SpeakerBatchingConfig(size=self.config.batching.size)
        return SpeakerSampler(self.cuts, batching, self.seed, rank, world_size, start)

    def valid_batches(self, rank: int = 0, world_size: int = 1) -> Iterator[MixtureBatch]:
        """The validation mixtures in pieces that follow one another, the same in every call.

        The end of a mixture that does not fill a piece is left out, unless it is the only one.

        Raises:
            DataError: a mixture has no references, or cannot be read.
        """
        samples = round(self.config.seconds * SAMPLING_RATE)
        pieces = [
            (cut, number * samples)
            for cut in load_manifests(self.config.valid)
            for number in range(max(cut.num_samples // samples, 1))
        ]
        size = self.config.batching.size
        groups = [pieces[first : first + size] for first in range(0, len(pieces), size)]
        for number, group in list(enumerate(groups))[rank::world_size]:
            examples = [read_mixture(cut, begin, samples) for cut, begin in group]
            lengths = [min(cut.num_samples - begin, samples) for cut, begin in group]
            spec = BatchSpec(Position(0, number), CutSet.from_cuts([cut for cut, _ in group]))
            yield _collate(examples, lengths, spec)


def group_rooms(cuts: Iterable[MonoCut]) -> list[list[MonoCut]]:
    """Impulse responses by their room: the field `room`, else the folder of the file."""
    rooms: dict[str, list[MonoCut]] = {}
    for cut in cuts:
        place = (cut.custom or {}).get("room") or str(audio_file(cut).parent)
        rooms.setdefault(str(place), []).append(cut)
    return list(rooms.values())


def is_mixture(cut: MonoCut) -> bool:
    """Whether a cut is a stored mixture with references."""
    return bool((cut.custom or {}).get("references"))


def read_mixture(cut: MonoCut, begin: int = 0, samples: int | None = None) -> Mixture:
    """A piece of a stored mixture at channel 0, its references, and what else is in it.

    Args:
        cut: with the files of its references in the field `references`.
        begin: first sample within the cut.
        samples: of the piece; what is missing at the end is zeros. None reads to the end.

    Raises:
        DataError: there are no references or more than two, a file cannot be read, or they are not
            as long as the mixture.
    """
    files = [Path(file) for file in (cut.custom or {}).get("references", [])]
    if not 1 <= len(files) <= SPEAKERS:
        raise DataError(
            "not a mixture with references",
            where=f"mixture {cut.id}",
            expected=f"1 to {SPEAKERS} files in the field `references`",
            found=len(files),
            remedy="prepare the mixtures again with local/prepare_mixtures.py",
        )
    count = cut.num_samples - begin if samples is None else samples
    mixture = np.zeros(count, np.float32)
    there = read_channel(cut, begin, count)
    mixture[: len(there)] = there
    sources = np.zeros((SPEAKERS, count), np.float32)
    first = round(cut.start * SAMPLING_RATE) + begin
    for row, file in enumerate(files):
        sources[row, : len(there)] = _read_reference(file, first, len(there), cut)
    return Mixture(mixture, sources, mixture - sources.sum(axis=0))


def _read_reference(file: Path, first: int, samples: int, cut: MonoCut) -> FloatArray:
    where = f"mixture {cut.id}, reference {file}"
    if not file.is_file():
        raise DataError("no such audio file", where=where, remedy="prepare the mixtures again")
    try:
        with soundfile.SoundFile(file) as opened:
            frames, rate, channels = opened.frames, opened.samplerate, opened.channels
            opened.seek(min(first, frames))
            audio = opened.read(samples, "float32")
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(
            "damaged audio file", where=where, found=error, remedy="prepare the mixtures again"
        ) from None
    if (rate, channels) != (SAMPLING_RATE, 1) or frames != cut.recording.num_samples:
        raise DataError(
            "the reference does not fit its mixture",
            where=where,
            expected=f"{cut.recording.num_samples} samples at {SAMPLING_RATE} Hz, 1 channel",
            found=f"{frames} samples at {rate} Hz, {channels} channel(s)",
            remedy="prepare the mixtures again",
        )
    return np.asarray(audio, dtype=np.float32)


def _add(target: FloatArray, audio: npt.NDArray[np.floating], start: int) -> None:
    """Add audio that begins at sample `start` of the target, which may be before it."""
    begin, end = max(start, 0), min(start + len(audio), len(target))
    if end > begin:
        target[begin:end] += audio[begin - start : end - start].astype(np.float32)


def _collate(examples: Sequence[Mixture], lengths: Sequence[int], spec: BatchSpec) -> MixtureBatch:
    return MixtureBatch(
        wavs=torch.from_numpy(np.stack([example.mixture for example in examples])),
        lengths=torch.tensor(lengths),
        sources=torch.from_numpy(np.stack([example.sources for example in examples])),
        noise=torch.from_numpy(np.stack([example.noise for example in examples])),
        position=spec.position,
        seconds=sum(lengths) / SAMPLING_RATE,
        ids=[cut.id for cut in spec.cuts],
    )
