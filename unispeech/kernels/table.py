"""The table of formulations, and the one place where one of them is chosen.

`UNISPEECH_PLAIN=1` in the environment chooses torch's own operations for everything.
`UNISPEECH_ATTENTION` chooses the attention on a GPU: `plain` is torch's own; `flex`, FlexAttention,
and `triton`, a kernel of our own, have not been run there yet.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unispeech.errors import ConfigError, DependencyError, nearest
from unispeech.kernels import flex, inference, plain, recompute

PLAIN_VARIABLE = "UNISPEECH_PLAIN"
ATTENTION_VARIABLE = "UNISPEECH_ATTENTION"


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
    rows: int | None = None
    """Utterances whose audio is extracted at a time; None: all."""
    merges: bool = False
    """Whether queries, keys and values are one product where their weights lie together."""
    packs: bool = False
    """Whether utterances can lie one behind the other in one row, instead of being padded."""


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
# With gradients on a CPU. One utterance fills the cores, so the widest gradients of the whole
# network exist for one at a time.
CPU_TRAINING = PLAIN._replace(
    name="cpu training",
    extract=recompute.extract,
    attention=recompute.attention,
    feed_forward=recompute.feed_forward,
    rows=1,
)
CPU_INFERENCE = Kernels(
    "cpu inference",
    inference.extract,
    inference.positions,
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


def cuda_triton() -> Kernels:
    """`CUDA` with the Triton attention.

    Raises:
        DependencyError: triton is missing.
    """
    _require_triton("triton")
    from unispeech.kernels import triton_attention

    return CUDA._replace(
        name="cuda, Triton attention",
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
        ConfigError: `UNISPEECH_ATTENTION` names none.
        DependencyError: it names one that needs triton, which is missing.
    """
    is_traced = torch.compiler.is_compiling() or torch._C._is_tracing()
    if is_compiled or is_traced or os.environ.get(PLAIN_VARIABLE, "0") not in ("", "0"):
        return PLAIN
    if device.type == "cpu":
        return CPU_TRAINING if torch.is_grad_enabled() else CPU_INFERENCE
    attention = os.environ.get(ATTENTION_VARIABLE) or "plain"
    if device.type != "cuda" or attention == "plain":
        return CUDA
    if attention == "triton":
        return cuda_triton()
    if attention == "flex":
        _require_triton(attention)
        return CUDA_FLEX
    names = ("plain", "flex", "triton")
    raise ConfigError(
        f"no such attention{nearest(attention, names)}",
        where=ATTENTION_VARIABLE,
        expected=" or ".join(names),
        found=attention,
    )


def _require_triton(attention: str) -> None:
    if importlib.util.find_spec("triton") is None:
        raise DependencyError(
            "triton is not installed",
            where=f"{ATTENTION_VARIABLE}={attention}",
            remedy="pip install -c constraints.txt triton",
        )
