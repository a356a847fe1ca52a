"""Margin softmax against closed forms and a peer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.wavlm.modeling_wavlm import AMSoftmaxLoss

from unispeech.losses.margin import (
    Margin,
    class_cosines,
    margin_logits,
    margin_loss,
    scheduled_margin,
)


def angles(degrees: list[float]) -> torch.Tensor:
    return torch.deg2rad(torch.tensor([degrees])).cos()


@pytest.mark.parametrize("target", [0.01, 30.0, 90.0, 150.0, 168.0])
def test_aam_turns_the_target_away_and_nothing_else(target) -> None:
    logits = margin_logits(angles([target, 50, 70]), torch.tensor([0]), Margin(32, 0.2))
    expected = [math.cos(math.radians(target) + 0.2), *np.cos(np.radians([50, 70]))]
    np.testing.assert_allclose(logits[0].numpy(), 32 * np.array(expected), rtol=1e-4)


def test_beyond_pi_the_target_goes_on_falling_without_a_jump() -> None:
    """The continuation of wespeaker; cos(theta + m) itself would rise again."""
    border = math.pi - 0.2
    theta = torch.linspace(border - 0.1, math.pi, 400)
    cosines = torch.stack([theta.cos(), torch.zeros(400)], 1)
    logits = margin_logits(cosines, torch.zeros(400, dtype=torch.int64), Margin(1, 0.2))[:, 0]
    assert (logits[1:] < logits[:-1] + 1e-6).all()
    assert (logits[1:] - logits[:-1]).abs().max() < 1e-3
    assert logits[-1] == pytest.approx(-1 - (1 + math.cos(border)), abs=1e-5)


def test_inter_top_k_brings_the_closest_others_nearer() -> None:
    margin = Margin(10, 0.2, top_k=2, top_margin=0.1)
    logits = margin_logits(angles([20, 80, 40, 60, 30]), torch.tensor([0]), margin)
    turned = np.radians([20, 80, 40, 60, 30]) + np.array([0.2, 0, -0.1, 0, -0.1])
    np.testing.assert_allclose(logits[0].numpy(), 10 * np.cos(turned), rtol=1e-4)
    # Fewer other classes than k: all of them.
    few = margin_logits(angles([20, 80]), torch.tensor([1]), margin)
    np.testing.assert_allclose(
        few[0].numpy(), 10 * np.cos(np.radians([20, 80]) + [-0.1, 0.2]), rtol=1e-4
    )


def test_closest_sub_centre_counts_and_lengths_do_not() -> None:
    embedding = torch.tensor([[3.0, 0.0]])
    classes = torch.tensor([[[0.0, 2.0], [5.0, 5.0]], [[-1.0, 0.0], [0.0, -7.0]]])
    found = class_cosines(embedding, classes)
    np.testing.assert_allclose(found.numpy(), [[math.sqrt(0.5), 0.0]], atol=1e-6)


def test_am_softmax_is_transformers() -> None:
    torch.manual_seed(0)
    peer = AMSoftmaxLoss(8, 5, scale=30.0, margin=0.4)
    embeddings, labels = torch.randn(6, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    cosines = class_cosines(embeddings, peer.weight.T.unsqueeze(1))
    ours = margin_loss(cosines, labels, Margin(30.0, 0.4, "am")) / 6
    torch.testing.assert_close(ours, peer(embeddings, labels))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.0, 0.5))
def test_without_margin_it_is_cross_entropy_and_a_margin_only_adds(seed, margin) -> None:
    generator = torch.Generator().manual_seed(seed)
    cosines = torch.rand(4, 7, generator=generator) * 1.98 - 0.99
    labels = torch.randint(7, (4,), generator=generator)
    plain = margin_loss(cosines, labels, Margin(16, 0.0))
    torch.testing.assert_close(
        plain, F.cross_entropy(16 * cosines, labels, reduction="sum"), rtol=1e-4, atol=1e-4
    )
    assert margin_loss(cosines, labels, Margin(16, margin)) >= plain - 1e-3


def test_gradients_are_finite_where_an_embedding_lies_on_a_class() -> None:
    vectors = torch.eye(3).unsqueeze(1).requires_grad_()
    embeddings = torch.tensor([[2.0, 0, 0], [0, -1.0, 0]], requires_grad=True)
    margin = Margin(32, 0.2, top_k=1, top_margin=0.1)
    margin_loss(class_cosines(embeddings, vectors), torch.tensor([0, 1]), margin).backward()
    assert torch.isfinite(embeddings.grad).all()
    assert torch.isfinite(vectors.grad).all()


def test_margin_rises_as_in_wespeaker() -> None:
    def at(update: int) -> float:
        return scheduled_margin(update, 0.0, 0.2, 100, 200)

    assert [at(1), at(100), at(200), at(9999)] == [0.0, 0.0, 0.2, 0.2]
    # Half of the way the exponent is ln(0.001) / 2.
    assert at(150) == pytest.approx(0.2 * (1 - math.sqrt(1e-3)))
    # A step: the authors have no margin in the first two epochs.
    assert [scheduled_margin(u, 0.0, 0.2, 10, 10) for u in (10, 11)] == [0.0, 0.2]
