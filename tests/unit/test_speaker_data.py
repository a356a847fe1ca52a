"""Speaker training data: classes, batches, speeds, augmentation, shards."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from unispeech.__main__ import main
from unispeech.config import load
from unispeech.data.augmentation import Augmenter, add_noise, read_channel, reverberate
from unispeech.data.config import SpeakerBatchingConfig, SpeakerDataConfig
from unispeech.data.loading import batches
from unispeech.data.manifests import load_cuts, write_cuts
from unispeech.data.sampling import BatchSpec, Position
from unispeech.data.speakers import SpeakerClasses, SpeakerSampler, SpeakerTraining
from unispeech.errors import ConfigError, DataError

RATE = 16000


def make_cut(path: Path, name: str, speaker: str | None = None, **custom: str) -> MonoCut:
    cut = Recording.from_file(path, recording_id=name).to_cut()
    cut.id = name
    if speaker:
        cut.supervisions = [SupervisionSegment(name, name, 0.0, cut.duration, speaker=speaker)]
    cut.custom = custom or None
    return cut


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five speakers with 1, 2, ... 5 utterances; each is a tone, so that its speed can be seen."""
    folder = tmp_path_factory.mktemp("speakers")
    cuts = []
    for person in range(5):
        for number in range(person + 1):
            name = f"id{person}/v/{number}"
            time = np.arange(round((1.0 + 0.5 * number) * RATE)) / RATE
            path = folder / f"{person}-{number}.flac"
            soundfile.write(path, 0.3 * np.sin(2 * np.pi * 1000 * time), RATE)
            cuts.append(make_cut(path, name, f"id{person}"))
    write_cuts(cuts, folder / "train.jsonl.gz")
    rng = np.random.default_rng(0)
    noises = []
    for kind in ("noise", "speech", "music"):
        soundfile.write(folder / f"{kind}.wav", 0.1 * rng.standard_normal(3 * RATE), RATE)
        noises.append(make_cut(folder / f"{kind}.wav", kind, kind=kind))
    write_cuts(noises, folder / "noise.jsonl.gz")
    response = rng.standard_normal(800) * np.exp(-np.arange(800) / 100)
    soundfile.write(folder / "rir.wav", response / np.abs(response).max(), RATE, "FLOAT")
    write_cuts([make_cut(folder / "rir.wav", "rir")], folder / "rir.jsonl.gz")
    (folder / "speakers.txt").write_text("".join(f"id{person}\n" for person in range(5)))
    return folder


def config(corpus: Path, **changes: object) -> SpeakerDataConfig:
    values = {"train": [str(corpus / "train.jsonl.gz")], "crop_seconds": 1.2, **changes}
    values.setdefault("augment_prob", 0.0)
    return SpeakerDataConfig.model_validate(values)


def take(training: SpeakerTraining, count: int, workers: int = 0, **more: object) -> list:
    stream = training.stream(**more)
    return list(itertools.islice(batches(training.dataset, stream, workers), count))


def same(one: list, other: list) -> bool:
    return all(
        torch.equal(a.wavs, b.wavs) and torch.equal(a.labels, b.labels) and a.ids == b.ids
        for a, b in zip(one, other, strict=True)
    )


def test_a_speed_is_another_speaker_and_moves_the_tone(corpus: Path) -> None:
    speeds = (1.0, 0.9, 1.1)
    training = SpeakerTraining(config(corpus, speeds=speeds, batching={"size": 15}), seed=1)
    assert training.dataset.class_count == 15
    seen = Counter()
    for batch in take(training, 8):
        assert batch.wavs.shape == (15, 19200)
        assert batch.lengths.tolist() == [19200] * 15
        for row, name, label in zip(batch.wavs.numpy(), batch.ids, batch.labels, strict=True):
            index, person = divmod(int(label), 5)
            assert name.startswith(f"id{person}/")
            # The first second: what comes after may be the beginning again.
            peak = np.abs(np.fft.rfft(row[:14000])).argmax() * RATE / 14000
            assert peak == pytest.approx(1000 * speeds[index], abs=RATE / 14000)
            seen[index] += 1
    assert min(seen.values()) > 20


def test_batches_depend_neither_on_workers_nor_on_interruptions(corpus: Path) -> None:
    files = {"noise": [str(corpus / "noise.jsonl.gz")], "rir": [str(corpus / "rir.jsonl.gz")]}
    many = config(corpus, **files, augment_prob=0.7, speeds=(1.0, 0.9), batching={"size": 4})
    whole = take(SpeakerTraining(many, seed=3), 12)
    assert same(whole, take(SpeakerTraining(many, seed=3), 12, workers=2))
    after = SpeakerTraining(many, seed=3)
    place = whole[6].position
    assert same(whole[6:], take(after, 6, start=place))
    assert not same(whole[:3], take(SpeakerTraining(many, seed=4), 3))
    # An utterance is not the same in two epochs.
    assert len({tuple(b.ids) for b in whole}) > 9


def test_processes_share_an_epoch(corpus: Path) -> None:
    cuts = load_cuts(corpus / "train.jsonl.gz")
    settings = SpeakerBatchingConfig(size=3)
    streams = [SpeakerSampler(cuts, settings, 1, rank, 2, epochs=1) for rank in range(2)]
    found = [[cut.id for spec in stream for cut in spec.cuts] for stream in streams]
    assert [len(own) for own in found] == [6, 6]
    assert len(set(found[0]) | set(found[1])) == 12


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=6),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 5),
)
def test_orders(counts: list[int], seed: int, epoch: int) -> None:
    cuts = [
        MonoCut(f"{s}-{n}", 0.0, 1.0, 0, [SupervisionSegment("", "", 0.0, 1.0, speaker=str(s))])
        for s, count in enumerate(counts)
        for n in range(count)
    ]
    plain = SpeakerSampler(CutSet.from_cuts(cuts), SpeakerBatchingConfig(), seed)
    assert sorted(plain.order(epoch)) == list(range(len(cuts)))
    balanced = SpeakerSampler(
        CutSet.from_cuts(cuts), SpeakerBatchingConfig(order="speakers"), seed
    ).order(epoch)
    assert len(balanced) == len(cuts)
    owners = [cuts[number].id.split("-")[0] for number in balanced]
    # Whole rounds: everybody once in each.
    for start in range(0, len(owners) - len(counts) + 1, len(counts)):
        assert len(set(owners[start : start + len(counts)])) == len(counts)
    # Nobody is heard again with an utterance before all of their own were heard.
    for person, count in enumerate(counts):
        own = [
            number for number, owner in zip(balanced, owners, strict=True) if owner == str(person)
        ]
        for start in range(0, len(own), count):
            part = own[start : start + count]
            assert len(set(part)) == len(part)


def test_shards_give_the_same_batches_in_another_order(corpus: Path, tmp_path: Path) -> None:
    options = ["--manifest", str(corpus / "train.jsonl.gz"), "--output", str(tmp_path / "s")]
    assert main(["shards", *options, "--shard-size", "6", "--jobs", "1"]) == 0
    sharded = config(
        corpus, train=[str(tmp_path / "s")], speakers=str(corpus / "speakers.txt"),
        batching={"size": 4, "shuffle_buffer": 15},
    )  # fmt: skip
    found = take(SpeakerTraining(sharded, seed=1), 6)
    assert [len(batch.ids) for batch in found] == [4] * 6
    for batch in found:
        assert batch.wavs.shape == (4, 19200)
        people = [int(name[2]) for name in batch.ids]
        assert batch.labels.tolist() == people
    with pytest.raises(ConfigError, match=r"data\.speakers"):
        SpeakerTraining(config(corpus, train=[str(tmp_path / "s")]), seed=1)
    balanced = SpeakerBatchingConfig(size=4, order="speakers")
    with pytest.raises(ConfigError, match="order"):
        SpeakerTraining(sharded.model_copy(update={"batching": balanced}), seed=1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), snr=st.floats(-10, 40), gain=st.floats(1e-3, 10))
def test_noise_has_its_ratio(seed: int, snr: float, gain: float) -> None:
    rng = np.random.default_rng(seed)
    speech, noise = rng.standard_normal((2, 4000)).astype(np.float32)
    added = add_noise(speech, np.float32(gain) * noise, snr).astype(np.float64) - speech
    found = 10 * np.log10(np.mean(speech.astype(np.float64) ** 2) / np.mean(added**2))
    assert found == pytest.approx(snr, abs=0.05)


def test_reverberation_is_a_convolution_with_a_response_of_unit_energy(corpus: Path) -> None:
    speech = np.random.default_rng(1).standard_normal(4000).astype(np.float32)
    cut = load_cuts(corpus / "rir.jsonl.gz")["rir"]
    response, rate = soundfile.read(corpus / "rir.wav")
    assert (rate, len(response)) == (RATE, cut.num_samples)
    wanted = np.convolve(speech, response / np.sqrt(np.sum(response**2)))[:4000]
    found = reverberate(speech, read_channel(cut, 0, cut.num_samples))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_shares_of_the_augmentations(corpus: Path) -> None:
    settings = config(
        corpus, noise=[str(corpus / "noise.jsonl.gz")], rir=[str(corpus / "rir.jsonl.gz")],
        augment_prob=0.6, reverb_share=0.25,
    )  # fmt: skip
    augmenter = Augmenter.from_config(settings)
    assert sorted(augmenter.noises) == ["music", "noise", "speech"]
    speech = 0.1 * np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    kinds = Counter()
    for seed in range(400):
        found = augmenter(speech, np.random.default_rng(seed))
        assert len(found) == len(speech)
        if np.array_equal(found, speech):
            kinds["none"] += 1
            continue
        assert np.abs(found).max() == pytest.approx(1.0)
        room = reverberate(speech, augmenter._response(np.random.default_rng(0)))
        kinds["room" if np.corrcoef(room, found)[0, 1] > 0.999 else "noise"] += 1
    # Four standard deviations.
    for kind, share in {"none": 0.4, "room": 0.15, "noise": 0.45}.items():
        assert kinds[kind] / 400 == pytest.approx(share, abs=4 * (share * (1 - share) / 400) ** 0.5)


def test_a_channel_of_several(tmp_path: Path) -> None:
    both = np.random.default_rng(0).uniform(-0.5, 0.5, (500, 2)).astype(np.float32)
    soundfile.write(tmp_path / "rir.wav", both, RATE, "FLOAT")
    recording = Recording.from_file(tmp_path / "rir.wav")
    cut = MonoCut("r", 0.0, recording.duration, 1, recording=recording)
    np.testing.assert_array_equal(read_channel(cut, 100, 300), both[100:400, 1])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"min_seconds": 99.0}, DataError, "lower data.min_seconds"),
        ({"train": ["/nowhere.jsonl.gz"]}, DataError, "no such manifest"),
        ({"train": []}, DataError, "no manifest given"),
        ({"noise": ["/nowhere.jsonl.gz"]}, DataError, "no such manifest"),
        ({"speakers": "/nowhere.txt"}, DataError, "cannot read the list of speakers"),
    ],
)
def test_errors(corpus: Path, change: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        SpeakerTraining(config(corpus, **change), seed=1)
    assert words in str(caught.value)


def test_one_speaker_and_unknown_speakers(corpus: Path, tmp_path: Path) -> None:
    cuts = list(load_cuts(corpus / "train.jsonl.gz"))
    write_cuts(cuts[:1], tmp_path / "one.jsonl.gz")
    with pytest.raises(DataError, match="two training speakers"):
        SpeakerTraining(config(corpus, train=[str(tmp_path / "one.jsonl.gz")]), seed=1)
    (tmp_path / "some.txt").write_text("id0\nid1\n")
    with pytest.raises(DataError, match="no training speaker"):
        SpeakerTraining(config(corpus, speakers=str(tmp_path / "some.txt")), seed=1)
    with pytest.raises(DataError, match="there twice"):
        SpeakerClasses(["a", "b", "a"], "here")


def test_wrong_speeds(tmp_path: Path) -> None:
    for text in ("speeds=[0.9,1.0]", "speeds=[1.0,1.0]"):
        with pytest.raises(ConfigError, match="the first speed must be 1"):
            load(SpeakerDataConfig, [], [text])


def test_a_batch_is_a_function_of_its_place(corpus: Path) -> None:
    dataset = SpeakerTraining(config(corpus, speeds=(1.0, 1.1)), seed=1).dataset
    cuts = CutSet.from_cuts(list(load_cuts(corpus / "train.jsonl.gz"))[-4:])
    first, again, other = (
        dataset[BatchSpec(place, cuts)]
        for place in (Position(0, 1), Position(0, 1), Position(1, 1))
    )
    assert torch.equal(first.wavs, again.wavs)
    assert not torch.equal(first.wavs, other.wavs)
