"""Signal measures of separated streams: SI-SDR, and PESQ and STOI through their libraries.

Signals are float `(N,)` or `(..., N)` at 16 kHz.

Sources: Le Roux et al. 2019, "SDR - half-baked or well done?" (SI-SDR); ITU-T P.862.2 (wide-band
PESQ); Taal et al. 2011, "An algorithm for intelligibility prediction of time-frequency weighted
noisy speech" (STOI).
"""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import numpy as np
import numpy.typing as npt

from unispeech.errors import DataError, DependencyError

FloatArray = npt.NDArray[np.float64]

LIMIT = 100.0
"""SI-SDR is cut off at plus and minus so many dB: the quantisation of 16-bit audio lies near it."""

SILENCE = 1e-20
"""Mean power of what counts as silence, of samples in [-1, 1]."""

SAMPLING_RATE = 16000


def si_sdr(estimate: npt.ArrayLike, reference: npt.ArrayLike) -> FloatArray:
    """Scale-invariant signal-to-distortion ratio in dB, between `-LIMIT` and `LIMIT`.

    Means are removed first. The reference is scaled to fit the estimate best; what the estimate
    has beside that is distortion. An estimate that is silent has `-LIMIT`.

    Args:
        estimate: `(..., N)`.
        reference: `(..., N)`; leading axes are broadcast against those of the estimate.

    Returns:
        Float64 without the last axis.

    Raises:
        DataError: a reference is silent, lengths differ, or a sample is not finite.
    """
    given, wanted = (np.asarray(one, dtype=np.float64) for one in (estimate, reference))
    if given.shape[-1:] != wanted.shape[-1:] or not given.shape[-1:] or not given.shape[-1]:
        raise DataError(
            "an estimate and its reference differ in length",
            expected=f"{wanted.shape[-1] if wanted.ndim else 0} samples",
            found=given.shape[-1] if given.ndim else 0,
        )
    if not (np.isfinite(given).all() and np.isfinite(wanted).all()):
        raise DataError("samples that are not finite", remedy="look for damaged recordings")
    given = given - given.mean(axis=-1, keepdims=True)
    wanted = wanted - wanted.mean(axis=-1, keepdims=True)
    power = np.square(wanted).sum(axis=-1)
    if (power <= SILENCE * wanted.shape[-1]).any():
        raise DataError(
            "a silent reference has no SI-SDR",
            remedy="leave out sources that do not speak in this piece",
        )
    scale = (given * wanted).sum(axis=-1) / power
    target = scale[..., None] * wanted
    kept = np.square(target).sum(axis=-1)
    lost = np.square(given - target).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10.0 * (np.log10(kept) - np.log10(lost))
    is_silent = np.square(given).sum(axis=-1) <= SILENCE * given.shape[-1]
    return np.asarray(np.clip(np.where(is_silent, -LIMIT, ratio), -LIMIT, LIMIT))


def best_stream(streams: npt.ArrayLike, reference: npt.ArrayLike) -> tuple[int, float]:
    """The stream `(S, N)` of greatest SI-SDR to one source `(N,)`, the first of equal ones.

    Streams of continuous separation are no speakers: each utterance may be in any of them.

    Returns:
        Its number and its SI-SDR in dB.

    Raises:
        DataError: as for `si_sdr`.
    """
    values = np.atleast_1d(si_sdr(streams, reference))
    number = int(values.argmax())
    return number, float(values[number])


def pesq(estimate: npt.ArrayLike, reference: npt.ArrayLike) -> float | None:
    """Wide-band PESQ (MOS-LQO, about 1 to 4.6) of signals `(N,)`; None where it hears no speech.

    Raises:
        DependencyError: the package pesq is missing.
    """
    library = _library("pesq")
    signals = [np.asarray(one, dtype=np.float32) for one in (reference, estimate)]
    if not all(one.any() for one in signals):
        return None
    try:
        return float(library.pesq(SAMPLING_RATE, *signals, "wb"))
    except library.PesqError:
        return None


def stoi(estimate: npt.ArrayLike, reference: npt.ArrayLike) -> float | None:
    """Short-time objective intelligibility of signals `(N,)`; None where they are too short.

    Raises:
        DependencyError: the package pystoi is missing.
    """
    library = _library("pystoi")
    signals = (np.asarray(one, dtype=np.float64) for one in (reference, estimate))
    with warnings.catch_warnings():
        # The library gives 1e-5 and a warning where less than 0.4 s of speech is left.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(library.stoi(*signals, SAMPLING_RATE))
        except RuntimeWarning:
            return None


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DependencyError(
            f"the package {name} is needed for this measure",
            found=error,
            remedy=f"pip install {name}, or leave out --quality",
        ) from None
