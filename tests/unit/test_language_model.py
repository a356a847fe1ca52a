"""The Transformer language model against torch's and transformers' own parts, and its laws."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unispeech.data import vocabulary
from unispeech.data.text import pad
from unispeech.errors import ConfigError
from unispeech.models import language_model
from unispeech.models.language_model import LanguageModel, band_widths, positions
from unispeech.models.language_model_config import LanguageModelConfig

UNITS = 40
SIZES = {"layers": 2, "dim": 16, "ffn_dim": 24, "heads": 4}
KINDS = {
    "plain": {"input_cutoffs": (), "output_cutoffs": (), "tied": False},
    "shared": {"input_cutoffs": (), "output_cutoffs": ()},
    "adaptive": {"tied": False, "tied_projections": False},
    "other-bands": {"tied": False, "input_cutoffs": (30,), "input_factor": 2.0},
    "tied": {"tied_projections": False},
    "all-tied": {"activation": "gelu", "scale_embedding": False},
    "post-norm": {"norm_first": False, "final_norm": False},
}


def small(kind: str = "all-tied") -> LanguageModel:
    """A model of 40 units in bands of 10, 15 and 15, with weights that are all different."""
    bands = {"input_cutoffs": (10, 25), "output_cutoffs": (10, 25)}
    values = {**SIZES, **bands, "input_factor": 4.0, "output_factor": 4.0, **KINDS[kind]}
    torch.manual_seed(1)
    model = LanguageModel(LanguageModelConfig.model_validate(values), UNITS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double()


def sentences() -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, UNITS, (n,), generator=generator).tolist() for n in (7, 1, 12)]


def reference(model: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    """The same network from torch's own layers and softmax: ln P of all units `(T, V)`."""
    config = model.config
    layer = nn.TransformerEncoderLayer(
        config.dim, config.heads, config.ffn_dim, 0.0, config.activation,
        batch_first=True, norm_first=config.norm_first,
    )  # fmt: skip
    norm = nn.LayerNorm(config.dim) if config.final_norm else None
    body = nn.TransformerEncoder(layer, config.layers, norm, enable_nested_tensor=False)
    state = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "layers" and parts[2] == "self_attn":
            if parts[3] == "out_proj":
                state[name] = value
            continue
        names = {"fc1": "linear1", "fc2": "linear2", "self_attn_layer_norm": "norm1"}
        names |= {"final_layer_norm": "norm2"}
        if parts[0] == "layers":
            state[".".join([*parts[:2], names[parts[2]], *parts[3:]])] = value
        elif parts[0] == "layer_norm":
            state["norm." + parts[1]] = value
    for index, own in enumerate(model.layers):
        projections = [getattr(own.self_attn, f"{n}_proj") for n in "qkv"]
        before = f"layers.{index}.self_attn.in_proj_"
        state[before + "weight"] = torch.cat([p.weight for p in projections])
        state[before + "bias"] = torch.cat([p.bias for p in projections])
    body.load_state_dict(state)
    body.double().eval()
    embedded = []
    for token in tokens.tolist():
        for index, (begin, end) in enumerate(model.embedding.bands):
            if begin <= token < end:
                row = model.embedding.tables[index].weight[token - begin]
                if config.input_cutoffs:
                    row = model.embedding.projections[index].weight @ row
                embedded.append(row)
    x = torch.stack(embedded) * (math.sqrt(config.dim) if config.scale_embedding else 1.0)
    x = x + sinusoids(len(tokens), config.dim)
    mask = nn.Transformer.generate_square_subsequent_mask(len(tokens), dtype=torch.double)
    hidden = body(x.unsqueeze(0), mask=mask, is_causal=True)[0]
    return softmax(model, hidden)


def sinusoids(count: int, dim: int) -> torch.Tensor:
    """One number at a time; the first place is 2 and the last rate 1/10000."""
    half = dim // 2
    rates = [10000 ** (-i / (half - 1)) for i in range(half)]
    rows = [
        [math.sin(t * r) for r in rates] + [math.cos(t * r) for r in rates]
        for t in range(2, count + 2)
    ]
    return torch.tensor(rows, dtype=torch.double)


def softmax(model: LanguageModel, hidden: torch.Tensor) -> torch.Tensor:
    """By torch's adaptive softmax where there are cutoffs."""
    config, output, tables = model.config, model.output, model.embedding.tables
    if not config.output_cutoffs:
        weight = tables[0].weight if config.tied else output.head.weight
        return F.linear(hidden, weight).log_softmax(1)
    peer = nn.AdaptiveLogSoftmaxWithLoss(
        config.dim, UNITS, list(config.output_cutoffs), config.output_factor
    ).double()
    with torch.no_grad():
        head = output.head.weight if output.head else None
        if head is None:
            head = torch.cat([tables[0].weight, output.classes.weight])
        peer.head.weight.copy_(head)
        for index, tail in enumerate(peer.tail):
            narrow = (
                model.embedding.projections[index + 1].weight.t()
                if output.tied_projections
                else output.projections[index].weight
            )
            wide = (tables[index + 1] if config.tied else output.tables[index]).weight
            tail[0].weight.copy_(narrow)
            tail[1].weight.copy_(wide)
    return peer.log_prob(hidden)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_network_from_torchs_own_layers(kind: str) -> None:
    model = small(kind)
    tokens, targets = pad(sentences())
    with torch.no_grad():
        found = model(tokens, targets)
        for row, units in enumerate(sentences()):
            expected = reference(model, tokens[row, : len(units) + 1])
            picked = expected.gather(1, targets[row, : len(units) + 1, None])[:, 0]
            torch.testing.assert_close(found[row, : len(units) + 1], picked, atol=1e-5, rtol=0)
            assert not found[row, len(units) + 1 :].any()


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_equals_all_at_once_and_sums_to_one(kind: str) -> None:
    model = small(kind)
    units = sentences()[2]
    tokens, targets = pad([units])
    with torch.no_grad():
        whole, _ = model.step(tokens)
        past, rows = None, []
        for begin, end in ((0, 1), (1, 2), (2, 6), (6, 13)):
            scores, past = model.step(tokens[:, begin:end], past)
            rows.append(scores)
        torch.testing.assert_close(torch.cat(rows, 1), whole, atol=1e-6, rtol=0)
        torch.testing.assert_close(whole.exp().sum(2), torch.ones(1, 13, dtype=torch.double))
        picked = whole.gather(2, targets.unsqueeze(2)).squeeze(2)
        torch.testing.assert_close(model(tokens, targets), picked, atol=1e-6, rtol=0)


def test_padding_changes_nothing() -> None:
    model = small()
    together = model(*pad(sentences()))
    for row, units in enumerate(sentences()):
        alone = model(*pad([units]))[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-9, rtol=0)


def test_every_weight_has_a_gradient_from_one_frequent_word() -> None:
    """Processes can then be summed, whichever bands their batches use."""
    model = small("adaptive")
    model(*pad([[4, 5]])).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_recomputed_layers_have_the_same_gradient() -> None:
    gradients = []
    for is_recomputed in (False, True):
        model = small()
        model.activation_checkpointing = is_recomputed
        model(*pad(sentences())).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_size_of_the_published_model() -> None:
    """20 blocks of 1280, 6144 and 16 heads: counted by hand from the formula of a block."""
    with torch.device("meta"):
        model = LanguageModel(LanguageModelConfig(), 200_000)
    block = 4 * (1280**2 + 1280) + 2 * 1280 * 6144 + 6144 + 1280 + 4 * 1280
    widths = [1280, 320, 80]
    tables = sum(n * w for n, w in zip((20_000, 40_000, 140_000), widths, strict=True))
    around = tables + sum(1280 * w for w in widths) + 2 * 1280 + 2 * 1280
    assert sum(p.numel() for p in model.parameters()) == 20 * block + around
    assert band_widths(1280, 4, 3) == widths


def test_positions_continue() -> None:
    device = torch.device("cpu")
    whole = positions(0, 9, 16, device)
    torch.testing.assert_close(positions(4, 5, 16, device), whole[4:])
    torch.testing.assert_close(whole.double(), sinusoids(9, 16), atol=1e-5, rtol=0)


def test_symbols_of_the_vocabulary_are_those_of_the_model() -> None:
    ids = (vocabulary.PADDING, vocabulary.END, vocabulary.UNKNOWN)
    assert ids == (language_model.PADDING, language_model.END, language_model.UNKNOWN)
    assert [vocabulary.SPECIAL[i] for i in ids] == ["<pad>", "</s>", "<unk>"]


def test_cutoffs_need_a_vocabulary() -> None:
    with pytest.raises(ConfigError, match="a cutoff beyond the vocabulary.*less than 100"):
        LanguageModel(LanguageModelConfig(), 100)
    for wrong in ({"dim": 10, "heads": 4}, {"input_cutoffs": (30, 20)}, {"input_factor": 2.0}):
        with pytest.raises(ValueError, match="must|needs"):
            LanguageModelConfig.model_validate(wrong)
