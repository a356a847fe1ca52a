"""The authors' speaker verification files, and speaker models for other runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from test_speaker_model import made

from unispeech.__main__ import main
from unispeech.errors import DataError
from unispeech.hub.export import export_onnx
from unispeech.hub.load import load_model
from unispeech.hub.names import fairseq_names
from unispeech.hub.speaker import load_speaker_model, read_speaker, released_name
from unispeech.models.families import LARGE, PRESETS
from unispeech.models.speaker import SpeakerModel
from unispeech.models.speaker_config import SpeakerConfig

WAVS = 0.1 * torch.randn(2, 12000, generator=torch.Generator().manual_seed(0))


def released(model: SpeakerModel) -> dict[str, torch.Tensor]:
    """The state dictionary of an authors' file with the weights of `model`."""
    state = model.state_dict()
    head = {released_name(n): v for n, v in state.items() if not n.startswith("encoder.")}
    if model.encoder is None:
        return head
    inside = [n for n in state if n.startswith("encoder.")]
    names = fairseq_names(inside, model.encoder.config, False)
    encoder = {f"feature_extract.model.{names[n]}": state[n] for n in inside}
    classes = {"loss_calculator.projection.weight": torch.randn(5, 12)}
    return {**head, **encoder, **classes}


def written(weights: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save({"model": weights, "best_valid_eer": 0.01}, path)
    return path


def test_names_are_those_of_the_large_file() -> None:
    """711 tensors: the layer weights, 488 of the encoder, the head, the class vectors."""
    preset = PRESETS["wavlm_large"].encoder
    with torch.device("meta"):
        names = set(released(SpeakerModel(SpeakerConfig(), preset)))
    inside = {n for n in names if n.startswith("feature_extract.model.")}
    assert (len(names), len(inside)) == (711, 488)
    assert {
        "feature_weight",
        "layer1.conv.weight",
        "layer2.Conv1dReluBn1.bn.running_mean",
        "layer3.Res2Conv1dReluBn.convs.6.bias",
        "layer4.Res2Conv1dReluBn.bns.0.num_batches_tracked",
        "layer4.SE_Connect.linear2.weight",
        "conv.bias",
        "pooling.linear1.weight",
        "bn.running_var",
        "linear.weight",
        "loss_calculator.projection.weight",
        "feature_extract.model.encoder.layers.23.self_attn.grep_a",
    } <= names


@pytest.mark.parametrize("name", ["ecapa", "context", "fbank"])
def test_released_layout_is_read_strictly(name, tmp_path) -> None:
    model = made(name)
    weights = released(model)
    path = written(weights, tmp_path / "model.pt")
    loaded = load_speaker_model(path)
    assert loaded.config == model.config
    torch.testing.assert_close(loaded.embed(WAVS), model.embed(WAVS))
    wrong = dict(weights)
    wrong["layer2.se.weight"] = wrong.pop("layer2.SE_Connect.linear2.weight")
    with pytest.raises(DataError, match="missing layer2.SE_Connect.linear2.weight.*unexpected"):
        load_speaker_model(written(wrong, tmp_path / "wrong.pt"))
    nan = {**weights, "bn.weight": torch.full_like(weights["bn.weight"], torch.nan)}
    with pytest.raises(DataError, match="not finite numbers; found bn.weight"):
        load_speaker_model(written(nan, tmp_path / "nan.pt"))


def test_waveforms_are_normalised_for_large_encoders_only(tmp_path) -> None:
    small = written(released(made("ecapa")), tmp_path / "small.pt")
    assert not load_speaker_model(small).encoder.config.normalize
    assert load_speaker_model(small, normalize=True).encoder.config.normalize
    values = LARGE.model_dump() | {"dim": 16, "ffn_dim": 8, "heads": 1, "pos_conv_groups": 4}
    values["conv_layers"] = made("ecapa").encoder.config.conv_layers
    config = type(LARGE).model_validate(values | {"pos_conv_kernel": 8, "normalize": False})
    large = SpeakerModel(SpeakerConfig(channels=16, embedding=12), config)
    path = written(released(large), tmp_path / "large.pt")
    assert load_speaker_model(path).encoder.config.normalize
    assert not load_speaker_model(path, normalize=False).encoder.config.normalize


def test_fbank_file_with_other_filters_is_refused(tmp_path) -> None:
    weights = released(made("fbank"))
    weights["feature_weight"] = torch.zeros(1)
    assert load_speaker_model(written(weights, tmp_path / "model.pt")).encoder is None
    weights["feature_extract.mel_scale.fb"] = weights["feature_extract.mel_scale.fb"].flip(1)
    with pytest.raises(DataError, match="another filters"):
        load_speaker_model(written(weights, tmp_path / "other.pt"))


def test_what_is_no_speaker_model_is_one_line(tmp_path, capsys) -> None:
    encoder = {n: v for n, v in released(made("ecapa")).items() if "feature_extract" in n}
    path = written(encoder, tmp_path / "encoder.pt")
    assert load_model(path).left_out == ()
    with pytest.raises(DataError, match="not a speaker model"):
        read_speaker(path)
    options = ["export", "--speaker", "--model", str(path), "--output", str(tmp_path / "x.onnx")]
    assert main([*options, "--to", "onnx"]) == 65
    assert main([*options, "--to", "torchscript"]) == 2
    assert not (tmp_path / "x.onnx").exists()
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


@pytest.mark.parametrize("name", ["ecapa", "fbank"])
def test_onnx_gives_the_embeddings(name, tmp_path) -> None:
    model = made(name)
    assert export_onnx(model, tmp_path / "model.onnx") < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (found,) = session.run(None, {"waveforms": WAVS.numpy()})
    np.testing.assert_allclose(found, model.embed(WAVS), atol=1e-4)
