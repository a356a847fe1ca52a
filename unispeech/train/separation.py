"""The task of separation: masks whose streams come closest to the speakers, in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from unispeech.data.loading import batches
from unispeech.data.mixtures import MixtureBatch, MixtureTraining
from unispeech.data.sampling import Position
from unispeech.errors import ConfigError
from unispeech.losses.separation import SeparationLoss, Target, separation_loss
from unispeech.models.downstream import Rates
from unispeech.models.separation import Separation, SeparationModel
from unispeech.train.parallel import Process, all_sum
from unispeech.train.separation_config import SeparationTrainingConfig
from unispeech.train.task import LossOutput

Ratio = Callable[[npt.ArrayLike, npt.ArrayLike], npt.NDArray[np.float64]]
"""Decibels of estimates over their errors."""

LEVEL = 0.1
"""Root mean square that mixtures of one level have."""
SILENCE = 1e-10
"""Mean power below which a source does not speak."""


class SeparationTask:
    """Permutation-invariant training of masks on mixtures of a configuration.

    Args:
        config: training configuration.
        process: this process.
        si_sdr: scale-invariant signal-to-distortion ratio of estimates and references.

    Raises:
        ConfigError: there is nothing to train or to validate on.
        DataError: manifests are missing or damaged.
    """

    def __init__(self, config: SeparationTrainingConfig, process: Process, si_sdr: Ratio) -> None:
        for name in ("train", "valid"):
            if not getattr(config.data, name):
                raise ConfigError(
                    f"key 'data.{name}' is missing",
                    expected="manifests of utterances or of stored mixtures"
                    if name == "train"
                    else "manifests of stored mixtures with their references",
                    remedy=f"set data.{name}",
                )
        self.config = config
        self.process = process
        self.si_sdr = si_sdr
        # A trained encoder with its dropouts leaves out layers.
        self.has_unused = config.model.dropout and not config.model.frozen
        loss = config.loss
        self.target = Target(loss.target, loss.power, loss.clip, loss.noise_weight)
        self.training = MixtureTraining(config.data, config.train.seed)

    def prepare(self, model: SeparationModel) -> SeparationModel:
        """Set a model up for this training."""
        given, optim = self.config.model, self.config.optim
        model.rates = Rates(optim.encoder_scale, optim.layer_decay)
        model.set_training(given.frozen, given.dropout)
        return model

    def batches(self, start: Position) -> Iterator[MixtureBatch]:
        """Endless training batches from `start` on."""
        stream = self.training.stream(start, self.process.rank, self.process.world_size)
        return batches(self.training.dataset, stream, self.config.data.batching.workers)

    def largest_batches(self) -> list[MixtureBatch]:
        """One batch: all have the same size."""
        stream = self.training.stream(Position(0, 0), self.process.rank, self.process.world_size)
        return [next(batches(self.training.dataset, stream, 0))]

    def loss(self, model: nn.Module, batch: MixtureBatch, update: int) -> LossOutput:
        """The loss of the best permutation of each mixture, summed over frames."""
        _, found = self._run(model, batch)
        return LossOutput(found.loss, found.frames, {"noise": found.noise})

    def metrics(self, sums: Mapping[str, float], size: float) -> dict[str, float]:
        """The part of the loss that is the noise mask's."""
        return {"noise": sums["noise"] / size}

    def validate(self, model: nn.Module) -> tuple[dict[str, float], float]:
        """Loss, and the gain in SI-SDR where two speak; the score is the loss."""
        assert isinstance(model, SeparationModel)
        process = self.process
        sums = torch.zeros(4, dtype=torch.float64, device=process.device)
        for batch in self.training.valid_batches(process.rank, process.world_size):
            output, found = self._run(model, batch)
            gains = self._gains(model, batch, output, found)
            values = [float(found.loss), found.frames, sum(gains), len(gains)]
            sums += torch.tensor(values, dtype=torch.float64, device=process.device)
        loss, frames, gain, count = all_sum(sums, process).tolist()
        mean = loss / max(frames, 1)
        return {"loss": mean, **({"si_sdr_improvement": gain / count} if count else {})}, mean

    def _run(self, model: nn.Module, batch: MixtureBatch) -> tuple[Separation, SeparationLoss]:
        device = self.process.device
        wavs, sources, noise = (
            part.to(device, non_blocking=True) for part in (batch.wavs, batch.sources, batch.noise)
        )
        is_padded = bool((batch.lengths != wavs.shape[1]).any())
        output: Separation = model(wavs, batch.lengths.to(device) if is_padded else None)
        inner = model if isinstance(model, SeparationModel) else model.module
        assert isinstance(inner, SeparationModel)
        with torch.autocast(device.type, enabled=False):
            scale = self._scale(wavs)
            spectra = inner.stft(torch.cat([sources, noise.unsqueeze(1)], 1))
            spectra = spectra * scale[:, None, None, None]
            found = separation_loss(
                output.masks,
                output.spectrum * scale[:, None, None],
                spectra[:, :-1],
                spectra[:, -1],
                self.target,
                output.padding_mask,
            )
        return output, found

    def _scale(self, wavs: Tensor) -> Tensor:
        if not self.config.loss.level:
            return torch.ones(len(wavs), device=wavs.device)
        return LEVEL / wavs.square().mean(1).sqrt().clamp(min=1e-5)

    def _gains(
        self, model: SeparationModel, batch: MixtureBatch, output: Separation, found: SeparationLoss
    ) -> list[float]:
        """Gain over the mixture of each speaker of the mixtures in which two speak, in decibels."""
        speakers = batch.sources.shape[1]
        masked = output.masks[:, :speakers] * output.spectrum.unsqueeze(1)
        streams = model.stft.inverse(masked).cpu()
        gains = []
        for row, order in enumerate(found.permutation.tolist()):
            length = min(int(batch.lengths[row]), streams.shape[2])
            inner = slice(model.stft.margin, length - model.stft.margin)
            wanted = batch.sources[row, order][:, inner].double().numpy()
            if (wanted**2).mean(1).min() < SILENCE:
                continue
            mixture = batch.wavs[row, inner].double().numpy()
            after = self.si_sdr(streams[row, :, inner].double().numpy(), wanted)
            gains += (after - self.si_sdr(mixture, wanted)).tolist()
        return gains
