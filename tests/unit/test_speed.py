"""Speed perturbation: frequencies scale, labels stay with their sounds."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from lhotse import CutSet, Recording

from unispeech.config import load
from unispeech.data.config import CropConfig, MixingConfig
from unispeech.data.datasets import CtcDataset, PretrainDataset
from unispeech.data.labels import LabelStore, LabelWriter, write_description
from unispeech.data.sampling import BatchSpec, Position
from unispeech.data.speed import change_label_speed, change_speed, draw_speed, samples_at_speed
from unispeech.errors import ConfigError
from unispeech.train.config import PretrainConfig

LOW, HIGH = 400.0, 2000.0


def tone(frequency: float, seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * 16000)) / 16000)


@pytest.mark.parametrize("speed", [0.8, 0.9, 1.1, 1.25])
def test_equals_polyphase_resampling_and_scales_the_frequency(speed: float) -> None:
    audio = tone(500, 1.0).astype(np.float32)
    changed = change_speed(audio, 16000, speed)
    assert len(changed) == samples_at_speed(16000, speed) == round(16000 / speed)
    expected = np.sin(2 * np.pi * 500 * speed * np.arange(len(changed)) / 16000)
    inner = slice(200, -200)
    np.testing.assert_allclose(changed[inner], expected[inner], atol=0.02)
    peer = scipy.signal.resample_poly(audio, 20, round(20 * speed))
    np.testing.assert_allclose(changed[inner], peer[: len(changed)][inner], atol=0.02)


def test_speed_one_changes_nothing() -> None:
    audio, labels = np.arange(5, dtype=np.float32), np.arange(5)
    assert change_speed(audio, 16000, 1.0) is audio
    assert change_label_speed(labels, 1.0) is labels


@given(st.integers(1, 400), st.floats(0.5, 2.0))
def test_labels_keep_their_order_and_their_time(count: int, speed: float) -> None:
    changed = change_label_speed(np.arange(count), speed)
    assert abs(len(changed) - count / speed) <= 0.5 + 1e-9
    assert (np.diff(changed) >= 0).all()
    times = (np.arange(len(changed)) + 0.5) * speed
    assert (np.abs(changed + 0.5 - times) <= 0.5 + speed).all()


def test_draws_are_stable_and_reach_every_speed() -> None:
    speeds = (0.9, 1.0, 1.1)
    drawn = [draw_speed(speeds, 1, epoch, "utt") for epoch in range(60)]
    assert drawn == [draw_speed(speeds, 1, epoch, "utt") for epoch in range(60)]
    assert set(drawn) == set(speeds)
    assert draw_speed((1.0,), 1, 0, "utt") == 1.0


def two_tones(tmp_path) -> CutSet:
    """Two seconds of a low tone, label 0, then two of a high one, label 1."""
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.5 * np.concatenate([tone(LOW, 2), tone(HIGH, 2)]), 16000)
    cut = Recording.from_file(path, recording_id="a").to_cut()
    cut.id = "a"
    writer = LabelWriter(tmp_path / "labels", "train")
    (tmp_path / "labels").mkdir()
    writer.add("a", np.repeat([0, 1], 200).astype(np.uint16))
    write_description(tmp_path / "labels", 100, 2, {}, {"train": writer.close()})
    return CutSet.from_cuts([cut])


@pytest.mark.parametrize("is_normalized", [False, True])
def test_labels_follow_the_audio_at_every_speed(tmp_path, is_normalized: bool) -> None:
    cuts = two_tones(tmp_path)
    dataset = PretrainDataset(
        [LabelStore(tmp_path / "labels", ["train"])],
        CropConfig(max_seconds=3.0, min_seconds=1.0),
        MixingConfig(prob=0.0),
        seed=1,
        hop=320,
        is_normalized=is_normalized,
        speeds=(0.8, 1.0, 1.25),
    )
    cuts = dataset.usable(cuts)
    lengths = set()
    for epoch in range(12):
        batch = dataset[BatchSpec(Position(epoch, 0), cuts)]
        assert batch.waveforms.shape[1] == round(16000 * batch.seconds)
        lengths.add(batch.waveforms.shape[1])
        wave, labels = batch.waveforms[0].numpy(), batch.labels[0][0].numpy()
        assert set(labels) <= {0, 1}
        crossings = np.abs(np.diff(np.sign(wave))) > 0
        for index in range(5, len(labels) - 5):
            around = labels[index - 4 : index + 5]
            if (around == labels[index]).all():
                start = index * 160
                rate = crossings[start - 320 : start + 480].sum() / 0.05 / 2
                assert (rate > 1000) == (labels[index] == 1), (epoch, index)
    assert lengths == {round(3 * 16000 / speed) for speed in (0.8, 1.0, 1.25)}


def test_transcribed_utterances_change_their_length(tmp_path) -> None:
    class Letters:
        units = "letters"

        def encode(self, text: str) -> list[int]:
            return [1] * len(text)

    cuts = two_tones(tmp_path)
    for cut in cuts:
        cut.supervisions = []
    dataset = CtcDataset(Letters(), 1, False, (0.8, 1.0, 1.25))  # type: ignore[arg-type]
    lengths = {int(dataset[BatchSpec(Position(epoch, 0), cuts)].lengths[0]) for epoch in range(20)}
    assert lengths == {80000, 64000, 51200}


@pytest.mark.parametrize("value", ["[]", "[0.4]", "[1.0,3.0]", "fast"])
def test_impossible_speeds_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="speeds"):
        load(PretrainConfig, [], [f"data.speeds={value}"])
