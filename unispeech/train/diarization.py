"""The task of diarization: local activities and speaker vectors on chunks of conversations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unispeech.data.conversations import ConversationTraining, DiarizationBatch
from unispeech.data.loading import batches
from unispeech.data.sampling import BEGINNING, Position
from unispeech.errors import ConfigError
from unispeech.models.diarization import EendLosses, EendModel, EendTraining
from unispeech.models.diarization_config import EendConfig
from unispeech.models.downstream import Rates
from unispeech.train.diarization_config import DiarizationConfig
from unispeech.train.parallel import Process, all_sum
from unispeech.train.task import LossOutput


class DiarizationTask:
    """EEND-VC on the conversations of a configuration.

    Args:
        config: training configuration.
        eend: of the network that is trained, which says how many frames a chunk has.
        process: this process.

    Raises:
        ConfigError: data and network have another number of slots.
        DataError: manifests are missing or do not fit together.
    """

    has_unused = False

    def __init__(self, config: DiarizationConfig, eend: EendConfig, process: Process) -> None:
        self.config = config
        self.process = process
        if config.data.slots != eend.slots:
            raise ConfigError(
                "the data has another number of speakers in a chunk than the network",
                where="data.slots",
                expected=eend.slots,
                found=config.data.slots,
                remedy=f"set data.slots={eend.slots}",
            )
        self.training = ConversationTraining(
            config.data, config.train.seed, eend.frames, eend.seconds_per_frame
        )

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the training speakers, in the order of the table."""
        return self.training.speakers

    def model(self, eend: EendModel) -> EendTraining:
        """`eend` with a new table of speaker vectors, set up for training."""
        loss, optim, model = self.config.loss, self.config.optim, self.config.model
        torch.manual_seed(self.config.train.seed)
        training = EendTraining(eend, len(self.speakers), loss.speaker_weight, loss.speaker_average)
        training.rates = Rates(optim.encoder_scale, optim.layer_decay)
        training.table.requires_grad_(loss.train_table)
        eend.set_training(model.frozen, model.encoder_dropout)
        return training

    def batches(self, start: Position) -> Iterator[DiarizationBatch]:
        """Endless training batches from `start` on."""
        stream = self.training.stream(start, self.process.rank, self.process.world_size)
        return batches(self.training.dataset, stream, self.config.data.batching.workers)

    def largest_batches(self) -> list[DiarizationBatch]:
        """One batch: no chunk is longer than those of the first."""
        stream = self.training.stream(BEGINNING, self.process.rank, self.process.world_size)
        return [next(batches(self.training.dataset, stream, 0))]

    def loss(self, model: nn.Module, batch: DiarizationBatch, update: int) -> LossOutput:
        """Activity and speaker loss, summed over chunks."""
        del update
        losses = self._losses(model, batch)
        names = ("activity_loss", "speaker_loss", "speech_frames", "wrong_frames")
        values = _sums(losses, batch.activity.to(losses.total.device))
        return LossOutput(losses.total, len(batch.ids), dict(zip(names, values, strict=True)))

    def metrics(self, sums: Mapping[str, float], size: float) -> dict[str, float]:
        """Both losses of a chunk, and the diarization error rate of its frames."""
        return {
            "activity_loss": sums["activity_loss"] / size,
            "speaker_loss": sums["speaker_loss"] / size,
            "der": sums["wrong_frames"] / max(sums["speech_frames"], 1.0),
        }

    def validate(self, model: nn.Module) -> tuple[dict[str, float], float]:
        """Loss and error rate of single chunks; the score is that rate.

        Frames count without collar, each chunk under its own best order, activities above a half.
        """
        sums = torch.zeros(6, dtype=torch.float64, device=self.process.device)
        for batch in self.training.validation(self.process.rank, self.process.world_size):
            losses = self._losses(model, batch)
            counted = _sums(losses, batch.activity.to(losses.total.device))
            parts = [losses.total, *counted, torch.tensor(float(len(batch.ids)))]
            sums += torch.stack([part.to(sums) for part in parts])
        loss, activity, speaker, speech, wrong, count = all_sum(sums, self.process).tolist()
        count, rate = max(count, 1.0), wrong / max(speech, 1.0)
        values = {"loss": loss / count, "activity_loss": activity / count}
        values |= {"speaker_loss": speaker / count, "der": rate}
        # Early on all models find silence only; the loss then tells which one is better.
        return values, rate + 1e-6 * values["loss"]

    def extract_table(self, training: EendTraining) -> str:
        """Set each speaker's row to the mean of the vectors that the model gives them.

        Source: Kinoshita et al. 2021, section 3.4. Speakers whom no chunk of the first epoch has
        are left out of the loss.

        Args:
            training: on the CPU or on this process's device.

        Returns:
            A line for the log.
        """
        training.to(self.process.device).eval()
        sums = torch.zeros_like(training.table)
        for batch in self.batches(BEGINNING):
            if batch.position.epoch > 0:
                break
            with torch.no_grad():
                losses = self._losses(training, batch)
            labels = batch.speakers.to(losses.order.device).gather(1, losses.order).flatten()
            vectors = losses.output.vectors.flatten(0, 1)
            sums.index_add_(0, labels[labels >= 0], vectors[labels >= 0])
        all_sum(sums, self.process)
        found = sums.norm(dim=1) > 0
        with torch.no_grad():
            training.table.copy_(torch.where(found.unsqueeze(1), F.normalize(sums), training.table))
        training.is_known.copy_(found)
        return f"vectors of {int(found.sum()):,} of {len(found):,} speakers extracted"

    def _losses(self, model: nn.Module, batch: DiarizationBatch) -> EendLosses:
        device = self.process.device
        is_padded = bool((batch.lengths != batch.wavs.shape[1]).any())
        losses: EendLosses = model(
            batch.wavs.to(device, non_blocking=True),
            batch.lengths.to(device, non_blocking=True) if is_padded else None,
            batch.activity.to(device, non_blocking=True),
            batch.speakers.to(device, non_blocking=True),
        )
        return losses


def frame_errors(activity: Tensor, reference: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Frames of speech, each speaker's by themselves, and those that are missed, false or confused.

    Args:
        activity: `(B, T, S)` in [0, 1].
        reference: `(B, T, S)` 0 or 1.
        order: `(B, S)` the reference of each slot.

    Returns:
        Two scalars, float32.
    """
    wanted = reference.gather(2, order.unsqueeze(1).expand_as(reference)) > 0.5
    claimed = activity > 0.5
    speaking, found = wanted.sum(2), claimed.sum(2)
    right = (wanted & claimed).sum(2)
    return speaking.sum().float(), (torch.maximum(speaking, found) - right).sum().float()


def carry_table(
    training: EendTraining, given: Tensor | None, known: tuple[str, ...], wanted: tuple[str, ...]
) -> str:
    """Start from the vectors of the training speakers of an earlier stage.

    Args:
        training: whose table is set.
        given: `(N, E)` of the earlier stage.
        known: its speakers.
        wanted: those of this training.

    Returns:
        A line for the log.

    Raises:
        ConfigError: other speakers, or nobody knows whose vectors they are.
    """
    remedy = "train on the same speakers, or set init_table=extract or init_table=new"
    if given is None or not known:
        raise ConfigError(
            "the model that the training continues from does not name its training speakers",
            where="init",
            remedy=remedy,
        )
    if known != wanted:
        other = sorted(set(known) ^ set(wanted))
        raise ConfigError(
            "the model that the training continues from has other speakers",
            where="init",
            expected=f"{len(known)} speakers",
            found=f"{len(wanted)}; not in both: {', '.join(other[:3]) or 'none, another order'}",
            remedy=remedy,
        )
    with torch.no_grad():
        training.table.copy_(given)
    return f"vectors of {len(known):,} speakers loaded"


def _sums(losses: EendLosses, reference: Tensor) -> tuple[Tensor, ...]:
    errors = frame_errors(losses.output.activity, reference, losses.order)
    return (losses.activity.detach(), losses.speaker.detach(), *errors)
