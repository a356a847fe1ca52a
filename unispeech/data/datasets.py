"""Batches for pre-training and fine-tuning, as typed tuples of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lhotse import CutSet, MonoCut
from torch import Tensor
from torch.utils.data import Dataset

from unispeech.data.config import CropConfig, MixingConfig
from unispeech.data.labels import FrameLabels
from unispeech.data.manifests import SAMPLING_RATE, load_cuts, read_audio, target
from unispeech.data.mixing import DrawnMixes, draw_later, mix_batch
from unispeech.data.sampling import BatchSpec, Position, stable_seed
from unispeech.data.speed import (
    change_label_speed,
    change_speed,
    draw_speed,
    samples_at_speed,
)
from unispeech.data.tokens import Tokenizer
from unispeech.errors import DataError

FloatArray = npt.NDArray[np.float32]

PADDING_SAMPLES = 8000
"""Transcribed batches are padded to a multiple of this."""


class PretrainBatch(NamedTuple):
    """One batch of pieces of utterances, with frame labels where the objective wants them."""

    waveforms: Tensor
    """`(B, N)` float32."""
    lengths: Tensor | None
    """`(B,)` int64 valid samples; None when nothing is padded."""
    labels: tuple[Tensor, ...]
    """For each label set `(B, n)` int64, -1 where there is no label."""
    label_ratios: tuple[int, ...]
    """Labels per frame of each set."""
    mask_seeds: Tensor
    """`(B,)` int64."""
    ids: list[str]
    position: Position
    seconds: float
    """Audio in the batch."""
    mixing: DrawnMixes | None = None
    """What is still to be added to the waveforms; None where they are ready."""


class CtcBatch(NamedTuple):
    """One batch of transcribed utterances."""

    waveforms: Tensor
    """`(B, N)` float32, zero-padded."""
    lengths: Tensor
    """`(B,)` int64 valid samples."""
    targets: Tensor
    """`(sum of target_lengths,)` int64 tokens."""
    target_lengths: Tensor
    """`(B,)` int64."""
    mask_seeds: Tensor
    """`(B,)` int64."""
    ids: list[str]
    position: Position
    seconds: float


def normalize(waveform: FloatArray) -> FloatArray:
    """Zero mean, unit variance (biased, epsilon 1e-5) over one whole utterance."""
    centred = waveform - waveform.mean()
    return np.asarray(centred / np.sqrt(np.square(centred).mean() + 1e-5), dtype=np.float32)


class PretrainDataset(Dataset[PretrainBatch]):
    """Reads, crops, mixes and labels one batch.

    All draws come from seeds of (seed, epoch, utterance), so that batches do not depend on how
    many workers read them.
    """

    def __init__(
        self,
        labels: Sequence[FrameLabels],
        crop: CropConfig,
        mixing: MixingConfig,
        seed: int,
        hop: int,
        is_normalized: bool,
        noises: Sequence[MonoCut] = (),
        speeds: tuple[float, ...] = (1.0,),
    ) -> None:
        self.labels = tuple(labels)
        self.ratios = tuple(_label_ratio(store, hop) for store in labels)
        self.crop = crop
        self.mixing = mixing
        self.seed = seed
        self.is_normalized = is_normalized
        self.noises = [read_audio(cut) for cut in noises]
        self.speeds = speeds

    def usable(self, cuts: CutSet) -> CutSet:
        """Cuts long enough, with durations as they will be after cropping.

        Raises:
            DataError: nothing is left, or labels do not fit an utterance.
        """
        kept = [cut for cut in map(self.usable_cut, cuts) if cut is not None]
        if not kept:
            raise DataError(
                "no utterance is long enough",
                expected=f"at least {self.crop.min_seconds} s",
                remedy="lower data.crop.min_seconds",
            )
        return CutSet.from_cuts(kept)

    def usable_cut(self, cut: MonoCut) -> MonoCut | None:
        """The cut with its duration after cropping, None when it is too short.

        Raises:
            DataError: its labels do not fit.
        """
        for store in self.labels:
            store.check(cut.id, cut.duration)
        if cut.duration < self.crop.min_seconds:
            return None
        shown = min(cut.duration, self.crop.max_seconds)
        return cut if shown == cut.duration else _with_whole(cut, shown)

    def __getitem__(self, spec: BatchSpec) -> PretrainBatch:
        epoch = spec.position.epoch
        ids = [cut.id for cut in spec.cuts]
        rngs = [np.random.default_rng(stable_seed(self.seed, epoch, i, "crop")) for i in ids]
        speeds = [draw_speed(self.speeds, self.seed, epoch, i) for i in ids]
        samples = [
            samples_at_speed(cut.num_samples, speed)
            for cut, speed in zip(spec.cuts, speeds, strict=True)
        ]
        size = self._batch_samples(samples)
        waveforms = np.zeros((len(ids), size), dtype=np.float32)
        labels = [np.full((len(ids), _label_count(size, s.rate)), -1) for s in self.labels]
        lengths = []
        for row, (cut, rng, speed) in enumerate(zip(spec.cuts, rngs, speeds, strict=True)):
            start, audio = self._read(cut, min(size, samples[row]), rng, speed)
            waveforms[row, : len(audio)] = audio
            for store, rows in zip(self.labels, labels, strict=True):
                own = _labels(store, cut.id, start, len(audio), speed)[: rows.shape[1]]
                rows[row, : len(own)] = own
            lengths.append(len(audio))

        mixing = self._mix(waveforms, lengths, stable_seed(self.seed, epoch, ids[0], "mixing"))
        seeds = [stable_seed(self.seed, epoch, i, "mask") for i in ids]
        is_padded = min(lengths) < size
        return PretrainBatch(
            waveforms=torch.from_numpy(waveforms),
            lengths=torch.tensor(lengths) if is_padded else None,
            labels=tuple(map(torch.from_numpy, labels)),
            label_ratios=self.ratios,
            mask_seeds=torch.tensor(seeds),
            ids=ids,
            position=spec.position,
            seconds=sum(lengths) / SAMPLING_RATE,
            mixing=mixing,
        )

    def _mix(self, waveforms: FloatArray, lengths: list[int], seed: int) -> DrawnMixes | None:
        """Mix in place, or say what is to be mixed where the batch goes."""
        if self.mixing.where == "device":
            normalized = lengths if self.is_normalized else None
            shape = (len(waveforms), waveforms.shape[1])
            return draw_later(shape, self.mixing, seed, self.noises, normalized)

        def normalize_row(row: int) -> None:
            if self.is_normalized:
                waveforms[row, : lengths[row]] = normalize(waveforms[row, : lengths[row]])

        mix_batch(waveforms, self.mixing, seed, self.noises, normalize_row)
        return None

    def _batch_samples(self, samples: list[int]) -> int:
        size = min(samples) if self.crop.rows == "crop" else max(samples)
        multiple = round(self.crop.multiple_seconds * SAMPLING_RATE)
        return size // multiple * multiple if 0 < multiple <= size else size

    def _read(
        self, cut: MonoCut, size: int, rng: np.random.Generator, speed: float
    ) -> tuple[int, FloatArray]:
        whole = _whole(cut)
        start = int(rng.integers(samples_at_speed(whole.num_samples, speed) - size + 1))
        if self.is_normalized or speed != 1.0:
            audio = change_speed(read_audio(whole), SAMPLING_RATE, speed)
            # The reference normalises the utterance before it crops.
            audio = normalize(audio) if self.is_normalized else audio
            return start, audio[start : start + size]
        piece = whole.truncate(
            offset=start / SAMPLING_RATE, duration=size / SAMPLING_RATE, preserve_id=True
        )
        return start, read_audio(piece)


def _label_ratio(labels: FrameLabels, hop: int) -> int:
    ratio, remainder = divmod(labels.rate * hop, SAMPLING_RATE)
    if remainder or ratio < 1:
        raise DataError(
            "the label rate is not a multiple of the frame rate",
            where=labels.folder,
            expected=f"a multiple of {SAMPLING_RATE / hop:g} Hz",
            found=f"{labels.rate} Hz",
        )
    return ratio


def _label_count(samples: int, rate: int) -> int:
    return round(samples * rate / SAMPLING_RATE)


def _labels(
    store: FrameLabels, utterance: str, start: int, size: int, speed: float
) -> npt.NDArray[np.uint16]:
    first = _label_count(start, store.rate)
    labels = change_label_speed(store.get(utterance), speed)
    return labels[first : first + _label_count(size, store.rate)]


def _with_whole(cut: MonoCut, seconds: float) -> MonoCut:
    short = cut.truncate(duration=seconds, preserve_id=True)
    short.custom = {**(short.custom or {}), "whole": (cut.start, cut.duration)}
    return short


def _whole(cut: MonoCut) -> MonoCut:
    if not cut.custom or "whole" not in cut.custom:
        return cut
    start, duration = cut.custom["whole"]
    return MonoCut(cut.id, start, duration, cut.channel, recording=cut.recording)


class CtcDataset(Dataset[CtcBatch]):
    """Reads whole utterances and their transcripts or phones."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        seed: int,
        is_normalized: bool,
        speeds: tuple[float, ...] = (1.0,),
    ) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.is_normalized = is_normalized
        self.speeds = speeds

    def __getitem__(self, spec: BatchSpec) -> CtcBatch:
        epoch = spec.position.epoch
        audio = [self._read(cut, epoch) for cut in spec.cuts]
        if self.is_normalized:
            audio = [normalize(waveform) for waveform in audio]
        units = self.tokenizer.units
        targets = [self.tokenizer.encode(target(cut, units)) for cut in spec.cuts]
        ids = [cut.id for cut in spec.cuts]
        lengths = [len(waveform) for waveform in audio]
        # Lengths that repeat: kernels that are compiled for each shape are then found again.
        size = -(-max(lengths) // PADDING_SAMPLES) * PADDING_SAMPLES
        waveforms = torch.zeros(len(audio), size)
        for row, waveform in zip(waveforms, audio, strict=True):
            row[: len(waveform)] = torch.from_numpy(waveform)
        return CtcBatch(
            waveforms=waveforms,
            lengths=torch.tensor(lengths),
            targets=torch.tensor([t for target in targets for t in target], dtype=torch.int64),
            target_lengths=torch.tensor([len(t) for t in targets]),
            mask_seeds=torch.tensor([stable_seed(self.seed, epoch, i, "mask") for i in ids]),
            ids=ids,
            position=spec.position,
            seconds=sum(lengths) / SAMPLING_RATE,
        )

    def _read(self, cut: MonoCut, epoch: int) -> FloatArray:
        speed = draw_speed(self.speeds, self.seed, epoch, cut.id)
        return change_speed(read_audio(cut), SAMPLING_RATE, speed)


def check_transcribed(
    cuts: CutSet, tokenizer: Tokenizer, max_seconds: float, drop_long: bool, where: object
) -> CutSet:
    """Cuts that can be fine-tuned on.

    Raises:
        DataError: a transcript (or the phones) is missing or has unknown symbols, or an utterance
            is longer than `max_seconds` and `drop_long` is false (CTC needs whole utterances).
    """
    kept = []
    for cut in cuts:
        text = target(cut, tokenizer.units)
        if not text and tokenizer.units == "phones":
            raise DataError(
                f"utterance {cut.id} has no phones",
                where=where,
                remedy="run the stage that prepares the targets, or set data.units=letters",
            )
        if not text:
            raise DataError(
                f"utterance {cut.id} has no transcript",
                where=where,
                remedy="remove it from the manifest or add its text; `validate` lists all",
            )
        unknown = tokenizer.unknown(text)
        if unknown:
            raise DataError(
                f"utterance {cut.id}: the transcript has symbols that are not tokens",
                where=where,
                found=" ".join(sorted(map(repr, unknown))),
                remedy="normalise the text or rebuild the tokens; `validate` lists all",
            )
        if cut.duration <= max_seconds:
            kept.append(cut)
        elif not drop_long:
            raise DataError(
                f"utterance {cut.id} is too long to fine-tune on",
                where=where,
                expected=f"at most {max_seconds:g} s",
                found=f"{cut.duration:.1f} s",
                remedy="split it, raise data.max_seconds, or set data.drop_long=true",
            )
    if not kept:
        raise DataError("no utterance is left to train on", where=where)
    return CutSet.from_cuts(kept)


def load_manifests(paths: Sequence[str | Path]) -> CutSet:
    """`load_cuts` of several manifests; a clear error when none is named."""
    check_given(paths)
    return load_cuts(list(paths))


def check_given(paths: Sequence[str | Path]) -> None:
    """Raise a DataError when no manifest is named."""
    if not paths:
        raise DataError("no manifest given", remedy="set data.train, e.g. data.train=[a.jsonl.gz]")
