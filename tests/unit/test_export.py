"""Exported models give the model's outputs in the other runtimes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from unispeech.__main__ import main
from unispeech.hub.save import save_model
from unispeech.models.config import ConvLayer, EncoderConfig, HeadsConfig
from unispeech.models.speech import SpeechModel


def build(is_large: bool, tokens: int = 0, family: str = "wavlm") -> SpeechModel:
    config = EncoderConfig(
        conv_layers=tuple(
            ConvLayer(channels=12, kernel=layer.kernel, stride=layer.stride)
            for layer in EncoderConfig().conv_layers
        ),
        extractor_norm="layer" if is_large else "group",
        norm_first=is_large,
        normalize=is_large,
        relative_position=family == "wavlm",
        gated=family == "wavlm",
        layers=2,
        dim=16,
        ffn_dim=32,
        heads=2,
        pos_conv_kernel=16,
        pos_conv_groups=4,
    )
    torch.manual_seed(4)
    model = SpeechModel(family, config, HeadsConfig(tokens=tokens)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def export(tmp_path, model: SpeechModel, to: str, name: str) -> int:
    save_model(model, tmp_path / "model.pt")
    paths = ["--model", str(tmp_path / "model.pt"), "--output", str(tmp_path / name)]
    return main(["export", "--to", to, *paths])


@pytest.mark.parametrize(("is_large", "tokens"), [(False, 0), (True, 5)])
def test_onnx_with_any_batch_and_length(tmp_path, is_large: bool, tokens: int) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = build(is_large, tokens)
    assert export(tmp_path, model, "onnx", "m.onnx") == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    for batch, samples in ((1, 400), (4, 9999)):
        wavs = 0.1 * torch.randn(batch, samples)
        (found,) = session.run(None, {"waveforms": wavs.numpy()})
        with torch.no_grad():
            expected = model.logits(wavs)[0] if tokens else model(wavs).last
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("is_large", [False, True])
def test_torchscript_with_any_batch_and_length(tmp_path, is_large: bool) -> None:
    model = build(is_large)
    assert export(tmp_path, model, "torchscript", "m.ts") == 0
    loaded = torch.jit.load(tmp_path / "m.ts")
    wavs = 0.1 * torch.randn(3, 7777)
    with torch.no_grad():
        torch.testing.assert_close(loaded(wavs), model(wavs).last, atol=1e-5, rtol=0)


def test_safetensors_hold_weights_and_configuration(tmp_path) -> None:
    from safetensors import safe_open

    model = build(True, 5)
    assert export(tmp_path, model, "safetensors", "m.safetensors") == 0
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert EncoderConfig.model_validate(json.loads(file.metadata()["encoder"])) == model.config
        for name, value in model.state_dict().items():
            assert torch.equal(file.get_tensor(name), value)


def test_what_transformers_does_not_have_is_said(tmp_path, capsys) -> None:
    table = HeadsConfig(label_tables=(14,), final_dim=8)
    model = SpeechModel("wavlm", build(False).config, table)
    assert export(tmp_path, model, "huggingface", "hf") == 0
    assert "left out" in capsys.readouterr().out
    ils = build(False, family="ils")
    assert export(tmp_path, ils, "huggingface", "hf2") == 65
    assert "no class for this model" in capsys.readouterr().err
    assert not (tmp_path / "hf2").exists()
