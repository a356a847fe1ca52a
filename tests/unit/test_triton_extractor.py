"""The extractor in Triton against a stack of torch's operations, under Triton's interpreter."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from packages import require
from torch import Tensor

from unispeech.kernels import plain
from unispeech.kernels.blocks import Block

DEVICE = "cuda" if os.environ["TRITON_INTERPRET"] == "0" else "cpu"
SHAPES = {
    "released": (20, [(10, 5), (3, 2), (2, 2)]),
    "odd": (16, [(5, 3), (7, 2), (4, 4), (5, 3)]),
    "wide": (72, [(15, 4), (3, 1)]),
}
"""Channels, kernels and strides; 72 channels are more than a tile has."""


@pytest.fixture(scope="module")
def extractor() -> ModuleType:
    require("triton")
    module = importlib.import_module("unispeech.kernels.triton_extractor")
    if DEVICE == "cpu":
        # It looks at the variable when it is first imported, by whomever.
        from triton.runtime.interpreter import InterpretedFunction

        assert isinstance(module.triton_convolution.convolve, InterpretedFunction)
        assert isinstance(module.triton.language.sum, InterpretedFunction)
    return module


@pytest.fixture
def bfloat16(monkeypatch) -> None:
    """The interpreter multiplies the bits of bf16, and cuts what it should round."""
    if DEVICE != "cpu":
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    multiply, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def rounded(self: Any, x: Any, dtype: Any) -> Any:
        if (x.dtype.scalar, dtype.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, x, dtype)
        values = torch.from_numpy(np.array(x.data)).bfloat16()
        return TensorHandle(values.view(torch.int16).numpy().view(np.uint16), tl.bfloat16)

    def widened(self: Any, a: Any, b: Any, *others: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (cast(self, x, tl.float32) for x in (a, b))
        return multiply(self, a, b, *others)

    monkeypatch.setattr(InterpreterBuilder, "cast_impl", rounded)
    monkeypatch.setattr(InterpreterBuilder, "create_dot", widened)


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE)


def build(norm: str | None, has_bias: bool, channels: int, shapes: Sequence[Any]) -> list[Block]:
    found = []
    inputs = 1
    for number, (kernel, stride) in enumerate(shapes):
        own = norm if norm == "layer" or number == 0 else None
        tensors = [
            draw(number, channels, inputs, kernel) / (inputs * kernel) ** 0.5,
            draw(20 + number, channels) if has_bias else None,
            1 + 0.1 * draw(40 + number, channels) if own else None,
            draw(60 + number, channels) if own else None,
        ]
        weight, bias, scale, shift = (x if x is None else x.requires_grad_() for x in tensors)
        found.append(Block(weight, bias, stride, own, scale, shift))  # type: ignore[arg-type]
        inputs = channels
    return found


def parameters(stack: Sequence[Block]) -> list[Tensor]:
    """What has a gradient: a group norm takes no notice of a bias before it."""
    return [
        x
        for b in stack
        for x in (b.weight, None if b.norm == "group" else b.bias, b.scale, b.shift)
        if x is not None
    ]


def utterance(waveform: Tensor, stack: Sequence[Block]) -> Tensor:
    """One alone by torch's operations: `(N,)` to `(T, O)`, fp64."""
    x = waveform.double()[None, None]
    for block in stack:
        weight, bias, scale, shift = (
            None if p is None else p.double()
            for p in (block.weight, block.bias, block.scale, block.shift)
        )
        x = F.conv1d(x, weight, bias, block.stride)
        if block.norm == "group":
            x = F.group_norm(x, x.shape[1], scale, shift)
        elif block.norm == "layer":
            x = F.layer_norm(x.mT, (x.shape[1],), scale, shift).mT
        x = F.gelu(x)
    return x[0].mT


@pytest.mark.parametrize("norm", ["group", "layer", None])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("sizes", [None, (400, 290)])
def test_values_and_gradients_are_those_of_conv1d(extractor, norm, has_bias, shapes, sizes) -> None:
    stack = build(norm, has_bias, *SHAPES[shapes])
    waveforms = (draw(99, 2, 400) + 5.0).requires_grad_()
    lengths = None if sizes is None else torch.tensor(sizes, device=DEVICE)
    found = extractor.extract(waveforms, lengths, stack)
    # Frames of padding have values, which nothing is said about.
    alone = [utterance(w[:n], stack) for w, n in zip(waveforms, sizes or (400, 400), strict=True)]
    ours = torch.cat([x[: len(y)] for x, y in zip(found, alone, strict=True)])
    expected = torch.cat(alone)
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)
    direction = draw(98, *expected.shape)
    inputs = [waveforms, *parameters(stack)]
    mine = torch.autograd.grad(ours, inputs, direction)
    theirs = torch.autograd.grad(expected, inputs, direction.double())
    for one, other in zip(mine, theirs, strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one, other, atol=1e-5 * scale, rtol=1e-4)


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 60), st.integers(1, 9), st.integers(1, 5), st.integers(1, 20),
    st.integers(1, 20), st.booleans(),
)  # fmt: skip
def test_every_convolution(extractor, time, kernel, stride, inputs, outputs, activates) -> None:
    """Between two blocks, with what is before the GELU of its input, or its input alone."""
    assume(time >= kernel >= stride)
    source = draw(0, 3, time, inputs).requires_grad_()
    weight = (draw(1, outputs, inputs, kernel) / (inputs * kernel) ** 0.5).requires_grad_()
    bias = draw(2, outputs).requires_grad_()
    given_frames = extractor.Frames(source, None)
    if activates:
        given_frames = extractor.Frames(F.gelu(source).detach(), source)
    found = extractor.next_block(given_frames, Block(weight, bias, stride, None, None, None))
    x = F.gelu(source.double()) if activates else source.double()
    expected = F.conv1d(x.mT, weight.double(), bias.double(), stride).mT
    torch.testing.assert_close(found.y.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.x.double(), F.gelu(expected), atol=1e-5, rtol=1e-5)
    assert not found.x.requires_grad
    direction = draw(3, *expected.shape)
    inputs_of_both = [source, weight, bias]
    mine = torch.autograd.grad(found.y, inputs_of_both, direction)
    theirs = torch.autograd.grad(expected, inputs_of_both, direction.double())
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_exact_as_torch_is(extractor, norm, dtype, bfloat16) -> None:
    stack = build(norm, True, 16, [(10, 5), (3, 2), (2, 2)])
    waveforms, lengths = draw(99, 2, 600), torch.tensor([600, 420], device=DEVICE)
    exact = plain.extract(waveforms, lengths, stack)
    direction = draw(98, *exact.shape)
    wanted = parameters(stack)
    true_grads = torch.autograd.grad(exact, wanted, direction)
    errors = []
    for module in (extractor, plain):
        with torch.autocast(DEVICE, dtype):
            found = module.extract(waveforms, lengths, stack)
        grads = torch.autograd.grad(found, wanted, direction.to(found.dtype))
        assert all(grad.dtype == torch.float32 for grad in grads)
        pairs = [(found, exact), *zip(grads, true_grads, strict=True)]
        errors.append([((one - other).norm() / other.norm()).item() for one, other in pairs])
        if module is extractor:
            assert found.dtype == dtype
    ours, theirs = errors
    assert sum(ours) < 1.1 * sum(theirs)
    assert all(0 < one < 2 * other for one, other in zip(ours, theirs, strict=True))


def test_models_of_half_precision(extractor, bfloat16) -> None:
    stack = build("group", True, 16, [(10, 5), (3, 2), (2, 2)])
    halves = [
        b._replace(**{
            name: x.detach().bfloat16().requires_grad_()
            for name, x in b._asdict().items() if isinstance(x, Tensor)
        })
        for b in stack
    ]  # fmt: skip
    waveforms = draw(99, 2, 600)
    found = extractor.extract(waveforms.bfloat16(), None, halves)
    assert found.dtype == torch.bfloat16
    exact = plain.extract(waveforms, None, stack)
    torch.testing.assert_close(found.float(), exact, atol=0.05, rtol=0.02)
    grads = torch.autograd.grad(found.float().sum(), parameters(halves))
    assert all(grad.dtype == torch.bfloat16 for grad in grads)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_one_tensor_of_a_block_is_kept(extractor, norm: str) -> None:
    """Before the last block, one with a norm also keeps what is after its GELU."""
    stack = build(norm, False, *SHAPES["odd"])
    waveforms = draw(99, 2, 600)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.dim() == 3 and tensor.shape[::2] == (2, 16) and not tensor.is_leaf:
            kept[tensor.untyped_storage().data_ptr()] = tensor.shape[1]
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = extractor.extract(waveforms, None, stack)
    frames = [600]
    for block in stack:
        frames.append(block.frames(frames[-1]))
    again = frames[2:-1] if norm == "layer" else []
    filters = 16  # of the first block
    assert sorted(kept.values()) == sorted([*frames[1:], *again, filters])
    with torch.no_grad():
        alone = extractor.extract(waveforms, None, stack)
    torch.testing.assert_close(alone, out)
    assert not alone.requires_grad


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_frozen_weights_cost_no_gradient(extractor, trained: int) -> None:
    stack = build("layer", True, *SHAPES["released"])
    waveforms = draw(99, 2, 400)
    for block in stack:
        for parameter in parameters([block]):
            parameter.requires_grad_(block is stack[trained])
    wanted = parameters([stack[trained]])
    grads = []
    for module in (extractor, plain):
        module.extract(waveforms, None, stack).square().sum().backward()
        assert all(p.grad is None for p in parameters(stack) if not p.requires_grad)
        grads.append([p.grad for p in wanted])
        for parameter in wanted:
            parameter.grad = None
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_results_do_not_depend_on_the_number_of_parts(extractor, monkeypatch) -> None:
    stack = build("group", False, *SHAPES["released"])
    waveforms = draw(99, 2, 1200)
    grads = []
    for programs in (1, 264):
        monkeypatch.setattr(extractor, "PROGRAMS", programs)
        out = extractor.extract(waveforms, None, stack)
        grads.append(torch.autograd.grad(out.square().sum(), parameters(stack)))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def test_what_the_programs_do_not_do_is_done_by_torch(extractor) -> None:
    later = build("group", False, 6, [(10, 5)]) + build("group", False, 6, [(3, 2)])
    later[1] = later[1]._replace(weight=draw(3, 6, 6, 3))
    wide = [b._replace(**{name: x.double() for name, x in b._asdict().items()
                          if isinstance(x, Tensor)}) for b in later]  # fmt: skip
    waveforms = draw(99, 2, 400).double()
    found = extractor.extract(waveforms, None, wide)
    torch.testing.assert_close(found, torch.stack([utterance(w, wide) for w in waveforms]))
    found = extractor.extract(waveforms.float(), None, later)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain.extract(waveforms.float(), None, later))


def test_programs_compile_for_hopper(extractor, repo: Path, tmp_path: Path) -> None:
    """What is launched for 512 channels in bf16 fits a multiprocessor and uses its matrix units."""
    script = Path(__file__).with_name("compile_triton_extractor.py")
    environment = {
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(repo),
    }
    result = subprocess.run(
        [sys.executable, str(script)], env=os.environ | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    programs = json.loads(result.stdout)
    names = {"filter_waveform", "norm_gelu", "convolve", "convolve_input", "convolve_filter"}
    assert {p["name"].removesuffix("_gradient") for p in programs} == names
    for program in programs:
        assert 0 < program["shared"] <= 227 * 1024, program
        assert program["wgmma"] == program["name"].startswith("convolve"), program
