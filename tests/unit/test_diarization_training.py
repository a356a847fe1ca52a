"""Training of diarization models: stages, adaptation, continuation, errors."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from lhotse import Recording, SupervisionSegment
from test_speaker_model import TINY

from unispeech.__main__ import main
from unispeech.data.conversations import ChunkSpec, ConversationTraining
from unispeech.data.manifests import write_cuts
from unispeech.data.sampling import BEGINNING
from unispeech.hub.diarization import load_diarization_model, read_diarization
from unispeech.hub.load import load_model
from unispeech.hub.save import save_model
from unispeech.losses.permutation import activity_loss
from unispeech.models.config import HeadsConfig
from unispeech.models.pretrained import read_checkpoint
from unispeech.models.speech import SpeechModel
from unispeech.train import loop
from unispeech.train.diarization import frame_errors
from unispeech.train.diarization_config import DiarizationConfig, DiarizationOptimConfig
from unispeech.train.optim import learning_rate

CONFIG = """
model: {layers: 1, dim: 16, heads: 2, ffn_dim: 24, vector_dim: 8, slots: 2}
data: {slots: 2, chunk_seconds: 1.0, min_seconds: 0.3, batching: {size: 4, workers: 0}}
optim: {lr: 1.0e-3, warmup: 2}
train:
  {updates: 6, log_every: 1, validate_every: 3, checkpoint_every: 2, keep_last: 2, final_count: 1}
"""


def conversation(rng: np.random.Generator, people: tuple[int, int], folder: Path, name: str):
    """Two tones that take turns of a second, with noise, as a cut with supervisions."""
    samples = 16000 * 5 // 2
    time = np.arange(samples) / 16000
    audio = 0.01 * rng.standard_normal(samples)
    turns = [(0.0, 1.1, people[0]), (0.9, 1.0, people[1]), (2.0, 0.5, people[0])]
    for start, seconds, person in turns:
        inside = (time >= start) & (time < start + seconds)
        audio += 0.1 * inside * np.sin(2 * math.pi * (300 + 250 * person) * time)
    soundfile.write(folder / f"{name}.wav", audio, 16000)
    cut = Recording.from_file(folder / f"{name}.wav", recording_id=name).to_cut()
    cut.id = name
    cut.supervisions = [
        SupervisionSegment(f"{name}-{n}", name, start, seconds, speaker=f"p{person}")
        for n, (start, seconds, person) in enumerate(turns)
    ]
    return cut


class Conversations:
    """Conversations of four training and two other speakers, and options of a training."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        pairs = {"train": [(0, 1), (2, 3), (1, 2)], "valid": [(4, 5)], "adapt": [(4, 5), (5, 6)]}
        for name, people in pairs.items():
            cuts = [conversation(rng, pair, folder, f"{name}{n}") for n, pair in enumerate(people)]
            write_cuts(cuts, folder / f"{name}.jsonl.gz")
        (folder / "diarization.yaml").write_text(CONFIG)
        torch.manual_seed(3)
        save_model(SpeechModel("wavlm", TINY, HeadsConfig()), folder / "encoder.pt")
        self.folder, self.encoder = folder, folder / "encoder.pt"
        self.options = ["diarization", "--config", str(folder / "diarization.yaml")]
        self.options += [f"data.{n}={folder}/{n}.jsonl.gz" for n in ("train", "valid")]

    def train(self, output: Path, *more: str) -> int:
        """Exit code of a training."""
        return main([*self.options, "--output", str(output), *more])


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Conversations:
    return Conversations(tmp_path_factory.mktemp("conversations"))


@pytest.fixture(scope="module")
def frozen(conversations: Conversations, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages") / "frozen"
    assert conversations.train(folder, f"model.encoder={conversations.encoder}") == 0
    return folder


def rows_of(folder: Path, phase: str) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["phase"] == phase]


def final(folder: Path, name: str = "final.pt") -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "checkpoints" / name)["model"]


def test_first_stage_learns_the_head_and_keeps_the_encoder(conversations, frozen) -> None:
    before = load_model(conversations.encoder).encoder.state_dict()
    trained = final(frozen)
    assert all(torch.equal(trained[f"eend.encoder.{n}"], v) for n, v in before.items())
    assert not torch.equal(trained["eend.layer_sum.weight"], torch.zeros(3))
    assert trained["table"].shape == (4, 8)
    valid = rows_of(frozen, "valid")
    assert [row["step"] for row in valid] == [3, 6]
    for row in [*valid, *rows_of(frozen, "train")]:
        expected = 0.97 * row["activity_loss"] + 0.03 * row["speaker_loss"]
        assert row["loss"] == pytest.approx(expected, rel=1e-4)
        assert row["der"] >= 0
    # Nobody of the validation is in the table, so nobody adds to the speaker loss.
    assert all(row["speaker_loss"] == 0 for row in valid)
    assert load_diarization_model(frozen).diarize(torch.zeros(1, 16000)).activity.shape[1:] == (
        25,
        2,
    )


def test_joint_stage_continues_and_trains_the_encoder(conversations, frozen, tmp_path) -> None:
    joint = tmp_path / "joint"
    more = [f"init={frozen}", "model.frozen=false", "train.updates=1"]
    assert conversations.train(joint, *more) == 0
    one, two = final(frozen), final(joint)
    changed = {n for n in one if not torch.equal(one[n], two[n])}
    assert any(n.startswith("eend.encoder.encoder.layers.0.") for n in changed)
    assert "eend.encoder.mask_emb" not in changed
    torch.testing.assert_close(one["table"], two["table"], atol=5e-3, rtol=0.0)
    saved = read_diarization(joint)
    assert saved.speakers == tuple(f"p{i}" for i in range(4))
    # The encoder inside, as it was tuned, is a model of its own.
    name = "encoder.layers.0.fc1.weight"
    inside = load_model(joint).encoder.state_dict()[name]
    assert torch.equal(inside, two[f"eend.encoder.{name}"])


def test_adaptation_keeps_the_mean_vectors_of_new_speakers(conversations, frozen, tmp_path) -> None:
    path = f"{conversations.folder}/adapt.jsonl.gz"
    more = [f"init={frozen}", "init_table=extract", "loss.train_table=false", f"data.train={path}"]
    more += ["data.batching.size=3", "optim.schedule=tri_stage", "optim.warmup=0"]
    assert conversations.train(tmp_path / "adapted", *more, "train.updates=2") == 0
    adapted = final(tmp_path / "adapted")
    # The same means, written out chunk by chunk.
    model = load_diarization_model(frozen)
    options = {"train": (path,), "slots": 2, "chunk_seconds": 1.0, "min_seconds": 0.3}
    data = DiarizationConfig.model_validate({"data": options}).data
    given = (model.config.frames, model.config.seconds_per_frame)
    training = ConversationTraining(data, 1, *given)
    assert training.speakers == ("p4", "p5", "p6")
    sums = torch.zeros(3, 8)
    for number in range(training.count):
        batch = training.dataset[ChunkSpec(BEGINNING, (number,))]
        speakers = batch.speakers[0]
        output = model.diarize(batch.wavs)
        order = activity_loss(output.logits, batch.activity, None).order[0].tolist()
        for slot, reference in enumerate(order):
            if speakers[reference] >= 0:
                sums[speakers[reference]] += output.vectors[0, slot]
    torch.testing.assert_close(adapted["table"], F.normalize(sums), atol=1e-5, rtol=1e-4)
    assert adapted["is_known"].tolist() == [True] * 3
    name = "eend.transformer.project.weight"
    assert not torch.equal(adapted[name], final(frozen)[name])


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["init={frozen}", "data.train={folder}/adapt.jsonl.gz"], 78, "other speakers"),
        (["init={frozen}", "model.dim=32"], 78, r"model.dim=32 \(16 in the model\)"),
        (["init={frozen}", "model.encoder=x.pt"], 78, "model.encoder' has no place"),
        (["model.features=fbank", "init_table=extract"], 78, "init_table"),
        (["model.features=fbank", "model.slots=3"], 78, "data.slots.*expected 3, found 2"),
        (["model.features=fbank", "data.valid=[]"], 78, "data.valid"),
        (["model.features=fbank", "data.train={folder}/no.jsonl.gz"], 65, "no such manifest"),
        ([], 78, "model.encoder' is missing"),
        (["init={encoder}"], 65, "not a diarization model"),
    ],
)
def test_wrong_input_is_one_line(
    conversations, frozen, tmp_path, capsys, more, code, message
) -> None:
    places = {"folder": conversations.folder, "frozen": frozen, "encoder": conversations.encoder}
    filled = [text.format(**places) for text in more]
    assert conversations.train(tmp_path / "run", *filled) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, line), line
    assert not (tmp_path / "run" / "done.json").exists()


def test_continued_is_bitwise_the_same(conversations, frozen, tmp_path, monkeypatch) -> None:
    """The speakers' vectors included, which are extracted once."""
    more = ["init_table=extract", "loss.train_table=false", f"init={frozen}", "train.updates=4"]
    assert conversations.train(tmp_path / "whole", *more) == 0
    plain = loop._save

    def stopped(run, progress, score):
        plain(run, progress, score)
        if progress.step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", stopped)
    assert conversations.train(tmp_path / "run", *more) == 130
    monkeypatch.undo()
    assert conversations.train(tmp_path / "run", *more) == 0
    one, two = (final(tmp_path / n, "step-00000004.pt") for n in ("whole", "run"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_frame_errors_written_out() -> None:
    activity = torch.tensor([[[0.9, 0.1], [0.8, 0.7], [0.2, 0.6], [0.1, 0.9]]])
    reference = torch.tensor([[[0.0, 1], [0, 1], [1, 1], [0, 0]]])
    speech, wrong = frame_errors(activity, reference, torch.tensor([[1, 0]]))
    # Right; a false alarm; a miss; a false alarm.
    assert (speech.item(), wrong.item()) == (4, 3)
    speech, wrong = frame_errors(activity, reference, torch.tensor([[0, 1]]))
    # Confused; a false alarm; a miss; a false alarm.
    assert (speech.item(), wrong.item()) == (4, 4)


@pytest.mark.parametrize(
    ("update", "rate"), [(1, 1.5811e-8), (25_000, 3.9528e-4), (100_000, 1.9764e-4)]
)
def test_rate_is_noams(update, rate) -> None:
    """256^-0.5 min(n^-0.5, n 25000^-1.5), computed by hand."""
    assert learning_rate(DiarizationOptimConfig(), update, 2_658_300) == pytest.approx(
        rate, rel=1e-4
    )
