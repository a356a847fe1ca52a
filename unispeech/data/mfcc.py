"""MFCC with deltas as HuBERT's first iteration clusters them."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import scipy.fft

FloatArray = npt.NDArray[np.float32]

SAMPLING_RATE = 16000
WINDOW = 400
SHIFT = 160
FFT = 512
MEL_BINS = 23
CEPSTRA = 13
LIFTER = 22.0


def mfcc(waveform: npt.NDArray[np.floating]) -> FloatArray:
    """Kaldi's 13 MFCC at 100 Hz: no dither, no energy, samples in [-1, 1] as they are.

    Numerically equal to `kaldi-native-fbank` with dither 0, `use_energy` false and Kaldi's
    defaults otherwise (what torchaudio's `compliance.kaldi.mfcc` gives the HuBERT recipe).

    Args:
        waveform: `(N,)` at 16 kHz.

    Returns:
        `(T, 13)` float32, `T = floor((N - 400) / 160) + 1`, or 0 for less than 400 samples.
    """
    if len(waveform) < WINDOW:
        return np.zeros((0, CEPSTRA), dtype=np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::SHIFT]
    frames = frames.astype(np.float64)
    frames -= frames.mean(1, keepdims=True)
    emphasised = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    spectrum = np.abs(np.fft.rfft(emphasised * _povey_window(), FFT)) ** 2
    energies = spectrum[:, : FFT // 2] @ _mel_filters().T
    log_energies = np.log(np.maximum(energies, np.finfo(np.float32).eps))
    cepstra = scipy.fft.dct(log_energies, type=2, norm="ortho")[:, :CEPSTRA]
    lifter = 1.0 + 0.5 * LIFTER * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER)
    return np.asarray(cepstra * lifter, dtype=np.float32)


def deltas(features: FloatArray) -> FloatArray:
    """First-order regression over five frames, edges replicated.

    Args:
        features: `(T, D)` float32.

    Returns:
        `(T, D)` float32; equal to torchaudio's `compute_deltas` with its default window.
    """
    padded = np.pad(features, ((2, 2), (0, 0)), mode="edge")
    slope = 2.0 * (padded[4:] - padded[:-4]) + (padded[3:-1] - padded[1:-3])
    return (slope / 10.0).astype(np.float32)


def mfcc39(waveform: npt.NDArray[np.floating], cmvn: bool = False) -> FloatArray:
    """MFCC, deltas and second deltas: `(T, 39)` float32 at 100 Hz (HuBERT, section IV-A).

    Args:
        waveform: `(N,)` at 16 kHz.
        cmvn: scale each cepstrum to zero mean and unit variance over the utterance before the
            deltas, in the order of Kaldi's `apply-cmvn | add-deltas`.
    """
    static = mfcc(waveform)
    if len(static) == 0:
        return np.zeros((0, 3 * CEPSTRA), dtype=np.float32)
    if cmvn:
        spread = static.std(0)
        static = (static - static.mean(0)) / np.where(spread > 1e-5, spread, 1.0)
    first = deltas(static)
    return np.concatenate([static, first, deltas(first)], axis=1)


@functools.cache
def _povey_window() -> npt.NDArray[np.float64]:
    phase = 2.0 * np.pi * np.arange(WINDOW) / (WINDOW - 1)
    return np.asarray((0.5 - 0.5 * np.cos(phase)) ** 0.85)


def _mel(frequency: npt.NDArray[np.float64] | float) -> npt.NDArray[np.float64]:
    return np.asarray(1127.0 * np.log1p(np.asarray(frequency) / 700.0))


@functools.cache
def _mel_filters() -> npt.NDArray[np.float64]:
    """`(23, 256)` triangles on the mel scale from 20 Hz to the Nyquist frequency."""
    edges = np.linspace(_mel(20.0), _mel(SAMPLING_RATE / 2), MEL_BINS + 2)
    bins = _mel(np.arange(FFT // 2) * SAMPLING_RATE / FFT)
    left, centre, right = (edges[i : MEL_BINS + i, None] for i in range(3))
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)))
