"""The pre-training task: masked prediction of cluster labels."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from unispeech.data.datasets import (
    PretrainBatch,
    PretrainDataset,
    batches,
    load_manifests,
)
from unispeech.data.labels import LabelStore, manifest_name
from unispeech.data.sampling import Position, stable_seed
from unispeech.models.pretraining import MaskedPredictionModel
from unispeech.train.config import PretrainConfig
from unispeech.train.parallel import Process, all_sum
from unispeech.train.task import LossOutput, batch_stream


class PretrainTask:
    """Masked prediction over the manifests of a configuration."""

    def __init__(self, config: PretrainConfig, process: Process) -> None:
        self.config = config
        self.process = process
        self.has_unused = config.model.layer_drop > 0 or config.model.feature_grad_mult == 0
        data = config.data
        names = [manifest_name(path) for path in (*data.train, *data.valid)]
        self.labels = LabelStore(data.labels, names)
        noises = list(load_manifests(data.noise)) if data.noise else []
        common = (config.train.seed, config.model.hop, config.model.normalize)
        self.dataset = PretrainDataset(
            self.labels, data.crop, data.mixing, *common, noises, data.speeds
        )
        # The released code mixes validation utterances too; an unmixed one measures one thing.
        unmixed = data.mixing.model_copy(update={"prob": 0.0})
        self.valid_dataset = PretrainDataset(self.labels, data.crop, unmixed, *common)
        self.train_cuts = self.dataset.usable(load_manifests(data.train))
        self.valid_cuts = self.valid_dataset.usable(load_manifests(data.valid))

        self._stream = functools.partial(
            batch_stream, config=config.data.batching, seed=config.train.seed, process=process
        )

    def model(self) -> MaskedPredictionModel:
        """A new model; the same weights on every process."""
        torch.manual_seed(self.config.train.seed)
        return MaskedPredictionModel(
            self.config.model, self.config.objective, self.labels.clusters
        )

    def batches(self, start: Position) -> Iterator[PretrainBatch]:
        """Endless training batches from `start` on."""
        stream = self._stream(self.train_cuts, start)
        return batches(self.dataset, stream, self.config.data.batching.workers)

    def loss(self, model: nn.Module, batch: PretrainBatch, update: int) -> LossOutput:
        """Weighted sum of masked prediction and feature penalty over the masked frames."""
        device = self.process.device
        lengths = None if batch.lengths is None else batch.lengths.to(device)
        output = model(
            batch.waveforms.to(device, non_blocking=True),
            lengths,
            batch.labels.to(device, non_blocking=True),
            batch.label_ratio,
            batch.mask_seeds,
            stable_seed(self.config.train.seed, update, "layer_drop"),
        )
        return LossOutput(output.loss, output.sample_size, output.terms)

    def metrics(self, sums: Mapping[str, float], size: float) -> dict[str, float]:
        """Loss terms in nats per frame and the accuracy on masked frames."""
        frames = max(sums["masked_frames"], 1.0)
        terms = {"masked": sums["masked"] / frames, "penalty": sums["penalty"] / size}
        if "unmasked" in sums:
            terms["unmasked"] = sums["unmasked"] / max(size - frames, 1.0)
        return {**terms, "accuracy": sums["correct"] / frames}

    def validate(self, model: nn.Module) -> tuple[dict[str, float], float]:
        """Masked prediction on unmixed validation utterances with masks that never change."""
        stream = self._stream(self.valid_cuts, epochs=1)
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in batches(self.valid_dataset, stream, 0):
            output = self.loss(model, batch, 0)
            parts = (output.terms["masked"], output.terms["correct"], output.terms["masked_frames"])
            sums += torch.tensor([float(part) for part in parts], dtype=torch.float64)
        masked, correct, size = all_sum(sums.to(self.process.device), self.process).tolist()
        loss = masked / max(size, 1.0)
        return {"loss": loss, "accuracy": correct / max(size, 1.0)}, loss
