"""The random choices of one pre-training step, made on the host from seeds of the utterances.

`draw` makes all of them before the network runs, so that the same batch gets the same choices on
every process, and a test can make them itself: `Draws.of(...)` takes masks, distractors,
replacements and Gumbel noise as tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unispeech.models.config import EncoderConfig, MaskConfig
from unispeech.models.frontend import frame_padding_mask, output_length
from unispeech.models.masking import reference_masks, span_mask, trimmed
from unispeech.models.objective import (
    Exclusion,
    FrameContrastConfig,
    MaskedPredictionConfig,
    MultitaskConfig,
    ObjectiveConfig,
)
from unispeech.models.transformer import draw_dropped_layers

Bools = npt.NDArray[np.bool_]


class Draws(NamedTuple):
    """The random choices of one batch of B utterances and T frames."""

    time_mask: Tensor
    """`(B, T)` bool: frames whose input becomes the mask vector. T cuts longer outputs."""
    masked: Tensor
    """`(S,)` int64 ascending: positions `b * T + t` of the masked frames in the loss."""
    unmasked: Tensor
    """`(U,)` int64: positions of the other frames that could be in it."""
    dropped: frozenset[int] = frozenset()
    """Layers that LayerDrop skips."""
    negatives: Tensor | None = None
    """`(S, K)` int64. Frame contrast: the distractors of each masked frame, as rows of `masked`;
    multitask: as rows of `masked` and `unmasked` together in ascending order. Utterance
    contrast: the instances, as rows of `masked`. -1 is none."""
    replace: Tensor | None = None
    """`(B, T)` bool: outputs that become codewords (multitask)."""
    temperature: float | None = None
    """Of the Gumbel softmax; None takes the best codewords without noise."""
    gumbel: tuple[Tensor, ...] = ()
    """Gumbel noise of each quantization in order, `(frames * groups, codes)` float32: of the
    masked frames, and for multitask of all valid frames. Empty draws it from `gumbel_seed`."""
    gumbel_seed: int = 0

    @classmethod
    def of(cls, time_mask: Tensor, usable: Tensor | None = None, **choices: object) -> Draws:
        """Choices made elsewhere.

        Args:
            time_mask: `(B, T)` bool.
            usable: `(B, T)` bool, frames that are not padding and have a label; None is all.
            choices: the other fields; `negatives` then has one row for each `masked`.
        """
        valid = torch.ones_like(time_mask) if usable is None else usable
        masked = (time_mask & valid).flatten().nonzero().squeeze(1)
        unmasked = (~time_mask & valid).flatten().nonzero().squeeze(1)
        return cls(time_mask, masked, unmasked, **choices)  # type: ignore[arg-type]


class Layout(NamedTuple):
    """Which frames of a batch there are, known before the network runs."""

    frames: int
    """T after cutting to the labels."""
    sizes: tuple[int, ...]
    """Valid frames of each utterance."""
    usable: Bools
    """`(B, T)`: valid and labelled."""


def layout(
    config: EncoderConfig,
    rows: int,
    samples: int,
    lengths: Tensor | None,
    labels: tuple[Tensor, ...] = (),
    ratios: tuple[int, ...] = (),
) -> Layout:
    """Frames of a batch; tensors on the CPU.

    Args:
        config: gives convolutions and padding rule.
        rows: utterances.
        samples: of each row.
        lengths: `(B,)` int64 valid samples, or None.
        labels: for each label set `(B, n)` int64, -1 where there is none.
        ratios: label frames per encoder frame of each set.
    """
    total = output_length(samples, config.conv_layers)
    frames = min([total, *(x.shape[1] // r for x, r in zip(labels, ratios, strict=True))])
    usable = np.ones((rows, frames), dtype=bool)
    if lengths is not None:
        padding = frame_padding_mask(lengths, samples, total, config, config.padding_rule)
        usable = ~padding[:, :frames].numpy()
    sizes = tuple(int(count) for count in usable.sum(1))
    for own, ratio in zip(labels, ratios, strict=True):
        usable = usable & (own[:, : frames * ratio : ratio] >= 0).numpy()
    return Layout(frames, sizes, usable)


def draw(
    objective: ObjectiveConfig,
    config: EncoderConfig,
    batch: Layout,
    seeds: Tensor,
    update: int,
    layer_seed: int | None = None,
) -> Draws:
    """All random choices of one batch.

    Args:
        objective: what is trained.
        config: the encoder.
        batch: its frames.
        seeds: `(B,)` int64, one of each utterance; equal seeds give equal choices.
        update: number of the update, counted from 0, for the temperature.
        layer_seed: seed of LayerDrop for this update; None evaluates: no layer is dropped, the
            best codewords are taken, and multitask masks and replaces nothing.
    """
    is_training = layer_seed is not None
    is_multitask = isinstance(objective, MultitaskConfig)
    generators = [np.random.default_rng(seed) for seed in seeds.tolist()]
    masks = np.zeros_like(batch.usable)
    if is_training or not is_multitask:
        masks = _time_masks(objective.mask, batch, generators, int(seeds[0]))
    elif is_multitask:
        # As in the reference, every frame is compared when none is masked.
        masks = batch.usable
    draws = Draws.of(torch.from_numpy(masks), torch.from_numpy(batch.usable))
    if is_multitask and not is_training:
        draws = draws._replace(time_mask=torch.zeros_like(draws.time_mask))
    if isinstance(objective, MaskedPredictionConfig):
        utterance = objective.utterance
        if utterance is not None:
            rng = np.random.default_rng([int(seeds[0]), 1])
            count = len(draws.masked)
            instances = draw_instances(count, utterance.instances, utterance.exclusion, rng)
            draws = draws._replace(negatives=torch.from_numpy(instances))
    else:
        draws = draws._replace(
            negatives=torch.from_numpy(
                _frame_negatives(objective, masks & batch.usable, batch.usable, generators)
            )
        )
    if isinstance(objective, MultitaskConfig) and (is_training or objective.replace_in_evaluation):
        shape = batch.frames
        replace = [rng.random(shape) < objective.replace_prob for rng in generators]
        draws = draws._replace(replace=torch.from_numpy(np.stack(replace)))
    if layer_seed is None:
        return draws
    gumbel = objective.utterance if isinstance(objective, MaskedPredictionConfig) else objective
    return draws._replace(
        dropped=draw_dropped_layers(config, layer_seed),
        temperature=None if gumbel is None else gumbel.gumbel.temperature(update),
        gumbel_seed=int(seeds[0]),
    )


def draw_negatives(
    own: npt.NDArray[np.int64],
    candidates: int,
    count: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Distractors of the frames of one utterance: uniform over the others, with replacement.

    Args:
        own: `(n,)` which candidate each frame is itself, and cannot draw.
        candidates: how many there are.
        count: distractors of each frame.
        rng: draws of this utterance.

    Returns:
        `(n, count)` int64 candidates; -1 where there is no other one.
    """
    if candidates < 2:
        return np.full((len(own), count), -1, dtype=np.int64)
    drawn = rng.integers(candidates - 1, size=(len(own), count))
    return drawn + (drawn >= own[:, None])


def draw_instances(
    frames: int, count: int, exclusion: Exclusion, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Frames of the batch that each masked frame is compared with.

    Args:
        frames: masked frames of the batch.
        count: instances of each.
        exclusion: `own` never draws the frame itself; `reference` shifts the draws as if they
            were listed frame by frame and reads them instance by instance, so that another
            frame is excluded.
        rng: draws of this batch.

    Returns:
        `(frames, count)` int64; -1 where there is no other frame.
    """
    own = np.arange(frames)
    if exclusion == "own" or frames < 2:
        return draw_negatives(own, frames, count, rng)
    drawn = rng.integers(frames - 1, size=frames * count)
    shifted = drawn + (drawn >= np.repeat(own, count))
    return np.ascontiguousarray(shifted.reshape(count, frames).T)


def _time_masks(
    config: MaskConfig, batch: Layout, generators: list[np.random.Generator], seed: int
) -> Bools:
    if config.stream == "reference":
        stream = np.random.RandomState(seed % 2**32)
        sizes = None if min(batch.sizes) == batch.frames else batch.sizes
        return reference_masks((len(batch.sizes), batch.frames), sizes, config, stream)
    masks = [
        span_mask(size, config, rng, batch.frames)
        for size, rng in zip(batch.sizes, generators, strict=True)
    ]
    return trimmed(masks, generators) if config.trim else np.stack(masks)


def _frame_negatives(
    objective: FrameContrastConfig,
    masked: Bools,
    usable: Bools,
    generators: list[np.random.Generator],
) -> npt.NDArray[np.int64]:
    """Distractors of all masked frames, as rows of the masked frames or of the usable ones."""
    is_multitask = isinstance(objective, MultitaskConfig)
    parts, offset = [], 0
    for row, rng in enumerate(generators):
        pool = usable[row] if is_multitask else masked[row]
        own = np.flatnonzero(masked[row][pool])
        if isinstance(objective, MultitaskConfig) and objective.exclusion == "reference":
            own = np.arange(len(own))
        count = int(pool.sum())
        drawn = draw_negatives(own, count, objective.negatives, rng)
        parts.append(np.where(drawn < 0, -1, drawn + offset))
        offset += count
    return np.concatenate(parts)
