"""Encoder with a CTC head for recognition."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unispeech.models.config import CtcConfig, EncoderConfig
from unispeech.models.encoder import Encoder, FrontEnd
from unispeech.models.masking import span_mask
from unispeech.models.transformer import draw_dropped_layers


class CtcModel(nn.Module):
    """Encoder, dropout and one linear layer to the tokens; token 0 is the blank."""

    def __init__(self, encoder: EncoderConfig, ctc: CtcConfig, tokens: int) -> None:
        super().__init__()
        self.ctc = ctc
        self.encoder = Encoder(encoder)
        self.proj = nn.Linear(encoder.dim, tokens)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor | None,
        mask_seeds: Tensor | None = None,
        update_seed: int = 0,
        freeze_encoder: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the tokens.

        Args:
            waveforms: `(B, N)` float32, normalised where the encoder wants it.
            lengths: `(B,)` int64 valid samples, or None.
            mask_seeds: `(B,)` int64 seeds of the masks in training; None applies no mask.
            update_seed: seed of LayerDrop for this update.
            freeze_encoder: compute the encoder without gradients.

        Returns:
            `(B, T, V)` float32 log-probabilities and `(B,)` int64 valid frames.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not freeze_encoder):
            front = self.encoder.front_end(waveforms, lengths)
            time_mask, channel_mask = self._masks(front, mask_seeds)
            dropped = (
                draw_dropped_layers(self.encoder.config, update_seed)
                if self.training
                else frozenset()
            )
            output = self.encoder.encode(front, time_mask, channel_mask, dropped, keep=False)
        x = F.dropout(output.last, self.ctc.final_dropout, self.training)
        return F.log_softmax(self.proj(x).float(), dim=-1), output.lengths

    def _masks(
        self, front: FrontEnd, seeds: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        if seeds is None:
            return None, None
        rows, frames, dim = front.frames.shape
        sizes = [frames] * rows
        if front.padding_mask is not None:
            sizes = (~front.padding_mask).sum(1).tolist()
        time_masks, channel_masks = [], []
        for size, seed in zip(sizes, seeds.tolist(), strict=True):
            rng = np.random.default_rng(seed)
            time_masks.append(span_mask(size, self.ctc.time_mask, rng, frames))
            channel_masks.append(span_mask(dim, self.ctc.channel_mask, rng))
        device = front.frames.device
        return (
            torch.from_numpy(np.stack(time_masks)).to(device),
            torch.from_numpy(np.stack(channel_masks)).to(device),
        )


def ctc_loss(log_probs: Tensor, frames: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """CTC loss summed over utterances, nats; utterances that cannot fit count as zero.

    Args:
        log_probs: `(B, T, V)` float32, blank first.
        frames: `(B,)` int64 valid frames.
        targets: `(sum of target_lengths,)` int64.
        target_lengths: `(B,)` int64.
    """
    return F.ctc_loss(
        log_probs.transpose(0, 1),
        targets,
        frames,
        target_lengths,
        blank=0,
        reduction="sum",
        zero_infinity=True,
    )
