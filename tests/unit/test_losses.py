"""Masked prediction against the specification's golden and the reference's form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unispeech.losses.masked import label_logits, masked_prediction
from unispeech.models.config import ConvLayer, EncoderConfig
from unispeech.models.ctc import ctc_loss
from unispeech.models.draws import draw, layout
from unispeech.models.objective import SPECIAL_LABELS, MaskedPredictionConfig
from unispeech.models.pretraining import PretrainingModel, Targets


def golden() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.sin(torch.arange(12.0)).view(3, 4)
    table = torch.cos(0.7 * torch.arange(24.0)).view(6, 4)
    return x, table, torch.tensor([0, 3, 5])


def test_golden_loss_and_logits() -> None:
    x, table, labels = golden()
    result = masked_prediction(x, table, labels, 0.1)
    assert float(result.loss) == pytest.approx(10.736412, abs=1e-5)
    row = [4.2644, -6.7801, 8.3858, -9.1263, 9.0371, -8.0684]
    torch.testing.assert_close(label_logits(x, table, 0.1)[0], torch.tensor(row), atol=1e-4, rtol=0)


def test_equals_the_references_positive_first_form() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 16, generator=generator, dtype=torch.float32)
    table = torch.rand(11, 16, generator=generator)
    labels = torch.randint(0, 11, (7,), generator=generator)
    cosine = F.cosine_similarity(x[:, None], table[None], dim=-1) / 0.1
    positive = cosine.gather(1, labels[:, None])
    others = cosine.scatter(1, labels[:, None], float("-inf"))
    logits = torch.cat([positive, others], dim=1)
    expected = F.cross_entropy(logits, torch.zeros(7, dtype=torch.long), reduction="sum")
    result = masked_prediction(x, table, labels, 0.1)
    torch.testing.assert_close(result.loss, expected)
    assert int(result.correct) == int((cosine.argmax(1) == labels).sum())


def tiny_model(**objective: object) -> PretrainingModel:
    torch.manual_seed(0)
    shape = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
    encoder = EncoderConfig(
        conv_layers=tuple(ConvLayer(channels=8, kernel=k, stride=s) for k, s in shape),
        dim=16,
        ffn_dim=32,
        heads=2,
        layers=2,
        pos_conv_kernel=8,
        pos_conv_groups=2,
        dropout=0,
        attention_dropout=0,
        input_dropout=0,
        layer_drop=0,
    )
    return PretrainingModel(encoder, MaskedPredictionConfig(final_dim=8, **objective), (5,))


def run(model: PretrainingModel, waveforms: torch.Tensor, labels: torch.Tensor, ratio: int):
    """The output of a batch and the choices that were drawn for it."""
    config, targets = model.encoder.config, Targets((labels,), (ratio,))
    batch = layout(config, *waveforms.shape, None, targets.labels, targets.ratios)
    seeds = torch.arange(3, 3 + len(labels))
    draws = draw(model.objective, config, batch, seeds, 0, 0)
    return model(waveforms, None, targets, draws), draws


def test_only_masked_labelled_frames_count_and_the_sum_is_as_defined() -> None:
    model = tiny_model(penalty_weight=3.0)
    waveforms = torch.randn(2, 16000, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, 5, (2, 100), generator=torch.Generator().manual_seed(2))
    labels[1, 60:] = -1
    output, draws = run(model, waveforms, labels, 2)
    front = model.encoder.front_end(waveforms, None, 50)
    mask = draws.time_mask
    hidden = model.encoder.encode(front, mask).last
    targets = labels[:, :98:2]
    where = mask & (targets >= 0)
    assert output.sample_size == int(where.sum())
    head = model.heads.label
    assert head is not None
    assert head.final_proj is not None
    logits = label_logits(head.final_proj(hidden[where]), head.label_embeddings, 0.1)
    expected = F.cross_entropy(logits, targets[where] + SPECIAL_LABELS, reduction="sum")
    penalty = model.encoder.feature_extractor(waveforms, None, "exact").square().mean()
    total = expected + 3.0 * penalty * output.sample_size
    torch.testing.assert_close(output.loss, total)


def test_labels_that_end_early_trim_the_frames() -> None:
    model = tiny_model(penalty_weight=0.0)
    output, draws = run(model, torch.randn(1, 16000), torch.zeros(1, 40, dtype=torch.long), 1)
    assert draws.time_mask.shape == (1, 40)
    assert output.sample_size == int(draws.time_mask.sum())


def test_unmasked_frames_are_an_option() -> None:
    model = tiny_model(penalty_weight=0.0, unmasked_weight=1.0)
    output, _ = run(model, torch.randn(1, 16000), torch.zeros(1, 49, dtype=torch.long), 1)
    assert output.sample_size == 49
    torch.testing.assert_close(output.loss, output.terms["masked"] + output.terms["unmasked"])


def test_ctc_by_enumeration() -> None:
    # Two frames, target "a": the paths aa, a-, -a.
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]])
    expected = -torch.log(torch.tensor(0.3 * 0.1 + 0.3 * 0.6 + 0.5 * 0.1))
    loss = ctc_loss(probs.log()[None], torch.tensor([2]), torch.tensor([1]), torch.tensor([1]))
    torch.testing.assert_close(loss, expected)
