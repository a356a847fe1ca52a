"""Simulated conversations: statistics, sound, seeds, rooms, noise, the telephone."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import MonoCut, Recording, SupervisionSegment
from scipy.stats import expon, kstest

from unispeech.data.activity import speech_stretches
from unispeech.data.conversation_config import SimulationConfig
from unispeech.data.rttm import Segment, write_rttm
from unispeech.data.simulation import PEAK, Conversation, Simulator, Utterances, telephone
from unispeech.errors import ConfigError, DataError

RATE = 16000


def make_cut(path: Path, name: str, speaker: str = "", **custom: str) -> MonoCut:
    cut = Recording.from_file(path, recording_id=name).to_cut()
    cut.id = name
    if speaker:
        cut.supervisions = [SupervisionSegment(name, name, 0.0, cut.duration, speaker=speaker)]
    cut.custom = custom or None
    return cut


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers with three utterances of 1, 1.5 and 2 s of noise; a noise; a response."""
    folder = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    for person, number in itertools.product(range(4), range(3)):
        audio = 0.05 * rng.standard_normal(RATE + number * RATE // 2)
        soundfile.write(folder / f"{person}-{number}.wav", audio, RATE, "FLOAT")
    for kind in ("noise", "music"):
        soundfile.write(folder / f"{kind}.wav", 0.1 * rng.standard_normal(RATE // 2), RATE, "FLOAT")
    response = np.zeros(400)
    response[[0, 300]] = 0.8, 0.6
    soundfile.write(folder / "rir.wav", response, RATE, "FLOAT")
    return folder


@pytest.fixture(scope="module")
def utterances(folder: Path) -> Utterances:
    pairs = itertools.product(range(4), range(3))
    return Utterances([make_cut(folder / f"{p}-{u}.wav", f"{p}-{u}", f"s{p}") for p, u in pairs], 0)


def simulator(
    pool: Utterances, /, noises: tuple = (), rooms: tuple = (), **values: object
) -> Simulator:
    return Simulator(pool, SimulationConfig.model_validate(values), noises, rooms)


def plan(simulation: Simulator, *seed: int) -> Conversation:
    return simulation.plan(np.random.default_rng(seed))


def test_silences_of_independent_speakers_are_exponential(utterances: Utterances) -> None:
    simulation = simulator(utterances, speakers=(2, 3), silence=(4.0, 9.0), utterances=(10, 20))
    silences: dict[int, list[float]] = {2: [], 3: []}
    for seed in range(60):
        conversation = plan(simulation, seed)
        people = {turn.speaker for turn in conversation.turns}
        for person in people:
            own = [turn for turn in conversation.turns if turn.speaker == person]
            assert 10 <= len(own) <= 20
            ends = [0, *(turn.start + turn.samples for turn in own)]
            silences[len(people)] += [
                (turn.start - end) / RATE for turn, end in zip(own, ends, strict=False)
            ]
        assert conversation.samples == max(t.start + t.samples for t in conversation.turns)
    for count, mean in ((2, 4.0), (3, 9.0)):
        assert len(silences[count]) > 500
        assert kstest(silences[count], expon(scale=mean).cdf).pvalue > 1e-3


def test_turns_pause_and_overlap_as_configured(utterances: Utterances) -> None:
    turns = {"same_pause": 0.2, "pause": 0.6, "overlap": 0.05, "overlap_prob": 0.25}
    simulation = simulator(utterances, style="turns", speakers=3, utterances=(20, 20), turns=turns)
    found: dict[str, list[float]] = {"same": [], "pause": [], "overlap": []}
    for seed in range(15):
        order = plan(simulation, seed).turns
        for one, other in itertools.pairwise(order):
            gap = (other.start - one.start - one.samples) / RATE
            if one.speaker == other.speaker:
                found["same"].append(gap)
            else:
                found["pause" if gap >= 0 else "overlap"].append(abs(gap))
    changes = len(found["pause"]) + len(found["overlap"])
    assert len(found["overlap"]) / changes == pytest.approx(0.25, abs=0.06)
    for name, mean in (("same", 0.2), ("pause", 0.6), ("overlap", 0.05)):
        assert np.mean(found[name]) == pytest.approx(mean, rel=0.2)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    style=st.sampled_from(["independent", "turns"]),
    speakers=st.integers(1, 4),
    overlap=st.floats(0, 1),
)
def test_plans(
    utterances: Utterances, seed: int, style: str, speakers: int, overlap: float
) -> None:
    simulation = simulator(
        utterances, style=style, speakers=speakers, utterances=(1, 5),
        turns={"overlap": 3.0, "overlap_prob": overlap},
    )  # fmt: skip
    conversation = plan(simulation, seed)
    assert conversation == plan(simulation, seed)
    assert len({turn.speaker for turn in conversation.turns}) == speakers
    starts = [turn.start for turn in conversation.turns]
    assert starts == sorted(starts)
    assert min(starts) >= 0
    for turn in conversation.turns:
        assert utterances.owners[turn.utterance] == turn.speaker
        assert utterances.samples[turn.utterance] == turn.samples
    for person in {turn.speaker for turn in conversation.turns}:
        own = [turn for turn in conversation.turns if turn.speaker == person]
        for one, other in itertools.pairwise(own):
            assert one.start + one.samples <= other.start


def test_pauses_like_those_of_real_conversations(utterances: Utterances, tmp_path: Path) -> None:
    # A pauses 0.25 s and goes on, B begins 0.5 s early, A answers after 1 s.
    segments = [Segment(0.0, 2.0, "A"), Segment(2.25, 2.0, "A"), Segment(3.75, 2.25, "B")]
    segments.append(Segment(7.0, 1.0, "A"))
    write_rttm(tmp_path / "real.rttm", {"r": segments})
    simulation = simulator(
        utterances, style="turns", speakers=2, utterances=(8, 8),
        turns={"like": str(tmp_path / "real.rttm")},
    )  # fmt: skip
    assert simulation.lengths.overlap_prob == 0.5
    gaps = set()
    for one, other in itertools.pairwise(plan(simulation, 1).turns):
        kind = "same" if one.speaker == other.speaker else "change"
        gaps.add((kind, (other.start - one.start - one.samples) / RATE))
    assert gaps == {("same", 0.25), ("change", -0.5), ("change", 1.0)}
    write_rttm(tmp_path / "one.rttm", {"r": [Segment(0.0, 1.0, "A")]})
    with pytest.raises(DataError, match="nobody takes turns"):
        simulator(utterances, style="turns", turns={"like": str(tmp_path / "one.rttm")})


def test_the_sound_is_the_sum_of_the_turns(utterances: Utterances, folder: Path) -> None:
    simulation = simulator(utterances, style="turns", speakers=3, utterances=(2, 4), snr=())
    conversation = plan(simulation, 5)
    wanted = np.zeros(conversation.samples)
    names = [f"{person}-{number}" for person in range(4) for number in range(3)]
    for turn in conversation.turns:
        audio, _ = soundfile.read(folder / f"{names[turn.utterance]}.wav")
        wanted[turn.start : turn.start + turn.samples] += audio
    assert np.allclose(simulation.render(conversation), wanted, atol=1e-6)
    segments = simulation.segments(conversation)
    assert [(s.start * RATE, s.duration * RATE) for s in segments] == [
        (turn.start, turn.samples) for turn in conversation.turns
    ]


def test_a_stretch_is_a_part_of_the_whole(utterances: Utterances, folder: Path) -> None:
    rooms = (make_cut(folder / "rir.wav", "rir"),)
    simulation = simulator(
        utterances, rooms=rooms, style="turns", speakers=2, utterances=(3, 3), reverb_prob=0.5
    )
    conversation = next(c for c in (plan(simulation, s) for s in range(20)) if len(c.rooms) == 1)
    whole = simulation.render(conversation)
    for start, stop in ((0, 5000), (12345, 60000), (conversation.samples - 777, None)):
        assert np.allclose(simulation.render(conversation, start, stop), whole[start:stop])


def test_rooms_levels_and_peaks(utterances: Utterances, folder: Path) -> None:
    rooms = (make_cut(folder / "rir.wav", "rir"),)
    simulation = simulator(
        utterances, rooms=rooms, style="turns", speakers=1, utterances=(1, 1), reverb_prob=1.0,
        levels=(-6.0, -6.0),
    )  # fmt: skip
    conversation = plan(simulation, 0)
    turn = conversation.turns[0]
    dry = utterances.read(turn.utterance, 0, turn.samples) * 10 ** (-6 / 20)
    # The response has a norm of 1: 0.8 at once and 0.6 after 300 samples.
    wanted = 0.8 * dry + 0.6 * np.pad(dry, (300, 0))[: len(dry)]
    heard = simulation.render(conversation)[turn.start :]
    assert np.allclose(heard, wanted, atol=1e-5)
    loud = simulator(utterances, style="turns", speakers=1, utterances=(1, 1), levels=(40.0, 40.0))
    assert np.abs(loud.render(plan(loud, 0))).max() == pytest.approx(PEAK)
    shares = [len(plan(simulator(utterances, rooms=rooms, reverb_prob=0.3), s).rooms) / 3
              for s in range(100)]  # fmt: skip
    assert np.mean(shares) == pytest.approx(0.3, abs=0.1)


def test_noise_is_at_the_ratio_and_of_the_kind(utterances: Utterances, folder: Path) -> None:
    noises = [make_cut(folder / f"{kind}.wav", kind, kind=kind) for kind in ("noise", "music")]
    values = {"style": "turns", "speakers": 2, "utterances": (2, 2)}
    noisy = simulator(utterances, tuple(noises), snr=(12.0,), **values)
    assert [cut.id for cut in noisy.noises] == ["noise"]
    conversation = plan(noisy, 3)
    clean = simulator(utterances, **values).render(conversation._replace(noise=None))
    added = noisy.render(conversation).astype(float) - clean
    ratio = 10 * np.log10(np.mean(clean.astype(float) ** 2) / np.mean(added**2))
    assert ratio == pytest.approx(12.0, abs=0.01)
    # Where nobody speaks there is noise too, 12 dB below speech at -26 dBFS.
    silent = noisy.render(conversation, conversation.samples, conversation.samples + 8000)
    assert 10 * np.log10(np.mean(silent.astype(float) ** 2)) == pytest.approx(-38.0, abs=0.05)
    drawn = {plan(simulator(utterances, tuple(noises)), seed).snr for seed in range(40)}
    assert drawn == {10.0, 15.0, 20.0}


def test_the_telephone() -> None:
    time = np.arange(2 * RATE) / RATE
    for frequency, passes in ((50, False), (1000, True), (3000, True), (5000, False)):
        tone = (0.3 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)
        heard = telephone(tone)
        assert heard.shape == tone.shape
        power = np.mean(heard[RATE // 2 :] ** 2) / np.mean(tone**2)
        assert (power > 0.9) if passes else (power < 0.01)
    # Eight bits of mu-law leave a signal-to-noise ratio of about 38 dB (ITU-T G.711, G.712).
    heard = telephone(0.3 * np.sin(2 * np.pi * 1000 * time))[RATE // 2 :]
    spectrum = np.abs(np.fft.rfft(heard)) ** 2
    around = slice(1498, 1503)
    ratio = 10 * np.log10(spectrum[around].sum() / (spectrum.sum() - spectrum[around].sum()))
    assert 33 < ratio < 45
    assert len(telephone(np.zeros(1601, np.float32))) == 1601


def test_speech_is_found_by_its_energy() -> None:
    rng = np.random.default_rng(0)
    audio = 0.0003 * rng.standard_normal(6 * RATE)
    # Speech from 1 to 2 s, from 2.2 to 3 s and from 4 to 5 s.
    for start, end in ((1.0, 2.0), (2.2, 3.0), (4.0, 5.0)):
        audio[int(start * RATE) : int(end * RATE)] += 0.1 * rng.standard_normal(
            int(end * RATE) - int(start * RATE)
        )
    found = speech_stretches(audio.astype(np.float32))
    assert np.allclose(found, [(1.0, 3.0), (4.0, 5.0)], atol=0.08)
    assert len(speech_stretches(audio.astype(np.float32), pause=0.05)) == 3
    assert speech_stretches(np.zeros(RATE, np.float32)) == []
    assert speech_stretches(np.zeros(100, np.float32)) == []
    steady = (0.1 * rng.standard_normal(RATE)).astype(np.float32)
    assert speech_stretches(steady) == [(0.0, 1.0)]


def test_what_cannot_be_simulated(utterances: Utterances, folder: Path) -> None:
    with pytest.raises(ConfigError, match="more speakers than there are.*expected 5 speakers"):
        simulator(utterances, speakers=5)
    with pytest.raises(DataError, match="utterance x has no speaker"):
        Utterances([make_cut(folder / "0-0.wav", "x")], "here")
    with pytest.raises(DataError, match="here: no utterance"):
        Utterances([], "here")
    for values in ({"silence": (1.0, 2.0)}, {"utterances": (5, 4)}, {"levels": (1.0, 0.0)}):
        with pytest.raises(ValueError, match="give|utterances|levels"):
            SimulationConfig.model_validate(values)
