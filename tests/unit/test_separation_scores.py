"""SI-SDR against its closed form; PESQ and STOI at the values their definitions give."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packages import require

from unispeech.errors import DataError, DependencyError
from unispeech.score import separation
from unispeech.score.separation import LIMIT, best_stream, si_sdr


def tone(number: int, samples: int = 1600) -> np.ndarray:
    """Whole periods, so that different tones are orthogonal and have no mean."""
    return np.sqrt(2) * np.sin(2 * np.pi * number * np.arange(samples) / samples)


@settings(deadline=None)
@given(
    st.floats(-60, 60),
    st.floats(1e-3, 1e3),
    st.floats(1e-3, 1e3),
    st.floats(-1, 1),
    st.sampled_from([1, -1]),
)
def test_closed_form(decibel: float, scale: float, size: float, offset: float, sign: int) -> None:
    """Of orthogonal parts it is the ratio of their powers, whatever scale and offset."""
    wanted = size * tone(3)
    other = 10 ** (-decibel / 20) * tone(7)
    estimate = sign * scale * (tone(3) + other) + offset
    assert float(si_sdr(estimate, wanted + offset)) == pytest.approx(decibel, abs=1e-4)


def test_equal_to_the_definition_by_projection() -> None:
    """Least squares by numpy instead of the formula, on a stack of signals."""
    rng = np.random.default_rng(0)
    wanted, given_ = rng.standard_normal((2, 3, 500))
    found = si_sdr(given_, wanted)
    for row in range(3):
        s, e = wanted[row] - wanted[row].mean(), given_[row] - given_[row].mean()
        factor = np.linalg.lstsq(s[:, None], e, rcond=None)[0]
        rest = e - factor * s
        expected = 20 * math.log10(np.linalg.norm(factor * s) / np.linalg.norm(rest))
        assert found[row] == pytest.approx(expected, abs=1e-9)
    assert si_sdr(given_[None], wanted[:, None]).shape == (3, 3)


def test_limits() -> None:
    assert float(si_sdr(tone(3), tone(3))) == LIMIT
    assert float(si_sdr(np.zeros(1600), tone(3))) == -LIMIT
    assert float(si_sdr(tone(4), tone(3))) == -LIMIT


def test_best_stream_is_the_first_of_the_best() -> None:
    streams = np.stack([tone(3) + tone(5), tone(5), tone(3), 2 * tone(3)])
    assert best_stream(streams, tone(3)) == (2, LIMIT)
    number, value = best_stream(streams[:2], tone(3))
    assert number == 0
    assert value == pytest.approx(0.0, abs=1e-9)


def test_wrong_signals() -> None:
    for estimate, reference, words in (
        (tone(3), np.zeros(1600), "silent reference"),
        (tone(3), np.full(1600, 0.3), "silent reference"),
        (tone(3)[:-1], tone(3), "differ in length"),
        (np.zeros(0), np.zeros(0), "differ in length"),
        (np.full(1600, np.nan), tone(3), "not finite"),
    ):
        with pytest.raises(DataError, match=words):
            si_sdr(estimate, reference)


def speech_like(seconds: float = 3.0) -> np.ndarray:
    """Syllables of noise: bursts of a few hertz, as the measures look for."""
    rng = np.random.default_rng(1)
    time_axis = np.arange(round(16000 * seconds)) / 16000
    noise = np.convolve(rng.standard_normal(len(time_axis)), np.hanning(16), "same")
    return 0.05 * noise * np.clip(np.sin(2 * np.pi * 3 * time_axis), 0, None)


def test_pesq_of_a_perfect_estimate() -> None:
    """4.5 on the raw scale, through the mapping that ITU-T P.862.2 prints."""
    require("pesq")
    speech = speech_like()
    best = 0.999 + 4 / (1 + math.exp(-1.3669 * 4.5 + 3.8224))
    perfect = separation.pesq(speech, speech)
    assert perfect == pytest.approx(best, abs=1e-3)
    rng = np.random.default_rng(2)
    noisy = separation.pesq(speech + 0.02 * rng.standard_normal(len(speech)), speech)
    assert noisy is not None
    assert 1.0 < noisy < best - 0.5
    assert separation.pesq(np.zeros(16000), np.zeros(16000)) is None


def test_stoi_of_a_perfect_estimate() -> None:
    require("pystoi")
    speech = speech_like()
    assert separation.stoi(speech, speech) == pytest.approx(1.0, abs=1e-6)
    rng = np.random.default_rng(2)
    noisy = separation.stoi(speech + 0.2 * rng.standard_normal(len(speech)), speech)
    assert noisy is not None
    assert noisy < 0.8
    assert separation.stoi(speech[:1600], speech[:1600]) is None


def test_missing_libraries_are_named(monkeypatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(separation.importlib, "import_module", missing)
    for measure, name in ((separation.pesq, "pesq"), (separation.stoi, "pystoi")):
        with pytest.raises(DependencyError, match=name):
            measure(np.zeros(16000), np.zeros(16000))
