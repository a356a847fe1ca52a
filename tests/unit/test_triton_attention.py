"""The Triton attention against the written-out formula, and what Hopper's compiler says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import triton_process
from packages import require
from torch import Tensor

from unispeech.kernels import table
from unispeech.models import transformer
from unispeech.models.config import EncoderConfig, conv_stack
from unispeech.models.encoder import Encoder

Call = Callable[..., Any]


def in_process(is_interpreted: bool, folder: Any) -> Iterator[Call]:
    require("triton")
    with triton_process.start(is_interpreted, folder.mktemp("triton")) as process:
        yield lambda function, *given: process.submit(function, *given).result()


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory) -> Iterator[Call]:
    yield from in_process(True, tmp_path_factory)


@pytest.fixture(scope="module")
def compiling(tmp_path_factory) -> Iterator[Call]:
    yield from in_process(False, tmp_path_factory)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(form: str, frames: int, dim: int, dtype: torch.dtype) -> list[Tensor | None]:
    """Queries, keys and values as views of `(B, T, H, d)`, bias as of an embedding, gate."""
    rows = [draw(seed, 2, frames, 3, dim).to(dtype).transpose(1, 2) for seed in range(3)]
    bias = draw(3, 2 * frames - 1, 3).t() if form != "none" else None
    return [*rows, bias, draw(4, 2, 3, frames, 2)[..., :1] if form == "gated" else None]


def formula(
    given: list[Tensor | None], mask: Tensor | None, direction: Tensor, kept: Any = 1.0
) -> list[Tensor]:
    """Context and gradients in fp64."""
    leaves = [None if x is None else x.detach().double().requires_grad_() for x in given]
    q, k, v, bias, gate = leaves
    assert q is not None
    assert k is not None
    assert v is not None
    frames = q.shape[2]
    logits = q @ k.mT / q.shape[3] ** 0.5
    if bias is not None:
        matrix = torch.stack([bias[:, frames - 1 - i :][:, :frames] for i in range(frames)], 1)
        logits = logits + (matrix if gate is None else gate * matrix)
    if mask is not None:
        logits = logits.masked_fill(mask[:, None, None], -torch.inf)
    out = (logits.softmax(3) * kept) @ v
    wanted = [x for x in leaves if x is not None]
    return [out.detach(), *torch.autograd.grad(out, wanted, direction.double())]


def padding_of(frames: int) -> Tensor:
    return torch.arange(frames) >= torch.tensor([[frames], [frames // 2 + 1]])


def assert_near(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        bound = tolerance * max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one.double(), other, atol=bound, rtol=0)


FORMS = [(form, padded, 75, 16) for form in ("none", "bias", "gated") for padded in (False, True)]


@pytest.mark.parametrize(
    ("form", "padded", "frames", "dim"), [*FORMS, ("gated", False, 1, 4), ("gated", True, 64, 20)]
)
def test_context_and_gradients_are_the_formula(interpreted, form, padded, frames, dim) -> None:
    given = inputs(form, frames, dim, torch.float32)
    mask = padding_of(frames) if padded else None
    direction = draw(5, 2, 3, frames, dim)
    found = interpreted(triton_process.attend, given, mask, 0.0, 0, direction)
    assert_near(found, formula(given, mask, direction), 2e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # The interpreter cuts off what does not fit in bf16 instead of rounding.
    [(torch.float16, 2e-3), (torch.bfloat16, 3e-2)],
)
def test_half_precision_loses_what_its_products_lose(interpreted, dtype, tolerance) -> None:
    given = inputs("gated", 131, 32, dtype)
    mask = padding_of(131)
    direction = draw(5, 2, 3, 131, 32).to(dtype)
    found = interpreted(triton_process.attend, given, mask, 0.0, 0, direction)
    assert [x.dtype for x in found] == [dtype] * 4 + [torch.float32] * 2
    assert_near(found, formula(given, mask, direction), tolerance)


def test_other_strides_and_autocast(interpreted) -> None:
    q, k, v, bias, gate = inputs("gated", 20, 8, torch.float32)
    given = [q.contiguous(), k.mT.contiguous().mT, draw(6, 2, 3, 20, 16)[..., ::2], bias, gate]
    direction = draw(5, 8, 20, 3, 2).permute(3, 2, 1, 0)
    found = interpreted(triton_process.attend, given, None, 0.0, 0, direction)
    assert_near(found, formula(given, None, direction), 2e-6)
    found = interpreted(triton_process.attend, given, None, 0.0, 0, direction, True)
    assert [x.dtype for x in found] == [torch.bfloat16] + [torch.float32] * 5
    assert_near(found, formula(given, None, direction), 3e-2)


def kept_weights(interpreted: Call, frames: int, dropout: float, seed: int) -> Tensor:
    """`(2, 3, T, T)` bool, seen through values that are the unit vectors."""
    q, k, *_ = inputs("none", frames, frames, torch.float32)
    unit = torch.eye(frames).expand(2, 3, -1, -1)
    found = interpreted(
        triton_process.attend, [q / 4, k, unit, None, None], None, dropout, seed, unit
    )
    return found[0] != 0


@pytest.mark.parametrize("dropout", [0.1, 0.75])
def test_dropout_is_one_mask_in_both_directions(interpreted, dropout) -> None:
    kept = kept_weights(interpreted, 50, dropout, 7)
    scale = 1 / (1 - round(dropout * 2**16) / 2**16)
    mask = padding_of(50)
    # Blocks of 16, of 32 and of 64 frames drop the same weights.
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float16, 3e-3)):
        given = inputs("gated", 50, 16, dtype)
        direction = draw(5, 2, 3, 50, 16).to(dtype)
        found = interpreted(triton_process.attend, given, mask, dropout, 7, direction)
        assert_near(found, formula(given, mask, direction, kept * scale), tolerance)


def test_weights_are_dropped_independently(interpreted) -> None:
    kept = kept_weights(interpreted, 64, 0.3, 1)
    again, other = (kept_weights(interpreted, 64, 0.3, seed) for seed in (1, 2))
    assert torch.equal(kept, again)
    centred = (kept.double() - 0.7) / (0.3 * 0.7) ** 0.5
    # Of n independent draws the mean of these, and of their products, deviates by 1 / sqrt(n).
    assert centred.mean().abs() < 4.5 / kept.numel() ** 0.5
    pairs = {"seed": centred * (other.double() - 0.7) / (0.3 * 0.7) ** 0.5}
    for axis, name in enumerate(("batch", "head", "query", "key")):
        for step in (1, 8, 16) if axis > 1 else (1,):
            count = kept.shape[axis] - step
            ahead, behind = centred.narrow(axis, step, count), centred.narrow(axis, 0, count)
            pairs[f"{name} {step}"] = ahead * behind
    pairs["query 8, key 8"] = centred[:, :, 8:, 8:] * centred[:, :, :-8, :-8]
    for name, product in pairs.items():
        assert product.mean().abs() < 4.5 / product.numel() ** 0.5, name


def test_wide_heads_are_refused(interpreted) -> None:
    line = interpreted(triton_process.refusal, 136)
    assert line.startswith("UNISPEECH_KERNELS=triton:")
    assert "expected at most 128 channels, found 136" in line
    assert interpreted(triton_process.refusal, 120) == ""


def encoder(dropout: float) -> Encoder:
    torch.manual_seed(0)
    config = EncoderConfig(
        dim=32, ffn_dim=48, heads=4, layers=2, conv_layers=conv_stack(16), pos_conv_kernel=16,
        pos_conv_groups=4, num_buckets=32, max_distance=40, dropout=0, input_dropout=0,
        attention_dropout=dropout,
    )  # fmt: skip
    return Encoder(config)


def test_an_encoder_has_the_same_output_and_gradients(interpreted, monkeypatch) -> None:
    waveforms, lengths = draw(1, 2, 12000), torch.tensor([12000, 7000])
    found = interpreted(triton_process.encode, encoder(0.0), waveforms, lengths)
    monkeypatch.setattr(transformer, "choose", lambda *_: table.CUDA)
    expected = triton_process.last_and_gradients(encoder(0.0), waveforms, lengths)
    assert "encoder.relative_position.embedding.weight" in expected
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        bound = 1e-5 * max(1.0, float(value.abs().max()))
        torch.testing.assert_close(found[name], value, atol=bound, rtol=0)


def test_layers_computed_again_drop_the_same_weights(interpreted) -> None:
    waveforms, lengths = draw(1, 1, 5000), torch.tensor([5000])
    model = encoder(0.5)
    kept = interpreted(triton_process.encode, model, waveforms, lengths)
    model.encoder.activation_checkpointing = True
    again = interpreted(triton_process.encode, model, waveforms, lengths)
    assert all(torch.equal(value, again[name]) for name, value in kept.items())
    assert not torch.allclose(
        kept["last"], interpreted(triton_process.encode, encoder(0.0), waveforms, lengths)["last"]
    )


KERNELS = ("forward", "backward_queries", "backward_keys")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("dtype", "dim"), [("bfloat16", 64), ("bfloat16", 80), ("float32", 64)])
def test_kernels_fit_on_hopper(compiling, kernel, dtype, dim) -> None:
    found = compiling(triton_process.compile_for_hopper, kernel, dtype, dim, 0.1)
    assert found["shared"] <= 227 * 1024
    assert found["stack"] <= 64
    assert found["atomics"] == 0
    assert (found["wgmma"] > 0) == (dtype != "float32")


@pytest.mark.parametrize("kernel", KERNELS)
def test_dropout_exchanges_nothing_between_threads(compiling, kernel) -> None:
    counts = {
        dropout: compiling(triton_process.compile_for_hopper, kernel, "bfloat16", 64, dropout)
        for dropout in (0.0, 0.1)
    }
    assert counts[0.1]["exchanges"] == counts[0.0]["exchanges"]


@pytest.mark.parametrize(
    "absent", [("gate", "grad_gate", "lengths"), ("bias", "gate", "bins", "grad_gate")]
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_compile_without_what_is_absent(compiling, kernel, absent) -> None:
    found = compiling(triton_process.compile_for_hopper, kernel, "bfloat16", 64, 0.1, absent)
    assert found["stack"] <= 64
