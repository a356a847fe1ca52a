"""fairseq's layouts of every family: there and back, and clear refusals."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from unispeech.errors import DataError
from unispeech.hub.fairseq import conv_layers
from unispeech.hub.load import load_model
from unispeech.hub.save import fairseq_state, save_huggingface, save_model
from unispeech.models.config import ConvLayer, EncoderConfig, HeadsConfig, QuantizerConfig
from unispeech.models.families import PRESETS, parameter_counts
from unispeech.models.speech import SpeechModel

CONV = "[(24,10,5)] + [(24,3,2)] * 4 + [(24,2,2)] * 2"


def small(name: str, tokens: int | None = None) -> SpeechModel:
    """A preset with every width made small and every switch kept."""
    preset = PRESETS[name]
    encoder = preset.encoder.model_dump() | {
        "conv_layers": tuple(
            ConvLayer(channels=24, kernel=layer.kernel, stride=layer.stride)
            for layer in preset.encoder.conv_layers
        ),
        "layers": 3,
        "dim": 32,
        "ffn_dim": 64,
        "heads": 4,
        "pos_conv_kernel": 16,
        "pos_conv_groups": 4,
        "num_buckets": 32,
        "max_distance": 80,
    }
    heads = preset.heads.model_dump()
    if preset.heads.label_tables:
        heads |= {"label_tables": (14,), "final_dim": 12}
    if preset.heads.quantizer:
        heads |= {"quantizer": QuantizerConfig(groups=2, codes=5, dim=8), "contrast_dim": 12}
    if preset.heads.predict_layers:
        heads["predict_layers"] = (1, 3)
    if preset.heads.contrast == "utterance":
        heads["contrast_layer"] = 2
    if preset.heads.tokens:
        heads["tokens"] = 7
    if tokens is not None:
        heads["tokens"] = tokens
    heads["untied"] = False  # with one label set both are the same
    torch.manual_seed(2)
    config = EncoderConfig.model_validate(encoder)
    model = SpeechModel(preset.family, config, HeadsConfig.model_validate(heads)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def settings(model: SpeechModel) -> dict[str, Any]:
    """The model's part of fairseq's configuration."""
    config, heads = model.config, model.heads.config
    names = {"ils": "ils_hubert"}
    return {
        "_name": names.get(model.family, model.family),
        "extractor_mode": "default" if config.extractor_norm == "group" else "layer_norm",
        "encoder_layers": config.layers,
        "encoder_embed_dim": config.dim,
        "encoder_ffn_embed_dim": config.ffn_dim,
        "encoder_attention_heads": config.heads,
        "layer_norm_first": config.norm_first,
        "conv_feature_layers": CONV,
        "conv_bias": config.conv_bias,
        "conv_pos": config.pos_conv_kernel,
        "conv_pos_groups": config.pos_conv_groups,
        "relative_position_embedding": config.relative_position,
        "gru_rel_pos": config.gated,
        "num_buckets": config.num_buckets,
        "max_distance": config.max_distance,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "dropout_input": config.input_dropout,
        "encoder_layerdrop": config.layer_drop,
        "feature_grad_mult": config.feature_grad_mult,
        "predict_layers": str(list(heads.predict_layers)),
        "transpose": heads.transposed,
        "utterance_contrastive_layer": heads.contrast_layer,
    }


def container(model: SpeechModel, kind: str) -> dict[str, Any]:
    weights = fairseq_state(model)
    normalize = {"normalize": model.config.normalize}
    if kind == "flat":
        return {"cfg": settings(model) | normalize, "model": weights}
    if kind == "nested":
        cfg = {"model": settings(model), "task": normalize, "optimizer": {"lr": [1.0]}}
        return {"cfg": cfg, "args": None, "model": weights, "extra_state": {"epoch": 3}}
    arch = settings(model)
    arch["arch"] = arch.pop("_name")
    return {"args": argparse.Namespace(**arch, **normalize), "cfg": None, "model": weights}


def assert_same(loaded: SpeechModel, model: SpeechModel) -> None:
    assert loaded.family == model.family
    assert loaded.config == model.config
    assert loaded.heads.config == model.heads.config
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize("kind", ["flat", "nested", "args"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_family_there_and_back(tmp_path, name: str, kind: str) -> None:
    model = small(name)
    torch.save(container(model, kind), tmp_path / "x.pt")
    assert_same(load_model(tmp_path / "x.pt"), model)
    save_model(load_model(tmp_path / "x.pt"), tmp_path / "own.pt")
    assert_same(load_model(tmp_path / "own.pt"), model)


@pytest.mark.parametrize(
    "name", ["wav2vec2_base", "wav2vec2_large", "unispeech_large_stage1", "unispeech_sat_large"]
)
def test_fairseq_to_ours_to_hugging_face_to_ours(tmp_path, name: str) -> None:
    model = small(name, tokens=0 if name.startswith("unispeech_sat") else None)
    torch.save(container(model, "nested"), tmp_path / "x.pt")
    loaded = load_model(tmp_path / "x.pt")
    assert save_huggingface(loaded, tmp_path / "hf") == []
    back = load_model(tmp_path / "hf")
    assert fairseq_state(back).keys() == fairseq_state(model).keys()
    assert_same(back, model)


@pytest.mark.parametrize("name", ["wavlm_base", "wavlm_large", "hubert_base", "hubert_xlarge"])
def test_released_encoders_without_heads_there_and_back(tmp_path, name: str) -> None:
    """WavLM was released without heads; HuBERT has no pre-training class in transformers."""
    preset = small(name)
    model = SpeechModel(preset.family, preset.config, HeadsConfig())
    torch.save(container(model, "flat"), tmp_path / "x.pt")
    assert save_huggingface(load_model(tmp_path / "x.pt"), tmp_path / "hf") == []
    assert_same(load_model(tmp_path / "hf"), model)


@pytest.mark.parametrize("has_inner", [True, False])
@pytest.mark.parametrize("name", ["hubert_base", "wavlm_large", "unispeech_sat_base"])
def test_recognisers_take_the_encoder_from_the_nested_settings(
    tmp_path, name: str, has_inner: bool
) -> None:
    model = small(name, tokens=0)
    bare = SpeechModel(model.family, model.config, HeadsConfig(tokens=32))
    bare.load_state_dict(model.state_dict(), strict=False)
    outer: dict[str, Any] = {"_name": "hubert_ctc", "dropout": 0.5, "w2v_args": None}
    if has_inner:
        inner = argparse.Namespace(**settings(model), normalize=model.config.normalize)
        outer["w2v_args"] = inner
    else:
        outer["encoder_attention_heads"] = 4
        for key in ("conv_pos_groups", "max_distance", "layer_norm_first"):
            outer[key] = settings(model)[key]
    cfg = {"model": outer, "task": {"normalize": model.config.normalize}}
    torch.save({"cfg": cfg, "model": fairseq_state(bare)}, tmp_path / "ctc.pt")
    loaded = load_model(tmp_path / "ctc.pt")
    assert loaded.heads.config.tokens == 32
    assert loaded.config.normalize == model.config.normalize
    wavs = 0.1 * torch.randn(1, 4000)
    with torch.no_grad():
        logits, _ = loaded.logits(wavs)
        expected = bare.eval().logits(wavs)[0]
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)


def test_hubert_recognisers_keep_the_class_table(tmp_path) -> None:
    model = small("hubert_base")
    recogniser = SpeechModel(
        model.family,
        model.config,
        HeadsConfig(label_tables=(14,), final_dim=12, label_projection=False, tokens=5),
    )
    cfg = {"model": {"_name": "hubert_ctc", "w2v_args": {"model": settings(model)}}}
    torch.save({"cfg": cfg, "model": fairseq_state(recogniser)}, tmp_path / "x.pt")
    loaded = load_model(tmp_path / "x.pt")
    assert loaded.heads.config == recogniser.heads.config


def test_unispeech_recognisers_keep_the_unused_quantizer(tmp_path) -> None:
    model = small("unispeech_large_stage1")
    assert model.heads.contrast is not None
    assert model.heads.proj is not None
    names = fairseq_state(model)
    assert "w2v_encoder.w2v_model.quantizer.vars" in names
    assert "w2v_encoder.proj.weight" in names
    assert tuple(names["w2v_encoder.w2v_model.final_proj.weight"].shape) == (32, 12)
    torch.save(container(model, "nested"), tmp_path / "x.pt")
    assert load_model(tmp_path / "x.pt").config.normalize is False


def test_speaker_verification_layout(tmp_path) -> None:
    model = small("wavlm_large", tokens=0)
    inner = SpeechModel("wavlm", model.config, HeadsConfig())
    weights = {f"feature_extract.model.{k}": v for k, v in fairseq_state(inner).items()}
    weights["feature_weight"] = torch.zeros(4)
    weights["layer1.conv.weight"] = torch.zeros(8, 32, 5)
    torch.save({"model": weights, "best_valid_eer": 0.4}, tmp_path / "sv.pth")
    loaded = load_model(tmp_path / "sv.pth")
    assert loaded.left_out == ("feature_weight", "layer1.conv.weight")
    assert loaded.config.norm_first
    assert loaded.config.relative_position
    assert torch.equal(loaded.encoder.mask_emb, inner.encoder.mask_emb)


def saved(path: Path, model: SpeechModel) -> dict[str, Any]:
    contents = container(model, "flat")
    torch.save(contents, path)
    return contents


def test_missing_renamed_and_misshaped_weights_are_all_listed(tmp_path) -> None:
    path = tmp_path / "x.pt"
    contents = saved(path, small("hubert_base"))
    weights = contents["model"]
    weights["encoder.layers.1.fc9.weight"] = weights.pop("encoder.layers.1.fc1.weight")
    weights["layer_norm.bias"] = torch.zeros(5)
    torch.save(contents, path)
    with pytest.raises(DataError) as caught:
        load_model(path)
    text = str(caught.value)
    assert "missing encoder.layers.1.fc1.weight (64, 32)" in text
    assert "unexpected encoder.layers.1.fc9.weight (64, 32)" in text
    assert "layer_norm.bias is (5,), not (24,)" in text


def test_half_precision_is_a_choice(tmp_path) -> None:
    path = tmp_path / "x.pt"
    contents = saved(path, small("wavlm_base"))
    contents["model"] = {k: v.half() for k, v in contents["model"].items()}
    torch.save(contents, path)
    with pytest.raises(DataError, match="single precision.*float16.*dtype=torch.float32"):
        load_model(path)
    model = load_model(path, dtype=torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in load_model(path, dtype=torch.bfloat16).parameters()} == {
        torch.bfloat16
    }


def test_not_a_number_and_strange_contents_are_refused(tmp_path) -> None:
    path = tmp_path / "x.pt"
    contents = saved(path, small("wavlm_base"))
    contents["model"]["mask_emb"][3] = float("nan")
    torch.save(contents, path)
    with pytest.raises(DataError, match="not finite numbers.*mask_emb"):
        load_model(path)
    for value, message in (
        ([1, 2], "not a checkpoint"),
        ({"cfg": {}, "args": {}}, "not only tensors"),
        ({"model": {}}, "no weights"),
        ({"model": {"a": 1}}, "not only tensors"),
        ({"model": {"decoder.weight": torch.zeros(2)}}, "not an encoder of this family"),
    ):
        torch.save(value, path)
        with pytest.raises(DataError, match=message):
            load_model(path)


def test_wrong_family_is_refused(tmp_path) -> None:
    path = tmp_path / "x.pt"
    contents = saved(path, small("wavlm_base"))
    contents["cfg"] |= {"relative_position_embedding": False, "gru_rel_pos": False}
    torch.save(contents, path)
    with pytest.raises(DataError, match="unexpected encoder.layers.0.self_attn.grep_a"):
        load_model(path)


@pytest.mark.parametrize(
    "text",
    ["__import__('os').system('x')", "[(1,2,3)] * 10 ** 9", "[(1,2)]", "x", "[1]", "(" * 500],
)
def test_expressions_are_parsed_not_run(tmp_path, text: str) -> None:
    with pytest.raises(DataError, match="conv_feature_layers"):
        conv_layers(text, tmp_path)


def test_expression_of_the_papers(tmp_path) -> None:
    text = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
    expected = [layer.model_dump() for layer in EncoderConfig().conv_layers]
    assert conv_layers(text, tmp_path) == expected


# Section 1.8 of the measurements that the presets follow; sums as the papers print them.
COUNTS = {
    "wav2vec2_base": (94_371_712, 95.04),
    "wav2vec2_large": (315_438_720, 317.38),
    "hubert_base": (94_371_712, 94.68),
    "hubert_large": (315_435_136, 316.61),
    "unispeech_large_stage1": (315_438_720, None),
    "unispeech_large_stage2": (315_435_136, None),
    "unispeech_sat_base": (94_371_712, None),
    "unispeech_sat_large": (315_435_136, None),
    "wavlm_base": (94_381_936, 94.70),
    "wavlm_base_plus": (94_381_936, 94.70),
    "wavlm_large": (315_453_120, 316.62),
    "ils_base": (94_375_552, None),
}


@pytest.mark.parametrize(("name", "expected"), COUNTS.items())
def test_parameter_counts(name: str, expected: tuple[int, float | None]) -> None:
    encoder, heads = parameter_counts(PRESETS[name])
    assert encoder == expected[0]
    if expected[1] is not None:
        assert (encoder + heads) / 1e6 == pytest.approx(expected[1], abs=0.025)


@pytest.mark.parametrize("name", PRESETS)
def test_padded_batch_equals_single_utterances(name: str) -> None:
    """In evaluation, where utterances run alone, and with gradients, where they are padded."""
    model = small(name)
    lengths = torch.tensor([16000, 9001, 400])
    wavs = torch.zeros(3, 16000)
    generator = torch.Generator().manual_seed(2)
    for row, length in enumerate(lengths.tolist()):
        wavs[row, :length] = 0.05 + 0.1 * torch.randn(length, generator=generator)
    with torch.no_grad():
        alone = model(wavs, lengths)
    padded = model(wavs, lengths)
    assert padded.last.requires_grad
    assert not alone.last.requires_grad
    for row, length in enumerate(lengths.tolist()):
        with torch.no_grad():
            single = model(wavs[row : row + 1, :length])
        frames = single.last.shape[1]
        assert alone.lengths[row] == padded.lengths[row] == frames
        for states in (alone, padded):
            for mine, reference in zip(
                [*states.layers, states.last], [*single.layers, single.last], strict=True
            ):
                torch.testing.assert_close(mine[row, :frames], reference[0], atol=1e-5, rtol=1e-5)


def test_stopping_early_gives_the_same_states() -> None:
    model = small("wavlm_large")
    wavs = 0.1 * torch.randn(2, 8000)
    with torch.no_grad():
        whole = model(wavs)
        for until in range(4):
            some = model(wavs, until=until)
            assert len(some.layers) == until + 1
            for state, reference in zip(some.layers, whole.layers, strict=False):
                assert torch.equal(state, reference)
        assert torch.equal(model(wavs, until=1).last, whole.layers[1])
    with pytest.raises(DataError, match="no such layer"):
        model(wavs, until=4)


def test_ils_has_no_final_norm() -> None:
    with torch.no_grad():
        output = small("ils_large")(0.1 * torch.randn(1, 4000))
    assert torch.equal(output.last, output.layers[-1])
