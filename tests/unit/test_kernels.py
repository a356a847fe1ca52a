"""Every formulation of an operation against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unispeech.errors import ConfigError, DependencyError
from unispeech.kernels import flex, inference, plain, recompute, table
from unispeech.kernels.blocks import Block
from unispeech.models.config import ConvLayer, EncoderConfig, conv_stack
from unispeech.models.encoder import Encoder

TABLES = {t.name: t for t in (table.PLAIN, table.CPU_TRAINING, table.CPU_INFERENCE, table.CUDA)}


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def blocks(norm: str | None, has_bias: bool, shapes: list[tuple[int, int]]) -> list[Block]:
    found = []
    inputs = 1
    for number, (kernel, stride) in enumerate(shapes):
        own = norm if norm == "layer" or number == 0 else None
        found.append(
            Block(
                draw(number, 6, inputs, kernel) / (inputs * kernel) ** 0.5,
                draw(20 + number, 6) if has_bias else None,
                stride,
                own,  # type: ignore[arg-type]
                1 + 0.1 * draw(40 + number, 6) if own else None,
                draw(60 + number, 6) if own else None,
            )
        )
        inputs = 6
    return found


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("norm", ["group", "layer", None])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shapes", [[(10, 5), (3, 2), (2, 2)], [(5, 3), (7, 2), (4, 4), (5, 3)]])
def test_extract_is_a_stack_of_conv1d(name, norm, has_bias, shapes, monkeypatch) -> None:
    monkeypatch.setattr(inference, "CHUNK", 7)
    waveforms = draw(99, 3, 1000) + 5.0
    lengths = torch.tensor([1000, 700, 412])
    stack = blocks(norm, has_bias, shapes)
    for given_lengths in (None, lengths):
        with torch.no_grad():
            found = TABLES[name].extract(waveforms, given_lengths, stack)
        for row in range(3):
            # One utterance alone, by torch's modules.
            count = 1000 if given_lengths is None else int(lengths[row])
            x = waveforms[row : row + 1, None, :count]
            for block in stack:
                x = F.conv1d(x, block.weight, block.bias, block.stride)
                if block.norm == "group":
                    x = F.group_norm(x, 6, block.scale, block.shift)
                elif block.norm == "layer":
                    x = F.layer_norm(x.mT, (6,), block.scale, block.shift).mT
                x = F.gelu(x)
            torch.testing.assert_close(found[row, : x.shape[2]], x[0].mT)


@settings(deadline=None, max_examples=40)
@given(st.integers(10, 3000), st.integers(1, 40))
def test_chunks_do_not_show(samples: int, chunk: int) -> None:
    stack = blocks("group", False, [(10, 5), (3, 2), (2, 2)])
    if (samples - 10) // 5 + 1 < 6:
        return
    waveforms = draw(samples, 1, samples)
    whole = plain.extract(waveforms, None, stack)
    before = inference.CHUNK
    inference.CHUNK = chunk
    try:
        torch.testing.assert_close(inference.extract(waveforms, None, stack), whole)
    finally:
        inference.CHUNK = before


@pytest.mark.parametrize("form", ["none", "bias", "gated"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["plain", "inference", "flex"])
def test_attention_is_the_written_out_formula(form, padded, name, monkeypatch) -> None:
    monkeypatch.setattr(inference, "LOGITS", 3 * 9 * 4)
    q, k, v = (draw(seed, 2, 3, 9, 4) for seed in range(3))
    values = draw(3, 3, 17) if form != "none" else None
    gate = draw(4, 2, 3, 9, 1) if form == "gated" else None
    mask = torch.arange(9) >= torch.tensor([[9], [5]]) if padded else None
    kernels = {"plain": table.PLAIN, "inference": table.CPU_INFERENCE, "flex": table.CUDA_FLEX}
    chosen = kernels[name]
    bias = None if values is None else chosen.bias(values)
    found = chosen.attention(q, k, v, bias, gate, chosen.padding(mask), 0.0)

    logits = q @ k.mT / 2.0
    if values is not None:
        matrix = torch.stack([values[:, 8 - i : 17 - i] for i in range(9)], 1)
        logits = logits + (matrix if gate is None else gate * matrix)
    if mask is not None:
        logits = logits.masked_fill(mask[:, None, None], -torch.inf)
    torch.testing.assert_close(found, logits.softmax(3) @ v)


@pytest.mark.parametrize("gated", [False, True])
def test_flex_attention_has_the_same_gradients(gated: bool, monkeypatch) -> None:
    # Its written-out backward runs on a CPU too; torch refuses it because it is slow.
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    inputs = [draw(seed, 2, 3, 9, 4).requires_grad_() for seed in range(3)]
    values = draw(3, 3, 17).requires_grad_()
    gate = draw(4, 2, 3, 9, 1).requires_grad_() if gated else None
    mask = torch.arange(9) >= torch.tensor([[9], [5]])
    direction = draw(5, 2, 3, 9, 4)
    wanted = [*inputs, values, *([] if gate is None else [gate])]
    grads = []
    for kernels in (table.PLAIN, table.CUDA_FLEX):
        out = kernels.attention(*inputs, kernels.bias(values), gate, kernels.padding(mask), 0.0)
        grads.append(torch.autograd.grad(out, wanted, direction))
    for one, other in zip(*grads, strict=True):
        # Its biases are added in fp32.
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_dropout_of_attention_weights_runs_in_torch(monkeypatch) -> None:
    q, k, v = (draw(seed, 1, 2, 8, 4) for seed in range(3))
    values = draw(3, 2, 15)
    torch.manual_seed(0)
    found = flex.attention(q, k, v, values, None, None, 0.5)
    torch.manual_seed(0)
    expected = plain.attention(q, k, v, plain.expand(values), None, None, 0.5)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", TABLES)
def test_feed_forward_is_linear_gelu_linear(name, monkeypatch) -> None:
    monkeypatch.setattr(inference, "ROWS", 4)
    x, wide, narrow = draw(0, 2, 5, 6), (draw(1, 8, 6), draw(2, 8)), (draw(3, 6, 8), draw(4, 6))
    found = TABLES[name].feed_forward(x, wide, narrow, 0.0)
    torch.testing.assert_close(found, F.linear(F.gelu(F.linear(x, *wide)), *narrow))


def encoder(norm: str = "group", rule: str = "exact") -> Encoder:
    torch.manual_seed(0)
    config = EncoderConfig(
        dim=32, ffn_dim=48, heads=4, layers=2, conv_layers=conv_stack(16), pos_conv_kernel=16,
        pos_conv_groups=4, extractor_norm=norm, normalize=norm == "layer",
        norm_first=norm == "layer", num_buckets=32, max_distance=40, padding_rule=rule,
    )  # fmt: skip
    return Encoder(config).eval()


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_and_plain_encoders_agree(norm: str, dtype: torch.dtype, monkeypatch) -> None:
    """UNISPEECH_PLAIN=1 gives what the kernels of a CPU give, with and without gradients."""
    model = encoder(norm).to(dtype)
    waveforms = draw(1, 3, 24000, dtype=torch.float32).to(dtype)
    lengths = torch.tensor([24000, 9000, 15500])
    outputs = []
    for is_plain, grad in (("1", False), ("0", False), ("0", True)):
        monkeypatch.setenv(table.PLAIN_VARIABLE, is_plain)
        with torch.set_grad_enabled(grad):
            outputs.append(model(waveforms, lengths))
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    for other in outputs[1:]:
        assert torch.equal(other.lengths, outputs[0].lengths)
        for one, two in zip(outputs[0].layers, other.layers, strict=True):
            for row, size in enumerate(other.lengths.tolist()):
                torch.testing.assert_close(two[row, :size], one[row, :size], atol=tolerance, rtol=0)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("rule", ["exact", "fairseq"])
def test_gradients_of_a_ragged_batch_are_those_of_torch(norm, rule, monkeypatch) -> None:
    model = encoder(norm, rule).double()
    waveforms = draw(1, 3, 9000)
    lengths = torch.tensor([9000, 4000, 6500])
    for row, length in enumerate(lengths.tolist()):
        waveforms[row, length:] = 0
    results = []
    for is_plain in ("1", "0"):
        monkeypatch.setenv(table.PLAIN_VARIABLE, is_plain)
        front = model.front_end(waveforms, lengths)
        time_mask = torch.arange(27) % 3 == torch.arange(3)[:, None]
        output = model.encode(front, time_mask)
        valid = ~output.padding_mask
        directions = draw(2, 3, 3, 27, 32)
        states = torch.stack([output.last, *output.layers[1:]])
        loss = (states * directions)[:, valid].sum() + front.penalty
        model.zero_grad()
        loss.backward()
        results.append({n: p.grad for n, p in model.named_parameters()} | {"loss": loss.detach()})
    torch.testing.assert_close(results[1], results[0])


def test_autocast_is_as_exact_as_torch_is(monkeypatch) -> None:
    model = encoder()
    waveforms, lengths = draw(1, 2, 16000, dtype=torch.float32), torch.tensor([16000, 9000])
    errors = []
    with torch.no_grad():
        for is_plain in ("0", "1"):
            monkeypatch.setenv(table.PLAIN_VARIABLE, is_plain)
            exact = model(waveforms, lengths)
            with torch.autocast("cpu", torch.bfloat16):
                half = model(waveforms, lengths)
                assert model.front_end(waveforms, None).features.dtype == torch.bfloat16
            errors.append(float((half.last[0].float() - exact.last[0]).abs().mean()))
    assert 0 < errors[0] < 1.1 * errors[1]


def test_states_are_left_out_when_nobody_wants_them() -> None:
    model = encoder()
    waveforms, lengths = draw(1, 2, 16000, dtype=torch.float32), torch.tensor([16000, 9000])
    with torch.no_grad():
        whole, last = model(waveforms, lengths), model(waveforms, lengths, keep=False)
    assert last.layers == ()
    assert torch.equal(whole.last, last.last)


def test_projections_stay_one_matrix_and_three_parameters() -> None:
    model = encoder()
    attention = model.encoder.layers[0].self_attn
    names = set(model.state_dict())
    for changed in (model, model.to(torch.bfloat16), model.to(torch.float32)):
        assert changed.encoder.layers[0].self_attn.is_merged()
    assert set(model.state_dict()) == names
    waveforms = draw(1, 1, 8000, dtype=torch.float32)
    with torch.no_grad():
        merged = model(waveforms).last
        # Weights of elsewhere are taken as they are.
        attention.q_proj.weight = torch.nn.Parameter(attention.q_proj.weight.clone())
        assert not attention.is_merged()
        torch.testing.assert_close(model(waveforms).last, merged)
    model(waveforms).last.sum().backward()
    assert attention.k_proj.weight.grad is not None


def test_the_choice(monkeypatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setenv(table.PLAIN_VARIABLE, "0")
    monkeypatch.delenv(table.KERNELS_VARIABLE, raising=False)
    assert table.choose(cpu) is table.CPU_TRAINING
    assert table.choose(cpu, is_compiled=True) is table.PLAIN
    assert table.choose(cuda) is table.CUDA
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("flex", "triton"):
        monkeypatch.setenv(table.KERNELS_VARIABLE, name)
        with pytest.raises(DependencyError, match=f"UNISPEECH_KERNELS={name}.*pip install"):
            table.choose(cuda)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setenv(table.KERNELS_VARIABLE, "flex")
    assert table.choose(cuda) is table.CUDA_FLEX
    monkeypatch.setenv(table.KERNELS_VARIABLE, "tritn")
    assert table.choose(cpu) is table.CPU_TRAINING
    with pytest.raises(ConfigError, match="did you mean 'triton'"):
        table.choose(cuda)
    with torch.no_grad():
        assert table.choose(cpu) is table.CPU_INFERENCE
    monkeypatch.setenv(table.PLAIN_VARIABLE, "1")
    for device in (cpu, cuda):
        assert table.choose(device) is table.PLAIN


def test_conv_layers_of_every_shape_are_blocks() -> None:
    layers = (ConvLayer(channels=4, kernel=5, stride=5), ConvLayer(channels=4, kernel=2, stride=1))
    config = EncoderConfig(dim=8, heads=2, ffn_dim=8, layers=1, conv_layers=layers,
                           pos_conv_kernel=4, pos_conv_groups=2)  # fmt: skip
    found = [layer.block() for layer in Encoder(config).feature_extractor.conv_layers]
    assert [(b.kernel, b.stride, b.norm) for b in found] == [(5, 5, "group"), (2, 1, None)]
    assert recompute.extract(torch.zeros(1, 40), None, found).shape == (1, 7, 4)
