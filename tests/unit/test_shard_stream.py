"""Batches from shards: every utterance once an epoch over any number of readers; re-seeding."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet
from torch import nn

from unispeech.__main__ import main
from unispeech.data.config import BatchingConfig, CropConfig, MixingConfig
from unispeech.data.datasets import PretrainBatch, PretrainDataset
from unispeech.data.labels import LabelStore
from unispeech.data.loading import batches
from unispeech.data.manifests import load_cuts
from unispeech.data.sampling import BEGINNING, BatchSpec, Position
from unispeech.data.shard_labels import ShardLabels, open_shards
from unispeech.data.shard_stream import ShardStream
from unispeech.data.shards import ShardFolder, is_shards, shard_file
from unispeech.errors import DataError
from unispeech.train.config import OptimConfig, TrainConfig
from unispeech.train.loop import train
from unispeech.train.parallel import Process
from unispeech.train.task import LossOutput

SEED = 7
CROP = CropConfig(min_seconds=0.5, max_seconds=1.5)
BATCHING = BatchingConfig(max_seconds=4.0, buckets=2, workers=0, shuffle_buffer=8)
MIXING = MixingConfig(prob=0.5)


def open_stream(
    corpus: Any, labels: Path | None = None, config: BatchingConfig = BATCHING, **options: Any
) -> ShardStream:
    shards = ShardFolder(corpus.shards)
    own = ShardLabels(labels or corpus.labels, shards)
    return ShardStream(shards, own, config, CROP, SEED, **options)


def dataset_for(labels: Any, mixing: MixingConfig = MIXING) -> PretrainDataset:
    return PretrainDataset([labels], CROP, mixing, SEED, 320, False)


def take(corpus: Any, count: int, workers: int = 0, **options: Any) -> list[PretrainBatch]:
    stream = open_stream(corpus, **options)
    dataset = dataset_for(stream.labels)
    return list(itertools.islice(batches(dataset, stream, workers), count))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple | list):
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


def test_a_folder_is_read_as_shards(sharded_corpus) -> None:
    assert is_shards(sharded_corpus.shards)
    assert not is_shards(sharded_corpus.train)
    names = (sharded_corpus.shards, sharded_corpus.train, sharded_corpus.labels)
    one, train, labels = map(str, names)
    assert open_shards([train], [labels]) is None
    opened = open_shards([one], [labels])
    assert opened is not None
    assert opened[1] is not None
    assert (opened[0].cuts, opened[1].clusters) == (16, 5)
    with pytest.raises(DataError, match="one folder of shards, or manifests"):
        open_shards([one, train], [labels])
    with pytest.raises(DataError, match="one set of labels"):
        open_shards([one], [labels, labels])


def test_the_command_pretrains_from_shards(sharded_corpus, shared_corpus, tmp_path, capsys) -> None:
    options = ["pretrain", "--config", str(shared_corpus.pretrain), "--output", str(tmp_path / "r")]
    options += [f"data.train={sharded_corpus.shards}", f"data.labels={sharded_corpus.labels}"]
    options += [f"data.valid={sharded_corpus.valid}", "train.updates=4"]
    assert main(options) == 0
    out = capsys.readouterr().out
    assert "16 utterances; order of seed" in out
    assert main(options) == 0
    assert "already trained, skipped" in capsys.readouterr().out


@pytest.mark.parametrize(("world_size", "workers"), [(1, 1), (1, 3), (2, 1), (3, 2), (2, 5)])
def test_an_epoch_has_every_utterance_once(world_size, workers, sharded_corpus) -> None:
    """With a buffer of one cut, batches are cuts in reading order."""
    config = BATCHING.model_copy(update={"shuffle_buffer": 1})
    epochs: dict[int, Counter[str]] = {0: Counter(), 1: Counter()}
    for rank in range(world_size):
        stream = open_stream(sharded_corpus, None, config, rank=rank, world_size=world_size)
        usable = dataset_for(stream.labels).usable_cut
        for worker in range(workers):
            for spec in stream.specs(usable, worker, workers):
                if spec.position.epoch > 1:
                    break
                epochs[spec.position.epoch].update(cut.id for cut in spec.cuts)
    expected = Counter(cut.id for cut in load_cuts(sharded_corpus.train))
    assert epochs == {0: expected, 1: expected}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 50))
def test_order_is_a_permutation_of_the_shards(seed, epoch) -> None:
    stream = object.__new__(ShardStream)
    stream.seed, stream.shards = seed, type("Shards", (), {"count": 40})()
    order = stream.order(epoch).tolist()
    assert sorted(order) == list(range(40))
    assert order == stream.order(epoch).tolist()
    assert order != stream.order(epoch + 1).tolist()


def test_batches_are_within_the_limit_and_of_similar_durations(sharded_corpus) -> None:
    found = take(sharded_corpus, 30)
    assert all(batch.ids and batch.seconds <= 4.0 for batch in found)
    assert any(len(batch.ids) > 1 for batch in found)
    assert {batch.position.epoch for batch in found} >= {0, 1, 2}


def test_a_batch_is_what_the_manifest_gives(sharded_corpus) -> None:
    """The same crops, mixes, labels and mask seeds as the data set in memory draws."""
    known = load_cuts(sharded_corpus.train)
    plain = dataset_for(LabelStore(sharded_corpus.labels, ["train"]))
    for batch in take(sharded_corpus, 12):
        cuts = plain.usable(CutSet.from_cuts([known[i] for i in batch.ids]))
        assert same(batch, plain[BatchSpec(batch.position, cuts)])


@pytest.mark.parametrize("workers", [0, 2])
def test_positions_count_the_batches_of_the_process(workers, sharded_corpus) -> None:
    first = take(sharded_corpus, 9, workers)
    assert [batch.position.batch for batch in first] == list(range(9))
    again = take(sharded_corpus, 9, workers)
    assert all(map(same, first, again))


def test_readers_take_turns_in_the_shuffled_order(sharded_corpus) -> None:
    config = BATCHING.model_copy(update={"shuffle_buffer": 1})
    shards = [{c.id for c in ShardFolder(sharded_corpus.shards).read(i)} for i in range(4)]
    for rank in range(2):
        stream = open_stream(sharded_corpus, None, config, rank=rank, world_size=2)
        specs = stream.specs(dataset_for(stream.labels).usable_cut)
        epoch = itertools.takewhile(lambda spec: spec.position.epoch == 0, specs)
        found = {cut.id for spec in epoch for cut in spec.cuts}
        assert found == shards[stream.order(0)[rank]] | shards[stream.order(0)[rank + 2]]


def test_continuing_is_reseeded_and_says_so(sharded_corpus, capsys) -> None:
    whole = take(sharded_corpus, 12)
    capsys.readouterr()
    start = whole[5].position
    again = take(sharded_corpus, 6, start=start)
    said = capsys.readouterr().out
    assert "continuing after batch 5" in said
    assert "re-seeded from (seed, epoch, batch)" in said
    assert len(said.splitlines()) == 1
    assert [batch.position.batch for batch in again] == [5, 6, 7, 8, 9, 10]
    assert again[0].position.epoch == start.epoch
    assert [b.ids for b in again] != [b.ids for b in whole[5:11]]
    # Masks too: the same utterance in the same epoch gets other draws.
    masks = [dict(zip(b.ids, b.mask_seeds.tolist(), strict=True)) for b in (*whole, *again)]
    before = {(b.position.epoch, i): m[i] for b, m in zip(whole, masks, strict=False) for i in m}
    after = {
        (b.position.epoch, i): m[i] for b, m in zip(again, masks[len(whole) :], strict=True)
        for i in m
    }  # fmt: skip
    shared = before.keys() & after.keys()
    assert shared
    assert all(before[key] != after[key] for key in shared)
    assert all(map(same, again, take(sharded_corpus, 6, start=start)))
    assert take(sharded_corpus, 1, start=Position(start.epoch, 6))[0].ids != again[0].ids


def spoiled(sharded_corpus, tmp_path, name: str) -> Path:
    return Path(shutil.copytree(getattr(sharded_corpus, name), tmp_path / name))


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_is_an_error_of_one_line(workers, sharded_corpus, tmp_path) -> None:
    labels = spoiled(sharded_corpus, tmp_path, "labels")
    path = shard_file(labels, "labels", 2)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"labels\.000002\.tar: truncated or changed"):
        take(sharded_corpus, 50, workers, labels=labels)


def test_wrong_label_rate(sharded_corpus, tmp_path) -> None:
    labels = spoiled(sharded_corpus, tmp_path, "labels")
    for path in [labels / "labels.json", *(labels / "records").iterdir()]:
        path.write_text(json.dumps({**json.loads(path.read_text()), "rate": 50}))
    with pytest.raises(DataError, match="do not fit its audio at 50 Hz"):
        take(sharded_corpus, 1, labels=labels)


def test_no_usable_utterance_ends(sharded_corpus) -> None:
    stream = open_stream(sharded_corpus)
    dataset = dataset_for(stream.labels)
    dataset.crop = CropConfig(min_seconds=60)
    with pytest.raises(DataError, match="no utterance of the shards is long enough"):
        next(batches(dataset, stream, 0))


class EnergyTask:
    """Learns the mean square of its batches; keeps the ids it was given."""

    has_unused = False

    def __init__(self, corpus: Any) -> None:
        self.corpus = corpus
        self.seen: list[tuple[Position, list[str]]] = []

    def batches(self, start: Position) -> Iterator[PretrainBatch]:
        stream = open_stream(self.corpus, start=start)
        for batch in batches(dataset_for(stream.labels), stream, 0):
            self.seen.append((batch.position, batch.ids))
            yield batch

    def loss(self, model: nn.Module, batch: PretrainBatch, update: int) -> LossOutput:
        energy = batch.waveforms.square().mean(1, keepdim=True)
        error = (model(energy) - energy).square().sum()
        return LossOutput(error, len(batch.ids), {})

    def metrics(self, sums: Any, size: float) -> dict[str, float]:
        return {}

    def validate(self, model: nn.Module) -> tuple[dict[str, float], float]:
        return {"loss": 0.0}, 0.0


def test_training_continues_at_the_saved_position(sharded_corpus, tmp_path, capsys) -> None:
    def run(updates: int) -> EnergyTask:
        task = EnergyTask(sharded_corpus)
        config = TrainConfig(updates=updates, log_every=1, checkpoint_every=2, validate_every=100)
        process = Process(0, 1, torch.device("cpu"))
        description = {"config": {"train.seed": 1}}
        optim = OptimConfig(warmup=1)
        torch.manual_seed(0)
        train(nn.Linear(1, 1), task, config, optim, tmp_path, description, process)
        return task

    first = run(4)
    assert [position.batch for position, _ in first.seen] == [0, 1, 2, 3]
    saved = torch.load(tmp_path / "checkpoints" / "step-00000004.pt")
    assert saved["position"] == [first.seen[-1][0].epoch, 4]
    capsys.readouterr()
    second = run(7)
    assert [position.batch for position, _ in second.seen] == [4, 5, 6]
    assert "continuing after batch 4" in capsys.readouterr().out
    start = Position(*saved["position"])
    expected = take(sharded_corpus, 3, start=start)
    assert [ids for _, ids in second.seen] == [batch.ids for batch in expected]
    assert start != BEGINNING
