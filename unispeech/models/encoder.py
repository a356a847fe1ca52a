"""The encoder: waveform in, hidden states of every layer out."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unispeech.errors import DataError
from unispeech.models.config import EncoderConfig
from unispeech.models.frontend import ConvExtractor, frame_padding_mask
from unispeech.models.transformer import Transformer


class EncoderOutput(NamedTuple):
    """What an encoder returns; B utterances, T frames of 20 ms, width D, L layers."""

    last: Tensor
    """`(B, T, D)` final output, after the final norm where the family has one."""
    layers: tuple[Tensor, ...]
    """L + 1 raw states `(B, T, D)`: the encoder input, then each layer; none if not asked for."""
    lengths: Tensor
    """`(B,)` int64 valid frames."""
    padding_mask: Tensor | None
    """`(B, T)` bool, True = padding; None when nothing is padded."""


class FrontEnd(NamedTuple):
    """Projected frames before masking."""

    frames: Tensor
    """`(B, T, D)` after projection and input dropout."""
    padding_mask: Tensor | None
    """`(B, T)` bool or None."""
    penalty: Tensor
    """Scalar: mean square of the extractor's output, under the exact rule without padding."""
    features: Tensor
    """`(B, T, C)` normalised output of the extractor: what wav2vec 2.0 quantizes."""


class Encoder(nn.Module):
    """wav2vec 2.0, HuBERT, WavLM and relatives as one class with switches."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.conv_layers[-1].channels
        self.feature_extractor = ConvExtractor(config)
        self.layer_norm = nn.LayerNorm(width)
        self.post_extract_proj = nn.Linear(width, config.dim) if width != config.dim else None
        self.mask_emb = nn.Parameter(torch.empty(config.dim).uniform_())
        self.encoder = Transformer(config)

    def front_end(
        self, waveforms: Tensor, lengths: Tensor | None, frames: int | None = None
    ) -> FrontEnd:
        """Extract and project frames.

        Args:
            waveforms: `(B, N)` float32 at 16 kHz, already normalised where the model wants it.
            lengths: `(B,)` int64 valid samples, or None.
            frames: keep only so many frames (labels may end earlier than the audio).
        """
        rule = self.config.padding_rule
        scale = self.config.feature_grad_mult
        with torch.set_grad_enabled(torch.is_grad_enabled() and scale > 0):
            features = self.feature_extractor(waveforms, lengths, rule)
        padding_mask = None
        if lengths is not None:
            padding_mask = frame_padding_mask(
                lengths, waveforms.shape[1], features.shape[1], self.config, rule
            )
        if frames is not None:
            features = features[:, :frames]
            padding_mask = None if padding_mask is None else padding_mask[:, :frames]
        if self.training and scale not in (0.0, 1.0):
            features = features * scale + features.detach() * (1.0 - scale)
        squares = features.float().square().mean(2)
        penalty = squares.mean()
        if padding_mask is not None and rule == "exact":
            valid = ~padding_mask
            penalty = (squares * valid).sum() / valid.sum()
        features = self.layer_norm(features)
        x = features if self.post_extract_proj is None else self.post_extract_proj(features)
        x = F.dropout(x, self.config.input_dropout, self.training)
        return FrontEnd(x, padding_mask, penalty, features)

    def encode(
        self,
        front: FrontEnd,
        time_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        dropped: frozenset[int] = frozenset(),
        until: int | None = None,
        keep: bool = True,
    ) -> EncoderOutput:
        """Mask and run the transformer.

        Args:
            front: output of `front_end`.
            time_mask: `(B, T)` bool, frames replaced by `mask_emb`.
            channel_mask: `(B, D)` bool, channels set to zero for the whole utterance.
            dropped: layers to skip.
            until: stop behind so many layers.
            keep: whether the states of the layers are wanted.
        """
        x = front.frames
        if time_mask is not None:
            x = torch.where(time_mask.unsqueeze(2), self.mask_emb.to(x.dtype), x)
        if channel_mask is not None:
            x = x.masked_fill(channel_mask.unsqueeze(1), 0.0)
        padding_mask = front.padding_mask
        if padding_mask is None:
            lengths = torch.full((x.shape[0],), x.shape[1], dtype=torch.int64, device=x.device)
        else:
            lengths = (~padding_mask).sum(1)
        sizes = self._sizes(x, lengths)
        if sizes is None:
            last, states = self.encoder(x, padding_mask, dropped, until, keep)
            return EncoderOutput(last, states, lengths, padding_mask)
        row = torch.cat([own[:size] for own, size in zip(x, sizes, strict=True)]).unsqueeze(0)
        last, states = self.encoder(row, None, dropped, until, keep, sizes)
        unpacked = [_unpacked(state, sizes, x.shape[1]) for state in (last, *states)]
        return EncoderOutput(unpacked[0], tuple(unpacked[1:]), lengths, padding_mask)

    def _sizes(self, x: Tensor, lengths: Tensor) -> list[int] | None:
        """Frames of each utterance where they go one behind the other, so that none is padding."""
        if not self.encoder.kernels(x.device).packs:
            return None
        sizes: list[int] = lengths.tolist()
        return sizes if min(sizes) < x.shape[1] else None

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor | None = None,
        until: int | None = None,
        keep: bool = True,
    ) -> EncoderOutput:
        """Encode waveforms as they come: `normalize` is applied here.

        Args:
            waveforms: `(B, N)` float32 in [-1, 1], 16 kHz.
            lengths: `(B,)` int64 valid samples, or None when nothing is padded.
            until: stop behind so many layers, 0 to L; None runs all and the final norm.
            keep: whether the states of the layers are wanted; without them memory stays small.

        Raises:
            DataError: an utterance is too short for one frame, or there is no such layer.
        """
        shortest = waveforms.shape[1] if lengths is None else int(lengths.min())
        if shortest < self.config.receptive_field:
            raise DataError(
                "utterance too short for the encoder",
                expected=f"at least {self.config.receptive_field} samples",
                found=shortest,
            )
        if until is not None and not 0 <= until <= self.config.layers:
            raise DataError("no such layer", expected=f"0 to {self.config.layers}", found=until)
        if self.config.normalize:
            waveforms = normalize_waveforms(waveforms, lengths)
        front = self.front_end(waveforms, lengths)
        return self.encode(front, until=until, keep=keep)


def _unpacked(x: Tensor, sizes: list[int], frames: int) -> Tensor:
    """`(1, N, D)` to `(B, frames, D)`, zeros behind the frames of each utterance."""
    parts = torch.split(x[0], sizes)
    padded = [F.pad(own, (0, 0, 0, frames - len(own))) for own in parts]
    return torch.stack(padded)


def normalize_waveforms(waveforms: Tensor, lengths: Tensor | None) -> Tensor:
    """Zero mean and unit variance for each utterance (biased variance, epsilon 1e-5).

    Args:
        waveforms: `(B, N)`.
        lengths: `(B,)` valid samples, or None; padding becomes zero.
    """
    if lengths is None:
        return F.layer_norm(waveforms, waveforms.shape[1:])
    valid = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths.unsqueeze(1)
    count = lengths.unsqueeze(1).to(waveforms.dtype)
    mean = (waveforms * valid).sum(1, keepdim=True) / count
    centred = (waveforms - mean) * valid
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * torch.rsqrt(variance + 1e-5)
