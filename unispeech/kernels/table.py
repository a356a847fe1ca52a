"""The table of formulations, and the one place where one of them is chosen.

`UNISPEECH_PLAIN=1` in the environment chooses torch's own operations for everything.
`UNISPEECH_KERNELS` chooses on a GPU: `torch` is attention by torch's own kernels; `flex`, attention
by FlexAttention, and `triton`, attention and extractor by kernels of our own, have not been run
there yet.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unispeech.errors import ConfigError, DependencyError, nearest
from unispeech.kernels import flex, inference, packed, plain, recompute

PLAIN_VARIABLE = "UNISPEECH_PLAIN"
KERNELS_VARIABLE = "UNISPEECH_KERNELS"


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


@functools.cache
def cuda_triton() -> Kernels:
    """`CUDA` with attention and extractor in Triton."""
    from unispeech.kernels import triton_attention, triton_extractor

    return CUDA._replace(
        name="cuda, Triton",
        extract=triton_extractor.extract,
        bias=_itself,
        padding=triton_attention.padding,
        attention=triton_attention.attention,
    )


def choose(device: torch.device, is_compiled: bool = False) -> Kernels:
    """The formulation for tensors on a device, with gradients as they are switched on now.

    Args:
        device: of inputs and weights.
        is_compiled: the layers go through torch's compiler, which makes kernels of its own.

    Raises:
        ConfigError: `UNISPEECH_KERNELS` names none.
        DependencyError: it names one that needs triton, which is missing.
    """
    is_traced = torch.compiler.is_compiling() or torch._C._is_tracing()
    if is_compiled or is_traced or os.environ.get(PLAIN_VARIABLE, "0") not in ("", "0"):
        return PLAIN
    if device.type == "cpu":
        return CPU_TRAINING if torch.is_grad_enabled() else CPU_INFERENCE
    name = os.environ.get(KERNELS_VARIABLE) or "torch"
    if device.type != "cuda" or name == "torch":
        return CUDA
    names = ("torch", "flex", "triton")
    if name not in names:
        raise ConfigError(
            f"no such kernels{nearest(name, names)}",
            where=KERNELS_VARIABLE,
            expected=" or ".join(names),
            found=name,
        )
    if importlib.util.find_spec("triton") is None:
        raise DependencyError(
            "triton is not installed",
            where=f"{KERNELS_VARIABLE}={name}",
            remedy="pip install -c constraints.txt triton",
        )
    return cuda_triton() if name == "triton" else CUDA_FLEX
