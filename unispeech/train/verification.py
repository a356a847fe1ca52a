"""The task of speaker verification: classify training speakers, validate on trials of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from unispeech.data.datasets import load_manifests
from unispeech.data.loading import batches
from unispeech.data.manifests import read_audio, speaker
from unispeech.data.sampling import Position
from unispeech.data.speakers import SpeakerBatch, SpeakerTraining
from unispeech.data.trials import Trials, draw_trials, numbered, read_trials, resolve
from unispeech.errors import ConfigError, DataError
from unispeech.losses.margin import Margin, scheduled_margin
from unispeech.models.downstream import Rates
from unispeech.models.speaker import SpeakerClassifier, SpeakerModel
from unispeech.train.parallel import Process, all_sum
from unispeech.train.task import LossOutput
from unispeech.train.verification_config import MarginConfig, VerificationConfig

EqualErrorRate = Callable[[npt.NDArray[np.bool_], npt.NDArray[np.float64]], float]

VALID_BATCH = 8
"""Utterances of similar length that are embedded together."""


class VerificationTask:
    """Margin softmax over the training speakers of a configuration.

    Args:
        config: training configuration.
        process: this process.
        equal_error_rate: of labels and scores, in [0, 1].

    Raises:
        DataError: manifests or trials are missing or do not fit together.
    """

    has_unused = False

    def __init__(
        self, config: VerificationConfig, process: Process, equal_error_rate: EqualErrorRate
    ) -> None:
        self.config = config
        self.process = process
        self.equal_error_rate = equal_error_rate
        self.training = SpeakerTraining(config.data, config.train.seed)
        self.valid_cuts, self.trials = _validation(config)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the training speakers, in the order of the classes at the first speed."""
        return tuple(self.training.dataset.classes.names)

    def model(self, speaker_model: SpeakerModel) -> SpeakerClassifier:
        """`speaker_model` with new class vectors, set up for training."""
        loss, optim = self.config.loss, self.config.optim
        torch.manual_seed(self.config.train.seed)
        classes = self.training.dataset.class_count
        classifier = SpeakerClassifier(speaker_model, classes, loss.sub_centres)
        classifier.rates = Rates(optim.encoder_scale, optim.layer_decay)
        speaker_model.set_training(self.config.model.frozen, self.config.model.dropout)
        return classifier

    def batches(self, start: Position) -> Iterator[SpeakerBatch]:
        """Endless training batches from `start` on."""
        stream = self.training.stream(start, self.process.rank, self.process.world_size)
        return batches(self.training.dataset, stream, self.config.data.batching.workers)

    def largest_batches(self) -> list[SpeakerBatch]:
        """One batch: all have the same size."""
        stream = self.training.stream(Position(0, 0), self.process.rank, self.process.world_size)
        return [next(batches(self.training.dataset, stream, 0))]

    def loss(self, model: nn.Module, batch: SpeakerBatch, update: int) -> LossOutput:
        """Margin softmax, summed over utterances; crops are of one length, so nothing is padded."""
        device = self.process.device
        loss, correct = model(
            batch.wavs.to(device, non_blocking=True),
            None,
            batch.labels.to(device, non_blocking=True),
            margin_of(self.config.loss, update),
        )
        return LossOutput(loss, len(batch.ids), {"correct": correct})

    def metrics(self, sums: Mapping[str, float], size: float) -> dict[str, float]:
        """Share of the crops whose speaker has the greatest cosine."""
        return {"accuracy": sums["correct"] / size}

    def validate(self, model: nn.Module) -> tuple[dict[str, float], float]:
        """Equal error rate of cosines on the trials; the score is that rate.

        The distance of the means of both kinds of trials breaks ties of few trials.
        """
        assert isinstance(model, SpeakerClassifier)
        embeddings = self._embeddings(model.speaker).double().cpu().numpy()
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        trials = self.trials
        scores = np.einsum("ne,ne->n", embeddings[trials.enrollment], embeddings[trials.test])
        rate = self.equal_error_rate(trials.labels, scores)
        distance = float(scores[trials.labels].mean() - scores[~trials.labels].mean())
        return {"eer": rate, "distance": distance}, rate - 1e-6 * distance

    def _embeddings(self, model: SpeakerModel) -> Tensor:
        """`(utterances, E)` on this device, the same on every process."""
        device, rank, world = self.process.device, self.process.rank, self.process.world_size
        order = sorted(range(len(self.valid_cuts)), key=lambda i: self.valid_cuts[i].duration)
        groups = [order[i : i + VALID_BATCH] for i in range(0, len(order), VALID_BATCH)]
        found = torch.zeros(len(order), model.config.embedding, device=device)
        for group in groups[rank::world]:
            audio = [torch.from_numpy(read_audio(self.valid_cuts[i])) for i in group]
            lengths = torch.tensor([len(samples) for samples in audio])
            wavs = nn.utils.rnn.pad_sequence(audio, batch_first=True)
            is_padded = bool((lengths != wavs.shape[1]).any())
            found[group] = model.embed(wavs.to(device), lengths.to(device) if is_padded else None)
        return all_sum(found, self.process)


def margin_of(config: MarginConfig, update: int) -> Margin:
    """The margins of update number `update` (from 1; a probe's 0 has the first ones)."""
    margin = scheduled_margin(
        update, config.initial_margin, config.margin, config.rise_from, config.rise_to
    )
    share = margin / config.margin if config.margin > 0 else 1.0
    return Margin(config.scale, margin, config.kind, config.top_k, config.top_margin * share)


def carry_classes(
    classifier: SpeakerClassifier,
    given: Tensor,
    known: tuple[tuple[str, ...], tuple[float, ...]],
    wanted: tuple[tuple[str, ...], tuple[float, ...]],
) -> str:
    """Start from the class vectors of an earlier stage, without those of dropped speeds.

    Args:
        classifier: whose vectors are set.
        given: `(classes, K, E)` of the earlier stage.
        known: its speakers and speeds, in the order of its classes.
        wanted: those of this training.

    Returns:
        A line for the log.

    Raises:
        ConfigError: other speakers, speeds, or another number of sub-centres.
    """
    remedy = "train on the same speakers, or set init_classes=new"
    if known[0] != wanted[0]:
        other = sorted(set(known[0]) ^ set(wanted[0]))
        raise ConfigError(
            "the model that the training continues from has other speakers",
            where="init",
            expected=f"{len(known[0])} speakers",
            found=f"{len(wanted[0])}; not in both: {', '.join(other[:3]) or 'none, another order'}",
            remedy=remedy,
        )
    if known[1][: len(wanted[1])] != wanted[1]:
        raise ConfigError(
            "the model that the training continues from has classes of other speeds",
            where="data.speeds",
            expected=f"the first of {list(known[1])}",
            found=list(wanted[1]),
            remedy="speeds can be dropped from the end, not added; or set init_classes=new",
        )
    rows, centres = classifier.classes.shape[:2]
    if given.shape[1] != centres:
        raise ConfigError(
            "the model that the training continues from has another number of sub-centres",
            where="loss.sub_centres",
            expected=given.shape[1],
            found=centres,
            remedy="keep the number, or set init_classes=new",
        )
    with torch.no_grad():
        classifier.classes.copy_(given[:rows])
    dropped = len(given) - rows
    return f"class vectors of {rows} classes loaded" + (f", {dropped} dropped" if dropped else "")


def _validation(config: VerificationConfig) -> tuple[list[Any], Trials]:
    """The utterances of the trials, cut to the longest length, and the trials.

    Raises:
        ConfigError: there are no manifests to validate on.
        DataError: trials of one kind only, or of utterances that are not there.
    """
    data = config.data
    if not data.valid:
        raise ConfigError(
            "key 'data.valid' is missing",
            expected="manifests of speakers that are not trained on",
            remedy="set data.valid",
        )
    cuts = {cut.id: cut for cut in load_manifests(data.valid)}
    if data.trials:
        trials = resolve(read_trials(data.trials), cuts, data.trials)
    else:
        names = sorted(cuts)
        people = [speaker(cuts[name]) for name in names]
        drawn = draw_trials(people, data.valid_targets, config.train.seed)
        trials = numbered((label, names[one], names[other]) for label, one, other in drawn)
    if trials.labels.all() or not trials.labels.any():
        raise DataError(
            "the trials of the validation are of one kind",
            where=data.trials or ", ".join(data.valid),
            expected="trials of one speaker and of two",
            found=f"{int(trials.labels.sum())} and {int((~trials.labels).sum())}",
            remedy="validate on several speakers with several utterances each",
        )
    chosen = [cuts[name] for name in trials.ids]
    longest = data.valid_seconds
    short = [c.truncate(duration=longest) if c.duration > longest else c for c in chosen]
    return short, trials
