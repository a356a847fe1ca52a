"""Error measures of speaker diarization from the segments of a reference and of a hypothesis.

Throughout, a segment is `(start, end, speaker)` and a region `(start, end)`, in seconds. Segments
may come in any order, overlap and have no length.

Sources: NIST's md-eval, version 22 (DER: the mapping, collars, overlaps and default regions are
its own); Ryant et al. 2019, "The second DIHARD diarization challenge" (JER), with the regions and
the mapping of dscore.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from unispeech.errors import DataError

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

Segment = tuple[float, float, str]
Region = tuple[float, float]

COLLAR = 0.25
"""Seconds around every boundary of the reference that CALLHOME's protocol does not score."""


class Errors(NamedTuple):
    """Seconds of speech, each speaker's counted by itself.

    Attributes:
        scored: of the reference's speakers.
        miss: of speakers for whom the hypothesis has nobody.
        false_alarm: of the hypothesis's speakers for whom the reference has nobody.
        confusion: given to another speaker than the one who is mapped.
    """

    scored: float = 0.0
    miss: float = 0.0
    false_alarm: float = 0.0
    confusion: float = 0.0

    @property
    def rate(self) -> float | None:
        """DER, a share that may exceed 1; None where nothing is scored."""
        errors = self.miss + self.false_alarm + self.confusion
        return errors / self.scored if self.scored > 0 else None


class Recording(NamedTuple):
    """One recording.

    Attributes:
        errors: with the collar and the overlap rule.
        jaccard: the Jaccard error of each speaker of the reference, in [0, 1], without collar and
            with overlaps.
        mapping: speaker of the reference to the speaker of the hypothesis that DER takes for them.
        speakers: how many speak in the reference.
        found: how many speak in the hypothesis.
    """

    errors: Errors
    jaccard: tuple[float, ...]
    mapping: dict[str, str]
    speakers: int
    found: int


class Scored(NamedTuple):
    """All recordings of a reference.

    Attributes:
        recordings: by name.
        missing: those of which the hypothesis says nothing; all of their speech is missed.
        unknown: those that only the hypothesis has; they are not scored.
    """

    recordings: dict[str, Recording]
    missing: list[str]
    unknown: list[str]


def score(
    reference: Mapping[str, Sequence[Segment]],
    hypothesis: Mapping[str, Sequence[Segment]],
    regions: Mapping[str, Sequence[Region]] | None = None,
    collar: float = COLLAR,
    overlap: bool = True,
    unscored: Mapping[str, Sequence[Region]] | None = None,
) -> Scored:
    """Score every recording of a reference.

    Equal to md-eval but in two cases. Of mappings that are equally good, md-eval takes any, here
    the one with fewer errors is taken. And where two overlaps touch and a region ends in the
    second, md-eval scores that one although overlaps are left out.

    Args:
        reference: segments by recording.
        hypothesis: the same of a system.
        regions: what is evaluated, by recording; those without any are evaluated from the first
            start to the last end of their reference.
        collar: seconds before and after each boundary of the reference that are not scored.
        overlap: False leaves out where two segments of the reference overlap.
        unscored: what is not evaluated, by recording, as the lines NOSCORE of an RTTM have it.

    Raises:
        DataError: a time is not finite, a segment ends before it starts, or the collar is negative.
    """
    recordings = {}
    for name, segments in reference.items():
        evaluated, without = (regions or {}).get(name), (unscored or {}).get(name, ())
        claimed = hypothesis.get(name, ())
        recordings[name] = score_recording(segments, claimed, evaluated, collar, overlap, without)
    missing = sorted(reference.keys() - hypothesis.keys())
    return Scored(recordings, missing, sorted(hypothesis.keys() - reference.keys()))


def score_recording(
    reference: Sequence[Segment],
    hypothesis: Sequence[Segment],
    regions: Sequence[Region] | None = None,
    collar: float = COLLAR,
    overlap: bool = True,
    unscored: Sequence[Region] = (),
) -> Recording:
    """Score one recording; see `score`."""
    if not (math.isfinite(collar) and collar >= 0):
        raise DataError("wrong collar", expected="seconds, not negative", found=collar)
    stretches = [(*region, "") for region in (*(regions or ()), *unscored)]
    for segments in (reference, hypothesis, stretches):
        _check(segments)
    limits = [time for start, end, _ in reference for time in (start, end)]
    extent = [(min(limits), max(limits))] if limits else []
    evaluated = np.array(extent if regions is None else list(regions), dtype=float).reshape(-1, 2)
    # Segments without length count for nobody, but their boundary has a collar.
    marks = np.unique(np.array(limits)) if collar > 0 else np.empty(0)
    bounds = np.stack([marks - collar, marks + collar], axis=1)
    holes = np.array(list(unscored), dtype=float).reshape(-1, 2)
    edges = _edges(_times(reference), _times(hypothesis), evaluated, bounds, holes)
    seconds = np.diff(edges)
    counted = _cover(edges, holes) == 0
    inside = counted & (_cover(edges, evaluated) > 0)
    scored = inside & (_cover(edges, bounds) == 0)
    if not overlap:
        scored &= _cover(edges, _times(reference)) < 2
    sides = [_activity(edges, segments) for segments in (reference, hypothesis)]
    (names, truth), (others, claim) = sides
    pairs = _mapping(truth, claim, seconds * inside, seconds * scored)
    errors = _errors(truth, claim, seconds * scored, pairs)
    # dscore evaluates all that either side has where there are no regions.
    everywhere = seconds * (counted if regions is None else inside)
    jaccard = _jaccard(truth, claim, everywhere)
    mapping = {names[r]: others[h] for r, h in pairs}
    return Recording(errors, jaccard, mapping, len(names), len(others))


def repeated_speech(segments: Iterable[Segment]) -> int:
    """How many segments start while their speaker is already speaking."""
    ends: dict[str, float] = {}
    found = 0
    for start, end, speaker in sorted(segments):
        # Ends are sums of decimal numbers: what touches may seem to overlap by a rounding error.
        found += end > start and start < ends.get(speaker, -math.inf) - 1e-6
        ends[speaker] = max(end, ends.get(speaker, -math.inf))
    return found


def _check(segments: Sequence[Segment]) -> None:
    for start, end, speaker in segments:
        if not (math.isfinite(start) and math.isfinite(end) and start <= end):
            raise DataError(
                "a stretch of time that ends before it starts or is not finite",
                where=f"speaker {speaker}" if speaker else "a region",
                found=f"{start} to {end} s",
                remedy="correct or remove it",
            )


def _times(segments: Sequence[Segment]) -> FloatArray:
    """Starts and ends of segments that have a length, `(N, 2)`."""
    return np.array([(start, end) for start, end, _ in segments if end > start]).reshape(-1, 2)


def _edges(*intervals: FloatArray) -> FloatArray:
    """All times at which anything changes, ascending; between two of them nothing does."""
    return np.unique(np.concatenate([one.ravel() for one in intervals]))


def _cover(edges: FloatArray, intervals: FloatArray) -> IntArray:
    """How many intervals each cell between two edges lies in, `(cells,)`."""
    starts, ends = np.searchsorted(edges, intervals.T)
    size = len(edges)
    steps = np.bincount(starts, minlength=size) - np.bincount(ends, minlength=size)
    return np.cumsum(steps)[:-1]


def _activity(edges: FloatArray, segments: Sequence[Segment]) -> tuple[list[str], BoolArray]:
    """Speakers that speak at all, by name, and in which cells each does, `(speakers, cells)`."""
    own: dict[str, list[Segment]] = {}
    for segment in segments:
        if segment[1] > segment[0]:
            own.setdefault(segment[2], []).append(segment)
    names = sorted(own)
    rows = [_cover(edges, _times(own[name])) > 0 for name in names]
    return names, np.array(rows, dtype=bool).reshape(len(names), max(len(edges) - 1, 0))


def _mapping(
    truth: BoolArray, claim: BoolArray, evaluated: FloatArray, scored: FloatArray
) -> list[tuple[int, int]]:
    """Pairs of speakers, one to one, with the most common time in the evaluated cells.

    Of equally good mappings, the one with more common time in the scored cells is taken.
    """
    common, second = ((truth * weights) @ claim.T.astype(float) for weights in (evaluated, scored))
    # As integers of microseconds the first criterion is exact and the second never outweighs it.
    whole = truth @ scored
    rest = np.rint(2**17 * second / max(float(whole.sum()), 1e-6))
    rows, columns = linear_sum_assignment(np.rint(1e6 * common) * 2**18 + rest, maximize=True)
    return [(int(r), int(h)) for r, h in zip(rows, columns, strict=True) if common[r, h] > 0]


def _errors(
    truth: BoolArray, claim: BoolArray, seconds: FloatArray, pairs: Sequence[tuple[int, int]]
) -> Errors:
    speaking, claimed = truth.sum(axis=0), claim.sum(axis=0)
    right = sum((truth[r] & claim[h] for r, h in pairs), np.zeros(len(seconds), dtype=np.int64))
    parts = (
        speaking,
        np.maximum(speaking - claimed, 0),
        np.maximum(claimed - speaking, 0),
        np.minimum(speaking, claimed) - right,
    )
    return Errors(*(float(seconds @ part) for part in parts))


def _jaccard(truth: BoolArray, claim: BoolArray, seconds: FloatArray) -> tuple[float, ...]:
    """The Jaccard error of each speaker of the reference who speaks in the cells that count."""
    own, theirs = truth @ seconds, claim @ seconds
    truth, claim = truth[own > 0], claim[theirs > 0]
    own, theirs = own[own > 0], theirs[theirs > 0]
    common = (truth * seconds) @ claim.T.astype(float)
    # A union is never empty: both speak.
    distance = 1 - common / (own[:, None] + theirs[None] - common)
    found = np.ones(len(own))
    rows, columns = linear_sum_assignment(distance)
    found[rows] = distance[rows, columns]
    return tuple(np.clip(found, 0.0, 1.0).tolist())
