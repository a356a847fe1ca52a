"""The fine-tuning task: CTC on transcribed utterances."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from unispeech.data.datasets import CtcBatch, CtcDataset, check_transcribed, load_manifests
from unispeech.data.loading import batches
from unispeech.data.sampling import Position, largest, stable_seed
from unispeech.data.tokens import Tokenizer
from unispeech.errors import DependencyError
from unispeech.losses import ctc_k2
from unispeech.models.config import EncoderConfig
from unispeech.models.ctc import CtcModel, ctc_loss
from unispeech.train.config import FinetuneConfig
from unispeech.train.parallel import Process, all_sum
from unispeech.train.task import LossOutput, batch_stream

EditDistance = Callable[[Sequence[Any], Sequence[Any]], int]


class CtcTask:
    """CTC over the manifests of a configuration.

    Args:
        config: fine-tuning configuration.
        encoder: encoder configuration with the overrides applied.
        process: this process.
        edit_distance: counts the edits between two sequences, for the validation.

    Raises:
        DependencyError: the loss of k2 is asked for and k2 cannot be imported.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        encoder: EncoderConfig,
        process: Process,
        edit_distance: EditDistance,
    ) -> None:
        self.config = config
        self.encoder = encoder
        self.process = process
        self.edit_distance = edit_distance
        if config.ctc.loss == "k2" and not ctc_k2.available():
            raise DependencyError(
                "ctc.loss=k2 was asked for, but k2 cannot be imported",
                remedy="bash utils/setup_k2.sh installs one where there is one for this torch,"
                " or use ctc.loss=torch",
            )
        self._ctc_loss = ctc_k2.k2_ctc_loss if config.ctc.loss == "k2" else ctc_loss
        self.has_unused = (
            encoder.layer_drop > 0 or encoder.feature_grad_mult == 0 or config.freeze_updates > 0
        )
        data = config.data
        self.tokenizer = Tokenizer(data.tokens, data.units)
        common = (self.tokenizer, config.train.seed, encoder.normalize)
        self.dataset = CtcDataset(*common, data.speeds)
        self.valid_dataset = CtcDataset(*common)
        self.train_cuts, self.valid_cuts = (
            check_transcribed(
                load_manifests(paths),
                self.tokenizer,
                data.max_seconds,
                data.drop_long,
                ", ".join(map(str, paths)),
            )
            for paths in (data.train, data.valid)
        )

        self._stream = functools.partial(
            batch_stream, config=config.data.batching, seed=config.train.seed, process=process
        )

    def model(self) -> CtcModel:
        """A new model; the same weights on every process."""
        torch.manual_seed(self.config.train.seed)
        return CtcModel(self.encoder, self.config.ctc, len(self.tokenizer))

    def batches(self, start: Position) -> Iterator[CtcBatch]:
        """Endless training batches from `start` on."""
        stream = self._stream(self.train_cuts, start)
        return batches(self.dataset, stream, self.config.data.batching.workers)

    def largest_batches(self) -> list[CtcBatch]:
        """Batches of one epoch that need most memory."""
        return [self.dataset[spec] for spec in largest(self._stream(self.train_cuts, epochs=1))]

    def loss(self, model: nn.Module, batch: CtcBatch, update: int) -> LossOutput:
        """CTC loss, normalised by utterances as the reference does."""
        device = self.process.device
        log_probs, frames = model(
            batch.waveforms.to(device, non_blocking=True),
            batch.lengths.to(device),
            batch.mask_seeds,
            stable_seed(self.config.train.seed, update, "layer_drop"),
            update <= self.config.freeze_updates,
        )
        loss = self._ctc_loss(log_probs, frames, batch.targets.to(device), batch.target_lengths)
        tokens = batch.target_lengths.sum()
        return LossOutput(loss, len(batch.ids), {"tokens": tokens})

    def metrics(self, sums: Mapping[str, float], size: float) -> dict[str, float]:
        """CTC loss per token, which does not depend on the lengths of the utterances."""
        del size
        return {"loss_per_token": sums["loss"] / max(sums["tokens"], 1.0)}

    def validate(self, model: nn.Module) -> tuple[dict[str, float], float]:
        """Loss and error rates of greedy decoding; the score is the WER, of phones the PER."""
        assert isinstance(model, CtcModel)
        device = self.process.device
        sums = torch.zeros(6, dtype=torch.float64)
        for batch in batches(self.valid_dataset, self._stream(self.valid_cuts, epochs=1), 0):
            log_probs, frames = model(batch.waveforms.to(device), batch.lengths.to(device))
            loss = ctc_loss(log_probs, frames, batch.targets.to(device), batch.target_lengths)
            best = log_probs.argmax(-1).cpu()
            references = torch.split(batch.targets, batch.target_lengths.tolist())
            sums[0] += float(loss)
            sums[1] += len(references)
            for row, reference in enumerate(references):
                ids = torch.unique_consecutive(best[row, : int(frames[row])])
                sums[2:] += self._edits(ids[ids != 0].tolist(), reference.tolist())
        totals = all_sum(sums.to(device), self.process).tolist()
        loss_sum, utterances, token_edits, tokens, word_edits, words = totals
        loss, ter = loss_sum / max(utterances, 1.0), token_edits / max(tokens, 1.0)
        if self.tokenizer.units == "phones":
            rates, score = {"per": ter}, ter
        else:
            score = word_edits / max(words, 1.0)
            rates = {"ter": ter, "wer": score}
        # Early on every rate is 1; the loss then tells which checkpoint is better.
        return {"loss": loss, **rates}, score + 1e-6 * loss

    def _edits(self, hypothesis: list[int], reference: list[int]) -> torch.Tensor:
        said = self.tokenizer.decode(reference).split()
        heard = self.tokenizer.decode(hypothesis).split()
        counts = [
            self.edit_distance(reference, hypothesis),
            len(reference),
            self.edit_distance(said, heard),
            len(said),
        ]
        return torch.tensor(counts, dtype=torch.float64)
