"""Every objective through the command: it trains, continues bitwise, and loads as a model."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet
from pairs import run_pair, take_batches_of_two

import unispeech
from unispeech.__main__ import main
from unispeech.data.config import BatchingConfig
from unispeech.data.manifests import load_cuts, write_cuts
from unispeech.data.multitask import MixedStream
from unispeech.data.sampling import BatchStream, balanced
from unispeech.models.pretrained import read_checkpoint
from unispeech.train.multitask import MultitaskTask
from unispeech.train.pretraining import PretrainTask

SMALL = "{groups: 2, codes: 8, dim: 8}"
FRAMES = f"quantizer: {SMALL}, dim: 8, negatives: 10"
OBJECTIVES = {
    "hubert": "{final_dim: 8}",
    "ils": "{final_dim: 8, predict_layers: [1, 2]}",
    "unispeech_sat": f"{{final_dim: 8, utterance: {{layer: 1, quantizer: {SMALL}, dim: 8}}}}",
    "wav2vec2": f"{{kind: contrastive, {FRAMES}}}",
    "unispeech": f"{{kind: multitask, {FRAMES}}}",
}
HEADS = {
    "hubert": "heads.label.final_proj.weight",
    "ils": "heads.layer_label.final_proj.1.weight",
    "unispeech_sat": "heads.utterance.spk_proj.weight",
    "wav2vec2": "heads.contrast.quantizer.vars",
    "unispeech": "heads.proj.weight",
}


def options(corpus, name: str, output: Path, *more: str) -> list[str]:
    data = [f"data.train={corpus.train}", f"data.valid={corpus.valid}"]
    if "kind" not in OBJECTIVES[name]:
        data.append(f"data.labels={corpus.labels}")
    if name == "unispeech":
        data.append(f"data.tokens={corpus.tokens}")
    # The small corpus' file is WavLM's; the others have neither bias nor gate.
    model = [] if name == "ils" else ["model.relative_position=false"]
    text = corpus.pretrain.read_text().replace("objective: {final_dim: 8}\n", "")
    file = output.parent / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}objective: {OBJECTIVES[name]}\n")
    return [
        "pretrain", "--config", str(file), "--output", str(output), *data, "model.gated=false",
        *model, *more,
    ]  # fmt: skip


def final(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = read_checkpoint(folder / "checkpoints/final.pt")["model"]
    return weights


@pytest.fixture(scope="module", params=OBJECTIVES)
def trained(request, shared_corpus, tmp_path_factory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param) / "run"
    assert main(options(shared_corpus, request.param, folder, "train.updates=6")) == 0
    return request.param, folder


def test_it_trains_and_loads_as_a_model(trained, shared_corpus, tmp_path) -> None:
    name, folder = trained
    model = unispeech.load_model(folder)
    assert model.family == name
    assert HEADS[name] in model.state_dict()
    metrics = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [row for row in metrics if row["phase"] == "train"]
    assert len(train) == 6
    assert all(np.isfinite(row["loss"]) and 0 <= row["accuracy"] <= 1 for row in train)
    expected = {"unispeech": {"ctc", "contrast", "diversity"}, "ils": {"masked_layer1"}}
    assert expected.get(name, set()) <= set(train[0])
    assert final(folder)[HEADS[name]].abs().sum() > 0


def test_half_and_half_is_bitwise_the_whole(trained, shared_corpus, tmp_path, monkeypatch) -> None:
    name, folder = trained
    half = tmp_path / "half"
    from unispeech.errors import Preempted
    from unispeech.train import loop

    real = loop._update

    def stop_after_three(run, micro_batches, step, signals):
        sums, _ = real(run, micro_batches, step, signals)
        return sums, 15 if step == 2 else 0

    monkeypatch.setattr(loop, "_update", stop_after_three)
    assert main(options(shared_corpus, name, half, "train.updates=6")) == Preempted.exit_code
    monkeypatch.setattr(loop, "_update", real)
    assert main(options(shared_corpus, name, half, "train.updates=6")) == 0
    whole, continued = final(folder), final(half)
    assert all(torch.equal(whole[key], continued[key]) for key in whole)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_are_one_that_accumulates(
    name: str, shared_corpus, tmp_path, repo, monkeypatch
) -> None:
    """Ragged batches; losses to 1e-5 at every update, and weights in the end."""
    # With so large an epsilon a step is proportional to the gradient: tiny gradients stay tiny.
    common = ["train.updates=4", "optim.eps=1", "optim.lr=0.1", "optim.warmup=0"]
    common += ["optim.weight_decay=0", "data.crop.rows=pad", "train.log_every=1"]
    # Dropout draws by rank; LayerDrop leaves out the same layers on both.
    common += [f"model.{name}=0" for name in ("dropout", "attention_dropout", "input_dropout")]
    if name in ("wav2vec2", "unispeech"):
        common.append("objective.feature_dropout=0")
    if name == "unispeech":
        common.append("objective.final_dropout=0")
    run_pair(options(shared_corpus, name, tmp_path / "two", *common), repo)
    take_batches_of_two(monkeypatch, MultitaskTask if name == "unispeech" else PretrainTask)
    one = options(shared_corpus, name, tmp_path / "one", *common, "train.accumulate=2")
    assert main(one) == 0
    curves = []
    for folder in ("one", "two"):
        rows = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        curves.append([r["loss"] for r in map(json.loads, rows) if r["phase"] == "train"])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    first, second = final(tmp_path / "one"), final(tmp_path / "two")
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, atol=1e-5, rtol=1e-5)


def test_continue_from_a_model(trained, shared_corpus, tmp_path, capsys) -> None:
    name, folder = trained
    own = options(shared_corpus, name, tmp_path / "new", f"init={folder}", "train.updates=1")
    assert main([*own, "optim.warmup=1000000"]) == 0
    said = capsys.readouterr().out
    assert f"continues from a {name} model: encoder loaded" in said
    assert "heads new:" in said
    before, after = final(folder), final(tmp_path / "new")
    moved = [k for k in before if (before[k] - after[k]).abs().max() > 1e-5]
    assert moved
    assert all(key.startswith("heads.") for key in moved)
    own = options(shared_corpus, name, tmp_path / "kept", f"init={folder}", "train.updates=1")
    assert main([*own, "optim.warmup=1000000", "init_heads=load"]) == 0
    assert "heads loaded:" in capsys.readouterr().out
    after = final(tmp_path / "kept")
    assert max((before[k] - after[k]).abs().max() for k in before) < 1e-5


def test_another_shape_than_the_models_is_an_error(
    trained, shared_corpus, tmp_path, capsys
) -> None:
    name, folder = trained
    own = options(shared_corpus, name, tmp_path / "new", f"init={folder}", "model.ffn_dim=64")
    assert main(own) == 78
    assert "model.ffn_dim=64 (32 in the model)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("wav2vec2", "data.labels={labels}", "contrastive takes no frame labels"),
        ("hubert", "data.labels=[]", "masked_prediction needs frame labels"),
        ("ils", "objective.predict_layers=[1, 9]", "has 2 layers"),
        ("unispeech_sat", "objective.utterance.layer=3", "has 2 layers"),
        ("unispeech", "data.tokens=none.txt", "cannot read the tokens"),
        ("wav2vec2", "objective.final_dim=8", "unknown key 'objective.final_dim'"),
        ("wav2vec2", "objective.negative=8", "did you mean 'negatives'"),
        ("hubert", "objective.kind=masked", "objective"),
    ],
)
def test_wrong_settings_are_one_line(
    name: str, change: str, message: str, shared_corpus, tmp_path, capsys
) -> None:
    change = change.format(labels=shared_corpus.labels)
    assert main(options(shared_corpus, name, tmp_path / "run", change)) in (65, 78)
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_labelled_and_unlabelled_audio_in_one_training(shared_corpus, tmp_path) -> None:
    audio = [f"data.unlabelled={shared_corpus.valid}", "data.unlabelled_share=0.5"]
    runs = []
    for name, accumulate in (("one", 1), ("two", 2)):
        own = [*audio, f"train.accumulate={accumulate}", "train.updates=4", "train.log_every=1"]
        assert main(options(shared_corpus, "unispeech", tmp_path / name, *own)) == 0
        rows = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        runs.append([r["ctc"] for r in map(json.loads, rows) if r["phase"] == "train"])
    # Every other batch has no transcripts; two accumulated ones always have some.
    assert [ctc > 0 for ctc in runs[0]] == [True, False, True, False]
    assert all(ctc > 0 for ctc in runs[1])


def test_mixed_stream_continues_anywhere(shared_corpus) -> None:
    config = BatchingConfig(max_seconds=4.0, buckets=2)
    cuts = [load_cuts([path]) for path in (shared_corpus.train, shared_corpus.valid)]
    own, audio = (BatchStream(c, config, 3) for c in cuts)
    whole = list(itertools.islice(MixedStream(own, audio, 0.3), 40))
    assert sum(not spec.is_transcribed for spec in whole) == 12
    for start in (1, 7, 23):
        rest = list(itertools.islice(MixedStream(own, audio, 0.3, start), 40 - start))
        pairs = zip(whole[start:], rest, strict=True)
        assert all(
            a.position == b.position and list(a.cuts.ids) == list(b.cuts.ids) for a, b in pairs
        )


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_manifests_get_their_shares(shared_corpus, temperature: float) -> None:
    """Drawn hours follow h ** temperature, as multilingual sampling is defined."""
    cuts = list(load_cuts([shared_corpus.train]))
    parts = [CutSet.from_cuts(cuts[:12]), CutSet.from_cuts(cuts[12:])]
    together, keep = balanced(parts, temperature)
    hours = np.array([sum(c.duration for c in part) for part in parts])
    expected = hours**temperature / (hours**temperature).sum()
    stream = BatchStream(together, BatchingConfig(max_seconds=4.0, buckets=2), 1, keep=keep)
    drawn = np.zeros(2)
    names = [set(part.ids) for part in parts]
    for epoch in range(300):
        for cut in stream._drawn(epoch):
            drawn[0 if cut.id in names[0] else 1] += cut.duration
    np.testing.assert_allclose(drawn / drawn.sum(), expected, atol=0.03)


def test_manifests_with_equal_names_are_refused(shared_corpus, tmp_path, capsys) -> None:
    """Two languages that use one id would share draws and labels."""
    cuts = list(load_cuts([shared_corpus.train]))
    write_cuts(cuts[:3], tmp_path / "other.jsonl.gz")
    both = f"data.train=[{shared_corpus.train}, {tmp_path / 'other.jsonl.gz'}]"
    assert main(options(shared_corpus, "wav2vec2", tmp_path / "run", both)) == 65
    assert "u00" in capsys.readouterr().err
