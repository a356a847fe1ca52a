"""Training and use of separation models: stages, continuation, streams, errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import MonoCut, Recording, SupervisionSegment
from test_speaker_model import TINY

from unispeech.__main__ import main
from unispeech.data.manifests import read_manifest, write_cuts
from unispeech.errors import DataError, Preempted
from unispeech.hub.load import load_model
from unispeech.hub.save import save_model
from unispeech.hub.separation import load_separation_model
from unispeech.models.config import HeadsConfig
from unispeech.models.pretrained import read_checkpoint
from unispeech.models.speech import SpeechModel
from unispeech.train import loop

CONFIG = """
model:
  projection: 8
  conformer: {layers: 1, dim: 16, heads: 2, ffn_dim: 32, kernel: 5, distance: 20}
loss: {power: 0.5, level: true}
data: {seconds: 0.5, min_seconds: 0.3, gap: [0.05, 0.1], batching: {size: 4, workers: 0}}
optim: {lr: 0.003, warmup: 2}
train: {updates: 8, log_every: 1, validate_every: 4, checkpoint_every: 2}
"""


def voice(rng: np.random.Generator, number: int, samples: int) -> np.ndarray:
    """Harmonics of the speaker's own pitch and some noise."""
    time = np.arange(samples) / 16000
    pitch = 110 + 60 * number
    tones = sum(np.sin(2 * math.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in (1, 2, 3))
    return 0.05 * tones + 0.003 * rng.standard_normal(samples)


def recorded(path: Path, audio: np.ndarray, custom: dict | None = None) -> MonoCut:
    """A cut of the first channel of a file of samples `(n,)` or `(n, C)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, 16000, "PCM_24" if path.suffix == ".flac" else "FLOAT")
    recording = Recording.from_file(path, recording_id=path.stem)
    cut = MonoCut(path.stem, 0, recording.duration, 0, recording=recording, custom=custom)
    cut.supervisions = [SupervisionSegment(cut.id, cut.id, 0, cut.duration, speaker=cut.id[:2])]
    return cut


def mixture(folder: Path, name: str, samples: int, channels: int = 1) -> MonoCut:
    """A stored mixture of two voices and noise, and its references."""
    rng = np.random.default_rng(len(name) + samples)
    sources = [voice(rng, number, samples) for number in (4, 9)]
    sources[1][: samples // 3] = 0
    files = []
    for number, source in enumerate(sources):
        path = folder / f"{name}-{number}.wav"
        soundfile.write(path, source, 16000, "FLOAT")
        files.append(str(path))
    shape = (samples, channels)
    heard = np.stack([np.roll(sources[0], c) + np.roll(sources[1], -c) for c in range(channels)], 1)
    custom = {"condition": "OV40", "references": files}
    return recorded(folder / f"{name}.wav", heard + 0.002 * rng.standard_normal(shape), custom)


class Mixtures:
    """Utterances of four voices, stored mixtures, an encoder, and options of a training."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        train = [
            recorded(folder / f"p{number}u{k}.wav", voice(rng, number, 9000 + 500 * k))
            for number in range(4)
            for k in range(3)
        ]
        write_cuts(train, folder / "train.jsonl.gz")
        self.stored = [mixture(folder, f"m{n}", 12_000 + 4000 * n, 1 + 2 * n) for n in range(2)]
        write_cuts(self.stored, folder / "valid.jsonl.gz")
        (folder / "separation.yaml").write_text(CONFIG)
        torch.manual_seed(0)
        save_model(SpeechModel("wavlm", TINY, HeadsConfig()), folder / "encoder.pt")
        self.folder, self.encoder = folder, folder / "encoder.pt"
        self.options = ["separation", "--config", str(folder / "separation.yaml")]
        self.options += [f"data.{n}={folder}/{n}.jsonl.gz" for n in ("train", "valid")]

    def train(self, output: Path, *more: str) -> int:
        """Exit code of a training."""
        return main([*self.options, "--output", str(output), *more])

    def separate(self, output: Path, *more: str) -> int:
        """Exit code of a separation of the stored mixtures."""
        return main(["separate", "--output", str(output), *more])


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory: pytest.TempPathFactory) -> Mixtures:
    return Mixtures(tmp_path_factory.mktemp("mixtures"))


@pytest.fixture(scope="module")
def frozen(mixtures: Mixtures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages") / "frozen"
    assert mixtures.train(folder, f"model.encoder={mixtures.encoder}") == 0
    return folder


def rows_of(folder: Path, phase: str) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["phase"] == phase]


def final(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "checkpoints" / "final.pt")["model"]


def streams_of(folder: Path, name: str) -> np.ndarray:
    return np.stack([soundfile.read(folder / name / f"stream{n}.flac")[0] for n in (1, 2)])


def test_first_stage_learns_the_masks_and_keeps_the_encoder(mixtures, frozen) -> None:
    before = load_model(mixtures.encoder).encoder.state_dict()
    trained = final(frozen)
    assert all(torch.equal(trained[f"encoder.{n}"], v) for n, v in before.items())
    assert not torch.equal(trained["layer_sum.weight"], torch.zeros(3))
    valid = rows_of(frozen, "valid")
    assert [row["step"] for row in valid] == [4, 8]
    assert all(math.isfinite(row["si_sdr_improvement"]) for row in valid)
    rows = rows_of(frozen, "train")
    assert all(0 < row["noise"] < row["loss"] for row in rows)
    # Every mixture has noise, whose mask is learnt before speakers are told apart.
    assert rows[-1]["noise"] < rows[0]["noise"]
    model = load_separation_model(frozen)
    assert not model.training
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    # The encoder inside is a model of its own.
    inside = load_model(frozen).encoder.state_dict()
    assert all(torch.equal(inside[n], v) for n, v in before.items())


def test_joint_stage_continues_and_trains_the_encoder(mixtures, frozen, tmp_path) -> None:
    joint = tmp_path / "joint"
    rates = ["optim.encoder_scale=0.5", "optim.layer_decay=0.5"]
    assert mixtures.train(joint, f"init={frozen}", "model.frozen=false", *rates) == 0
    one, two = final(frozen), final(joint)
    changed = {n for n in one if not torch.equal(one[n], two[n])}
    assert "encoder.encoder.layers.0.fc1.weight" in changed
    assert "encoder.mask_emb" not in changed
    still = ["optim.lr=1e-30", "optim.weight_decay=0", "train.updates=1"]
    assert mixtures.train(tmp_path / "still", f"init={joint}", *still) == 0
    three = final(tmp_path / "still")
    names = [n for n in two if "running" not in n and "num_b" not in n]
    assert all(torch.allclose(two[n], three[n], atol=1e-6) for n in names)


@pytest.mark.parametrize("target", ["phase", "mask"])
def test_baseline_trains_on_magnitudes_alone_and_on_stored_mixtures(
    mixtures, tmp_path, target: str
) -> None:
    stored = f"data.train={mixtures.folder}/valid.jsonl.gz"
    more = ["model.features=magnitude", f"loss.target={target}", "train.updates=4", stored]
    assert mixtures.train(tmp_path / "out", *more, "data.seconds=0.9") == 0
    model = load_separation_model(tmp_path / "out")
    assert model.encoder is None
    assert math.isfinite(rows_of(tmp_path / "out", "valid")[0]["loss"])


def test_a_training_that_was_stopped_continues_bitwise(mixtures, tmp_path, monkeypatch) -> None:
    common = ["model.features=magnitude", "train.updates=4"]
    assert mixtures.train(tmp_path / "whole", *common) == 0

    def stop_at_two(run, micro_batches, step, signals, inner=loop._update):
        sums, _ = inner(run, micro_batches, step, signals)
        return sums, 15 if step == 1 else 0

    monkeypatch.setattr(loop, "_update", stop_at_two)
    assert mixtures.train(tmp_path / "parts", *common) == Preempted.exit_code
    monkeypatch.undo()
    assert mixtures.train(tmp_path / "parts", *common) == 0
    one, two = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_is_trained_is_skipped(mixtures, frozen, capsys) -> None:
    assert mixtures.train(frozen, f"model.encoder={mixtures.encoder}") == 0
    assert "already trained, skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "key 'model.encoder' is missing"),
        (["model.features=magnitude", "model.encoder=x"], "has no place here"),
        (["model.features=magnitude", "data.valid="], "key 'data.valid' is missing"),
        (["model.features=magnitude", "model.speakers=3"], "another number of speakers"),
        (["model.features=magnitude", "model.conformer.dim=15"], "multiple of heads"),
        (["init=@frozen", "model.projection=9"], "another network"),
    ],
)
def test_wrong_configurations_are_one_line(
    mixtures, frozen, tmp_path, capsys, more: list[str], words: str
) -> None:
    more = [word.replace("@frozen", str(frozen)) for word in more]
    assert mixtures.train(tmp_path / "out", *more) == 78
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_other_files_are_no_separation_models(mixtures, tmp_path) -> None:
    with pytest.raises(DataError, match="not a separation model"):
        load_separation_model(mixtures.encoder)
    (tmp_path / "x.pt").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot read the checkpoint"):
        load_separation_model(tmp_path / "x.pt")


def test_streams_of_a_model(mixtures, frozen, tmp_path, capsys) -> None:
    cut = mixtures.stored[1]
    path = Path(cut.recording.sources[0].source)
    out = tmp_path / "out"
    assert mixtures.separate(out, str(path), "--model", str(frozen), "--whole") == 0
    assert "1 recordings" in capsys.readouterr().out
    audio = torch.from_numpy(soundfile.read(path, dtype="float32")[0][:, 0])
    model = load_separation_model(frozen)
    # All masks together, by hand: the model's frames begin where all samples are in as many.
    stft = model.stft
    count = (stft.margin + len(audio) - 1) // stft.hop + 1
    behind = stft.samples(count) - stft.margin - len(audio)
    padded = torch.nn.functional.pad(audio, (stft.margin, behind))
    masks = model.estimate(padded[None])[0]
    expected = stft.inverse(masks[:2] * stft(padded))[:, stft.margin : stft.margin + len(audio)]
    found = streams_of(out, path.stem)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    cuts = read_manifest(out / "streams.jsonl.gz")
    assert [one.id for one in cuts] == [f"{path.stem}-stream1", f"{path.stem}-stream2"]
    assert [one.custom["stream"] for one in cuts] == [1, 2]
    assert {one.custom["mixture"] for one in cuts} == {path.stem}
    assert all(one.num_samples == len(audio) for one in cuts)


def test_finished_recordings_are_skipped(mixtures, frozen, tmp_path, capsys) -> None:
    manifest = mixtures.folder / "valid.jsonl.gz"
    options = ["--wavs", str(manifest), "--model", str(frozen)]
    assert mixtures.separate(tmp_path, *options) == 0
    first = (tmp_path / "streams.jsonl.gz").read_bytes()
    capsys.readouterr()
    (tmp_path / "m0" / "activity.json").unlink()
    assert mixtures.separate(tmp_path, *options) == 0
    assert "1 recordings" in (text := capsys.readouterr().out)
    assert "1 already there, skipped" in text
    assert (tmp_path / "streams.jsonl.gz").read_bytes() == first
    assert mixtures.separate(tmp_path, *options, "--current", "0.4") == 65
    assert "another model or other options" in capsys.readouterr().err


def test_known_masks_separate_and_say_when_somebody_speaks(mixtures, tmp_path) -> None:
    manifest = str(mixtures.folder / "valid.jsonl.gz")
    assert mixtures.separate(tmp_path / "a", "--wavs", manifest, "--oracle") == 0
    assert mixtures.separate(tmp_path / "b", "--wavs", manifest, "--oracle", "--whole") == 0
    for cut in mixtures.stored:
        one, two = (streams_of(tmp_path / folder, cut.id) for folder in "ab")
        np.testing.assert_allclose(one, two, atol=2e-6)
        wanted = [soundfile.read(file)[0] for file in cut.custom["references"]]
        for stream, reference in zip(one, wanted, strict=True):
            assert ((stream - reference) ** 2).sum() < 0.2 * (reference**2).sum()
    cuts = {one.id: one for one in read_manifest(tmp_path / "a" / "streams.jsonl.gz")}
    assert cuts["m1-stream1"].custom["condition"] == "OV40"
    begins = [cuts[f"m1-stream{n}"].supervisions[0].start for n in (1, 2)]
    assert begins[0] == 0
    assert begins[1] == pytest.approx(1 / 3, abs=0.12)


def test_arrays_are_beamformed(mixtures, tmp_path, capsys) -> None:
    path = mixtures.folder / "m1.wav"
    cuts = tmp_path / "array.jsonl.gz"
    write_cuts([mixtures.stored[1]], cuts)
    out = tmp_path / "out"
    assert mixtures.separate(out, "--wavs", str(cuts), "--oracle", "--method", "mvdr") == 0
    assert mixtures.separate(tmp_path / "masked", "--wavs", str(cuts), "--oracle") == 0
    found, masked = (streams_of(folder, path.stem) for folder in (out, tmp_path / "masked"))
    assert found.shape == masked.shape
    assert np.abs(found - masked).max() > 1e-3
    capsys.readouterr()
    options = ["--wavs", str(mixtures.folder / "m0.wav"), "--method", "mvdr", "--oracle"]
    assert mixtures.separate(tmp_path / "mono", *options) == 65
    message = capsys.readouterr().err
    assert "one channel, where the beamformer needs several" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (np.zeros(16000), "silence"),
        (np.full(16000, 0.25), "silence"),
        (np.zeros(800), "too short"),
        (np.zeros(0), "empty audio"),
        (np.full(16000, np.nan), "NaN"),
        (np.clip(np.sin(np.arange(16000) / 9), -0.5, 0.5), "clipped audio: 66"),
    ],
)
def test_bad_audio_is_one_line_and_leaves_nothing(
    mixtures, frozen, tmp_path, capsys, audio: np.ndarray, words: str
) -> None:
    soundfile.write(tmp_path / "bad.wav", audio, 16000, "FLOAT")
    out = tmp_path / "out"
    assert mixtures.separate(out, str(tmp_path / "bad.wav"), "--model", str(frozen)) == 65
    message = capsys.readouterr().err
    assert words in message
    assert "bad" in message
    assert message.count("\n") == 1
    assert not list(out.rglob("*.flac"))
    assert not (out / "streams.jsonl.gz").exists()


def test_clipping_is_told_and_may_be_allowed(mixtures, frozen, tmp_path, capsys) -> None:
    loud = 20 * voice(np.random.default_rng(0), 3, 16_000)
    soundfile.write(tmp_path / "loud.wav", np.clip(loud, -0.98, 0.98), 16000)
    options = [str(tmp_path / "loud.wav"), "--model", str(frozen)]
    assert mixtures.separate(tmp_path / "out", *options) == 65
    capsys.readouterr()
    assert mixtures.separate(tmp_path / "out", *options, "--allow-clipped") == 0
    assert "clipped audio" in capsys.readouterr().err
    quiet = [str(mixtures.folder / "m0.wav"), "--model", str(frozen)]
    assert mixtures.separate(tmp_path / "quiet", *quiet) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["x.wav", "--wavs", "y.wav", "--oracle"],
        ["x.wav"],
        ["x.wav", "--oracle", "--model", "m"],
        ["x.wav", "--oracle", "--current", "0"],
        ["x.wav", "--oracle", "--method", "other"],
    ],
)
def test_wrong_options_are_usage_errors(mixtures, tmp_path, capsys, more: list[str]) -> None:
    assert mixtures.separate(tmp_path / "out", *more) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_recordings_without_references_have_no_known_masks(mixtures, tmp_path, capsys) -> None:
    wavs = str(mixtures.folder / "p0u0.wav")
    assert mixtures.separate(tmp_path / "out", wavs, "--oracle") == 65
    assert "references" in capsys.readouterr().err
