"""x-vector models against transformers, both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import Wav2Vec2ForXVector, WavLMForXVector

from unispeech.errors import DataError
from unispeech.hub.speaker import load_speaker_model, read_speaker
from unispeech.hub.xvector import save_xvector
from unispeech.models.config import ConvLayer, EncoderConfig
from unispeech.models.speaker import SpeakerClassifier, SpeakerModel
from unispeech.models.speaker_config import SpeakerConfig, TdnnLayer

TDNN = tuple(TdnnLayer(channels=c, kernel=k, dilation=d) for c, k, d in ((8, 5, 1), (12, 3, 2)))
CONFIG = SpeakerConfig(network="xvector", pooling="statistics", tdnn=TDNN, embedding=10)


def encoder(has_bias: bool) -> EncoderConfig:
    shape = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
    return EncoderConfig(
        conv_layers=tuple(ConvLayer(channels=8, kernel=k, stride=s) for k, s in shape),
        layers=2, dim=16, ffn_dim=32, heads=2, pos_conv_kernel=8, pos_conv_groups=4,
        relative_position=has_bias, gated=has_bias,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [WavLMForXVector, Wav2Vec2ForXVector])
def test_embeddings_and_cosines_are_transformers(kind, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SpeakerModel(CONFIG, encoder(kind is WavLMForXVector))
    torch.nn.init.normal_(model.layer_sum.weight)
    classifier = SpeakerClassifier(model, 3).eval()
    names = ["ann", "bob", "eve"]
    assert save_xvector(model, classifier.classes, names, tmp_path / "hf") == []
    peer, report = kind.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert peer.config.id2label == dict(enumerate(names))
    wavs = 0.1 * torch.randn(2, 12000)
    with torch.no_grad():
        expected = peer.eval()(wavs)
        ours = model.eval()(wavs)
    torch.testing.assert_close(ours, expected.embeddings, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours, expected.logits, atol=1e-5, rtol=1e-4)
    directions = torch.nn.functional.normalize(classifier.classes[:, 0], dim=1)
    torch.testing.assert_close(peer.objective.weight.T, directions)
    # What transformers writes itself is read too.
    peer.save_pretrained(tmp_path / "again")
    again = load_speaker_model(tmp_path / "again")
    assert again.config == CONFIG
    torch.testing.assert_close(again.embed(wavs), ours)


def test_ecapa_has_no_place_and_sub_centres_stay_behind(tmp_path: Path) -> None:
    ecapa = SpeakerModel(SpeakerConfig(channels=16), encoder(True))
    with pytest.raises(DataError, match="no class for this speaker model.*network=ecapa"):
        save_xvector(ecapa, None, (), tmp_path / "ecapa")
    assert not (tmp_path / "ecapa").exists()
    model = SpeakerModel(CONFIG, encoder(True))
    several = torch.randn(3, 2, 10)
    assert save_xvector(model, several, (), tmp_path / "several") == ["classes"]


def test_layer_sum_is_needed(tmp_path: Path) -> None:
    save_xvector(SpeakerModel(CONFIG, encoder(True)), None, (), tmp_path / "hf")
    settings = json.loads((tmp_path / "hf/config.json").read_text())
    settings["architectures"] = ["WavLMForCTC"]
    (tmp_path / "hf/config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="not a speaker model"):
        read_speaker(tmp_path / "hf")
