"""Schedules against the specification's goldens, the optimizer against fairseq's formula."""

from __future__ import annotations

import math

import pytest
import torch

from unispeech.config import load
from unispeech.train.config import FinetuneConfig, OptimConfig, PretrainConfig
from unispeech.train.optim import build_optimizer, learning_rate, polynomial, set_step, tri_stage


@pytest.mark.parametrize(
    ("update", "rate"),
    [(16000, 2.5e-4), (32000, 5e-4), (32001, 4.999986413e-4), (216000, 2.5e-4), (400000, 0.0)],
)
def test_polynomial_goldens(update: int, rate: float) -> None:
    assert polynomial(update, 5e-4, 32000, 400000) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize(("update", "rate"), [(112500, 5e-4), (200000, 0.0), (225000, 0.0)])
def test_polynomial_ends_before_the_training(update: int, rate: float) -> None:
    config = OptimConfig(lr=1e-3, warmup=25000, total=200000)
    assert learning_rate(config, update, 250000) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("update", "rate"),
    [
        (0, 3e-7),
        (4000, 1.515e-5),
        (8000, 3e-5),
        (40000, 3e-5),
        (60000, 6.708204e-6),
        (80000, 1.5e-6),
        (90000, 1.5e-6),
    ],
)
def test_tri_stage_goldens(update: int, rate: float) -> None:
    assert tri_stage(update, 3e-5, 8000, 32000, 40000) == pytest.approx(rate, rel=1e-6)


def test_shipped_schedules(repo) -> None:
    conf = repo / "egs/librispeech/conf"
    base = load(PretrainConfig, [conf / "wavlm_base/pretrain.yaml"])
    assert learning_rate(base.optim, 216000, base.train.updates) == pytest.approx(2.5e-4)
    tuned = load(FinetuneConfig, [conf / "finetune/base_100h.yaml"])
    assert learning_rate(tuned.optim, 60000, tuned.train.updates) == pytest.approx(6.708204e-6)
    large = load(PretrainConfig, [conf / "wavlm_large/pretrain.yaml"])
    assert learning_rate(large.optim, 32000, large.train.updates) == pytest.approx(1.5e-3)


def test_shipped_schedules_of_unispeech(repo) -> None:
    conf = repo / "egs/commonvoice/conf/unispeech_large"
    first = load(PretrainConfig, [conf / "pretrain.yaml"])
    assert learning_rate(first.optim, 112500, first.train.updates) == pytest.approx(5e-4)
    assert learning_rate(first.optim, 200000, first.train.updates) == 0
    tuned = load(FinetuneConfig, [conf / "finetune.yaml"])
    for update, rate in ((1000, 1.01e-5), (15000, 4.472136e-6), (20000, 1e-6)):
        assert learning_rate(tuned.optim, update, tuned.train.updates) == pytest.approx(rate)


def test_adam_is_fairseqs() -> None:
    """Decay before the step, epsilon added to sqrt(v) before the bias correction."""
    config = OptimConfig(eps=0.1, weight_decay=0.2)
    value = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = build_optimizer([value], config)
    expected, m, v = value.detach().clone(), torch.zeros(2), torch.zeros(2)
    m, v = m.double(), v.double()
    for step in range(4):
        gradient = torch.tensor([0.3 * (step + 1), -0.5], dtype=torch.float64)
        value.grad = gradient.clone()
        set_step(optimizer, config, 0.01, step)
        optimizer.step()
        m = 0.9 * m + 0.1 * gradient
        v = 0.98 * v + 0.02 * gradient**2
        expected = expected - 0.01 * 0.2 * expected
        size = 0.01 * math.sqrt(1 - 0.98 ** (step + 1)) / (1 - 0.9 ** (step + 1))
        expected = expected - size * m / (v.sqrt() + 0.1)
    torch.testing.assert_close(value.detach(), expected)
