"""MAPSSWE against a case counted by hand and against NIST's sc_stats; breakdowns."""

from __future__ import annotations

import math

import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from unispeech.errors import DataError
from unispeech.score.breakdown import by_length, confusions, summary
from unispeech.score.significance import mapsswe, matched_pairs, segments
from unispeech.score.wer import WordErrors, align, wer

words_of = st.lists(st.sampled_from("abc"), max_size=8)


def scored(references: dict[str, str], hypotheses: dict[str, str]) -> WordErrors:
    return wer(references, hypotheses, resamples=1)


def test_a_case_counted_by_hand() -> None:
    """Two utterances, four segments.

    In u1 both are right at C D, so B and G are in two segments; in u2 the insertion of Z keeps
    D and E apart, so B and F are in one; u3 is one segment that begins with the utterance; in u4
    nobody errs.
    """
    references = {"u1": "A B C D G H", "u2": "A B C D E F G", "u3": "A B C", "u4": "A B C"}
    first = {"u1": "A X C D G H", "u2": "A X C D E F G", "u3": "X B C", "u4": "A B C"}
    other = {"u1": "A B C D X H", "u2": "A B C D Z E X G", "u3": "X Y Z", "u4": "A B C"}
    found = [
        segments(*(align(references[u].split(), side[u].split()) for side in (first, other)))
        for u in references
    ]
    # u2: D ends the first segment (C D both right); Z and X are one more.
    assert found == [[(1, 0), (0, 1)], [(1, 0), (0, 2)], [(1, 3)], []]
    result = mapsswe(scored(references, first), scored(references, other))
    # Differences -1, 1, -1, 2, 2: mean 3/5; squares of what is left 2.56 + 0.16 + 2.56 + 1.96 +
    # 1.96 = 9.2, over 4 = 2.3; standard error sqrt(2.3 / 5).
    assert result.segments == 5
    assert result.mean == pytest.approx(0.6)
    assert result.deviation == pytest.approx(math.sqrt(2.3))
    assert result.z == pytest.approx(0.6 / math.sqrt(2.3 / 5))
    assert result.p == pytest.approx(2 * scipy.stats.norm.sf(0.6 / math.sqrt(2.3 / 5)))


def generated(seed: int) -> list[dict[str, str]]:
    """References and two systems with about 20 and 30 % errors, of a fixed random stream."""
    state = seed

    def draw(below: int) -> int:
        nonlocal state
        state = (1103515245 * state + 12345) % 2**31
        return (state >> 8) % below

    texts: list[dict[str, str]] = [{}, {}, {}]
    for number in range(60):
        name = f"s{number % 5}_{number:03d}"
        reference = [f"w{draw(200)}" for _ in range(1 + draw(20))]
        texts[0][name] = " ".join(reference)
        for system, rate in ((1, 20), (2, 30)):
            words: list[str] = []
            for word in reference:
                chance = draw(100)
                if chance >= rate:
                    words.append(word)
                elif chance >= rate // 2:
                    words.append(f"w{draw(200)}")
                elif chance < rate // 5:
                    words += [f"w{draw(200)}", word]
            texts[system][name] = " ".join(words)
    return texts


@pytest.mark.parametrize(
    ("seed", "count", "mean", "deviation", "z", "p"),
    [(3, 130, 0.323, 1.495, 2.463, 0.014), (5, 120, 0.367, 1.328, 3.025, 0.003)],
)
def test_nist_sc_stats(
    seed: int, count: int, mean: float, deviation: float, z: float, p: float
) -> None:
    """Printed with three decimals by SCTK 2.4.10: sclite -i spu_id -o sgml; sc_stats -t mapsswe.

    It subtracts the other way round. Among alignments of equal cost it may take another one, which
    moves single segments; in these two sets it does not.
    """
    references, first, other = generated(seed)
    result = mapsswe(scored(references, first), scored(references, other))
    assert result.segments == count
    assert result.z is not None
    assert result.p is not None
    found = (result.mean, result.deviation, result.z, result.p)
    assert found == pytest.approx((mean, deviation, z, p), abs=6e-4)


@settings(deadline=None, max_examples=50)
@given(words_of, words_of, words_of)
def test_segments_hold_every_error_and_nothing_else(a: list, b: list, c: list) -> None:
    first, other = align(a, b), align(a, c)
    found = segments(first, other)
    assert sum(x for x, _ in found) == sum(p != q for p, q in first)
    assert sum(y for _, y in found) == sum(p != q for p, q in other)
    assert all(x or y for x, y in found)
    assert segments(other, first) == [(y, x) for x, y in found]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=30))
def test_z_is_that_of_scipy(differences: list[int]) -> None:
    result = matched_pairs(differences)
    if len(set(differences)) > 1:
        # The statistic of the t test is the same; only its distribution is not.
        assert result.z == pytest.approx(scipy.stats.ttest_1samp(differences, 0).statistic)
        assert result.p == pytest.approx(2 * scipy.stats.norm.sf(abs(result.z or 0)))
    else:
        assert result.p == (None if differences[0] else 1.0)


def test_equal_systems_and_unequal_sets() -> None:
    references = {"u": "A B C", "v": "D"}
    system = scored(references, {"u": "A X C", "v": "D"})
    assert mapsswe(system, system) == (1, 0.0, 0.0, 0.0, 1.0)
    assert mapsswe(*[scored(references, references)] * 2) == (0, 0.0, 0.0, 0.0, 1.0)
    with pytest.raises(DataError, match="different utterances"):
        mapsswe(system, scored({"u": "A"}, {"u": "A"}))
    with pytest.raises(DataError, match="different references"):
        mapsswe(system, scored({"u": "A", "v": "D"}, {"u": "A", "v": "D"}))


def test_breakdown() -> None:
    references = {"a": "", "b": "X Y", "c": "X Y Z Z Z Z", "d": "X"}
    hypotheses = {"a": "U", "b": "X X", "c": "X X Z Z Z", "d": "X U"}
    result = scored(references, hypotheses)
    bins = by_length(result, {k: len(v.split()) for k, v in references.items()}, (1, 6))
    assert [(b.low, b.high, b.utterances) for b in bins] == [(0, 1, 1), (1, 6, 2), (6, None, 1)]
    assert [b.counts.errors for b in bins] == [1, 2, 2]
    assert [b.counts.words for b in bins] == [0, 3, 6]
    assert confusions(result) == ([("Y", "X", 2)], [("Z", 1)], [("U", 2)])
    assert confusions(result, most=0) == ([], [], [])
    found = summary(result, {"b": 1.5, "c": 12.0})
    assert [row["wer"] for row in found["by_words"]] == [
        None,
        pytest.approx(200 / 3, abs=1e-4),
        pytest.approx(100 / 3, abs=1e-4),
    ]
    assert [(row["from"], row["utterances"]) for row in found["by_seconds"]] == [(0, 1), (10, 1)]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(words_of, words_of), min_size=1, max_size=6))
def test_bins_hold_every_utterance_once(utterances: list[tuple[list, list]]) -> None:
    references = {str(i): " ".join(a) for i, (a, _) in enumerate(utterances)}
    result = scored(references, {str(i): " ".join(b) for i, (_, b) in enumerate(utterances)})
    bins = by_length(result, {str(i): len(a) for i, (a, _) in enumerate(utterances)}, (1, 3, 5))
    assert sum(b.utterances for b in bins) == len(utterances)
    assert sum(b.counts.errors for b in bins) == result.total.errors
    assert sum(b.counts.words for b in bins) == result.total.words
