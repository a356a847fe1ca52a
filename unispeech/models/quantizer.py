"""Product quantization of frames with Gumbel softmax."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unispeech.models.config import QuantizerConfig


class Quantized(NamedTuple):
    """Codewords of a batch and how evenly they are used."""

    vectors: Tensor
    """`(B, T, dim)` concatenated codewords of the groups."""
    codes: Tensor
    """`(B, T, groups)` int64 chosen codewords."""
    code_perplexity: Tensor
    """Scalar: sum over groups of exp(entropy) of the choices."""
    prob_perplexity: Tensor
    """Scalar: the same of the mean softmax without temperature; differentiable."""


class GumbelQuantizer(nn.Module):
    """wav2vec 2.0, section 2: one codeword of each group per frame.

    `vars (1, groups * codes, dim / groups)` and `weight_proj` are the released checkpoints'
    parameters.

    Args:
        inputs: width of the frames.
        config: sizes.
    """

    def __init__(self, inputs: int, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        total = config.groups * config.codes
        self.vars = nn.Parameter(torch.empty(1, total, config.dim // config.groups).uniform_())
        self.weight_proj = nn.Linear(inputs, total)
        nn.init.normal_(self.weight_proj.weight)
        nn.init.zeros_(self.weight_proj.bias)

    def forward(
        self, x: Tensor, temperature: float | None = None, noise: Tensor | None = None
    ) -> Quantized:
        """Quantize `x (B, T, inputs)`.

        Args:
            x: frames.
            temperature: of the Gumbel softmax; None takes the best codeword without noise.
            noise: `(B * T * groups, codes)` float32 Gumbel noise; None draws it.
        """
        batch, frames, _ = x.shape
        groups, codes = self.config.groups, self.config.codes
        logits = self.weight_proj(x).view(batch * frames, groups, codes)
        best = logits.argmax(-1)
        hard = F.one_hot(best, codes).to(logits.dtype)
        chosen = hard
        if temperature is not None:
            noise = gumbel_noise(logits) if noise is None else noise.view_as(logits)
            soft = torch.softmax((logits.float() + noise) / temperature, -1)
            drawn = F.one_hot(soft.argmax(-1), codes).to(soft.dtype)
            # Forward the codeword, backward the softmax.
            chosen = (drawn - soft.detach() + soft).to(logits.dtype)
        table = self.vars.view(groups, codes, -1)
        vectors = torch.einsum("ngc,gcd->ngd", chosen, table).reshape(batch, frames, -1)
        usage = torch.softmax(logits.float(), -1).mean(0)
        return Quantized(
            vectors,
            chosen.argmax(-1).view(batch, frames, groups),
            _perplexity(hard.float().mean(0)),
            _perplexity(usage),
        )


def gumbel_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise, float32, in the shape and on the device of `like`."""
    uniform = torch.empty(like.shape, dtype=torch.float32, device=like.device)
    return -uniform.exponential_(generator=generator).log()


def _perplexity(probabilities: Tensor) -> Tensor:
    return torch.exp(-(probabilities * torch.log(probabilities + 1e-7)).sum(-1)).sum()
