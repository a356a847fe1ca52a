"""Batches: every utterance once, the same from any position, within the duration limit."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet
from lhotse.testing.dummies import dummy_cut

from unispeech.data.config import BatchingConfig
from unispeech.data.sampling import BatchStream, Position, stable_seed

CONFIG = BatchingConfig(max_seconds=60, buckets=8)


def make_cuts(count: int) -> CutSet:
    draw = random.Random(0)
    return CutSet.from_cuts([dummy_cut(i, duration=draw.uniform(1, 9)) for i in range(count)])


def take(count: int, **options: object) -> list[tuple[Position, list[str]]]:
    stream = BatchStream(make_cuts(150), CONFIG, 1, **options)
    return [(s.position, [c.id for c in s.cuts]) for s in itertools.islice(stream, count)]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 39))
def test_continues_from_any_position(position: int) -> None:
    whole = take(45)
    assert take(5, start=whole[position][0]) == whole[position : position + 5]


def test_position_behind_the_last_batch_is_the_next_epoch() -> None:
    batches = [p.batch for p, _ in take(200, epochs=1)]
    after = Position(0, len(batches))
    assert take(1, start=after)[0][0] == Position(1, 0)


@pytest.mark.parametrize("shape", ["read books", "uniform", "log-normal"])
def test_at_most_a_twentieth_of_a_batch_is_padding(shape: str) -> None:
    draw = random.Random(0)
    durations = {
        "read books": lambda: (
            draw.uniform(11, 16.5) if draw.random() < 0.7 else draw.uniform(2, 12)
        ),
        "uniform": lambda: draw.uniform(1.5, 9),
        "log-normal": lambda: min(max(draw.lognormvariate(1.4, 0.5), 1), 20),
    }[shape]
    cuts = CutSet.from_cuts([dummy_cut(i, duration=durations()) for i in range(2000)])
    batches = list(BatchStream(cuts, BatchingConfig(), 1, epochs=1))
    speech = sum(cut.duration for batch in batches for cut in batch.cuts)
    whole = sum(len(b.cuts) * max(cut.duration for cut in b.cuts) for b in batches)
    assert 0 < 1 - speech / whole <= 0.05


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_one_pass_has_every_utterance_once(world_size: int) -> None:
    ids = [
        i
        for rank in range(world_size)
        for _, batch in take(500, rank=rank, world_size=world_size, epochs=1)
        for i in batch
    ]
    assert sorted(ids) == sorted(c.id for c in make_cuts(150))


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_processes_have_as_many_batches_of_known_utterances(world_size: int) -> None:
    known = {c.id for c in make_cuts(150)}
    counts = []
    for rank in range(world_size):
        first = [b for p, b in take(300, rank=rank, world_size=world_size) if p.epoch == 0]
        assert all(set(b) <= known and len(set(b)) == len(b) for b in first)
        counts.append(len(first))
    assert len(set(counts)) == 1


@pytest.mark.parametrize(("count", "buckets"), [(1, 8), (20, 1)])
def test_one_bucket_or_one_utterance(count: int, buckets: int) -> None:
    cuts = make_cuts(count)
    stream = BatchStream(cuts, BatchingConfig(max_seconds=20, buckets=buckets), 1)
    first = [s for s in itertools.islice(stream, 20) if s.position.epoch == 0]
    assert sorted(c.id for s in first for c in s.cuts) == sorted(cuts.ids)


def test_batches_are_within_the_limit_and_epochs_differ() -> None:
    durations = {c.id: c.duration for c in make_cuts(150)}
    batches = take(60)
    assert all(sum(durations[i] for i in batch) <= 60 for _, batch in batches)
    epochs = [[b for p, b in batches if p.epoch == e] for e in (0, 1)]
    assert epochs[0] != epochs[1]


def test_stable_seed_is_stable() -> None:
    # blake2b of "1\x1fa", its first eight bytes as a little-endian integer, halved.
    import hashlib

    digest = hashlib.blake2b(b"1\x1fa", digest_size=8).digest()
    assert stable_seed(1, "a") == int.from_bytes(digest, "little") // 2
    assert stable_seed(1, "a") != stable_seed("1a")
