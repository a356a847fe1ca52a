"""The table of formulations, and the one place where one of them is chosen.

`UNISPEECH_PLAIN=1` in the environment chooses torch's own operations for everything.
`UNISPEECH_FLEX=1` chooses FlexAttention on a GPU, where it has not been run yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unispeech.kernels import flex, inference, packed, plain, recompute

PLAIN_VARIABLE = "UNISPEECH_PLAIN"
FLEX_VARIABLE = "UNISPEECH_FLEX"


class Kernels(NamedTuple):
    """One formulation of every operation; `plain` documents what they take and give."""

    name: str
    extract: Callable[..., Tensor]
    positions: Callable[..., Tensor]
    bias: Callable[[Tensor], Tensor]
    """What `attention` takes as bias, from the `(H, 2T - 1)` values of the distances."""
    padding: Callable[[Tensor | None], Any]
    """What `attention` takes as padding, from `(B, T)` bool, True = padding, or None."""
    attention: Callable[..., Tensor]
    feed_forward: Callable[..., Tensor]
    merges: bool = False
    """Whether queries, keys and values are one product where their weights lie together."""
    packs: bool = False
    """Whether utterances are extracted one by one and then lie one behind the other in one row,
    instead of being padded."""


def _itself(tensor: Any) -> Any:
    return tensor


PLAIN = Kernels(
    "plain",
    plain.extract,
    plain.positions,
    plain.expand,
    _itself,
    plain.attention,
    plain.feed_forward,
)
CPU_TRAINING = PLAIN._replace(
    name="cpu training",
    extract=recompute.extract,
    positions=packed.positions,
    attention=recompute.attention,
    feed_forward=recompute.feed_forward,
    packs=True,
)
CPU_INFERENCE = Kernels(
    "cpu inference",
    inference.extract,
    packed.positions,
    _itself,
    _itself,
    inference.attention,
    inference.feed_forward,
    merges=True,
    packs=True,
)
CUDA = PLAIN._replace(name="cuda", extract=recompute.extract, feed_forward=recompute.feed_forward)
CUDA_FLEX = CUDA._replace(
    name="cuda, FlexAttention",
    bias=_itself,
    padding=flex.padding,
    attention=flex.attention,
)


def choose(device: torch.device, is_compiled: bool = False) -> Kernels:
    """The formulation for tensors on a device, with gradients as they are switched on now.

    Args:
        device: of inputs and weights.
        is_compiled: the layers go through torch's compiler, which makes kernels of its own.
    """
    is_traced = torch.compiler.is_compiling() or torch._C._is_tracing()
    if is_compiled or is_traced or _is_set(PLAIN_VARIABLE):
        return PLAIN
    if device.type == "cpu":
        return CPU_TRAINING if torch.is_grad_enabled() else CPU_INFERENCE
    wants_flex = device.type == "cuda" and _is_set(FLEX_VARIABLE)
    return CUDA_FLEX if wants_flex and flex.is_available() else CUDA


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")
