"""Hidden states of recordings: windows and seams, layers, rates, channels, formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet

from unispeech.__main__ import main
from unispeech.hub.load import load_model
from unispeech.hub.save import save_model
from unispeech.models.config import ConvLayer, EncoderConfig, HeadsConfig
from unispeech.models.speech import SpeechModel
from unispeech.models.windows import encode_windows

CONV = tuple(
    ConvLayer(channels=12, kernel=layer.kernel, stride=layer.stride)
    for layer in EncoderConfig().conv_layers
)


def model(is_large: bool = True, layers: int = 2) -> SpeechModel:
    config = EncoderConfig(
        conv_layers=CONV,
        extractor_norm="layer" if is_large else "group",
        norm_first=is_large,
        normalize=is_large,
        layers=layers,
        dim=16,
        ffn_dim=32,
        heads=2,
        pos_conv_kernel=16,
        pos_conv_groups=4,
    )
    torch.manual_seed(3)
    return SpeechModel("wavlm", config, HeadsConfig()).eval()


@pytest.fixture
def saved(tmp_path) -> Path:
    save_model(model(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.05 + 0.1 * rng.standard_normal(round(seconds * 16000))).astype(np.float32)


def extract(saved: Path, source: Path, output: Path, *more: str) -> int:
    paths = ["--model", str(saved), "--wavs", str(source), "--output", str(output)]
    return main(["extract", *paths, *more])


def windows(encoder, audio: torch.Tensor, window: float, context: float) -> list:
    pieces = encode_windows(encoder, lambda a, b: audio[a:b], len(audio), None, window, context)
    return list(pieces)


def test_what_the_convolutions_see_has_no_seams() -> None:
    """The encoder input reaches 16 frames far: with more context it is that of the whole."""
    encoder = model().encoder
    audio = torch.from_numpy(noise(11.3))
    with torch.no_grad():
        whole = encoder(audio[None]).layers[0][0]
    pieces = windows(encoder, audio, 2.0, 0.5)
    assert len(pieces) == 6
    assert [p.first for p in pieces] == list(range(0, len(whole), 100))
    joined = torch.cat([p.states[0] for p in pieces])
    torch.testing.assert_close(joined, whole, atol=1e-5, rtol=1e-5)


def test_seams_in_deep_layers_are_no_worse_than_the_inside() -> None:
    encoder = model().encoder
    audio = torch.from_numpy(noise(40))
    with torch.no_grad():
        whole = encoder(audio[None]).last[0]
    joined = torch.cat([p.last for p in windows(encoder, audio, 8.0, 4.0)])
    assert joined.shape == whole.shape
    error = (joined - whole).square().mean(1).sqrt()
    seams = torch.cat([error[400 * k - 5 : 400 * k + 5] for k in range(1, 4)])
    assert float(error.max()) < 0.1 * float(whole.square().mean().sqrt())
    assert float(seams.mean()) < 1.5 * float(error.mean())


def test_short_recordings_are_encoded_whole() -> None:
    encoder = model(False).encoder
    audio = torch.from_numpy(noise(3))
    (piece,) = windows(encoder, audio, 2.0, 0.5)
    with torch.no_grad():
        assert torch.equal(piece.last, encoder(audio[None]).last[0])


@pytest.mark.parametrize("layer", ["0", "1", "last", "all", "weighted"])
def test_states_are_the_models(saved, tmp_path, layer: str) -> None:
    folder = tmp_path / "wavs" / "s1"
    folder.mkdir(parents=True)
    for name, seconds in (("a", 1.0), ("b", 2.3)):
        soundfile.write(folder / f"{name}.wav", noise(seconds), 16000, subtype="FLOAT")
    assert extract(saved, tmp_path / "wavs", tmp_path / "out", "--layer", layer) == 0
    cuts = CutSet.from_file(tmp_path / "out" / "cuts.jsonl.gz")
    assert [c.id for c in cuts] == ["s1/a", "s1/b"]
    loaded = load_model(saved)
    for cut in cuts:
        with torch.no_grad():
            output = loaded(torch.from_numpy(cut.load_audio()))
        expected = {
            "last": output.last[0],
            "all": torch.stack([s[0] for s in output.layers], 1),
            "weighted": torch.stack([s[0] for s in output.layers]).mean(0),
        }.get(layer)
        if expected is None:
            expected = output.layers[int(layer)][0]
        np.testing.assert_allclose(cut.load_states(), expected.numpy(), atol=1e-5)


def test_weights_of_a_file(saved, tmp_path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1), 16000, subtype="FLOAT")
    (tmp_path / "w.json").write_text(json.dumps([0, 0, 1]))
    more = ["--layer", "weighted", "--weights", str(tmp_path / "w.json")]
    assert extract(saved, tmp_path / "a.wav", tmp_path / "w", *more) == 0
    assert extract(saved, tmp_path / "a.wav", tmp_path / "l", "--layer", "2") == 0
    arrays = [np.load(tmp_path / folder / "states/a.npy") for folder in ("w", "l")]
    np.testing.assert_allclose(*arrays, atol=1e-6)
    (tmp_path / "w.json").write_text("[1]")
    assert extract(saved, tmp_path / "a.wav", tmp_path / "x", *more) == 65


def test_other_rates_and_channels_only_on_request(saved, tmp_path, capsys) -> None:
    stereo = np.stack([noise(1), noise(1, 1)], 1)
    soundfile.write(tmp_path / "stereo.wav", stereo, 16000, subtype="FLOAT")
    assert extract(saved, tmp_path / "stereo.wav", tmp_path / "s") == 65
    assert "--mono" in capsys.readouterr().err
    assert extract(saved, tmp_path / "stereo.wav", tmp_path / "s", "--mono") == 0
    soundfile.write(tmp_path / "mean.wav", stereo.mean(1), 16000, subtype="FLOAT")
    assert extract(saved, tmp_path / "mean.wav", tmp_path / "m") == 0
    arrays = [np.load(tmp_path / p) for p in ("s/states/stereo.npy", "m/states/mean.npy")]
    np.testing.assert_allclose(*arrays, atol=1e-5)
    soundfile.write(tmp_path / "slow.wav", noise(1)[::2], 8000)
    assert extract(saved, tmp_path / "slow.wav", tmp_path / "r") == 65
    assert "--resample" in capsys.readouterr().err
    assert extract(saved, tmp_path / "slow.wav", tmp_path / "r", "--resample") == 0
    assert len(np.load(tmp_path / "r/states/slow.npy")) == 49


def test_again_skips_and_other_options_are_refused(saved, tmp_path, capsys) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1), 16000)
    assert extract(saved, tmp_path / "a.wav", tmp_path / "o") == 0
    first = (tmp_path / "o/states/a.npy").stat().st_mtime_ns
    assert extract(saved, tmp_path / "a.wav", tmp_path / "o") == 0
    assert (tmp_path / "o/states/a.npy").stat().st_mtime_ns == first
    assert extract(saved, tmp_path / "a.wav", tmp_path / "o", "--layer", "1") == 65
    assert "other options" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing.wav", "empty.wav", "cut.flac", "nan.wav", "short.wav"])
def test_bad_recordings(saved, tmp_path, capsys, name: str) -> None:
    path = tmp_path / name
    if name == "empty.wav":
        soundfile.write(path, np.zeros(0), 16000)
    elif name == "cut.flac":
        soundfile.write(path, noise(2), 16000)
        path.write_bytes(path.read_bytes()[:9000])
    elif name == "nan.wav":
        soundfile.write(path, np.full(16000, np.nan), 16000, subtype="FLOAT")
    elif name == "short.wav":
        soundfile.write(path, np.zeros(399), 16000)
    assert extract(saved, path, tmp_path / "o") == 65
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert not list((tmp_path / "o").rglob("*.npy"))
    assert extract(saved, tmp_path / "model.pt", tmp_path / "p") == 65


def test_wrong_layer_is_a_usage_error(saved, tmp_path, capsys) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1), 16000)
    assert extract(saved, tmp_path / "a.wav", tmp_path / "o", "--layer", "3") == 2
    assert "0 to 2" in capsys.readouterr().err
