"""Encoder with the masked-prediction head of HuBERT and WavLM."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unispeech.losses.masked import MaskedPrediction, masked_prediction
from unispeech.models.config import EncoderConfig, MaskedPredictionConfig
from unispeech.models.encoder import Encoder
from unispeech.models.masking import span_mask
from unispeech.models.transformer import draw_dropped_layers

SPECIAL_LABELS = 4
"""The released label tables hold four dictionary specials before the clusters. They take part in
the softmax and are never targets."""


class MaskedPredictionOutput(NamedTuple):
    """Loss terms as sums, so that they can be normalised over the global batch."""

    loss: Tensor
    """Scalar to back-propagate: weighted sum over frames."""
    sample_size: int
    """Frames that normalise the loss."""
    terms: dict[str, Tensor]
    """Detached sums: `masked` and `unmasked` in nats, `penalty` times frames, and hits."""


class MaskedPredictionModel(nn.Module):
    """WavLM or HuBERT in pre-training."""

    def __init__(
        self, encoder: EncoderConfig, objective: MaskedPredictionConfig, clusters: int
    ) -> None:
        super().__init__()
        self.objective = objective
        self.clusters = clusters
        self.encoder = Encoder(encoder)
        self.final_proj = nn.Linear(encoder.dim, objective.final_dim)
        table = torch.empty(clusters + SPECIAL_LABELS, objective.final_dim)
        table.uniform_() if objective.label_init == "uniform" else table.normal_()
        self.label_embeddings = nn.Parameter(table)

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor | None,
        labels: Tensor,
        label_ratio: int,
        mask_seeds: Tensor,
        update_seed: int,
    ) -> MaskedPredictionOutput:
        """Masked prediction of one batch.

        Args:
            waveforms: `(B, N)` float32, cropped, mixed and normalised.
            lengths: `(B,)` int64 valid samples, or None when nothing is padded.
            labels: `(B, n)` int64 cluster of each label frame, -1 where there is none.
            label_ratio: label frames per encoder frame (2 at 100 Hz, 1 at 50 Hz).
            mask_seeds: `(B,)` int64 seeds of the time masks, on the CPU.
            update_seed: seed of LayerDrop for this update.
        """
        config = self.encoder.config
        front = self.encoder.front_end(waveforms, lengths, labels.shape[1] // label_ratio)
        frames = front.frames.shape[1]
        targets = labels[:, : frames * label_ratio : label_ratio]
        usable = targets >= 0
        if front.padding_mask is not None:
            usable &= ~front.padding_mask
        time_mask = self._time_mask(front.padding_mask, len(labels), frames, mask_seeds)
        time_mask = time_mask.to(targets.device)
        dropped = draw_dropped_layers(config, update_seed) if self.training else frozenset()
        hidden = self.encoder.encode(front, time_mask, dropped=dropped).last
        masked = self._predict(hidden, targets, time_mask & usable)
        terms = {"masked": masked.loss, "correct": masked.correct}
        terms["masked_frames"] = torch.tensor(masked.frames)
        loss = self.objective.masked_weight * masked.loss
        size = masked.frames
        if self.objective.unmasked_weight > 0:
            unmasked = self._predict(hidden, targets, ~time_mask & usable)
            terms["unmasked"] = unmasked.loss
            loss = loss + self.objective.unmasked_weight * unmasked.loss
            size += unmasked.frames
        terms["penalty"] = front.penalty * size
        loss = loss + self.objective.penalty_weight * terms["penalty"]
        return MaskedPredictionOutput(loss, size, {k: v.detach() for k, v in terms.items()})

    def _predict(self, hidden: Tensor, targets: Tensor, where: Tensor) -> MaskedPrediction:
        # Only the frames that are predicted go through the head.
        projected = self.final_proj(hidden[where])
        labels = targets[where] + SPECIAL_LABELS
        return masked_prediction(
            projected, self.label_embeddings, labels, self.objective.temperature
        )

    def _time_mask(
        self, padding_mask: Tensor | None, rows: int, frames: int, seeds: Tensor
    ) -> Tensor:
        if padding_mask is None:
            sizes = [frames] * rows
        else:
            sizes = (~padding_mask).sum(1).tolist()
        masks = [
            span_mask(size, self.objective.mask, np.random.default_rng(seed), frames)
            for size, seed in zip(sizes, seeds.tolist(), strict=True)
        ]
        return torch.from_numpy(np.stack(masks))
