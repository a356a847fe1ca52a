"""Diarization errors: md-eval's worked examples, counting by brute force, laws, broken input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unispeech.errors import DataError
from unispeech.score.diarization import (
    Errors,
    Recording,
    repeated_speech,
    score,
    score_recording,
)
from unispeech.score.diarization_summary import (
    bootstrap,
    compare,
    count_table,
    jaccard_error,
    summary,
    total,
)


def segments(text: str) -> list[tuple[float, float, str]]:
    """`"A 1.0+3.0, B 3.5+2.5"`: speaker, start and duration."""
    found = []
    for part in filter(None, text.split(",")):
        name, times = part.split()
        start, duration = map(float, times.split("+"))
        found.append((start, start + duration, name))
    return found


TALK = "A 1.0+3.0, B 3.5+2.5, A 7.0+.4, B 8.0+1.5", "u .9+2.9, v 3.4+2.9, v 7.1+.3, w 8.2+1.0"
CROWD = "A 0+4, B 1+2, C 2+1", "1 0+4, 2 1.5+2"
TURN = "A 0+2, B 2+2", "x 0+4"


@pytest.mark.parametrize(
    ("pair", "regions", "collar", "overlap", "parts", "rate"),
    [
        (TALK, [(0, 10)], 0, True, (7.4, 0.8, 0.5, 1.3), 35.14),
        (TALK, [(0, 10)], 0, False, (6.4, 0.6, 0.5, 1.3), 37.50),
        (TALK, [(0, 10)], 0.25, True, (4.5, 0.05, 0.05, 0.95), 23.33),
        (CROWD, None, 0, True, (7.0, 1.5, 0.5, 0), 28.57),
        (CROWD, None, 0.25, True, (3.5, 0.75, 0.25, 0), 28.57),
        (CROWD, None, 0, False, (2.0, 0, 0.5, 0), 25.00),
        (TURN, None, 0, True, (4, 0, 0, 2), 50),
        (TURN, None, 0.25, True, (3, 0, 0, 1.5), 50),
    ],
)
def test_examples_worked_by_md_eval(pair, regions, collar, overlap, parts, rate) -> None:
    found = score_recording(*map(segments, pair), regions, collar, overlap).errors
    assert tuple(found) == pytest.approx(parts, abs=1e-9)
    assert 100 * found.rate == pytest.approx(rate, abs=0.005)


def test_jaccard_errors_by_hand() -> None:
    """A: 2.8 s common of a union of 3.5 s. B: v has 2.5 common of 4.7, w 1.0 of 4.0."""
    found = score_recording(*map(segments, TALK), [(0, 10)])
    assert found.jaccard == pytest.approx((1 - 2.8 / 3.5, 1 - 2.5 / 4.7))
    assert found.mapping == {"A": "u", "B": "v"}
    assert (found.speakers, found.found) == (2, 3)


# Times in hundredths of a second, so that a recording can be counted frame by frame.
spans = st.tuples(st.integers(0, 160), st.integers(0, 60), st.sampled_from("ABCD"))
talks = st.lists(spans, max_size=8)
areas = st.none() | st.lists(
    st.tuples(st.integers(0, 120), st.integers(1, 100)), min_size=1, max_size=2
)


def frames(talk: list, names: list[str]) -> np.ndarray:
    """`(names, frames)`: who is speaking."""
    found = np.zeros((len(names), 300), dtype=bool)
    for start, length, name in talk:
        found[names.index(name), start : start + length] = True
    return found


def counted(reference: list, hypothesis: list, regions, collar: int, overlap: bool) -> tuple:
    """The four parts and the Jaccard errors' sum, frame by frame, over all permutations."""
    sides = [(talk, sorted({name for _, n, name in talk if n})) for talk in (reference, hypothesis)]
    truth, claim = (frames([s for s in talk if s[1]], names) for talk, names in sides)
    zeros = np.zeros(300, dtype=int)
    inside = zeros > 0
    ends = [(start, start + length) for start, length, _ in reference]
    whole = [(min(a for a, _ in ends), max(b for _, b in ends))] if ends else []
    for start, end in whole if regions is None else [(a, a + n) for a, n in regions]:
        inside[start:end] = True
    kept = inside.copy()
    for bound in itertools.chain(*ends):
        kept[max(0, bound - collar) : bound + collar] = False
    if not overlap:
        kept &= sum((frames([(a, n, "x")], ["x"])[0] * 1 for a, n, _ in reference), zeros) < 2
    size = max(len(truth), len(claim))
    square = [np.pad(side, ((0, size - len(side)), (0, 0))) for side in (truth, claim)]

    def together(order: tuple, mask: np.ndarray) -> int:
        return sum(np.sum(square[0][r] & square[1][h] & mask) for r, h in enumerate(order))

    orders = list(itertools.permutations(range(size)))
    _, agreed = max((together(order, inside), together(order, kept)) for order in orders)
    speaking, claimed = truth[:, kept].sum(0), claim[:, kept].sum(0)
    parts = (
        speaking.sum(), np.maximum(speaking - claimed, 0).sum(),
        np.maximum(claimed - speaking, 0).sum(), np.minimum(speaking, claimed).sum() - agreed,
    )  # fmt: skip
    heard = np.ones(300, dtype=bool) if regions is None else inside
    errors = []
    for order in orders:
        both = [(square[0][r] & heard, square[1][h] & heard) for r, h in enumerate(order)]
        errors.append(sum(1 - np.sum(a & b) / np.sum(a | b) for a, b in both if a.any()))
    return parts, min(errors)


@settings(deadline=None, max_examples=80)
@given(talks, talks, areas, st.sampled_from([0, 5, 25]), st.booleans())
def test_equal_to_counting_frames(reference, hypothesis, regions, collar, overlap) -> None:
    parts, jaccard = counted(reference, hypothesis, regions, collar, overlap)
    sides = [
        [(start / 100, (start + length) / 100, name) for start, length, name in talk]
        for talk in (reference, hypothesis)
    ]
    bounds = None if regions is None else [(a / 100, (a + n) / 100) for a, n in regions]
    found = score_recording(*sides, bounds, collar / 100, overlap)
    assert tuple(100 * np.array(found.errors)) == pytest.approx(parts, abs=1e-6)
    assert math.fsum(found.jaccard) == pytest.approx(jaccard, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(talks, talks, st.randoms(use_true_random=False))
def test_order_and_names_of_speakers_do_not_matter(reference, hypothesis, rng) -> None:
    sides = [[(a / 10, (a + n) / 10, s) for a, n, s in talk] for talk in (reference, hypothesis)]
    plain = score_recording(*sides)
    names = dict(zip("ABCD", rng.sample("wxyz", 4), strict=True))
    mixed = [[(a, b, names[s]) for a, b, s in rng.sample(side, len(side))] for side in sides]
    assert tuple(score_recording(*mixed).errors) == pytest.approx(tuple(plain.errors))
    perfect = score_recording(mixed[0], mixed[0])
    assert perfect.errors[1:] == (0, 0, 0)
    # Shares of one, in binary fractions.
    expected = (0,) * len({s for _, n, s in reference if n})
    assert perfect.jaccard == pytest.approx(expected, abs=1e-12)


def test_a_recording_without_hypothesis_is_all_missed() -> None:
    reference = {"a": segments("A 0+2"), "b": segments("A 0+3, B 3+1")}
    found = score(reference, {"a": segments("x 0+2"), "c": segments("x 0+2")}, collar=0)
    assert found.recordings["b"].errors == Errors(4, 4, 0, 0)
    assert found.recordings["b"].jaccard == (1, 1)
    assert (found.missing, found.unknown) == (["b"], ["c"])
    assert total(found.recordings.values()).rate == pytest.approx(4 / 6)


def test_silence_is_false_alarm_in_its_region_and_nothing_without_one() -> None:
    claim = segments("x 1+2")
    assert score_recording([], claim).errors == Errors()
    found = score_recording([], claim, [(0, 2)])
    assert tuple(found.errors) == (0, 0, 1, 0)
    assert found.errors.rate is None
    assert found.jaccard == ()
    assert score_recording([], []).errors.rate is None


def test_one_speaker_and_one_who_overlaps_oneself() -> None:
    one = segments("A 0+3, A 1+4")
    assert score_recording(one, segments("x 0+5"), collar=0).errors == Errors(5, 0, 0, 0)
    # Two segments overlap from 1 to 3 s, whoever speaks them.
    assert score_recording(one, segments("x 0+5"), collar=0, overlap=False).errors.scored == 3
    assert repeated_speech(one) == 1
    assert repeated_speech(segments("A 0.1+0.2, A 0.3+1, B 0+2")) == 0


@pytest.mark.parametrize(
    ("reference", "regions", "collar"),
    [
        ([(2.0, 1.0, "A")], None, 0.25),
        ([(0.0, math.nan, "A")], None, 0.25),
        ([(0.0, math.inf, "A")], None, 0.25),
        ([(0.0, 1.0, "A")], [(3.0, 2.0)], 0.25),
        ([(0.0, 1.0, "A")], None, -0.25),
        ([(0.0, 1.0, "A")], None, math.nan),
    ],
)
def test_impossible_times_are_refused(reference, regions, collar) -> None:
    with pytest.raises(DataError):
        score_recording(reference, [], regions, collar)


def recording(scored: float, wrong: float, speakers: int = 2, found: int = 2) -> Recording:
    errors = Errors(scored, wrong, 0.0, 0.0)
    return Recording(errors, (wrong / scored,) * speakers, {}, speakers, found)


def test_rates_are_pooled_by_time_and_split_by_number_of_speakers() -> None:
    found = [recording(100, 10), recording(300, 90), recording(50, 5, 3, 2), recording(50, 5, 3, 3)]
    values = summary(found, 50)
    assert values["der"] == pytest.approx(100 * 110 / 500)
    assert values["jer"] == pytest.approx(100 * (2 * 0.1 + 2 * 0.3 + 6 * 0.1) / 10)
    assert values["by_speakers"]["2"]["der"] == pytest.approx(25)
    assert values["by_speakers"]["3"]["der"] == pytest.approx(10)
    assert values["by_speakers"]["3"]["recordings"] == 2
    assert values["counts"] == {"2": {"2": 2}, "3": {"2": 1, "3": 1}}
    assert values["right_counts"] == 75
    assert count_table(found)[3] == {2: 1, 3: 1}
    assert jaccard_error([]) is None
    silent = summary([Recording(Errors(0, 0, 2, 0), (), {}, 0, 1)], 10)
    assert (silent["der"], silent["miss"], silent["jer"]) == (None, None, None)


def test_the_interval_is_that_of_a_mean_of_many_recordings() -> None:
    """Recordings of one length: DER is a mean, its standard error known."""
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.1, 0.3, 400)
    interval = bootstrap([recording(60, 60 * rate) for rate in rates], 2000)
    assert interval is not None
    error = rates.std() / math.sqrt(len(rates))
    assert interval.low == pytest.approx(rates.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(rates.mean() + 1.96 * error, abs=0.15 * error)
    assert bootstrap([recording(60, 6)]) is None


def test_two_systems_on_the_same_recordings() -> None:
    rng = np.random.default_rng(1)
    first = {str(k): recording(60, 60 * rate) for k, rate in enumerate(rng.uniform(0.1, 0.5, 100))}
    better = {k: recording(60, one.errors.miss - 3) for k, one in first.items()}
    found = compare(first, better, 200)
    # All gain the same: however they are drawn, the difference is 3 s in 60.
    assert found == pytest.approx((-0.05, -0.05, -0.05, 1.0))
    with pytest.raises(DataError, match="different recordings"):
        compare(first, {"0": first["0"]})
    with pytest.raises(DataError, match="different rules"):
        compare({"0": recording(60, 3)}, {"0": recording(50, 3)})
