"""Sizes, buckets, gates and lengths against the specification's numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unispeech.config import load
from unispeech.kernels import plain
from unispeech.models.attention import SelfAttention, relative_buckets
from unispeech.models.config import EncoderConfig, conv_stack
from unispeech.models.encoder import Encoder
from unispeech.models.frontend import frame_padding_mask, output_length
from unispeech.models.transformer import (
    PositionalConv,
    RelativePositionBias,
    draw_dropped_layers,
)
from unispeech.train.config import PretrainConfig


@pytest.mark.parametrize(
    ("name", "parameters"), [("wavlm_base", 94_381_936), ("wavlm_large", 315_453_120)]
)
def test_shipped_configs_have_the_released_number_of_parameters(repo, name, parameters) -> None:
    config = load(PretrainConfig, [repo / f"egs/librispeech/conf/{name}/pretrain.yaml"])
    with torch.device("meta"):
        encoder = Encoder(config.model)
    assert sum(p.numel() for p in encoder.parameters()) == parameters


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(400, 1), (719, 1), (720, 2), (16000, 49), (250000, 781), (480000, 1499), (561600, 1754)],
)
def test_output_length_of_the_seven_blocks(samples: int, frames: int) -> None:
    assert output_length(samples, conv_stack()) == frames


def test_buckets_of_the_reference() -> None:
    distance = [-2000, -800, -500, -200, -100, -81, -80, -79, -1, 0, 1, 79, 80, 100, 200, 799, 2000]
    expected = [159, 159, 143, 111, 87, 80, 80, 79, 1, 0, 161, 239, 240, 247, 271, 319, 319]
    assert relative_buckets(torch.tensor(distance), 320, 800).tolist() == expected
    assert relative_buckets(torch.tensor([-800, -500, 100, 2000]), 320, 1280).tolist() == [
        146,
        132,
        246,
        319,
    ]


def reference_attention() -> tuple[SelfAttention, RelativePositionBias]:
    config = EncoderConfig(
        dim=8, heads=2, num_buckets=32, max_distance=16, pos_conv_groups=4, attention_dropout=0
    )
    attention, table = SelfAttention(config), RelativePositionBias(config)
    parameters = [
        attention.grep_a,
        table.embedding.weight,
        *(p for m in ("k", "v", "q", "out") for p in getattr(attention, m + "_proj").parameters()),
        attention.grep_linear.weight,
        attention.grep_linear.bias,
    ]
    with torch.no_grad():
        for index, parameter in enumerate(parameters):
            wave = 0.5 * torch.sin((0.3 + 0.1 * index) * torch.arange(parameter.numel()))
            parameter.copy_(wave.view_as(parameter))
    return attention.eval(), table


def test_gated_attention_of_the_reference() -> None:
    attention, table = reference_attention()
    x = torch.cos(0.11 * torch.arange(96.0)).view(6, 2, 8).transpose(0, 1)
    with torch.no_grad():
        bias = plain.expand(table(6))
        out = attention(x, bias, None)
        gate = attention.gate(x)
    golden = [0.21156, 0.00617, 0.87214, -0.62832, -0.37217, 0.06309, -0.05806, 0.96242]
    torch.testing.assert_close(out[0, 0], torch.tensor(golden), atol=2e-5, rtol=0)
    assert float(out.sum()) == pytest.approx(12.834401, abs=1e-4)
    assert float(out.abs().sum()) == pytest.approx(40.567356, abs=1e-4)
    golden_bias = [0, 0.42958, 0.48283, 0.24320, -0.14395, -0.44378]
    torch.testing.assert_close(bias[0, 0], torch.tensor(golden_bias), atol=1e-5, rtol=0)
    assert float(gate.min()) == pytest.approx(1.358438, abs=1e-5)
    assert float(gate.max()) == pytest.approx(1.569360, abs=1e-5)


def test_frame_masks_of_the_two_references() -> None:
    config = EncoderConfig()
    lengths = torch.tensor([32000, 20100])
    for rule, valid in (("fairseq", 63), ("huggingface", 62), ("exact", 62)):
        mask = frame_padding_mask(lengths, 32000, 99, config, rule)
        assert (~mask).sum(1).tolist() == [99, valid]


def test_layer_drop_is_the_same_for_one_seed_and_has_the_right_rate() -> None:
    config = EncoderConfig(layer_drop=0.25)
    assert draw_dropped_layers(config, 7) == draw_dropped_layers(config, 7)
    dropped = sum(len(draw_dropped_layers(config, seed)) for seed in range(1000))
    assert dropped / 12000 == pytest.approx(0.25, abs=0.02)


def test_too_short_utterance_is_a_clear_error() -> None:
    from unispeech.errors import DataError

    config = EncoderConfig(dim=16, ffn_dim=16, heads=2, layers=1, conv_layers=conv_stack(4))
    with pytest.raises(DataError, match="at least 400 samples, found 399"):
        Encoder(config)(torch.zeros(1, 399))


@pytest.mark.parametrize("fused", [True, False])
def test_positional_filters_follow_the_optimizer(fused: bool) -> None:
    """What a validation computes during training is what the saved weights compute."""
    config = EncoderConfig(dim=8, heads=2, pos_conv_kernel=4, pos_conv_groups=2)
    trained, fresh = PositionalConv(config), PositionalConv(config)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.1, fused=fused)
    x = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        trained(x).square().sum().backward()
        optimizer.step()
        fresh.load_state_dict(trained.state_dict())
        with torch.no_grad():
            expected = F.conv1d(
                x.transpose(1, 2), fresh.weight(), fresh.bias, padding=2, groups=2
            )
            assert torch.equal(trained(x), fresh(x))
        assert torch.equal(trained(x), F.gelu(expected[:, :, :12]).transpose(1, 2))
        fresh = PositionalConv(config)
