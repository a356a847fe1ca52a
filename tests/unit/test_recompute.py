"""Operations with a backward pass of their own, against torch's in fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from unispeech.kernels import plain, recompute


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


def assert_same_with_gradients(ours: Tensor, reference: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(ours, reference)
    direction = draw(99, *ours.shape).detach()
    mine = torch.autograd.grad(ours, inputs, direction)
    theirs = torch.autograd.grad(reference, inputs, direction)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 10), st.integers(1, 6), st.booleans())
def test_gelu_conv_is_gelu_then_conv1d(time, kernel, stride, has_bias) -> None:
    assume(time >= kernel >= stride)
    y, weight = draw(0, 2, time, 3), draw(1, 4, 3, kernel)
    bias = draw(2, 4) if has_bias else None
    ours = recompute.gelu_conv(y, weight, bias, stride)
    reference = F.conv1d(F.gelu(y).transpose(1, 2), weight, bias, stride).transpose(1, 2)
    assert_same_with_gradients(ours, reference, [y, weight, *([] if bias is None else [bias])])


def test_gelu_linear_is_gelu_then_linear() -> None:
    y, weight, bias = draw(0, 2, 5, 6), draw(1, 3, 6), draw(2, 3)
    reference = F.linear(F.gelu(y), weight, bias)
    assert_same_with_gradients(recompute.gelu_linear(y, weight, bias), reference, [y, weight, bias])


@pytest.mark.parametrize("form", ["plain", "bias", "gated"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_attention_is_the_written_out_formula(form: str, padded: bool, dropout: float) -> None:
    q, k, v = (draw(seed, 2, 3, 7, 4) for seed in range(3))
    bias = None if form == "plain" else draw(3, 3, 7, 7)
    gate = draw(4, 2, 3, 7, 1) if form == "gated" else None
    mask = torch.arange(7) >= torch.tensor([[7], [5]]) if padded else None
    torch.manual_seed(5)
    ours = recompute.attention(q, k, v, bias, gate, mask, dropout)

    logits = q @ k.transpose(2, 3) / 2.0
    if bias is not None:
        logits = logits + (bias if gate is None else gate * bias)
    if mask is not None:
        logits = logits.masked_fill(mask[:, None, None], -torch.inf)
    weights = logits.softmax(3)
    if dropout > 0:
        torch.manual_seed(5)
        kept = torch.stack([recompute.draw_kept(torch.Size((3, 7, 7)), dropout) for _ in range(2)])
        assert 0 < kept.sum() < kept.numel()
        weights = weights * kept / (1 - round(dropout * 2**16) / 2**16)
    inputs = [x for x in (q, k, v, bias, gate) if x is not None]
    assert_same_with_gradients(ours, weights @ v, inputs)


@pytest.mark.parametrize("dropout", [1e-5, 0.1, 0.5, 0.9])
def test_weights_are_dropped_at_the_rate_and_independently(dropout: float) -> None:
    torch.manual_seed(3)
    count = 10**6 + 3
    kept = recompute.draw_kept(torch.Size((count,)), dropout)
    share = 1 - round(dropout * 2**16) / 2**16
    assert abs(share - (1 - dropout)) <= 2**-17
    deviation = (share * (1 - share) / count) ** 0.5
    assert abs(float(kept.double().mean()) - share) <= 5 * deviation
    for step in (1, 2, 3, 4, 8):
        both = float((kept[step:] & kept[:-step]).double().mean())
        assert abs(both - share**2) <= 8 * deviation
    torch.manual_seed(3)
    assert torch.equal(recompute.draw_kept(torch.Size((count,)), dropout), kept)


@pytest.mark.parametrize("form", ["plain", "bias", "gated"])
def test_attention_in_one_row_is_that_of_each_utterance(form: str) -> None:
    sizes = [4, 7, 1]
    q, k, v = (draw(seed, 2, 3, 12, 4) for seed in range(3))
    values = None if form == "plain" else draw(3, 3, 13)
    gate = draw(4, 2, 3, 12, 1) if form == "gated" else None
    bias = None if values is None else plain.expand(values)
    ours = recompute.attention(q, k, v, bias, gate, None, 0.0, sizes)

    parts = []
    for span in (slice(0, 4), slice(4, 11), slice(11, 12)):
        own = (x[:, :, span] for x in (q, k, v))
        frames = span.stop - span.start
        # The bias depends on the distance alone, whatever is beside the utterance.
        distances = None if values is None else values[:, 7 - frames : 6 + frames]
        matrix = None if distances is None else plain.expand(distances)
        factor = None if gate is None else gate[:, :, span]
        parts.append(plain.attention(*own, matrix, factor, None, 0.0))
    inputs = [x for x in (q, k, v, values, gate) if x is not None]
    assert_same_with_gradients(ours, torch.cat(parts, 2), inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_the_products(dtype: torch.dtype) -> None:
    y, weight, bias = (x.detach().float().requires_grad_() for x in
                       (draw(0, 2, 9, 8), draw(1, 4, 8, 3), draw(2, 4)))  # fmt: skip
    with torch.autocast("cpu", dtype):
        out = recompute.gelu_conv(y, weight, bias, 2)
    assert out.dtype == dtype
    out.float().sum().backward()
    assert y.grad.dtype == weight.grad.dtype == bias.grad.dtype == torch.float32
    exact = F.conv1d(F.gelu(y).transpose(1, 2), weight, bias, 2).transpose(1, 2)
    torch.testing.assert_close(out.float(), exact, atol=0.1, rtol=0.05)


def test_only_the_inputs_are_kept() -> None:
    """What autograd would keep beside them is the point of these operations."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    q, k, v = (draw(seed, 2, 3, 7, 4) for seed in range(3))
    bias, gate = draw(3, 3, 7, 7), draw(4, 2, 3, 7, 1)
    y, weight = draw(5, 2, 20, 3), draw(6, 4, 3, 3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        recompute.attention(q, k, v, bias, gate, None, 0.0)
        recompute.gelu_conv(y, weight, None, 2)
    storages = {x.untyped_storage().data_ptr() for x in (q, k, v, bias, gate, y, weight)}
    assert {x.untyped_storage().data_ptr() for x in kept} == storages
