"""Mixtures of two speakers: patterns, levels, batches, stored mixtures, what can be wrong."""

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
from scipy.signal import fftconvolve

from unispeech.data.config import MixtureDataConfig
from unispeech.data.loading import batches
from unispeech.data.manifests import load_cuts, write_cuts
from unispeech.data.mixtures import MixtureTraining, read_mixture
from unispeech.data.overlap import PATTERNS, balance, draw_starts, draw_window
from unispeech.data.sampling import Position
from unispeech.errors import DataError

RATE = 16000


def make_cut(path: Path, name: str, speaker: str = "", **custom: object) -> MonoCut:
    cut = Recording.from_file(path, recording_id=name).to_cut()
    if not isinstance(cut, MonoCut):
        cut = MonoCut(name, 0.0, cut.duration, 0, recording=cut.recording)
    cut.id = name
    if speaker:
        cut.supervisions = [SupervisionSegment(name, name, 0.0, cut.duration, speaker=speaker)]
    cut.custom = custom or None
    return cut


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Utterances of three speakers, two responses of each of two rooms, a noise."""
    folder = tmp_path_factory.mktemp("mixtures")
    rng = np.random.default_rng(0)
    cuts = []
    for person, number in itertools.product(range(3), range(3)):
        name = f"s{person}-{number}"
        audio = 0.1 * rng.standard_normal(round((1.2 + 0.4 * number) * RATE))
        soundfile.write(folder / f"{name}.wav", audio, RATE, subtype="FLOAT")
        cuts.append(make_cut(folder / f"{name}.wav", name, f"s{person}"))
    write_cuts(cuts, folder / "train.jsonl.gz")
    responses = []
    for room, place in itertools.product("ab", range(2)):
        tail = rng.standard_normal(3000) * np.exp(-np.arange(3000) / 400)
        tail[0] = 5.0
        soundfile.write(folder / f"{room}{place}.wav", tail, RATE, subtype="FLOAT")
        responses.append(make_cut(folder / f"{room}{place}.wav", f"{room}{place}", room=room))
    write_cuts(responses, folder / "rir.jsonl.gz")
    soundfile.write(folder / "n.wav", rng.uniform(-0.5, 0.5, 5 * RATE), RATE, subtype="FLOAT")
    write_cuts([make_cut(folder / "n.wav", "n", kind="noise")], folder / "noise.jsonl.gz")
    return folder


def configure(corpus: Path, **settings: object) -> MixtureDataConfig:
    data = {
        "train": str(corpus / "train.jsonl.gz"),
        "rir": str(corpus / "rir.jsonl.gz"),
        "noise": str(corpus / "noise.jsonl.gz"),
        "seconds": 1.5,
        "batching": {"size": 3},
    }
    return MixtureDataConfig.model_validate({**data, **settings})


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(PATTERNS), st.integers(2, 500), st.integers(2, 500), st.integers(1, 50),
    st.integers(0, 2**31),
)  # fmt: skip
def test_patterns(pattern: str, first: int, second: int, gap: int, seed: int) -> None:
    """Every pattern has the overlap that its name says."""
    lengths = [first] if pattern == "single" else [first, second]
    starts = draw_starts(pattern, lengths, gap, np.random.default_rng(seed))
    assert min(starts) == 0
    if pattern == "single":
        return
    (a, b), ends = starts, [s + n for s, n in zip(starts, lengths, strict=True)]
    overlap = min(ends) - max(a, b)
    if pattern == "sequential":
        assert overlap == -gap
    elif pattern == "inclusive":
        assert overlap == min(first, second)
    else:
        assert 0 < overlap < min(first, second)
        assert a < b < ends[0] < ends[1]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**31))
def test_a_window_is_in_its_mixture_or_the_mixture_in_it(total: int, n: int, seed: int) -> None:
    first = draw_window(total, n, np.random.default_rng(seed))
    if total >= n:
        assert 0 <= first <= total - n
    else:
        assert total - n <= first <= 0


def test_parts_add_up_and_ratios_are_as_drawn(corpus: Path) -> None:
    config = configure(corpus, energy_ratio=(3.0, 3.0), snr=(6.0, 6.0), level=(-30.0, -30.0))
    dataset = MixtureTraining(config, 1).dataset
    found = []
    for number, cut in enumerate(load_cuts(config.train)):
        mixture, sources, noise = dataset.simulate(cut, np.random.default_rng(number))
        assert len(mixture) == 1.5 * RATE
        assert np.allclose(mixture, sources.sum(axis=0) + noise, atol=1e-7)
        assert 10 * np.log10(np.mean(mixture**2)) == pytest.approx(-30.0, abs=0.01)
        there = np.abs(sources).sum(axis=0) > 0
        ratio = np.mean(sources.sum(axis=0)[there] ** 2) / np.mean(noise**2)
        # Reverberation after the last word counts in `there` but not in the ratio.
        assert 10 * np.log10(ratio) == pytest.approx(6.0, abs=1.0)
        found.append(sources)
    assert any((own == 0).all(axis=1).any() for own in found)  # one speaker is absent
    both = [own for own in found if (own != 0).any(axis=1).all()]
    assert both


def test_balance() -> None:
    rng = np.random.default_rng(0)
    sources = rng.standard_normal((2, 4000)).astype(np.float32) * np.array([[1.0], [7.0]])
    present = np.zeros((2, 4000), bool)
    present[0, :1000] = present[1, 500:] = True
    sources = np.where(present, sources, 0.0).astype(np.float32)
    gained = balance(sources, present, 4.0)[:, None] * sources
    powers = [np.mean(own[there] ** 2) for own, there in zip(gained, present, strict=True)]
    assert 10 * np.log10(powers[0] / powers[1]) == pytest.approx(4.0, abs=1e-4)
    assert balance(np.zeros((2, 5), np.float32), present[:, :5], 3.0).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("reference", ["reverberant", "early"])
def test_a_window_hears_what_the_whole_mixture_would(corpus: Path, reference: str) -> None:
    """Pieces of a convolution are those of the whole utterance convolved, tails included."""
    config = configure(corpus, reference=reference, early_seconds=0.01)
    dataset = MixtureTraining(config, 1).dataset
    cut = next(c for c in dataset.cuts if c.id == "s1-2")
    dry, _ = soundfile.read(corpus / "s1-2.wav", dtype="float32")
    response, _ = soundfile.read(corpus / "a0.wav", dtype="float32")
    part = response.copy()
    if reference == "early":
        part[161:] = 0.0
    for offset in (-9000, -31000, -33000, 0, 5000, 23999, 24000, 40000, -40000):
        heard, wanted = dataset._heard(cut, offset, response)
        for got, filtering in ((heard, response), (wanted, part)):
            line = np.zeros(140000)
            whole = fftconvolve(dry, filtering)
            line[50000 + offset : 50000 + offset + len(whole)] = whole
            assert np.allclose(got, line[50000:74000], atol=1e-5), offset


def test_batches_do_not_depend_on_workers_and_continue_anywhere(corpus: Path) -> None:
    training = MixtureTraining(configure(corpus), 5)
    alone = list(itertools.islice(batches(training.dataset, training.stream(), 0), 5))
    with_workers = list(itertools.islice(batches(training.dataset, training.stream(), 2), 5))
    again = training.stream(Position(1, 1))
    later = next(batches(training.dataset, again, 0))
    assert [batch.position for batch in alone][4] == Position(1, 1) == later.position
    for one, other in [*zip(alone, with_workers, strict=True), (alone[4], later)]:
        assert one.ids == other.ids
        for name in ("wavs", "lengths", "sources", "noise"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    assert sorted(itertools.chain(*(batch.ids for batch in alone[:3]))) == sorted(
        cut.id for cut in training.cuts
    )
    shapes = [tuple(getattr(alone[0], name).shape) for name in ("wavs", "sources", "noise")]
    assert shapes == [(3, 24000), (3, 2, 24000), (3, 24000)]
    halves = [next(iter(training.stream(rank=rank, world_size=2))).cuts.ids for rank in (0, 1)]
    assert not set(halves[0]) & set(halves[1])


def store(folder: Path, seconds: float = 2.0) -> Path:
    """Two stored mixtures with references, the second of one speaker and with seven channels."""
    rng = np.random.default_rng(3)
    cuts = []
    for number, channels in enumerate((1, 7)):
        parts = 0.1 * rng.standard_normal((2 - number, round(seconds * RATE)))
        files = []
        for row, part in enumerate(parts):
            files.append(str(folder / f"r{number}{row}.wav"))
            soundfile.write(files[-1], part, RATE, subtype="FLOAT")
        noise = 0.01 * rng.standard_normal((channels, parts.shape[1]))
        path = folder / f"m{number}.wav"
        soundfile.write(path, (parts.sum(axis=0) + noise).T, RATE, subtype="FLOAT")
        cuts.append(make_cut(path, f"m{number}", "s", condition="0S", references=files))
    write_cuts(cuts, folder / "stored.jsonl.gz")
    return folder / "stored.jsonl.gz"


def test_stored_mixtures(corpus: Path, tmp_path: Path) -> None:
    manifest = store(tmp_path)
    config = configure(
        corpus, train=str(manifest), valid=str(manifest), seconds=0.75, gap=(0.1, 0.2)
    )
    training = MixtureTraining(config, 2)
    batch = next(batches(training.dataset, training.stream(), 0))
    assert batch.wavs.shape == (3, 12000)
    assert torch.allclose(batch.wavs, batch.sources.sum(1) + batch.noise, atol=1e-6)
    for row, name in enumerate(batch.ids):
        assert batch.noise[row].std() == pytest.approx(0.01, rel=0.1)
        assert (batch.sources[row, 1] == 0).all() == (name == "m1")
    valid = list(training.valid_batches())
    assert [b.ids for b in valid] == [["m0", "m0", "m1"], ["m1"]]
    audio, _ = soundfile.read(tmp_path / "m1.wav", dtype="float32")
    assert np.array_equal(valid[1].wavs[0].numpy(), audio[12000:24000, 0])
    shared = [[b.ids for b in training.valid_batches(rank, 2)] for rank in (0, 1)]
    assert shared == [[["m0", "m0", "m1"]], [["m1"]]]
    long = configure(corpus, train=str(manifest), valid=str(manifest), seconds=3.0)
    (short,) = MixtureTraining(long, 2).valid_batches()
    assert short.lengths.tolist() == [32000, 32000]
    assert (short.wavs[:, 32000:] == 0).all()


def test_what_can_be_wrong(corpus: Path, tmp_path: Path) -> None:
    cuts = list(load_cuts(corpus / "train.jsonl.gz"))
    write_cuts(cuts[:3], tmp_path / "one.jsonl.gz")
    with pytest.raises(DataError, match=r"two speakers at least.*found s0"):
        MixtureTraining(configure(corpus, train=str(tmp_path / "one.jsonl.gz")), 1)
    with pytest.raises(DataError, match="lower data.min_seconds"):
        MixtureTraining(configure(corpus, min_seconds=9.0), 1)
    with pytest.raises(DataError, match="no such manifest"):
        MixtureTraining(configure(corpus, rir="nowhere.jsonl.gz"), 1)
    with pytest.raises(DataError, match="not a mixture with references"):
        list(MixtureTraining(configure(corpus, valid=configure(corpus).train), 1).valid_batches())
    (cut, other) = load_cuts(store(tmp_path))
    soundfile.write(tmp_path / "r00.wav", np.zeros(100), RATE)
    with pytest.raises(DataError, match="reference does not fit its mixture"):
        read_mixture(cut)
    Path(other.custom["references"][0]).unlink()
    with pytest.raises(DataError, match=r"mixture m1, reference .*no such audio file"):
        read_mixture(other)
