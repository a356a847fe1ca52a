"""Causal Transformer language model with adaptive input and softmax.

Source: Baevski & Auli 2019, "Adaptive input representations for neural language modeling"; Grave
et al. 2017, "Efficient softmax approximation for GPUs"; Vaswani et al. 2017, section 3.5, for the
positions. With the same settings it computes what fairseq's `transformer_lm` computes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unispeech.errors import ConfigError
from unispeech.models.language_model_config import LanguageModelConfig

BEGIN, PADDING, END, UNKNOWN = range(4)
"""Ids of the symbols that every vocabulary begins with, as in fairseq's dictionaries. A sentence
is preceded by END, which is what fairseq's models are trained with."""

Past = list[tuple[Tensor, Tensor]]
"""Keys and values `(B, H, T, d)` of each layer."""


class LanguageModel(nn.Module):
    """Probabilities of the next unit, given those before it.

    Args:
        config: sizes and switches.
        units: size of the vocabulary, the four symbols included.

    Raises:
        ConfigError: the vocabulary is smaller than a cutoff.
    """

    def __init__(self, config: LanguageModelConfig, units: int) -> None:
        super().__init__()
        self.config = config
        self.units = units
        self.activation_checkpointing = False
        """Recompute each layer in the backward pass instead of keeping what is in it."""
        self.embedding = AdaptiveEmbedding(config, units)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.dim) if config.final_norm else None
        self.output = AdaptiveSoftmax(config, units)
        self.apply(_initialise)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities of `targets`.

        Args:
            tokens: `(B, T)` int64; END, then the units, padded behind.
            targets: `(B, T)` int64; `tokens` one place on, with END behind the last unit.

        Returns:
            `(B, T)` float32, ln P(target | tokens up to here), 0 where the target is PADDING.
        """
        hidden, _ = self.hidden(tokens)
        kept = targets != PADDING
        scores = self.output(hidden[kept], targets[kept], self.embedding)
        out: Tensor = scores.new_zeros(targets.shape).masked_scatter(kept, scores)
        return out

    def step(self, tokens: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        """Continue a batch of equally long beginnings.

        Args:
            tokens: `(B, T)` int64 that follow what `past` has seen; no padding.
            past: from the step before; None at the beginning.

        Returns:
            `(B, T, V)` float32, ln P(unit | all tokens up to here), and the new past.
        """
        hidden, seen = self.hidden(tokens, past)
        flat = self.output.all(hidden.flatten(0, 1), self.embedding)
        return flat.view(*tokens.shape, self.units), seen

    def hidden(self, tokens: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        """Last states `(B, T, D)` and the new past; arguments as in `step`.

        Units behind a place do not touch it, so padding behind the sentences needs no mask.
        """
        begin = past[0][0].shape[2] if past else 0
        x = _wide(self.embedding(tokens))
        if self.config.scale_embedding:
            x = x * math.sqrt(self.config.dim)
        x = x + positions(begin, tokens.shape[1], self.config.dim, x.device).to(x.dtype)
        x = F.dropout(x, self.config.dropout, self.training)
        seen: Past = []
        for index, layer in enumerate(self.layers):
            before = past[index] if past else None
            if self.activation_checkpointing and torch.is_grad_enabled():
                x, both = checkpoint(layer, x, before, use_reentrant=False)
            else:
                x, both = layer(x, before)
            seen.append(both)
        return (x if self.layer_norm is None else self.layer_norm(x)), seen


class Layer(nn.Module):
    """Causal self-attention and feed-forward with residuals, pre- or post-norm."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.self_attn = CausalAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.dim)
        self.fc1 = nn.Linear(config.dim, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.dim)
        self.final_layer_norm = nn.LayerNorm(config.dim)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`x (B, T, D)` to `(B, T, D)` and the keys and values `(B, H, P + T, d)`."""
        first = self.config.norm_first
        attended, seen = self.self_attn(self.self_attn_layer_norm(x) if first else x, past)
        x = x + F.dropout(attended, self.config.dropout, self.training)
        x = x if first else self.self_attn_layer_norm(x)
        x = x + self._feed_forward(self.final_layer_norm(x) if first else x)
        return (x if first else self.final_layer_norm(x)), seen

    def _feed_forward(self, x: Tensor) -> Tensor:
        config = self.config
        x = F.relu(self.fc1(x)) if config.activation == "relu" else F.gelu(self.fc1(x))
        x = self.fc2(F.dropout(x, config.activation_dropout, self.training))
        return F.dropout(x, config.dropout, self.training)


class CausalAttention(nn.Module):
    """Multi-head self-attention to this place and those before it."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.k_proj = nn.Linear(config.dim, config.dim)
        self.v_proj = nn.Linear(config.dim, config.dim)
        self.q_proj = nn.Linear(config.dim, config.dim)
        self.out_proj = nn.Linear(config.dim, config.dim)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`x (B, T, D)` to `(B, T, D)` and the keys and values `(B, H, P + T, d)`."""
        batch, steps, dim = x.shape
        shape = (batch, steps, self.heads, dim // self.heads)
        q, k, v = (
            proj(x).view(shape).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mask = None
        if past is not None:
            before = past[0].shape[2]
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
            visible = torch.ones(steps, before + steps, dtype=torch.bool, device=x.device)
            mask = visible.tril(before)
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None
        )
        out: Tensor = self.out_proj(context.transpose(1, 2).reshape(batch, steps, dim))
        return out, (k, v)


class AdaptiveEmbedding(nn.Module):
    """Embeddings in bands of frequency, narrower from band to band, each projected to `dim`.

    Without cutoffs it is one table and no projection.
    """

    def __init__(self, config: LanguageModelConfig, units: int) -> None:
        super().__init__()
        self.bands = bands(units, config.input_cutoffs)
        widths = band_widths(config.dim, config.input_factor, len(self.bands))
        self.tables = nn.ModuleList(
            nn.Embedding(end - begin, width, PADDING if begin == 0 else None)
            for (begin, end), width in zip(self.bands, widths, strict=True)
        )
        self.projections = nn.ModuleList(
            nn.Linear(width, config.dim, bias=False) for width in widths if config.input_cutoffs
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens (B, T)` int64 to `(B, T, D)`."""
        if not self.projections:
            found: Tensor = self.tables[0](tokens)
            return found
        out: Tensor | None = None
        for (begin, end), table, projection in zip(
            self.bands, self.tables, self.projections, strict=True
        ):
            # A band without units takes part with no rows: every weight then has a gradient.
            here = (tokens >= begin) & (tokens < end)
            rows = projection(table(tokens[here] - begin))
            if out is None:
                out = rows.new_zeros(*tokens.shape, rows.shape[1])
            out = out.masked_scatter(here.unsqueeze(2), rows)
        assert out is not None
        return out


class AdaptiveSoftmax(nn.Module):
    """Log-softmax over frequent units and one class for each band, then inside the band.

    Tied, it has no tables of its own and takes those of the embedding.
    """

    def __init__(self, config: LanguageModelConfig, units: int) -> None:
        super().__init__()
        self.bands = bands(units, config.output_cutoffs)
        self.tied = config.tied
        self.tied_projections = config.tied and config.tied_projections
        (_, first), *others = self.bands
        widths = band_widths(config.dim, config.output_factor, len(self.bands))[1:]
        classes = len(others)
        dim = config.dim
        self.head = None if self.tied else nn.Linear(dim, first + classes, bias=False)
        self.classes = nn.Linear(dim, classes, bias=False) if self.tied and classes else None
        self.projections = nn.ModuleList(
            nn.Linear(dim, width, bias=False) for width in widths if not self.tied_projections
        )
        self.tables = nn.ModuleList(
            nn.Linear(width, end - begin, bias=False)
            for (begin, end), width in zip(others, widths, strict=True)
            if not self.tied
        )

    def forward(self, hidden: Tensor, targets: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        """Log-probabilities `(N,)` float32 of `targets (N,)` from states `(N, D)`."""
        starts = torch.tensor([begin for begin, _ in self.bands[1:]], device=targets.device)
        band = torch.bucketize(targets, starts, right=True)
        column = torch.where(band == 0, targets, self.bands[0][1] + band - 1)
        scores = self._head(hidden, embedding).gather(1, column.unsqueeze(1)).squeeze(1)
        for index, (begin, _) in enumerate(self.bands[1:], start=1):
            rows = (band == index).nonzero().squeeze(1)
            inside = self._tail(index, hidden[rows], embedding)
            places = (targets[rows] - begin).unsqueeze(1)
            scores = scores.index_add(0, rows, inside.gather(1, places).squeeze(1))
        return scores

    def all(self, hidden: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        """Log-probabilities `(N, V)` float32 of all units from states `(N, D)`."""
        head = self._head(hidden, embedding)
        first = self.bands[0][1]
        parts = [head[:, :first]]
        for index in range(1, len(self.bands)):
            prior = head[:, first + index - 1 : first + index]
            parts.append(prior + self._tail(index, hidden, embedding))
        return torch.cat(parts, 1)

    def _head(self, hidden: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        if self.head is not None:
            logits = self.head(hidden)
        else:
            logits = F.linear(hidden, _weight(embedding.tables[0]))
            if self.classes is not None:
                logits = torch.cat([logits, self.classes(hidden)], 1)
        return _wide(logits).log_softmax(1)

    def _tail(self, index: int, hidden: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        if self.tied_projections:
            narrow = F.linear(hidden, _weight(embedding.projections[index]).t())
        else:
            narrow = self.projections[index - 1](hidden)
        table = embedding.tables[index] if self.tied else self.tables[index - 1]
        return _wide(F.linear(narrow, _weight(table))).log_softmax(1)


def bands(units: int, cutoffs: Sequence[int]) -> list[tuple[int, int]]:
    """First id and the id behind the last one of each band.

    Raises:
        ConfigError: the vocabulary is smaller than a cutoff.
    """
    if cutoffs and cutoffs[-1] >= units:
        raise ConfigError(
            "a cutoff beyond the vocabulary",
            where="model.input_cutoffs, model.output_cutoffs",
            expected=f"less than {units}, the size of the vocabulary",
            found=cutoffs[-1],
            remedy="take smaller cutoffs, or none: model.input_cutoffs=[] model.output_cutoffs=[]",
        )
    return list(itertools.pairwise([0, *cutoffs, units]))


def band_widths(dim: int, factor: float, count: int) -> list[int]:
    """Width of the embeddings of each band."""
    return [int(dim // factor**index) for index in range(count)]


def positions(begin: int, count: int, dim: int, device: torch.device) -> Tensor:
    """Sinusoids `(count, dim)` float32 of the places from `begin` on.

    Sines fill the first half, cosines the second; the first place counts as PADDING + 1, which is
    fairseq's way.
    """
    half = dim // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(10000) / max(half - 1, 1)))
    places = torch.arange(begin, begin + count, device=device) + PADDING + 1
    angles = places.unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


def _wide(x: Tensor) -> Tensor:
    # Sums over layers and over the vocabulary are fp32 in half precision too.
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)
    return module.weight


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
        if module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
