"""Losses under the best order of the speakers, against every order written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from unispeech.losses.permutation import (
    activity_costs,
    activity_loss,
    best_permutation,
    orders,
    powerset,
    powerset_activity,
    powerset_loss,
)
from unispeech.losses.speaker_table import speaker_loss, speaker_vectors


@st.composite
def chunks(draw, most: int = 4):
    """Logits, activities and lengths of a batch of chunks."""
    slots = draw(st.integers(1, most))
    frames = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    logits = draw(st.sampled_from([0.1, 3.0, 60.0])) * torch.randn(
        2, frames, slots, generator=generator
    )
    activity = (torch.rand(2, frames, slots, generator=generator) < 0.5).float()
    lengths = torch.tensor([frames, draw(st.integers(1, frames))])
    return logits, activity, lengths


def valid_of(lengths: torch.Tensor, frames: int) -> torch.Tensor:
    return torch.arange(frames) < lengths.unsqueeze(1)


@settings(max_examples=60, deadline=None)
@given(chunks())
def test_activity_loss_is_the_smallest_of_all_orders(chunk) -> None:
    logits, activity, lengths = chunk
    found = activity_loss(logits, activity, valid_of(lengths, logits.shape[1]))
    for row, length in enumerate(lengths.tolist()):
        own, truth = logits[row, :length], activity[row, :length]
        losses = {
            order: float(F.binary_cross_entropy_with_logits(own, truth[:, list(order)]))
            for order in itertools.permutations(range(logits.shape[2]))
        }
        # A frame that is right costs softplus(x) - x: nothing is left of it but rounding of x.
        rounding = 1e-6 * max(1.0, float(own.abs().max()))
        assert float(found.loss[row]) == pytest.approx(min(losses.values()), rel=1e-4, abs=rounding)
        chosen = losses[tuple(found.order[row].tolist())]
        assert chosen == pytest.approx(min(losses.values()), rel=1e-4, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(chunks(3), st.integers(1, 3))
def test_powerset_loss_is_the_smallest_of_all_orders(chunk, together) -> None:
    _, activity, lengths = chunk
    slots = activity.shape[2]
    together = min(together, slots)
    classes = powerset(slots, together)
    generator = torch.Generator().manual_seed(int(activity.sum()) + 7)
    logits = 2 * torch.randn(*activity.shape[:2], len(classes), generator=generator)
    found = powerset_loss(logits, activity, valid_of(lengths, logits.shape[1]), classes)
    sets = [frozenset(row.nonzero().flatten().tolist()) for row in classes]
    for row, length in enumerate(lengths.tolist()):
        losses = []
        for order in itertools.permutations(range(slots)):
            total = 0.0
            for frame in range(length):
                truth = {s for s in range(slots) if activity[row, frame, order[s]] > 0}
                size = min(len(truth), together)
                right = [i for i, one in enumerate(sets) if one <= truth and len(one) == size]
                probability = torch.softmax(logits[row, frame].double(), 0)[right].sum()
                total -= math.log(probability)
            losses.append(total / length)
        assert float(found.loss[row]) == pytest.approx(min(losses), rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_best_permutation_is_scipys_assignment(slots, seed) -> None:
    costs = np.random.default_rng(seed).normal(size=(3, slots, slots))
    found = best_permutation(torch.from_numpy(costs))
    for cost, order in zip(costs, found, strict=True):
        rows, columns = linear_sum_assignment(cost)
        assert order.sort().values.tolist() == list(range(slots))
        assert cost[range(slots), order].sum() == pytest.approx(cost[rows, columns].sum())


@settings(max_examples=30, deadline=None)
@given(chunks(3), st.integers(0, 5))
def test_order_of_the_references_does_not_matter(chunk, number) -> None:
    logits, activity, lengths = chunk
    valid = valid_of(lengths, logits.shape[1])
    every = orders(logits.shape[2])
    shuffled = activity[:, :, every[number % len(every)]]
    classes = powerset(logits.shape[2], logits.shape[2])
    sets = logits @ torch.ones(logits.shape[2], len(classes))
    for one, other in (
        (activity_loss(logits, activity, valid), activity_loss(logits, shuffled, valid)),
        (
            powerset_loss(sets, activity, None, classes),
            powerset_loss(sets, shuffled, None, classes),
        ),
    ):
        torch.testing.assert_close(one.loss, other.loss)


def test_ties_take_the_first_order() -> None:
    assert best_permutation(torch.zeros(2, 3, 3)).tolist() == [[0, 1, 2]] * 2


def test_padding_has_no_gradient_and_no_effect() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 8, 3, generator=generator).requires_grad_()
    activity = (torch.rand(1, 8, 3, generator=generator) < 0.5).float()
    valid = valid_of(torch.tensor([5]), 8)
    loss = activity_loss(logits, activity, valid).loss
    torch.testing.assert_close(loss, activity_loss(logits[:, :5], activity[:, :5], None).loss)
    loss.sum().backward()
    assert bool((logits.grad[:, 5:] == 0).all())
    assert bool((logits.grad[:, :5] != 0).all())


def test_logits_of_any_size_are_finite() -> None:
    logits = torch.tensor([[[1e4, -1e4]]])
    costs = activity_costs(logits, torch.tensor([[[1.0, 0.0]]]), None)
    torch.testing.assert_close(costs, torch.tensor([[[0.0, 1e4], [1e4, 0.0]]]))


def test_classes_of_three_speakers_two_at_once() -> None:
    """Silence, three alone and three pairs: the seven classes of Plaquet and Bredin 2023."""
    classes = powerset(3, 2)
    assert classes.int().tolist() == [
        [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]
    ]  # fmt: skip
    logits = torch.log(torch.tensor([0.1, 0.2, 0.1, 0.1, 0.3, 0.15, 0.05])).view(1, 1, 7)
    found = powerset_activity(logits, classes)
    torch.testing.assert_close(found, torch.tensor([[[0.65, 0.45, 0.3]]]))


def test_too_many_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="7 slots"):
        best_permutation(torch.zeros(1, 7, 7))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["slots", "active"]))
def test_speaker_loss_is_its_formula(seed, over) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(2, 3, 5))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    table, labels = 4 * rng.normal(size=(7, 5)), rng.integers(-1, 7, (2, 3))
    scale, offset = rng.uniform(0.5, 20), rng.normal()
    found = speaker_loss(
        *map(torch.from_numpy, (vectors, labels, table)), torch.tensor(scale), torch.tensor(offset),
        over,
    )  # fmt: skip
    for row in range(2):
        losses = []
        for vector, label in zip(vectors[row], labels[row], strict=True):
            if label < 0:
                continue
            rows = table / np.linalg.norm(table, axis=1, keepdims=True)
            logits = -(scale * ((vector - rows) ** 2).sum(1) + offset)
            losses.append(np.log(np.exp(logits).sum()) - logits[label])
        count = 3 if over == "slots" else max(len(losses), 1)
        assert float(found[row]) == pytest.approx(sum(losses) / count, rel=1e-5, abs=1e-7)


def test_offset_cancels_and_a_scale_below_zero_is_held() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(1, 2, 4, generator=generator), dim=2)
    table = torch.randn(5, 4, generator=generator)
    offset = torch.tensor(0.7, requires_grad=True)
    loss = speaker_loss(vectors, torch.tensor([[0, 3]]), table, torch.tensor(-3.0), offset).sum()
    loss.backward()
    assert abs(float(offset.grad)) < 1e-6
    assert loss.item() == pytest.approx(math.log(5), abs=1e-4)


def test_speaker_vectors_are_weighted_directions() -> None:
    frames = torch.tensor([[[[3.0, 0.0]], [[0.0, 0.5]], [[9.0, 9.0]]]])
    found = speaker_vectors(frames, torch.tensor([[[0.6], [0.8], [0.0]]]))
    torch.testing.assert_close(found, torch.tensor([[[0.6, 0.8]]]))
