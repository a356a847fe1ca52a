"""Objectives against their formulas written out, and the laws of their random choices."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from unispeech.kernels.table import PLAIN_VARIABLE
from unispeech.losses.contrastive import contrastive, utterance_contrast
from unispeech.models.config import ConvLayer, EncoderConfig, MaskConfig, QuantizerConfig
from unispeech.models.draws import Draws, draw, draw_instances, draw_negatives, layout
from unispeech.models.objective import (
    SPECIAL_LABELS,
    ContrastiveConfig,
    GumbelConfig,
    MaskedPredictionConfig,
    MultitaskConfig,
    ObjectiveConfig,
    UtteranceContrastConfig,
)
from unispeech.models.pretraining import PretrainingModel, Targets

QUANTIZER = QuantizerConfig(groups=2, codes=6, dim=8)


def encoder(**changes: object) -> EncoderConfig:
    shape = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
    values: dict[str, object] = {
        "conv_layers": tuple(ConvLayer(channels=8, kernel=k, stride=s) for k, s in shape),
        "dim": 16,
        "ffn_dim": 32,
        "heads": 2,
        "layers": 3,
        "pos_conv_kernel": 8,
        "pos_conv_groups": 2,
        "layer_drop": 0.0,
        **{f"{name}dropout": 0.0 for name in ("", "attention_", "activation_", "input_")},
    }
    return EncoderConfig.model_validate({**values, **changes})


def model_of(
    objective: ObjectiveConfig, clusters: tuple[int, ...] = (), tokens: int = 0, **changes: object
) -> PretrainingModel:
    torch.manual_seed(0)
    return PretrainingModel(encoder(**changes), objective, clusters, tokens)


def waves(rows: int = 3, samples: int = 16000) -> torch.Tensor:
    return torch.randn(rows, samples, generator=torch.Generator().manual_seed(1))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


# Losses, one comparison at a time.


def test_contrast_is_the_cross_entropy_of_the_positive() -> None:
    generator = torch.Generator().manual_seed(3)
    context, targets = (torch.randn(5, 4, generator=generator) for _ in range(2))
    candidates = torch.randn(7, 4, generator=generator)
    candidates[2] = targets[0]
    negatives = torch.tensor([[0, 2, 3], [1, 1, 4], [6, 0, 2], [5, 5, 5], [3, -1, -1]])
    total, hits = 0.0, 0
    for row in range(5):
        positive = cosine(context[row], targets[row]) / 0.1
        others = [
            cosine(context[row], candidates[i]) / 0.1
            for i in negatives[row].tolist()
            if i >= 0 and not torch.equal(candidates[i], targets[row])
        ]
        total += math.log(sum(map(math.exp, [positive, *others]))) - positive
        hits += positive > max(others)
    result = contrastive(context, targets, candidates, negatives)
    assert float(result.loss) == pytest.approx(total, rel=1e-5)
    assert int(result.correct) == hits


def test_a_collapsed_context_has_no_hits() -> None:
    same = torch.ones(4, 3)
    negatives = torch.tensor([[1, 2], [2, 3], [3, 0], [0, 1]])
    result = contrastive(same, same, same, negatives, torch.zeros(4, 2, dtype=torch.bool))
    assert int(result.correct) == 0
    assert float(result.loss) == pytest.approx(4 * math.log(3), rel=1e-5)


@pytest.mark.parametrize("form", ["binary", "softmax"])
def test_utterance_contrast_by_single_comparisons(form: str) -> None:
    generator = torch.Generator().manual_seed(4)
    queries, targets = (torch.randn(6, 4, generator=generator) for _ in range(2))
    utterances = torch.tensor([0, 0, 0, 1, 1, 1])
    instances = torch.tensor([[1, 4], [3, 5], [0, 1], [2, 0], [3, 5], [1, 4]])
    total = 0.0
    for row in range(6):
        compared = [row, *instances[row].tolist()]
        logits = [cosine(queries[row], targets[i]) / 0.1 for i in compared]
        same = [bool(utterances[i] == utterances[row]) for i in compared]
        if form == "binary":
            probs = [1 / (1 + math.exp(-x)) for x in logits]
            losses = [-math.log(p if y else 1 - p) for p, y in zip(probs, same, strict=True)]
            total += sum(losses) / 3
        else:
            normaliser = math.log(sum(map(math.exp, logits)))
            own = [normaliser - x for x, y in zip(logits, same, strict=True) if y]
            total += sum(own) / len(own)
    result = utterance_contrast(queries, targets, instances, utterances, form)  # type: ignore[arg-type]
    assert float(result.loss) == pytest.approx(total, rel=1e-4)


# Random choices.


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(1, 20), st.integers(0, 2**31))
def test_a_frame_is_never_its_own_distractor(frames: int, count: int, seed: int) -> None:
    drawn = draw_negatives(np.arange(frames), frames, count, np.random.default_rng(seed))
    assert drawn.shape == (frames, count)
    assert (drawn != np.arange(frames)[:, None]).all()
    assert drawn.min() >= 0
    assert drawn.max() < frames


def test_distractors_are_uniform_over_the_others() -> None:
    drawn = draw_negatives(np.array([2]), 5, 40000, np.random.default_rng(0))
    shares = np.bincount(drawn[0], minlength=5) / 40000
    np.testing.assert_allclose(shares, [0.25, 0.25, 0, 0.25, 0.25], atol=0.01)


def test_the_references_instances_draw_the_frame_itself() -> None:
    """Measured on the reference with 40 frames: probability 0.022, without exclusion 0.0256."""
    rng = np.random.default_rng(0)
    runs = [draw_instances(40, 100, "reference", rng) for _ in range(100)]
    own = np.mean([run == np.arange(40)[:, None] for run in runs])
    assert own == pytest.approx(0.0235, abs=0.0025)
    drawn = draw_instances(40, 100, "own", rng)
    assert (drawn != np.arange(40)[:, None]).all()


def objectives() -> dict[str, ObjectiveConfig]:
    quantized = {"quantizer": QUANTIZER, "dim": 8, "negatives": 5, "feature_dropout": 0.0}
    utterance = UtteranceContrastConfig(layer=1, instances=7, quantizer=QUANTIZER, dim=8)
    return {
        "hubert": MaskedPredictionConfig(final_dim=8),
        "ils": MaskedPredictionConfig(final_dim=8, predict_layers=(1, 3)),
        "sat": MaskedPredictionConfig(final_dim=8, utterance=utterance),
        "wav2vec2": ContrastiveConfig(**quantized),
        "unispeech2": ContrastiveConfig(**quantized, transposed=True),
        "unispeech": MultitaskConfig(**quantized, final_dropout=0.0),
    }


def batch_of(objective: ObjectiveConfig) -> tuple[Targets, tuple[int, ...], int]:
    if isinstance(objective, MaskedPredictionConfig):
        labels = torch.randint(0, 5, (3, 50), generator=torch.Generator().manual_seed(2))
        return Targets((labels,), (1,)), (5,), 0
    if isinstance(objective, MultitaskConfig):
        tokens = torch.tensor([1, 2, 3, 1])
        return Targets(tokens=tokens, token_lengths=torch.tensor([2, 1, 1])), (), 4
    return Targets(), (), 0


@pytest.mark.parametrize("name", objectives())
@pytest.mark.parametrize("lengths", [None, (16000, 12000, 7000)])
def test_equal_draws_equal_loss_and_every_weight_learns(
    name: str, lengths: tuple[int, ...] | None
) -> None:
    objective = objectives()[name]
    targets, clusters, tokens = batch_of(objective)
    model = model_of(objective, clusters, tokens)
    sizes = None if lengths is None else torch.tensor(lengths)
    batch = layout(model.encoder.config, 3, 16000, sizes, targets.labels, targets.ratios)
    seeds = torch.tensor([5, 6, 7])
    results = [
        model(waves(), sizes, targets, draw(objective, model.encoder.config, batch, seeds, 3, 1))
        for _ in range(2)
    ]
    torch.testing.assert_close(results[0].loss, results[1].loss, atol=0, rtol=0)
    assert math.isfinite(results[0].loss.item())
    results[0].loss.backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A key's bias adds the same to all logits of a query; ILS keeps an unused final norm.
    assert [n for n in dead if "k_proj.bias" not in n] == []


@pytest.mark.parametrize("name", objectives())
@pytest.mark.parametrize("is_plain", ["0", "1"])
def test_padding_changes_no_term(name: str, is_plain: str, monkeypatch) -> None:
    """Zeros behind an utterance are nothing: neither in the choices nor in the sums."""
    monkeypatch.setenv(PLAIN_VARIABLE, is_plain)
    objective = objectives()[name]
    targets, clusters, tokens = batch_of(objective)
    model = model_of(objective, clusters, tokens).eval()
    sizes = torch.tensor([16000, 12000, 7000])
    audio = waves()
    for row, size in enumerate(sizes.tolist()):
        audio[row, size:] = 0
    padded = F.pad(audio, (0, 4800))
    seeds = torch.tensor([5, 6, 7])
    outputs = []
    for batch_audio in (audio, padded):
        shape = (3, batch_audio.shape[1])
        batch = layout(model.encoder.config, *shape, sizes, targets.labels, targets.ratios)
        choices = draw(objective, model.encoder.config, batch, seeds, 0, None)
        outputs.append(model(batch_audio, sizes, targets, choices))
    assert outputs[0].sample_size == outputs[1].sample_size
    torch.testing.assert_close(outputs[0].terms, outputs[1].terms)


# Whole objectives, put together by hand from the model's parts.


def test_layers_and_label_sets_add_up() -> None:
    objective = MaskedPredictionConfig(
        final_dim=8, predict_layers=(1, 3), penalty_weight=0.0
    )
    model = model_of(objective, (5, 9), norm_first=True)
    labels = tuple(torch.randint(0, c, (3, 49 * r)) for c, r in ((5, 1), (9, 2)))
    mask = torch.rand(3, 49, generator=torch.Generator().manual_seed(9)) < 0.5
    draws = Draws.of(mask)
    output = model(waves(), None, Targets(labels, (1, 2)), draws)
    states = model.encoder.encode(model.encoder.front_end(waves(), None), mask).layers
    head = model.heads.layer_label
    assert head is not None
    assert head.post_layer_norm is not None
    total = torch.zeros(())
    for index, layer in enumerate((1, 3)):
        hidden = head.final_proj[index](head.post_layer_norm[index](states[layer]))[mask]
        table = head.label_embeddings[index]
        for rows, own, ratio in ((table[:9], labels[0], 1), (table[9:], labels[1], 2)):
            logits = F.cosine_similarity(hidden[:, None], rows[None], dim=-1) / 0.1
            targets = own[:, ::ratio][mask] + SPECIAL_LABELS
            total = total + F.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(output.loss, total)
    assert output.sample_size == int(mask.sum())


def test_untied_label_sets_have_a_part_of_the_projection_each() -> None:
    objective = MaskedPredictionConfig(final_dim=8, untied=True, penalty_weight=0.0)
    model = model_of(objective, (5, 9))
    labels = tuple(torch.randint(0, count, (3, 49)) for count in (5, 9))
    mask = torch.zeros(3, 49, dtype=torch.bool)
    mask[:, 10:30] = True
    output = model(waves(), None, Targets(labels, (1, 1)), Draws.of(mask))
    hidden = model.encoder.encode(model.encoder.front_end(waves(), None), mask).last[mask]
    head = model.heads.label
    assert head is not None
    assert head.final_proj is not None
    total = torch.zeros(())
    projected = head.final_proj(hidden)
    tables = head.label_embeddings.split([9, 13])
    for part, table, own in zip(projected.split(8, -1), tables, labels, strict=True):
        logits = F.cosine_similarity(part[:, None], table[None], dim=-1) / 0.1
        total = total + F.cross_entropy(logits, own[mask] + SPECIAL_LABELS, reduction="sum")
    torch.testing.assert_close(output.loss, total)


def test_multitask_weighs_its_parts_as_the_paper() -> None:
    """UniSpeech, equation 5; the released code divides both by the masked frames."""
    objective = objectives()["unispeech"]
    assert isinstance(objective, MultitaskConfig)
    targets, _, tokens = batch_of(objective)
    model = model_of(objective, (), tokens)
    mask = torch.zeros(3, 49, dtype=torch.bool)
    mask[:, 5:20] = True
    negatives = torch.randint(0, 147, (45, 5), generator=torch.Generator().manual_seed(1))
    replace = torch.rand(3, 49, generator=torch.Generator().manual_seed(2)) < 0.5
    draws = Draws.of(mask, negatives=negatives, replace=replace)
    output = model(waves(), None, targets, draws)
    front = model.encoder.front_end(waves(), None)
    context = model.encoder.encode(front, mask).last
    head, proj = model.heads.contrast, model.heads.proj
    assert head is not None
    assert proj is not None
    quantized = head.quantizer(front.features)
    codewords = head.final_proj(head.project_q(quantized.vectors))
    mixed = torch.where(replace[..., None], codewords, context)
    log_probs = F.log_softmax(proj(mixed), -1)
    ctc = F.ctc_loss(
        log_probs.transpose(0, 1), targets.tokens, torch.full((3,), 49), targets.token_lengths,
        reduction="sum",
    )  # fmt: skip
    contrast = torch.zeros(())
    flat, codes = codewords.flatten(0, 1), quantized.codes.flatten(0, 1)
    for index, position in enumerate(mask.flatten().nonzero().squeeze(1).tolist()):
        row = context.flatten(0, 1)[position]
        drawn = negatives[index].tolist()
        others = [i for i in drawn if not torch.equal(codes[i], codes[position])]
        cosines = [F.cosine_similarity(row, flat[i], dim=0) for i in (position, *others)]
        contrast = contrast - torch.log_softmax(torch.stack(cosines) / 0.1, 0)[0]
    usage = head.quantizer(front.features.flatten(0, 1)[mask.flatten()][None]).prob_perplexity
    unused = 45 * (12 - usage) / 12
    torch.testing.assert_close(output.loss, 0.5 * ctc + 0.5 * (contrast + 0.1 * unused))


def test_replacement_is_off_in_evaluation_unless_asked_for() -> None:
    base = objectives()["unispeech"]
    batch = layout(encoder(), 2, 16000, None)
    for wanted in (False, True):
        objective = base.model_copy(update={"replace_in_evaluation": wanted})
        draws = draw(objective, encoder(), batch, torch.tensor([1, 2]), 0, None)
        assert (draws.replace is not None) == wanted
        assert not draws.time_mask.any()
        assert draws.masked.tolist() == list(range(98))


def test_temperature_of_the_codeword_draws() -> None:
    """The specification's values of (2, 0.1, 0.999995)."""
    schedule = GumbelConfig(stop=0.1)
    expected = {100_000: 1.213060, 277_259: 0.499998, 400_000: 0.270669, 599_146: 0.1}
    for update, value in expected.items():
        assert schedule.temperature(update) == pytest.approx(value, abs=1e-6)


def test_trimmed_masks_have_equal_counts() -> None:
    objective = MaskedPredictionConfig(mask=MaskConfig(trim=True))
    sizes = torch.tensor([64000, 30000, 48000])
    batch = layout(encoder(), 3, 64000, sizes)
    draws = draw(objective, encoder(), batch, torch.tensor([1, 2, 3]), 0, 1)
    counts = draws.time_mask.sum(1).tolist()
    assert len(set(counts)) == 1
    untrimmed = objective.model_copy(update={"mask": MaskConfig()})
    whole = draw(untrimmed, encoder(), batch, torch.tensor([1, 2, 3]), 0, 1)
    assert bool((whole.time_mask | ~draws.time_mask).all())
    assert min(whole.time_mask.sum(1).tolist()) == counts[0]


def test_reference_options_change_the_choices() -> None:
    sizes = torch.tensor([16000, 9000, 16000])
    batch = layout(encoder(), 3, 16000, sizes)
    seeds = torch.tensor([1, 2, 3])
    for name, key in itertools.product(("unispeech", "sat"), ("own", "reference")):
        objective = objectives()[name]
        if isinstance(objective, MaskedPredictionConfig):
            assert objective.utterance is not None
            utterance = objective.utterance.model_copy(update={"exclusion": key})
            objective = objective.model_copy(update={"utterance": utterance})
        else:
            objective = objective.model_copy(update={"exclusion": key})
        draws = draw(objective, encoder(), batch, seeds, 0, 1)
        assert draws.negatives is not None
        pool = draws.masked
        if name == "unispeech":
            pool = torch.cat([draws.masked, draws.unmasked]).sort().values
        own = (pool[draws.negatives] == draws.masked[:, None]).any()
        assert bool(own) == (key == "reference")
