"""Conversations in the manner of LibriCSS: who speaks when, and how it sounds in a room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from lhotse import MonoCut
from libricss import Condition
from scipy.signal import fftconvolve

from unispeech.data.manifests import SAMPLING_RATE, speaker
from unispeech.data.overlap import level_gain, noise_gain

FloatArray = npt.NDArray[np.float32]

MARGIN = round(0.5 * SAMPLING_RATE)
"""Samples before the first and after the last utterance."""


class Sound(NamedTuple):
    """A conversation as it is heard."""

    mixture: FloatArray
    """(channels, samples)."""
    references: dict[str, FloatArray]
    """(samples,) of each speaker as heard at channel 0, at the level of the mixture."""


def order_turns(cuts: Sequence[MonoCut], rng: np.random.Generator) -> list[MonoCut]:
    """The utterances in an order in which nobody speaks twice in a row, where there is one."""
    own: dict[str, list[MonoCut]] = {}
    for index in rng.permutation(len(cuts)):
        own.setdefault(speaker(cuts[int(index)]), []).append(cuts[int(index)])
    turns: list[MonoCut] = []
    last = ""
    while any(own.values()):
        others = [name for name, left in own.items() if left and name != last]
        names = others or [last]
        # Who has most left speaks, else the others run out before.
        most = max(len(own[name]) for name in names)
        likely = [name for name in names if len(own[name]) == most]
        last = likely[int(rng.integers(len(likely)))]
        turns.append(own[last].pop())
    return turns


def plan_starts(
    lengths: Sequence[int],
    people: Sequence[str],
    condition: Condition,
    rng: np.random.Generator,
) -> list[int]:
    """First samples of utterances that follow or overlap each other.

    Neighbours overlap by at most half of the shorter one, so that never more than two speak and
    nobody over themselves; what lies beyond that a condition cannot have.

    Args:
        lengths: samples of each utterance.
        people: who speaks it.
        condition: share of overlap and pauses.
        rng: of the draws.
    """
    neighbours = zip(lengths, lengths[1:], people, people[1:], strict=False)
    halves = [0 if one == other else min(m, n) // 2 for m, n, one, other in neighbours]
    most = np.array(halves, dtype=np.int64)
    overlaps = draw_overlaps(most, sum(lengths), condition.overlap, rng)
    starts = [MARGIN]
    for length, overlap in zip(lengths, overlaps, strict=False):
        pause = round(float(rng.uniform(*condition.pause)) * SAMPLING_RATE)
        starts.append(
            starts[-1] + length - int(overlap) if overlap else starts[-1] + length + pause
        )
    return starts


def draw_overlaps(
    most: npt.NDArray[np.int64], speech: int, share: float, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Samples by which each utterance overlaps the next one; 0 where they do not.

    Args:
        most: greatest overlap of each pair of neighbours.
        speech: samples of all utterances together.
        share: of the time with speech, in which two speak.
        rng: of the draws.
    """
    # Time with speech is all speech without what is said at once.
    wanted = round(share / (1.0 + share) * speech)
    overlaps = np.zeros_like(most)
    for index in rng.permutation(len(most)):
        drawn = int(rng.uniform(0.2, 1.0) * most[index])
        overlaps[index] = min(drawn, wanted - int(overlaps.sum()))
    missing, room = wanted - int(overlaps.sum()), int((most - overlaps).sum())
    if missing > 0 and room > 0:
        overlaps += ((most - overlaps) * min(missing / room, 1.0)).astype(np.int64)
    return overlaps


def overlapped_share(starts: Sequence[int], lengths: Sequence[int]) -> float:
    """Share of the time with speech in which more than one speaks."""
    begin = min(starts)
    active = np.zeros(max(s + n for s, n in zip(starts, lengths, strict=True)) - begin, np.int32)
    for start, length in zip(starts, lengths, strict=True):
        active[start - begin : start - begin + length] += 1
    return float((active > 1).sum() / (active > 0).sum())


def dry_lines(
    turns: Sequence[FloatArray], people: Sequence[str], starts: Sequence[int]
) -> dict[str, FloatArray]:
    """What each speaker says in the whole conversation, (samples,) each, without a room."""
    samples = max(s + len(turn) for s, turn in zip(starts, turns, strict=True)) + MARGIN
    lines = {name: np.zeros(samples, np.float32) for name in dict.fromkeys(people)}
    for turn, name, start in zip(turns, people, starts, strict=True):
        lines[name][start : start + len(turn)] += turn
    return lines


def render(
    lines: Mapping[str, FloatArray],
    responses: Mapping[str, FloatArray],
    ratios: Mapping[str, float],
    noise: FloatArray,
    snr: float,
    level: float,
) -> Sound:
    """A conversation in a room, with noise.

    Args:
        lines: (samples,) of each speaker.
        responses: (channels, taps) of each speaker.
        ratios: decibels of each speaker over the mean of all, where they speak at channel 0.
        noise: (channels, samples).
        snr: decibels of the speech over the noise.
        level: of the mixture, in dB of full scale.
    """
    mixture = np.zeros_like(noise)
    present = np.zeros(noise.shape[1], bool)
    references = {}
    for name, line in lines.items():
        heard = np.stack([fftconvolve(line, taps)[: len(line)] for taps in responses[name]])
        speaks = line != 0.0
        present |= speaks
        power = float(np.square(heard[0, speaks], dtype=np.float64).mean()) if speaks.any() else 0.0
        gain = 10.0 ** (ratios[name] / 20.0) / np.sqrt(power) if power > 0 else 1.0
        heard = (gain * heard).astype(np.float32)
        references[name] = heard[0]
        mixture += heard
    mixture += noise * noise_gain(mixture[0], present, noise[0], snr)
    gain = level_gain(mixture.reshape(-1), level)
    return Sound(gain * mixture, {name: gain * heard for name, heard in references.items()})
