"""A corpus of coloured noise with labels and transcripts, for tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from lhotse import Recording, SupervisionSegment

from unispeech.__main__ import main
from unispeech.data.labels import LabelWriter, write_description
from unispeech.data.manifests import write_cuts

MODEL = """
model: &model
  conv_layers:
    - {channels: 8, kernel: 10, stride: 5}
    - {channels: 8, kernel: 3, stride: 2}
    - {channels: 8, kernel: 3, stride: 2}
    - {channels: 8, kernel: 3, stride: 2}
    - {channels: 8, kernel: 3, stride: 2}
    - {channels: 8, kernel: 2, stride: 2}
    - {channels: 8, kernel: 2, stride: 2}
  layers: 2
  dim: 16
  ffn_dim: 32
  heads: 2
  pos_conv_kernel: 8
  pos_conv_groups: 4
  layer_drop: 0.3
objective: {final_dim: 8}
data:
  crop: {min_seconds: 0.5}
  mixing: {prob: 0.5}
  batching: {max_seconds: 5.0, buckets: 2, workers: 0}
optim: {lr: 1.0e-3, warmup: 4}
train: {updates: 12, log_every: 1, validate_every: 6, checkpoint_every: 3}
"""

FINETUNE = """
overrides: {feature_grad_mult: 1.0, layer_drop: 0.2}
freeze_updates: 2
ctc: {channel_mask: {prob: 0.2, length: 4, min_spans: 0}}
data: {batching: {max_seconds: 5.0, buckets: 2, workers: 0}}
optim: {lr: 1.0e-3, warmup: 2, hold: 2, decay: 4}
train: {updates: 6, log_every: 1, validate_every: 3, checkpoint_every: 3, final: best}
"""


class Corpus(NamedTuple):
    """Paths of a small corpus."""

    folder: Path
    train: Path
    valid: Path
    labels: Path
    tokens: Path
    pretrain: Path
    finetune: Path

    def overrides(self) -> list[str]:
        """What a pre-training on this corpus needs on the command line."""
        data = [f"data.train={self.train}", f"data.valid={self.valid}"]
        return [*data, f"data.labels={self.labels}"]

    def ctc_overrides(self, init: Path) -> list[str]:
        """What a fine-tuning on this corpus needs on the command line."""
        data = [f"data.train={self.train}", f"data.valid={self.valid}"]
        return [*data, f"data.tokens={self.tokens}", f"init={init}"]


def make_corpus(folder: Path) -> Corpus:
    """Write audio, manifests, labels, tokens and configurations."""
    rng = np.random.default_rng(0)
    sets: dict[str, list] = {"train": [], "valid": []}
    for number in range(20):
        name = f"u{number:02d}"
        samples = int(rng.integers(12000, 32000))
        audio = np.cumsum(rng.standard_normal(samples)) * 0.003
        audio += 0.05 * rng.standard_normal(samples)
        soundfile.write(folder / f"{name}.flac", np.clip(audio, -0.9, 0.9), 16000)
        cut = Recording.from_file(folder / f"{name}.flac", recording_id=name).to_cut()
        cut.id = name
        text = " ".join(rng.choice(["AB", "BA", "A"], 3))
        cut.supervisions = [
            SupervisionSegment(name, name, 0.0, cut.duration, text=text, speaker=f"s{number % 4}")
        ]
        sets["valid" if number >= 16 else "train"].append(cut)
    labels = folder / "labels"
    labels.mkdir()
    entries = {}
    for name, cuts in sets.items():
        write_cuts(cuts, folder / f"{name}.jsonl.gz")
        writer = LabelWriter(labels, name)
        for cut in cuts:
            frames = (cut.num_samples - 400) // 160 + 1
            writer.add(cut.id, rng.integers(0, 6, frames).astype(np.uint16))
        entries[name] = writer.close()
    write_description(labels, 100, 6, {"feature": "random"}, entries)
    (folder / "tokens.txt").write_text("<blk> 0\n| 1\nA 2\nB 3\n")
    (folder / "pretrain.yaml").write_text(MODEL)
    (folder / "finetune.yaml").write_text(FINETUNE)
    names = ("train.jsonl.gz", "valid.jsonl.gz", "labels", "tokens.txt")
    files = [folder / name for name in (*names, "pretrain.yaml", "finetune.yaml")]
    return Corpus(folder, *files)


class ShardedCorpus(NamedTuple):
    """A corpus, its training set as shards, and MFCC labels of the shards and both sets."""

    train: Path
    valid: Path
    shards: Path
    labels: Path


@pytest.fixture(scope="session")
def sharded_corpus(tmp_path_factory: pytest.TempPathFactory) -> ShardedCorpus:
    """Four shards that tests only read."""
    folder = tmp_path_factory.mktemp("sharded")
    corpus = make_corpus(folder)
    shards, labels = folder / "shards", folder / "shard_labels"
    options = ["--manifest", str(corpus.train), "--output", str(shards), "--shard-size", "5"]
    assert main(["shards", *options, "--jobs", "1"]) == 0
    options = ["--shards", str(shards), "--output", str(labels)]
    options += ["share=0.5", "kmeans.clusters=5", "kmeans.n_init=1"]
    assert main(["label", *options, "--manifests", str(corpus.valid), str(corpus.train)]) == 0
    return ShardedCorpus(corpus.train, corpus.valid, shards, labels)


@pytest.fixture(scope="session")
def shared_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus that tests only read."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """A corpus that a test may damage."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    return make_corpus(folder)
