"""Attention on a GPU by Triton kernels: gated bias, dropout, and no `(T, T)` matrix of anything.

The module needs triton and is imported when it is chosen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from unispeech.errors import ConfigError
from unispeech.kernels import triton_attention_kernels as kernels
from unispeech.kernels.blocks import autocast_dtype

MAX_HEAD_DIM = 128


class Launch(NamedTuple):
    """Shape of one kernel's programs."""

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2


class Launches(NamedTuple):
    """Of the three kernels; the queries of `backward_queries` are two blocks of its keys."""

    forward: Launch
    backward_queries: Launch
    backward_keys: Launch


def launches(dtype: torch.dtype, head_dim: int) -> Launches:
    """What fits in the registers of Hopper, by the compiler's report.

    Args:
        dtype: of queries, keys and values: fp32, bf16 or fp16.
        head_dim: at most 128.
    """
    is_small = head_dim <= 64
    if dtype == torch.float32:
        keys = 32 if is_small else 16
        return Launches(Launch(32, keys), Launch(32, 16), Launch(32, keys))
    return Launches(Launch(64, 64), Launch(64, 32), Launch(64, 64 if is_small else 32))


def padding(mask: Tensor | None) -> Tensor | None:
    """Lengths `(B,)` int32 from `(B, T)` bool, True = padding, at the end of each row."""
    return None if mask is None else (~mask).sum(1, dtype=torch.int32)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    lengths: Tensor | None,
    dropout: float,
) -> Tensor:
    """Attention; arguments as in `plain.attention`, queries, keys and values fp32, bf16 or fp16.

    Logits, softmax and the gradients of bias and gate are fp32. The probability of dropping a
    weight is rounded to a multiple of 2^-16; what is kept is scaled by the rounded one.

    Args:
        q: `(B, H, T, d)`, `d` at most 128.
        k: `(B, H, T, d)`.
        v: `(B, H, T, d)`.
        bias: `(H, 2T - 1)` values of key - query, or None.
        gate: `(B, H, T, 1)` or None.
        lengths: of `padding`, or None.
        dropout: probability of dropping a weight.

    Raises:
        ConfigError: heads are wider.
    """
    if q.shape[3] > MAX_HEAD_DIM:
        raise ConfigError(
            "the Triton attention has no kernel for heads so wide",
            where="UNISPEECH_KERNELS=triton",
            expected=f"at most {MAX_HEAD_DIM} channels",
            found=q.shape[3],
            remedy="UNISPEECH_KERNELS=torch takes any",
        )
    cast = autocast_dtype(q)
    rows = (x.to(cast).transpose(1, 2).contiguous() for x in (q, k, v))
    values = gates = seed = None
    if bias is not None:
        values = F.pad(bias.float(), (kernels.PAD.value, kernels.PAD.value)).contiguous()
        gates = None if gate is None else gate.squeeze(3).float().contiguous()
    if dropout > 0:
        # It stays on the device: nothing waits for it.
        seed = torch.randint(2**62, (), device=q.device)
    arguments = (*rows, values, gates, lengths, seed, dropout)
    out: Tensor = _Attention.apply(*arguments)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        gate: Tensor | None,
        lengths: Tensor | None,
        seed: Tensor | None,
        dropout: float,
    ) -> Tensor:
        batch, frames, heads, _ = q.shape
        out, lse = torch.empty_like(q), q.new_empty(batch, heads, frames, dtype=torch.float32)
        given = (q, k, v, bias, gate, lengths, seed)
        ctx.dropout = dropout
        ctx.save_for_backward(*given, out, lse)
        launch = launches(q.dtype, q.shape[3]).forward
        _start(kernels.forward, launch, launch.queries, (*given, out, lse), dropout)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *given, out, lse = ctx.saved_tensors
        q, k, v, bias, gate = given[:5]
        batch, frames, heads, dim = q.shape
        shapes = launches(q.dtype, dim)
        grad_out = grads[0].contiguous()
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        delta = torch.empty_like(lse)
        bins = None
        if ctx.needs_input_grad[3]:
            blocks = triton.cdiv(frames, shapes.backward_queries.queries)
            bins = bias.new_zeros(batch, heads, blocks, bias.shape[1])
        grad_gate = torch.empty_like(gate) if ctx.needs_input_grad[4] else None
        launch = shapes.backward_queries
        arguments = (*given, out, lse, grad_out, delta, grad_q, bins, grad_gate)
        _start(kernels.backward_queries, launch, launch.queries, arguments, ctx.dropout)
        launch = shapes.backward_keys
        arguments = (*given, lse, grad_out, delta, grad_k, grad_v)
        _start(kernels.backward_keys, launch, launch.keys, arguments, ctx.dropout)
        grad_bias = None if bins is None else bins.sum((0, 2))
        return grad_q, grad_k, grad_v, grad_bias, grad_gate, None, None, None


def constants(dtype: torch.dtype, head_dim: int, launch: Launch, dropout: float) -> dict[str, Any]:
    """What a kernel is compiled for."""
    # Sixteen bits of a word decide; a word is compared as a whole.
    share = min(round(dropout * 2**16), 2**16 - 1)
    is_exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return {
        "D": head_dim,
        "M": launch.queries,
        "N": launch.keys,
        "THRESHOLD": share << 16,
        "KEEP": 1.0 - share / 2**16,
        "PRECISION": "ieee" if is_exact else "tf32",
    }


def _start(
    kernel: Any, launch: Launch, block: int, tensors: tuple[Tensor | None, ...], dropout: float
) -> None:
    """Run a kernel on every block of every head."""
    q = tensors[0]
    assert q is not None
    batch, frames, heads, dim = q.shape
    grid = (batch * heads * triton.cdiv(frames, block),)
    settings = constants(q.dtype, dim, launch, dropout)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        kernel[grid](
            *tensors, heads, frames, **settings, num_warps=launch.warps, num_stages=launch.stages
        )
