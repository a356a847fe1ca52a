"""The quantizer against the reference's stored values."""

from __future__ import annotations

import pytest
import torch

from unispeech.models.config import QuantizerConfig
from unispeech.models.quantizer import GumbelQuantizer


def golden() -> GumbelQuantizer:
    quantizer = GumbelQuantizer(8, QuantizerConfig(groups=2, codes=5, dim=6))
    with torch.no_grad():
        quantizer.weight_proj.weight.copy_(torch.sin(torch.arange(80.0)).view(10, 8))
        quantizer.weight_proj.bias.zero_()
        quantizer.vars.copy_((torch.arange(30.0) / 10).view(1, 10, 3))
    return quantizer


def test_best_codewords_of_the_reference() -> None:
    x = torch.cos(0.37 * torch.arange(112.0)).view(2, 7, 8)
    with torch.no_grad():
        result = golden()(x)
    codes = [[0, 2], [2, 4], [0, 2], [1, 0], [3, 2], [1, 0], [3, 2], [1, 3], [2, 1], [0, 2]]
    codes += [[2, 4], [0, 2], [2, 4], [0, 2]]
    assert result.codes.view(-1, 2).tolist() == codes
    assert float(result.code_perplexity) == pytest.approx(7.582534, abs=1e-5)
    assert float(result.prob_perplexity) == pytest.approx(9.880466, abs=1e-5)
    assert float(result.vectors.sum()) == pytest.approx(113.70001, abs=1e-3)


def test_noise_chooses_by_the_softmax() -> None:
    torch.manual_seed(0)
    quantizer = golden()
    x = torch.cos(0.37 * torch.arange(8.0)).view(1, 1, 8).expand(1, 20000, 8)
    with torch.no_grad():
        drawn = quantizer(x, temperature=0.5).codes[0]
        expected = torch.softmax(quantizer.weight_proj(x[0, 0]).view(2, 5), -1)
    for group in range(2):
        share = torch.bincount(drawn[:, group], minlength=5) / 20000
        torch.testing.assert_close(share, expected[group], atol=0.015, rtol=0)


def test_gradients_reach_codewords_and_projection() -> None:
    quantizer = golden()
    x = torch.randn(2, 7, 8, requires_grad=True)
    result = quantizer(x, temperature=2.0)
    (result.vectors.square().sum() + result.prob_perplexity).backward()
    for tensor in (x, quantizer.vars, quantizer.weight_proj.weight):
        assert tensor.grad is not None
        assert float(tensor.grad.abs().sum()) > 0
