"""The pre-training task of UniSpeech: transcribed utterances, and audio alone beside them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from unispeech.data.datasets import (
    CtcBatch,
    CtcDataset,
    PretrainBatch,
    PretrainDataset,
    check_given,
    check_transcribed,
    load_manifests,
)
from unispeech.data.loading import batches
from unispeech.data.multitask import MixedStream, MultitaskDataset
from unispeech.data.sampling import Position, balanced, largest
from unispeech.data.tokens import Tokenizer
from unispeech.models.pretraining import ObjectiveOutput, PretrainingModel, Targets
from unispeech.train.config import PretrainConfig
from unispeech.train.parallel import Process, all_sum
from unispeech.train.pretraining import has_unused, objective_output, term_means
from unispeech.train.task import LossOutput, batch_stream

EditDistance = Callable[[Sequence[Any], Sequence[Any]], int]


class MultitaskTask:
    """CTC and contrast over transcribed manifests; contrast alone over the others.

    The released code never mixes the two in one training; the paper's objective sums them
    (UniSpeech, equation 6).

    Args:
        config: pre-training configuration with a multitask objective.
        process: this process.
        edit_distance: counts the edits between two sequences, for the validation.
    """

    def __init__(
        self, config: PretrainConfig, process: Process, edit_distance: EditDistance
    ) -> None:
        self.config = config
        self.process = process
        self.edit_distance = edit_distance
        self.has_unused = has_unused(config)
        data, seed = config.data, config.train.seed
        self.tokenizer = Tokenizer(data.tokens, data.units)
        self.tokens = self.tokenizer.tokens
        normalize = config.model.normalize
        transcribed = CtcDataset(self.tokenizer, seed, normalize, data.speeds)
        self.valid_dataset = CtcDataset(self.tokenizer, seed, normalize)
        # Mixing would contradict the transcripts; it is for masked prediction.
        unmixed = data.mixing.model_copy(update={"prob": 0.0})
        audio = PretrainDataset(
            (), data.crop, unmixed, seed, config.model.hop, normalize, (), data.speeds
        )
        self.dataset = MultitaskDataset(transcribed, audio)
        check_given(data.train)
        self.train_cuts, self.keep = balanced(
            [self._checked([path], drop_long=True) for path in data.train], data.temperature
        )
        self.valid_cuts = self._checked(data.valid, drop_long=True)
        self.audio_cuts = audio.usable(load_manifests(data.unlabelled)) if data.unlabelled else None
        self.share = _share(config, self.train_cuts, self.audio_cuts)
        self._stream = functools.partial(
            batch_stream, config=data.batching, seed=seed, process=process
        )

    def _checked(self, paths: Sequence[str], drop_long: bool) -> Any:
        where = ", ".join(paths)
        longest = self.config.data.max_seconds
        return check_transcribed(load_manifests(paths), self.tokenizer, longest, drop_long, where)

    def model(self) -> PretrainingModel:
        """A new model; the same weights on every process."""
        torch.manual_seed(self.config.train.seed)
        tokens = len(self.tokenizer)
        return PretrainingModel(self.config.model, self.config.objective, (), tokens)

    def batches(self, start: Position) -> Iterator[CtcBatch | PretrainBatch]:
        """Endless training batches from `start` on, of both kinds in a fixed order."""
        stream = MixedStream(
            self._stream(self.train_cuts, keep=self.keep),
            None if self.audio_cuts is None else self._stream(self.audio_cuts),
            self.share,
            start.batch,
        )
        return batches(self.dataset, stream, self.config.data.batching.workers)

    def largest_batches(self) -> list[CtcBatch | PretrainBatch]:
        """Batches of one epoch that need most memory, of both kinds."""
        transcribed = largest(self._stream(self.train_cuts, epochs=1))
        found: list[CtcBatch | PretrainBatch]
        found = [self.dataset.transcribed[spec] for spec in transcribed]
        if self.audio_cuts is not None:
            audio = largest(self._stream(self.audio_cuts, epochs=1))
            found += [self.dataset.audio[spec] for spec in audio]
        return found

    def loss(self, model: nn.Module, batch: CtcBatch | PretrainBatch, update: int) -> LossOutput:
        """CTC and contrast, or contrast alone, over the masked frames."""
        output = self._output(model, batch, update)
        return LossOutput(output.loss, output.sample_size, output.terms)

    def _output(
        self, model: nn.Module, batch: CtcBatch | PretrainBatch, update: int | None
    ) -> ObjectiveOutput:
        targets = Targets()
        if isinstance(batch, CtcBatch):
            targets = Targets(tokens=batch.targets, token_lengths=batch.target_lengths)
        lengths, seeds = batch.lengths, batch.mask_seeds
        return objective_output(
            self.config, self.process, model, batch.waveforms, lengths, targets, seeds, update
        )

    def metrics(self, sums: Mapping[str, float], size: float) -> dict[str, float]:
        """Contrast in nats per masked frame, CTC in nats per token, accuracy."""
        return term_means(sums, size)

    def validate(self, model: nn.Module) -> tuple[dict[str, float], float]:
        """CTC, contrast over all frames and token error rate, unmasked; the score is the rate."""
        sums = torch.zeros(6, dtype=torch.float64)
        for batch in batches(self.valid_dataset, self._stream(self.valid_cuts, epochs=1), 0):
            output = self._output(model, batch, None)
            assert output.log_probs is not None
            assert output.lengths is not None
            names = ("ctc", "contrast", "correct", "masked_frames")
            sums[:4] += torch.tensor([float(output.terms[n]) for n in names], dtype=torch.float64)
            best = output.log_probs.argmax(-1).cpu()
            references = torch.split(batch.targets, batch.target_lengths.tolist())
            for row, reference in enumerate(references):
                ids = torch.unique_consecutive(best[row, : int(output.lengths[row])])
                sums[4] += self.edit_distance(reference.tolist(), ids[ids != 0].tolist())
                sums[5] += len(reference)
        totals = all_sum(sums.to(self.process.device), self.process).tolist()
        ctc, contrast, correct, frames, edits, tokens = totals
        error = edits / max(tokens, 1.0)
        values = {
            "ctc": ctc / max(tokens, 1.0),
            "contrast": contrast / max(frames, 1.0),
            "accuracy": correct / max(frames, 1.0),
            "ter": error,
        }
        # Early on every error rate is 1; the loss then tells which checkpoint is better.
        return values, error + 1e-6 * values["ctc"]


def _share(config: PretrainConfig, transcribed: Any, audio: Any) -> float:
    """Share of the batches that are of audio alone."""
    if audio is None:
        return 0.0
    if config.data.unlabelled_share is not None:
        return config.data.unlabelled_share
    own, others = (sum(cut.duration for cut in cuts) for cuts in (transcribed, audio))
    return float(others / (own + others))
