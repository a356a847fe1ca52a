"""Training data of diarization: chunks, frames, batches."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import MonoCut, Recording, SupervisionSegment

from unispeech.data.conversation_chunks import frame_activity, within
from unispeech.data.conversation_config import ConversationDataConfig
from unispeech.data.conversations import ConversationTraining
from unispeech.data.loading import batches
from unispeech.data.manifests import write_cuts
from unispeech.data.rttm import Segment
from unispeech.errors import ConfigError, DataError

RATE = 16000
FRAME = 0.1


def frames(samples: int) -> int:
    return samples // 1600


def make_cut(path: Path, name: str, *segments: tuple[float, float, str]) -> MonoCut:
    cut = Recording.from_file(path, recording_id=name).to_cut()
    cut.id = name
    cut.supervisions = [
        SupervisionSegment(f"{name}-{i}", name, start, end - start, speaker=who)
        for i, (start, end, who) in enumerate(segments)
    ]
    return cut


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations of ramps, whose samples tell where they are, and utterances of speakers."""
    folder = tmp_path_factory.mktemp("conversations")
    for name, seconds in (("long", 25), ("short", 4), ("crowd", 10)):
        ramp = np.arange(seconds * RATE) / (30 * RATE)
        soundfile.write(folder / f"{name}.wav", ramp, RATE, "FLOAT")
    long = make_cut(
        folder / "long.wav", "long", (1.0, 3.0, "a"), (2.0, 12.0, "b"), (24.0, 25.0, "c")
    )
    crowd = make_cut(folder / "crowd.wav", "crowd", *[(i, i + 2.0, f"p{i}") for i in range(4)])
    write_cuts([long, make_cut(folder / "short.wav", "short"), crowd], folder / "train.jsonl.gz")
    write_cuts([make_cut(folder / "long.wav", "long", (0.0, 1.0, "x"))], folder / "valid.jsonl.gz")
    rng = np.random.default_rng(0)
    cuts = []
    for person, number in itertools.product(range(4), range(2)):
        name = f"{person}-{number}"
        soundfile.write(folder / f"{name}.wav", 0.05 * rng.standard_normal(RATE), RATE)
        cuts.append(make_cut(folder / f"{name}.wav", name, (0.0, 1.0, f"s{person}")))
    write_cuts(cuts, folder / "speech.jsonl.gz")
    return folder


def training(folder: Path, seed: int = 0, **values: object) -> ConversationTraining:
    values = {"train": [str(folder / "train.jsonl.gz")], "chunk_seconds": 10.0, **values}
    config = ConversationDataConfig.model_validate(values)
    return ConversationTraining(config, seed, frames, FRAME)


def simulated(folder: Path, seed: int = 0, **values: object) -> ConversationTraining:
    simulate = {"style": "turns", "speakers": [2, 3], "utterances": (3, 6)}
    values = {"simulate": simulate, "batching": {"size": 3, "workers": 0}, **values}
    return training(
        folder, seed, train=str(folder / "speech.jsonl.gz"), chunk_seconds=5.0, **values
    )


def take(training: ConversationTraining, count: int, workers: int = 0, **more: object) -> list:
    stream = training.stream(**more)
    return list(itertools.islice(batches(training.dataset, stream, workers), count))


def same(one: list, other: list) -> bool:
    return all(
        torch.equal(a.wavs, b.wavs)
        and torch.equal(a.activity, b.activity)
        and torch.equal(a.speakers, b.speakers)
        and a.ids == b.ids
        and a.position == b.position
        for a, b in zip(one, other, strict=True)
    )


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 400), st.integers(1, 120), st.sampled_from("abcd")), max_size=8
    ),
    count=st.integers(0, 40),
)
def test_frames_are_those_whose_centre_is_spoken(rows: list, count: int) -> None:
    # Hundredths of a second and a half, off the centres of frames of a tenth.
    segments = [Segment((start + 0.5) / 100, length / 100, who) for start, length, who in rows]
    names, active = frame_activity(segments, count, FRAME)
    assert active.shape == (count, len(names))
    for who in "abcd":
        wanted = [
            any(s.speaker == who and s.start <= (t + 0.5) * FRAME < s.end
                for s in segments)
            for t in range(count)
        ]  # fmt: skip
        if any(wanted):
            assert active[:, names.index(who)].astype(bool).tolist() == wanted
        else:
            assert who not in names


def test_within() -> None:
    segments = [Segment(0.0, 2.0, "a"), Segment(1.5, 5.0, "b"), Segment(4.0, 1.0, "a")]
    assert within(segments, RATE, 3 * RATE) == [Segment(0.0, 1.0, "a"), Segment(0.5, 2.5, "b")]
    assert within(segments, 9 * RATE, RATE) == []


def test_chunks_of_stored_conversations(folder: Path) -> None:
    data = training(folder, batching={"size": 4})
    # crowd has four speakers in its only chunk, and there are three slots.
    assert data.speakers == ("a", "b", "c", "p0", "p1", "p2", "p3")
    source = data.dataset.source
    ids = [source.chunk(number).id for number in range(data.count)]
    assert ids == ["long@0", "long@10", "long@20", "short@0"]
    (batch,) = take(data, 1)
    assert sorted(batch.ids) == ids
    assert batch.seconds == 29.0
    for row, name in enumerate(batch.ids):
        length = int(batch.lengths[row])
        assert length == {"long@20": 5, "short@0": 4}.get(name, 10) * RATE
        start = int(name.split("@")[1]) / 30
        assert batch.wavs[row, 0] == pytest.approx(start, abs=1e-6)
        assert not batch.wavs[row, length:].any()
        assert not batch.activity[row, length // 1600 :].any()
    wanted = {
        "long@0": ([0, 1, -1], [20, 80, 0]),
        "long@10": ([1, -1, -1], [20, 0, 0]),
        "long@20": ([2, -1, -1], [10, 0, 0]),
        "short@0": ([-1, -1, -1], [0, 0, 0]),
    }
    for row, name in enumerate(batch.ids):
        speakers, spoken = wanted[name]
        assert batch.speakers[row].tolist() == speakers
        assert batch.activity[row].sum(0).tolist() == spoken
    first = batch.ids.index("long@0")
    assert batch.activity[first, 10:30, 0].all()
    assert batch.activity[first, 20:100, 1].all()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 240), st.integers(1, 90), st.integers(0, 5)), max_size=10
    ),
    slots=st.integers(1, 3),
)
def test_crowded_chunks_are_left_out(
    folder: Path, rows: list, slots: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tenths = [(start / 10, min(start + length, 250) / 10, f"p{who}") for start, length, who in rows]
    tenths = [row for row in tenths if row[1] > row[0]] + [(24.9, 25.0, "p0"), (24.9, 25.0, "p1")]
    path = tmp_path_factory.mktemp("one") / "one.jsonl.gz"
    write_cuts([make_cut(folder / "long.wav", "long", *tenths)], path)
    values = {"train": [str(path)], "slots": slots, "chunk_seconds": 5.0}
    wanted = []
    for first in range(0, 25, 5):
        inside = {who for start, end, who in tenths if start < first + 5 and end > first}
        if len(inside) <= slots:
            wanted.append(f"long@{first}")
    if wanted:
        data = training(folder, **values)
        assert [data.dataset.source.chunk(n).id for n in range(data.count)] == wanted
    else:
        with pytest.raises(DataError, match="no usable chunk"):
            training(folder, **values)


def test_batches_depend_neither_on_workers_nor_on_interruptions(folder: Path) -> None:
    for make in (simulated, training):
        whole = take(make(folder, seed=3, batching={"size": 2}), 6)
        assert same(whole, take(make(folder, seed=3, batching={"size": 2}), 6, workers=2))
        after = make(folder, seed=3, batching={"size": 2})
        assert same(whole[4:], take(after, 2, start=whole[4].position))
        assert not same(whole[:3], take(make(folder, seed=4, batching={"size": 2}), 3))


def test_processes_share_an_epoch(folder: Path) -> None:
    one = take(simulated(folder, batches_per_epoch=4), 5)
    both = [take(simulated(folder, batches_per_epoch=4), 3, rank=r, world_size=2) for r in (0, 1)]
    shared = [batch.ids for pair in zip(*both, strict=True) for batch in pair]
    assert [batch.ids for batch in one][:4] == shared[:4]
    assert [batch.position.epoch for batch in one] == [0, 0, 0, 0, 1]
    assert [batch.position.epoch for batch in both[1]] == [0, 0, 1]
    stored = [take(training(folder, batching={"size": 2}), 1, rank=r, world_size=2) for r in (0, 1)]
    assert len({name for own in stored for batch in own for name in batch.ids}) == 4


def test_simulated_chunks(folder: Path) -> None:
    data = simulated(folder)
    assert data.speakers == ("s0", "s1", "s2", "s3")
    seen = set()
    for batch in take(data, 10):
        assert batch.wavs.shape[1] <= 5 * RATE
        assert batch.activity.shape == (3, frames(batch.wavs.shape[1]), 3)
        for row in range(3):
            spoken = batch.activity[row].any(0)
            assert torch.equal(spoken, batch.speakers[row] >= 0)
            # Utterances are steady noise: a frame has sound where somebody speaks.
            count = int(batch.lengths[row]) // 1600
            sound = batch.wavs[row, : count * 1600].view(count, 1600).abs()
            whole = batch.activity[row, :count].any(1)
            assert (sound[whole].amax(1) > 0.01).all()
            seen |= set(batch.speakers[row].tolist())
    assert seen == {-1, 0, 1, 2, 3}


def test_more_speakers_than_slots(folder: Path) -> None:
    simulate = {"style": "turns", "speakers": 3, "utterances": (3, 3)}
    data = simulated(folder, simulate=simulate, slots=1)
    with pytest.raises(ConfigError, match="more speakers than slots"):
        take(simulated(folder, simulate={**simulate, "turns": {"overlap_prob": 1.0}}, slots=1), 40)
    assert data.dataset.slots == 1


def test_validation(folder: Path) -> None:
    values = {"valid": [str(folder / "valid.jsonl.gz")], "batching": {"size": 2}}
    data = training(folder, **values)
    found = list(data.validation())
    assert [batch.ids for batch in found] == [["long@0", "long@10"], ["long@20"]]
    # Somebody unknown speaks in the first second.
    assert found[0].activity[0].sum(0).tolist() == [10, 0, 0]
    assert (found[0].speakers == -1).all()
    shared = [list(data.validation(rank, 2)) for rank in range(2)]
    assert [batch.ids for own in shared for batch in own] == [batch.ids for batch in found]
    with pytest.raises(ConfigError, match="key 'data.valid' is missing"):
        next(training(folder).validation())


def test_list_of_speakers(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "speakers.txt"
    listed.write_text("c\nb\na\n")
    data = training(folder, speakers=str(listed), batching={"size": 4})
    (batch,) = take(data, 1)
    assert batch.speakers[batch.ids.index("long@0")].tolist() == [2, 1, -1]
    listed.write_text("a\nc\n")
    with pytest.raises(DataError, match="speaker 'b' of long@.* is no training speaker"):
        take(training(folder, speakers=str(listed), batching={"size": 4}), 1)


def test_what_is_missing(folder: Path) -> None:
    with pytest.raises(DataError, match="no such manifest"):
        training(folder, train=[str(folder / "none.jsonl.gz")])
    with pytest.raises(ConfigError, match="key 'data.train' is missing"):
        training(folder, train=[])
    with pytest.raises(DataError, match="no usable chunk.*at most 3 speakers"):
        training(folder, min_seconds=11.0)
