"""Language models in fairseq's layout: the names of the files, ties, dictionaries, refusals."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from test_language_model import KINDS, UNITS, sentences, small

from unispeech.data.text import pad
from unispeech.data.vocabulary import SPECIAL
from unispeech.decode.scorers import open_scorer
from unispeech.errors import DataError
from unispeech.hub.language_model import load_language_model, read_dictionary
from unispeech.models.language_model import LanguageModel

LAYER = """self_attn.k_proj self_attn.v_proj self_attn.q_proj self_attn.out_proj
self_attn_layer_norm fc1 fc2 final_layer_norm""".split()
FROM_FAIRSEQ = [kind for kind in KINDS if kind != "post-norm"]


def fairseq_file(model: LanguageModel, folder: Path, **changes: Any) -> Path:
    """What fairseq's trainer writes, its names spelled out, tied tensors under each name."""
    own, config = model.float(), model.config
    softmax = "decoder.adaptive_softmax."
    state = {"decoder.version": torch.tensor([3.0])}
    state["decoder.embed_positions._float_tensor"] = torch.zeros(1)
    tables = own.embedding.tables
    if config.input_cutoffs:
        for i, (table, project) in enumerate(zip(tables, own.embedding.projections, strict=True)):
            state[f"decoder.embed_tokens.embeddings.{i}.0.weight"] = table.weight
            state[f"decoder.embed_tokens.embeddings.{i}.1.weight"] = project.weight
        state["decoder.embed_tokens._float_tensor"] = torch.zeros(1)
    else:
        state["decoder.embed_tokens.weight"] = tables[0].weight
    for i, layer in enumerate(own.layers):
        for name in LAYER:
            module = layer.get_submodule(name)
            for kind in ("weight", "bias"):
                state[f"decoder.layers.{i}.{name}.{kind}"] = getattr(module, kind)
    if own.layer_norm is not None:
        state["decoder.layer_norm.weight"] = own.layer_norm.weight
        state["decoder.layer_norm.bias"] = own.layer_norm.bias
    if not config.output_cutoffs:
        head = tables[0] if config.tied else own.output.head
        state["decoder.output_projection.weight"] = head.weight
    elif config.tied:
        state[softmax + "head.word_proj.weight"] = tables[0].weight
        state[softmax + "head.class_proj.weight"] = own.output.classes.weight
    else:
        state[softmax + "head.weight"] = own.output.head.weight
    for i in range(len(config.output_cutoffs)):
        project = (
            own.embedding.projections[i + 1]
            if own.output.tied_projections
            else own.output.projections[i]
        )
        state[f"{softmax}tail.{i}.0.weight"] = project.weight
        table = tables[i + 1] if config.tied else own.output.tables[i]
        state[f"{softmax}tail.{i}.2.weight"] = table.weight
    settings = {
        "arch": "transformer_lm_gbw",
        "decoder_attention_heads": config.heads,
        "activation_fn": config.activation,
        "no_scale_embedding": not config.scale_embedding,
        "share_decoder_input_output_embed": config.tied and not config.input_cutoffs,
        "adaptive_input_factor": config.input_factor,
        "adaptive_softmax_factor": config.output_factor,
        "dropout": 0.1,
    } | changes
    weights = {name: value.detach().clone() for name, value in state.items()}
    path = folder / "lm.pt"
    torch.save({"args": argparse.Namespace(**settings), "model": weights}, path)
    lines = [f"w{number} {1000 - number}\n" for number in range(len(SPECIAL), UNITS)]
    (folder / "dict.txt").write_text("".join(lines))
    return path


@pytest.mark.parametrize("kind", FROM_FAIRSEQ)
def test_a_file_of_fairseq_gives_the_same_scores(kind: str, tmp_path: Path) -> None:
    model = small(kind)
    with torch.no_grad():
        expected = model(*pad(sentences()))
    fairseq_file(model, tmp_path)
    loaded = load_language_model(tmp_path)
    found = loaded.model(*pad(sentences()))
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)
    assert loaded.model.config.tied == model.config.tied
    if model.config.input_cutoffs:
        assert loaded.model.output.tied_projections == model.output.tied_projections
    # Symbols 4 and 5 are the first two words of the dictionary.
    scores = open_scorer(tmp_path, "cpu").score(["w4 w5", "W4 W5 W6 W7"])
    with torch.no_grad():
        expected = small(kind)(*pad([[4, 5], [4, 5, 6, 7]])).sum(1)
    assert scores == pytest.approx(expected.tolist(), abs=1e-4)


def test_attention_in_one_tensor(tmp_path: Path) -> None:
    path = fairseq_file(small(), tmp_path)
    state = torch.load(path, weights_only=False)
    weights = state["model"]
    for layer in range(2):
        for kind in ("weight", "bias"):
            names = [f"decoder.layers.{layer}.self_attn.{n}_proj.{kind}" for n in "qkv"]
            weights[f"decoder.layers.{layer}.self_attn.in_proj_{kind}"] = torch.cat(
                [weights.pop(name) for name in names]
            )
    torch.save(state, path)
    found = load_language_model(path).model(*pad(sentences()))
    torch.testing.assert_close(found.double(), small()(*pad(sentences())), atol=1e-4, rtol=1e-5)


def test_refusals(tmp_path: Path) -> None:
    path = fairseq_file(small(), tmp_path, decoder_learned_pos=True)
    with pytest.raises(DataError, match="learnt positions"):
        load_language_model(path)
    path = fairseq_file(small(), tmp_path, decoder_attention_heads=None)
    with pytest.raises(DataError, match="do not describe a language model"):
        load_language_model(path)
    path = fairseq_file(small(), tmp_path)
    state = torch.load(path, weights_only=False)
    del state["model"]["decoder.layers.0.fc2.bias"]
    torch.save(state, path)
    with pytest.raises(DataError, match="missing decoder.layers.0.fc2.bias"):
        load_language_model(path)
    path = fairseq_file(small(), tmp_path)
    state = torch.load(path, weights_only=False)
    state["model"]["decoder.adaptive_softmax.head.word_proj.weight"] += 1.0
    torch.save(state, path)
    with pytest.raises(DataError, match=r"unexpected decoder.adaptive_softmax.head.word_proj"):
        load_language_model(path)
    (tmp_path / "dict.txt").write_text("a 3\nb 2\n")
    with pytest.raises(DataError, match="the dictionary does not belong.*expected 36"):
        load_language_model(path)


def test_dictionaries(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_text("the 5\nisn't 3\n")
    found = read_dictionary(path)
    assert found.symbols == [*SPECIAL, "the", "isn't"]
    assert found.encode("THE ISN'T Never") == [4, 5, 3]
    path.write_text("THE 5\nof 3\n")
    assert read_dictionary(path).encode("THE OF of") == [4, 3, 5]
    for wrong in ("", "the\n", "the 1\nthe 2\n", "</s> 4\n"):
        path.write_text(wrong)
        with pytest.raises(DataError, match="not a dictionary"):
            read_dictionary(path)
