"""Training of speaker models: stages, continuation, what is carried over, errors."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import Recording, SupervisionSegment
from test_speaker_model import TINY

from unispeech.__main__ import main
from unispeech.data.manifests import write_cuts
from unispeech.hub.load import load_model
from unispeech.hub.save import save_model
from unispeech.hub.speaker import load_speaker_model, read_speaker
from unispeech.models.config import HeadsConfig
from unispeech.models.pretrained import read_checkpoint
from unispeech.models.speech import SpeechModel
from unispeech.train import loop
from unispeech.train.verification import margin_of
from unispeech.train.verification_config import MarginConfig

CONFIG = """
model: {channels: 16, bottleneck: 8, attention_dim: 8, embedding: 12}
loss: {rise_from: 2, rise_to: 6}
data: {crop_seconds: 0.4, valid_targets: 20, batching: {size: 8, workers: 0}}
optim: {lr: 0.1, final_lr: 0.01, warmup: 2}
train: {updates: 8, log_every: 1, validate_every: 4, checkpoint_every: 2, final: best}
"""


def voice(rng: np.random.Generator, number: int) -> np.ndarray:
    """Noise with a resonance of the speaker's own."""
    time = np.arange(int(rng.integers(9000, 14000))) / 16000
    tone = np.sin(2 * math.pi * (300 + 350 * number) * time + rng.uniform(0, 6))
    return 0.05 * tone + 0.02 * rng.standard_normal(len(time))


class Speakers:
    """A corpus of six training and three other speakers, and options of a training on it."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        for name, people in (("train", range(6)), ("valid", range(6, 9)), ("one", range(1))):
            cuts = []
            for person in people:
                for take in range(4):
                    utterance = f"{name}/p{person}/{take}"
                    path = folder / f"{utterance}.wav"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    soundfile.write(path, voice(rng, person), 16000)
                    cut = Recording.from_file(path, recording_id=utterance).to_cut()
                    cut.id = utterance
                    cut.supervisions = [
                        SupervisionSegment(
                            utterance, utterance, 0.0, cut.duration, speaker=f"p{person}"
                        )
                    ]
                    cuts.append(cut)
            write_cuts(cuts, folder / f"{name}.jsonl.gz")
        (folder / "speaker.yaml").write_text(CONFIG)
        torch.manual_seed(3)
        save_model(SpeechModel("wavlm", TINY, HeadsConfig()), folder / "encoder.pt")
        self.folder, self.encoder = folder, folder / "encoder.pt"
        self.options = ["speaker", "--config", str(folder / "speaker.yaml")]
        self.options += [f"data.{n}={folder}/{n}.jsonl.gz" for n in ("train", "valid")]

    def train(self, output: Path, *more: str) -> int:
        """Exit code of a training."""
        return main([*self.options, "--output", str(output), *more])


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> Speakers:
    return Speakers(tmp_path_factory.mktemp("speakers"))


@pytest.fixture(scope="module")
def frozen(speakers: Speakers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages") / "frozen"
    more = [f"model.encoder={speakers.encoder}", "data.speeds=[1.0, 0.9]"]
    assert speakers.train(folder, *more, "loss.sub_centres=2") == 0
    return folder


def rows_of(folder: Path, phase: str) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["phase"] == phase]


def final(folder: Path, name: str = "final.pt") -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "checkpoints" / name)["model"]


def test_first_stage_learns_the_head_and_keeps_the_encoder(speakers, frozen) -> None:
    before = load_model(speakers.encoder).encoder.state_dict()
    trained = final(frozen)
    assert all(torch.equal(trained[f"speaker.encoder.{n}"], v) for n, v in before.items())
    assert not torch.equal(trained["speaker.layer_sum.weight"], torch.zeros(3))
    assert trained["classes"].shape == (12, 2, 12)
    valid = rows_of(frozen, "valid")
    assert [row["step"] for row in valid] == [4, 8]
    assert all(0 <= row["eer"] <= 1 for row in valid)
    losses = [row["loss"] for row in rows_of(frozen, "train")]
    assert losses[0] > math.log(12) / 2
    assert all(0 <= row["accuracy"] <= 1 for row in rows_of(frozen, "train"))


def test_next_stages_continue_and_drop_the_classes_of_speeds(speakers, frozen, tmp_path) -> None:
    joint, large = tmp_path / "joint", tmp_path / "large"
    common = ["loss.sub_centres=2", "model.frozen=false", "train.updates=1"]
    # A rate too small to change a weight shows what a stage starts from.
    still = ["optim.lr=1e-30", "optim.final_lr=1e-30", "optim.weight_decay=0"]
    rates = ["optim.encoder_scale=0.5", "optim.layer_decay=0.5"]
    speeds = "data.speeds=[1.0, 0.9]"
    assert speakers.train(joint, *common, f"init={frozen}", speeds, *rates) == 0
    one, two = final(frozen), final(joint)
    changed = {n for n in one if not torch.equal(one[n], two[n])}
    assert any(n.startswith("speaker.encoder.encoder.layers.0.") for n in changed)
    assert "speaker.encoder.mask_emb" not in changed
    assert speakers.train(large, *common, f"init={joint}", *still, "data.crop_seconds=0.6") == 0
    three = final(large)
    torch.testing.assert_close(three["classes"], two["classes"][:6])
    weights = [n for n in two if n != "classes" and "running" not in n and "num_b" not in n]
    assert all(torch.allclose(two[n], three[n], atol=1e-6) for n in weights)
    saved = read_speaker(large)
    assert saved.speakers == tuple(f"p{i}" for i in range(6))
    assert saved.speeds == (1.0,)
    # The encoder inside, as it was tuned, is a model of its own.
    inside = load_model(large)
    name = "encoder.layers.0.fc1.weight"
    assert torch.equal(inside.encoder.state_dict()[name], three[f"speaker.encoder.{name}"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["data.speeds=[1.0, 1.1]", "loss.sub_centres=2"], "classes of other speeds"),
        (["loss.sub_centres=1"], "sub-centres; expected 2, found 1"),
        (["model.channels=24"], r"model.channels=24 \(16 in the model\)"),
        (["model.encoder=x.pt"], "model.encoder' has no place"),
    ],
)
def test_what_cannot_be_continued_is_one_line(
    speakers, frozen, tmp_path, capsys, more, message
) -> None:
    assert speakers.train(tmp_path / "run", f"init={frozen}", *more) == 78
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, line), line
    assert not (tmp_path / "run" / "done.json").exists()


def test_other_speakers_need_new_classes(speakers, frozen, tmp_path, capsys) -> None:
    more = [f"init={frozen}", f"data.train={speakers.folder}/valid.jsonl.gz", "train.updates=1"]
    assert speakers.train(tmp_path / "run", *more, "loss.sub_centres=2") == 78
    assert "other speakers" in capsys.readouterr().err
    assert speakers.train(tmp_path / "new", *more, "init_classes=new") == 0
    assert final(tmp_path / "new")["classes"].shape == (3, 1, 12)


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["model.features=fbank", "data.train={folder}/one.jsonl.gz"], 65, "two training speakers"),
        (["model.features=fbank", "data.valid=[]"], 78, "data.valid"),
        (["model.features=fbank", "data.valid={folder}/one.jsonl.gz"], 65, "of one kind"),
        (["model.features=fbank", "data.trials={folder}/no.tsv"], 65, "no.tsv"),
        ([], 78, "model.encoder' is missing"),
        (["model.features=fbank", "model.encoder=x.pt"], 78, "no place"),
        (["loss.rise_to=1"], 78, "rise_to"),
    ],
)
def test_wrong_input_is_one_line(speakers, tmp_path, capsys, more, code, message) -> None:
    filled = [text.replace("{folder}", str(speakers.folder)) for text in more]
    assert speakers.train(tmp_path / "run", *filled) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_continued_is_bitwise_the_same(speakers, tmp_path, monkeypatch) -> None:
    """Running statistics included, with a probe before each part and whole batches of copies."""
    more = ["model.features=fbank", "model.mels=10", "train.probe=true", "data.speeds=[1.0, 0.9]"]
    assert speakers.train(tmp_path / "whole", *more) == 0
    plain = loop._save

    def stopped(run, progress, score):
        plain(run, progress, score)
        if progress.step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", stopped)
    assert speakers.train(tmp_path / "run", *more) == 130
    monkeypatch.undo()
    assert speakers.train(tmp_path / "run", *more, "data.batching.workers=2") == 0
    one, two = (final(tmp_path / n, "step-00000008.pt") for n in ("whole", "run"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    model = load_speaker_model(tmp_path / "run")
    assert model.embed(torch.zeros(1, 8000)).shape == (1, 12)


def test_margins_rise_together() -> None:
    config = MarginConfig(margin=0.4, rise_from=10, rise_to=10, top_margin=0.1)
    assert margin_of(config, 0).margin == margin_of(config, 10).top_margin == 0.0
    assert (margin_of(config, 11).margin, margin_of(config, 11).top_margin) == (0.4, 0.1)
