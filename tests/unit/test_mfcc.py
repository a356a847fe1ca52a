"""MFCC against kaldi-native-fbank, deltas against torchaudio's formula."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from unispeech.data.mfcc import deltas, mfcc, mfcc39

kaldi_native_fbank = pytest.importorskip("kaldi_native_fbank")


def peer(waveform: np.ndarray) -> np.ndarray:
    options = kaldi_native_fbank.MfccOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = 16000
    options.use_energy = False
    extractor = kaldi_native_fbank.OnlineMfcc(options)
    extractor.accept_waveform(16000, waveform.tolist())
    extractor.input_finished()
    return np.stack([extractor.get_frame(i) for i in range(extractor.num_frames_ready)])


@pytest.mark.parametrize("samples", [400, 559, 560, 16000, 33333])
def test_equals_the_kaldi_peer_on_noise(samples: int) -> None:
    rng = np.random.default_rng(samples)
    waveform = (0.1 * rng.standard_normal(samples)).astype(np.float32)
    ours, theirs = mfcc(waveform), peer(waveform)
    assert ours.shape == theirs.shape == ((samples - 400) // 160 + 1, 13)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_equals_the_kaldi_peer_on_real_speech(real_data) -> None:
    path = sorted((real_data / "librispeech_mini").rglob("*.flac"))[0]
    waveform, rate = soundfile.read(path, dtype="float32")
    assert rate == 16000
    np.testing.assert_allclose(mfcc(waveform), peer(waveform), atol=5e-3)


def test_too_short_gives_no_frame() -> None:
    assert mfcc39(np.zeros(399, dtype=np.float32)).shape == (0, 39)


def test_deltas_by_the_definition() -> None:
    features = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    expected = np.zeros_like(features)
    for t in range(7):
        for n in (1, 2):
            ahead, behind = features[min(t + n, 6)], features[max(t - n, 0)]
            expected[t] += n * (ahead - behind) / (2 * (1 + 4))
    np.testing.assert_allclose(deltas(features), expected, atol=1e-6)


def test_39_columns_are_static_first_and_second() -> None:
    waveform = (0.1 * np.random.default_rng(1).standard_normal(8000)).astype(np.float32)
    features = mfcc39(waveform)
    static = mfcc(waveform)
    np.testing.assert_array_equal(features[:, :13], static)
    np.testing.assert_array_equal(features[:, 26:], deltas(deltas(static)))


def test_normalised_cepstra_come_before_the_deltas_and_hide_the_level() -> None:
    rng = np.random.default_rng(5)
    waveform = np.cumsum(rng.standard_normal(16000)).astype(np.float32) / 500
    features = mfcc39(waveform, cmvn=True)
    static = features[:, :13]
    np.testing.assert_allclose(static.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(static.std(0), 1, atol=1e-4)
    np.testing.assert_allclose(features[:, 13:26], deltas(static), atol=1e-6)
    np.testing.assert_allclose(mfcc39(0.1 * waveform, cmvn=True), features, atol=0.02)
    assert np.isfinite(mfcc39(np.zeros(16000, np.float32), cmvn=True)).all()
