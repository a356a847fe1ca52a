"""The pre-training task on pieces of utterances: frame labels, or contrast of frames."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from unispeech.data.datasets import PretrainBatch, PretrainDataset, check_given, load_manifests
from unispeech.data.labels import FrameLabels, LabelStore, manifest_name
from unispeech.data.loading import batches
from unispeech.data.mixing import mixed
from unispeech.data.sampling import Position, balanced, largest, stable_seed
from unispeech.data.shard_labels import open_shards
from unispeech.data.shard_stream import ShardStream
from unispeech.errors import ConfigError
from unispeech.models.draws import draw, layout
from unispeech.models.objective import MaskedPredictionConfig
from unispeech.models.pretraining import ObjectiveOutput, PretrainingModel, Targets
from unispeech.train.config import PretrainConfig
from unispeech.train.parallel import Process, all_sum
from unispeech.train.task import LossOutput, batch_stream


class PretrainTask:
    """Masked prediction or contrast over the manifests of a configuration.

    Raises:
        ConfigError: the label folders or the layers do not fit the objective.
    """

    def __init__(self, config: PretrainConfig, process: Process) -> None:
        self.config = config
        self.process = process
        check_objective(config)
        self.has_unused = has_unused(config)
        self.tokens: list[str] = []
        data = config.data
        check_given(data.train)
        opened = open_shards(data.train, data.labels)
        self.shards = opened[0] if opened else None
        self.shard_labels = opened[1] if opened else None
        manifests = data.valid if self.shards else (*data.train, *data.valid)
        names = [manifest_name(path) for path in manifests]
        self.labels = [LabelStore(folder, names) for folder in data.labels]
        noises = list(load_manifests(data.noise)) if data.noise else []
        common = (config.train.seed, config.model.hop, config.model.normalize)
        own: Sequence[FrameLabels] = [self.shard_labels] if self.shard_labels else self.labels
        self.dataset = PretrainDataset(
            own, data.crop, data.mixing, *common, noises, data.speeds
        )
        # The released code mixes validation utterances too; an unmixed one measures one thing.
        unmixed = data.mixing.model_copy(update={"prob": 0.0})
        self.valid_dataset = PretrainDataset(self.labels, data.crop, unmixed, *common)
        if not self.shards:
            parts = [self.dataset.usable(load_manifests([path])) for path in data.train]
            self.train_cuts, self.keep = balanced(parts, data.temperature)
        self.valid_cuts = self.valid_dataset.usable(load_manifests(data.valid))
        self._stream = functools.partial(
            batch_stream, config=config.data.batching, seed=config.train.seed, process=process
        )

    def model(self) -> PretrainingModel:
        """A new model; the same weights on every process."""
        torch.manual_seed(self.config.train.seed)
        clusters = [store.clusters for store in self.labels]
        return PretrainingModel(self.config.model, self.config.objective, clusters)

    def batches(self, start: Position) -> Iterator[PretrainBatch]:
        """Endless training batches from `start` on."""
        data, seed, process = self.config.data, self.config.train.seed, self.process
        if self.shards:
            ranks = (process.rank, process.world_size)
            settings = (self.shard_labels, data.batching, data.crop, seed)
            shard_stream = ShardStream(self.shards, *settings, *ranks, start)
            return batches(self.dataset, shard_stream, data.batching.workers)
        stream = self._stream(self.train_cuts, start, keep=self.keep)
        return batches(self.dataset, stream, data.batching.workers)

    def largest_batches(self) -> list[PretrainBatch]:
        """Batches of one epoch that need most memory; none of shards, which had to be read."""
        if self.shards:
            return []
        return [self.dataset[spec] for spec in largest(self._stream(self.train_cuts, epochs=1))]

    def loss(self, model: nn.Module, batch: PretrainBatch, update: int) -> LossOutput:
        """Weighted sum of the objective's terms over the frames that it predicts."""
        output = self._output(model, batch, update)
        return LossOutput(output.loss, output.sample_size, output.terms)

    def _output(
        self, model: nn.Module, batch: PretrainBatch, update: int | None
    ) -> ObjectiveOutput:
        # The loader hands tuples on as lists.
        targets = Targets(tuple(batch.labels), tuple(batch.label_ratios))
        lengths, seeds = batch.lengths, batch.mask_seeds
        waveforms = batch.waveforms.to(self.process.device, non_blocking=True)
        if batch.mixing is not None:
            waveforms = mixed(waveforms, batch.mixing)
        return objective_output(
            self.config, self.process, model, waveforms, lengths, targets, seeds, update
        )

    def metrics(self, sums: Mapping[str, float], size: float) -> dict[str, float]:
        """Loss terms in nats per frame and the accuracy on masked frames."""
        return term_means(sums, size)

    def validate(self, model: nn.Module) -> tuple[dict[str, float], float]:
        """The objective on unmixed validation utterances with masks that never change."""
        stream = self._stream(self.valid_cuts, epochs=1)
        main = "masked" if self.labels else "contrast"
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in batches(self.valid_dataset, stream, 0):
            terms = self._output(model, batch, None).terms
            parts = (terms[main], terms["correct"], terms["masked_frames"])
            sums += torch.tensor([float(part) for part in parts], dtype=torch.float64)
        total, correct, size = all_sum(sums.to(self.process.device), self.process).tolist()
        loss = total / max(size, 1.0)
        return {"loss": loss, "accuracy": correct / max(size, 1.0)}, loss


def check_objective(config: PretrainConfig) -> None:
    """Raise a ConfigError when labels or layers do not fit the objective."""
    objective, labels = config.objective, config.data.labels
    wants_labels = isinstance(objective, MaskedPredictionConfig)
    if wants_labels != bool(labels):
        raise ConfigError(
            f"objective {objective.kind} "
            + ("needs frame labels" if wants_labels else "takes no frame labels"),
            where="data.labels",
            found=", ".join(labels) or "none",
        )
    if not isinstance(objective, MaskedPredictionConfig):
        return
    utterance = () if objective.utterance is None else (objective.utterance.layer,)
    wrong = [n for n in (*objective.predict_layers, *utterance) if n > config.model.layers]
    if wrong:
        raise ConfigError(
            f"the objective looks at layer {wrong[0]}",
            where="objective",
            found=f"the encoder has {config.model.layers} layers",
        )


def has_unused(config: PretrainConfig) -> bool:
    """Whether some parameters get no gradient in some updates."""
    model, objective = config.model, config.objective
    layers = objective.predict_layers if isinstance(objective, MaskedPredictionConfig) else ()
    # ILS-SSL predicts from the raw states, with norms of its own.
    is_norm_unused = bool(layers) and model.norm_first
    is_cut = bool(layers) and max(layers) < model.layers
    is_mixed = bool(config.data.unlabelled)
    return (
        model.layer_drop > 0 or model.feature_grad_mult == 0 or is_norm_unused or is_cut or is_mixed
    )


def objective_output(
    config: PretrainConfig,
    process: Process,
    model: nn.Module,
    waveforms: torch.Tensor,
    lengths: torch.Tensor | None,
    targets: Targets,
    seeds: torch.Tensor,
    update: int | None,
) -> ObjectiveOutput:
    """Draw the random choices of a batch and run the model.

    Waveforms come on any device, the other tensors on the CPU. `update` counts from 1; None
    evaluates.
    """
    rows, samples = waveforms.shape
    batch = layout(config.model, rows, samples, lengths, targets.labels, targets.ratios)
    seed = None if update is None else stable_seed(config.train.seed, update, "layer_drop")
    draws = draw(config.objective, config.model, batch, seeds, (update or 1) - 1, seed)
    device = process.device
    targets = targets._replace(
        labels=tuple(labels.to(device, non_blocking=True) for labels in targets.labels),
        tokens=None if targets.tokens is None else targets.tokens.to(device, non_blocking=True),
    )
    moved = waveforms.to(device, non_blocking=True)
    valid = None if lengths is None else lengths.to(device, non_blocking=True)
    output = model(moved, valid, targets, draws)
    assert isinstance(output, ObjectiveOutput)
    return output


def term_means(sums: Mapping[str, float], size: float) -> dict[str, float]:
    """Means of the summed terms: nats per frame or token, accuracies, perplexities."""
    frames = max(sums["masked_frames"], 1.0)
    others = max(size - frames, 1.0)
    means = {}
    for name, total in sums.items():
        if name.startswith("unmasked"):
            means[name] = total / others
        elif name.startswith("masked") and name != "masked_frames":
            means[name] = total / frames
    for name in ("contrast", "diversity", "penalty", "code_perplexity", "prob_perplexity"):
        if name in sums:
            means[name] = sums[name] / max(size, 1.0)
    if "contrast_correct" in sums:
        means["contrast_accuracy"] = sums["contrast_correct"] / frames
    if "ctc" in sums:
        means["ctc"] = sums["ctc"] / max(sums["tokens"], 1.0)
    return {**means, "accuracy": sums["correct"] / frames}
