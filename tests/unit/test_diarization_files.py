"""The authors' diarization files: layout, strictness, what the file does not say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_diarization_model import made
from test_speaker_model import speech

from unispeech.errors import DataError
from unispeech.hub.diarization import load_diarization_model, read_diarization, released_name
from unispeech.hub.load import load_model
from unispeech.hub.names import fairseq_names
from unispeech.models.diarization import EendModel
from unispeech.models.diarization_config import EendConfig

WAVS = speech(2, 16000)
CONFIG = EendConfig(layers=2, dim=16, heads=8, ffn_dim=24, vector_dim=12)


def model_of(config: EendConfig) -> EendModel:
    torch.manual_seed(4)
    return EendModel(config, made("ssl").encoder.config).eval()


def released(model: EendModel) -> dict[str, torch.Tensor]:
    """The state dictionary of an authors' file with the weights of `model`."""
    state = model.state_dict()
    head = {released_name(n): v for n, v in state.items() if not n.startswith("encoder.")}
    inside = [n for n in state if n.startswith("encoder.")]
    names = fairseq_names(inside, model.encoder.config, False)
    encoder = {f"feature_extract.model.{names[n]}": state[n] for n in inside}
    training = {"embed.weight": torch.randn(7, 12), "alpha": torch.ones(1), "beta": torch.ones(1)}
    return {**head, **encoder, **training, "enc.pos_enc.pe": torch.zeros(5, 16)}


def written(weights: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save({"model": weights}, path)
    return path


def test_names_are_those_of_the_released_file() -> None:
    """What the specification of the file lists."""
    names = set(released(model_of(CONFIG)))
    assert {
        "feature_weight",
        "enc.linear_in.weight",
        "enc.lnorm_out.bias",
        "enc.lnorm1_1.weight",
        "enc.self_att_0.linearQ.weight",
        "enc.ff_1.linear2.bias",
        "linear.weight",
        "linear0.weight",
        "linear1.bias",
        "linear2.weight",
        "embed.weight",
    } <= names
    assert not [n for n in names if n.startswith(("transformer", "activity", "vectors"))]


def test_released_layout_is_read_strictly(tmp_path) -> None:
    model = model_of(CONFIG)
    weights = released(model)
    path = written(weights, tmp_path / "model.pt")
    loaded = load_diarization_model(path)
    assert loaded.config == model.config
    for one, other in zip(loaded.diarize(WAVS)[:3], model.diarize(WAVS)[:3], strict=True):
        torch.testing.assert_close(one, other)
    saved = read_diarization(path)
    assert torch.equal(saved.table, weights["embed.weight"])
    assert saved.speakers == ()
    assert saved.scale[0].shape == ()
    # The encoder inside is a model of its own.
    inside = load_model(path).encoder.state_dict()
    assert torch.equal(inside["mask_emb"], model.encoder.mask_emb)
    wrong = dict(weights)
    wrong["enc.extra.weight"] = wrong.pop("enc.lnorm2_1.bias")
    with pytest.raises(DataError, match="missing enc.lnorm2_1.bias.*unexpected enc.extra"):
        load_diarization_model(written(wrong, tmp_path / "wrong.pt"))
    nan = {**weights, "linear.bias": torch.full((3,), torch.nan)}
    with pytest.raises(DataError, match=r"not finite numbers; found linear\.bias"):
        load_diarization_model(written(nan, tmp_path / "nan.pt"))


def test_slots_and_sizes_are_read_off_the_shapes(tmp_path) -> None:
    config = CONFIG.model_copy(update={"slots": 4, "layers": 1, "ffn_dim": 40})
    path = written(released(model_of(config)), tmp_path / "model.pt")
    assert load_diarization_model(path).config == config


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ("feature_extract.", "not a diarization model"),
        ("enc.", "not a diarization model"),
        (("enc.", "linear", "feature_weight"), "no weights of an encoder"),
    ],
)
def test_other_files_are_one_line(tmp_path, kept, message) -> None:
    weights = {n: w for n, w in released(model_of(CONFIG)).items() if n.startswith(kept)}
    with pytest.raises(DataError, match=message):
        load_diarization_model(written(weights, tmp_path / "other.pt"))
