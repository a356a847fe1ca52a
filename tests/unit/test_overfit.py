"""Every objective learns eight real utterances by heart, along a stored curve.

The curve tells a change of the training from noise: other machines and threads round differently,
so its first part is compared within a few per cent.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

import pytest
from lhotse import MonoCut, Recording, SupervisionSegment

from unispeech.__main__ import main
from unispeech.data.manifests import write_cuts

CURVES = Path(__file__).parent / "data" / "overfit.json"
UTTERANCES = 8
MODEL = """
model:
  conv_layers:
    - {channels: 32, kernel: 10, stride: 5}
    - {channels: 32, kernel: 3, stride: 2}
    - {channels: 32, kernel: 3, stride: 2}
    - {channels: 32, kernel: 3, stride: 2}
    - {channels: 48, kernel: 3, stride: 2}
    - {channels: 48, kernel: 2, stride: 2}
    - {channels: 48, kernel: 2, stride: 2}
  feature_grad_mult: 1.0
  normalize: true
  norm_first: true
  layers: 3
  dim: 96
  ffn_dim: 384
  heads: 3
  pos_conv_kernel: 32
  pos_conv_groups: 6
  dropout: 0.0
  attention_dropout: 0.0
  input_dropout: 0.0
  layer_drop: 0.0
data:
  crop: {max_seconds: 1.5, min_seconds: 0.5}
  mixing: {prob: 0.0}
  batching: {max_seconds: 100.0, buckets: 1, workers: 0}
optim: {lr: 2.0e-3, warmup: 40, clip: 1.0, weight_decay: 0.0}
train: {log_every: 20, validate_every: 100000, checkpoint_every: 100000}
"""
QUANTIZER = "quantizer: {groups: 2, codes: 32, dim: 32}"
MASK = "mask: {prob: 0.5, length: 4}"
LABELS = f"final_dim: 48, label_init: normal, penalty_weight: 0.001, {MASK}"
FRAMES = (
    f"{QUANTIZER}, dim: 48, negatives: 50, penalty_weight: 0.0, feature_dropout: 0.0, {MASK},"
    " gumbel: {start: 1.0, stop: 0.3, decay: 0.99}"
)


class Case(NamedTuple):
    """An objective, the updates it takes, and what must come out."""

    objective: str
    updates: int
    goals: dict[str, float]
    """Least value of a metric; of an error rate the largest."""
    more: tuple[str, ...] = ()


CASES = {
    "hubert": Case(f"{{{LABELS}}}", 160, {"accuracy": 0.9}, ("model.relative_position=false",)),
    "wavlm": Case(f"{{{LABELS}}}", 160, {"accuracy": 0.9}, ("model.gated=true",)),
    "ils": Case(f"{{{LABELS}, predict_layers: [2, 3]}}", 160, {"accuracy": 0.9}),
    "unispeech_sat": Case(
        f"{{{LABELS}, utterance: {{layer: 2, instances: 20, {QUANTIZER}, dim: 48}}}}",
        160,
        {"accuracy": 0.9, "contrast_accuracy": 0.8},
        ("model.relative_position=false",),
    ),
    "wav2vec2": Case(
        f"{{kind: contrastive, {FRAMES}}}",
        240,
        {"accuracy": 0.8},
        ("model.relative_position=false",),
    ),
    "unispeech": Case(
        # Few masks and more weight on the CTC: it leaves its plateau late beside the contrast.
        f"{{kind: multitask, {FRAMES}, replace_prob: 0.1, final_dropout: 0.0, ctc_weight: 0.7}}",
        400,
        {"ter": 0.1},
        ("model.relative_position=false", "optim.lr=1e-3", "objective.mask.prob=0.2"),
    ),
}


class Corpus(NamedTuple):
    """Manifests, labels and tokens of the eight utterances."""

    manifest: Path
    """Their first 1.5 seconds."""
    whole: Path
    labels: Path
    tokens: Path


@pytest.fixture(scope="module")
def eight(real_data: Path, tmp_path_factory) -> Corpus:
    """The first eight training utterances of speechocean, each of another speaker, with phones."""
    folder = tmp_path_factory.mktemp("eight")
    source = real_data / "speechocean_mini"
    with (source / "transcripts.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    chosen: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["split"] == "train" and 1.5 < float(row["duration"]) < 3:
            chosen.setdefault(row["speaker"], row)
    cuts: list[MonoCut] = []
    for row in list(chosen.values())[:UTTERANCES]:
        cut = Recording.from_file(source / row["path"], recording_id=row["utt_id"]).to_cut()
        cut.id = row["utt_id"]
        phones = [p.rstrip("012") for p in row["phones"].replace("|", " ").split()]
        cut.supervisions = [
            SupervisionSegment(
                cut.id, cut.id, 0.0, cut.duration, text=row["text"], speaker=row["speaker"],
                custom={"phones": " ".join(phones)},
            )
        ]  # fmt: skip
        cuts.append(cut)
    write_cuts(cuts, folder / "whole.jsonl.gz")
    pieces = [cut.truncate(duration=1.5, preserve_id=True) for cut in cuts]
    write_cuts(pieces, folder / "eight.jsonl.gz")
    symbols = sorted({p for cut in cuts for p in cut.supervisions[0].custom["phones"].split()})
    table = [f"{symbol} {index}\n" for index, symbol in enumerate(["<blk>", *symbols])]
    (folder / "tokens.txt").write_text("".join(table), encoding="utf-8")
    labels = ["label", "--manifests", str(folder / "eight.jsonl.gz")]
    labels += ["--output", str(folder / "labels"), "share=1.0", "kmeans.clusters=20"]
    assert main(labels) == 0
    names = ("eight.jsonl.gz", "whole.jsonl.gz", "labels", "tokens.txt")
    return Corpus(*(folder / name for name in names))


def train(name: str, corpus: Corpus, folder: Path) -> list[dict[str, float]]:
    """Rows of the metrics."""
    case = CASES[name]
    file = folder / "config.yaml"
    file.write_text(f"{MODEL}objective: {case.objective}\n")
    options = ["pretrain", "--config", str(file), "--output", str(folder / "run")]
    manifest = corpus.whole if name == "unispeech" else corpus.manifest
    options += [f"data.train={manifest}", f"data.valid={manifest}"]
    options += [f"train.updates={case.updates}", "model.gated=false", *case.more]
    if "kind" not in case.objective:
        options.append(f"data.labels={corpus.labels}")
    if name == "unispeech":
        options += [f"data.tokens={corpus.tokens}", "data.units=phones"]
    assert main(options) == 0
    return [json.loads(row) for row in (folder / "run/metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", CASES)
def test_eight_utterances_by_heart(name: str, eight: Corpus, tmp_path: Path) -> None:
    rows = train(name, eight, tmp_path)
    curve = {row["step"]: row["loss"] for row in rows if row["phase"] == "train"}
    last = {**[r for r in rows if r["phase"] == "train"][-1]}
    valid = [row for row in rows if row["phase"] == "valid"][-1]
    for metric, goal in CASES[name].goals.items():
        if metric == "ter":
            assert valid["ter"] < goal
        else:
            assert last[metric] > goal, metric
    stored = {int(step): loss for step, loss in json.loads(CURVES.read_text())[name].items()}
    for step in (20, 40, 80):
        assert curve[step] == pytest.approx(stored[step], rel=0.05), step
    assert curve[max(curve)] == pytest.approx(stored[max(stored)], rel=0.5)
