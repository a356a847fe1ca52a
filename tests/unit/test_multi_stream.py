"""WER of several streams: the worked example, brute force over assignments, meeteval itself."""

from __future__ import annotations

import itertools
from functools import cache

import meeteval
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unispeech.errors import DataError, DependencyError
from unispeech.score import multi_stream
from unispeech.score.multi_stream import Spoken, better_stream, by_condition, cp, orc
from unispeech.score.wer import Counts, compare, paired, pooled, wer

TALK = [
    Spoken("A", 4.5, "how are you"),
    Spoken("A", 0.0, "hello there friend"),
    Spoken("B", 1.5, "good morning to you"),
]
HEARD = ["hello their friend", "good morning you how are you"]


def distance(a: list[str], b: list[str]) -> int:
    """Edit distance by its definition."""

    @cache
    def rest(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        same = rest(i + 1, j + 1) + (a[i] != b[j])
        return min(same, 1 + rest(i + 1, j), 1 + rest(i, j + 1))

    return rest(0, 0)


def least_orc(utterances: list[Spoken], streams: list[str]) -> int:
    """Fewest errors over every assignment of utterances to streams."""
    order = sorted(utterances, key=lambda one: one.start)
    totals = []
    for places in itertools.product(range(len(streams)), repeat=len(order)):
        said: list[list[str]] = [[] for _ in streams]
        for one, place in zip(order, places, strict=True):
            said[place] += one.words.split()
        totals.append(sum(distance(s, h.split()) for s, h in zip(said, streams, strict=True)))
    return min(totals)


def least_cp(utterances: list[Spoken], streams: list[str]) -> int:
    """Fewest errors over every pairing of speakers and streams."""
    speakers: dict[str, list[str]] = {}
    for one in sorted(utterances, key=lambda one: one.start):
        speakers.setdefault(one.speaker, []).extend(one.words.split())
    size = max(len(speakers), len(streams))
    said = [*speakers.values(), *([[]] * (size - len(speakers)))]
    heard = [*(text.split() for text in streams), *([[]] * (size - len(streams)))]
    return min(
        sum(distance(s, h) for s, h in zip(said, order, strict=True))
        for order in itertools.permutations(heard)
    )


TEXTS = st.lists(st.sampled_from("ab"), max_size=4).map(" ".join)
UTTERANCES = st.lists(
    st.builds(Spoken, st.sampled_from("XYZ"), st.integers(0, 1000).map(float), TEXTS),
    min_size=1, max_size=4, unique_by=lambda one: one.start,
)  # fmt: skip


def test_worked_example() -> None:
    """Values of the specification, computed there by meeteval."""
    assert cp(TALK, HEARD) == Counts(insertions=0, deletions=1, substitutions=6, words=10)
    found = orc(TALK, HEARD)
    assert found.counts == Counts(insertions=0, deletions=1, substitutions=1, words=10)
    assert found.streams == (1, 0, 1)
    assert found.is_exact


@settings(max_examples=60, deadline=None)
@given(UTTERANCES, st.lists(TEXTS, min_size=1, max_size=3))
def test_equal_to_brute_force(utterances: list[Spoken], streams: list[str]) -> None:
    words = sum(len(one.words.split()) for one in utterances)
    found = orc(utterances, streams)
    assert (found.counts.errors, found.counts.words) == (least_orc(utterances, streams), words)
    said: list[list[str]] = [[] for _ in streams]
    pairs = sorted(zip(utterances, found.streams, strict=True), key=lambda pair: pair[0].start)
    for one, place in pairs:
        said[place] += one.words.split()
    assigned = zip(said, streams, strict=True)
    assert sum(distance(s, h.split()) for s, h in assigned) == found.counts.errors
    counts = cp(utterances, streams)
    assert (counts.errors, counts.words) == (least_cp(utterances, streams), words)


@settings(max_examples=20, deadline=None)
@given(UTTERANCES, st.lists(TEXTS, min_size=1, max_size=3))
def test_equal_to_meeteval_on_timed_segments(utterances: list[Spoken], streams: list[str]) -> None:
    """The library's own format, in which it sorts the segments itself."""
    segments = [
        {"session_id": "s", "speaker": one.speaker, "words": one.words,
         "start_time": one.start, "end_time": one.start + 1}
        for one in utterances
    ]  # fmt: skip
    heard = [
        {"session_id": "s", "speaker": str(k), "words": text, "start_time": 0, "end_time": 1}
        for k, text in enumerate(streams)
    ]
    reference, hypothesis = meeteval.io.SegLST(segments), meeteval.io.SegLST(heard)
    by_utterance = meeteval.wer.orc_word_error_rate(reference, hypothesis)
    by_speaker = meeteval.wer.cp_word_error_rate(reference, hypothesis)
    assert orc(utterances, streams).counts.errors == by_utterance.errors
    assert cp(utterances, streams).errors == by_speaker.errors


@settings(max_examples=20, deadline=None)
@given(UTTERANCES, st.lists(TEXTS, min_size=2, max_size=2))
def test_greedy_assignment_is_never_better(utterances: list[Spoken], streams: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multi_stream, "EXACT_CELLS", -1)
        found = orc(utterances, streams)
    assert not found.is_exact
    assert found.counts.errors >= least_orc(utterances, streams)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_better_stream(words: str, streams: list[str]) -> None:
    errors = [distance(words.split(), text.split()) for text in streams]
    assert better_stream(words, streams) == errors.index(min(errors))


def test_conditions_have_the_order_of_the_table() -> None:
    assert by_condition(["OV40", "b", "0L", "OV10", "0S", "a", "0L"]) == [
        "0S", "0L", "OV10", "OV40", "a", "b",
    ]  # fmt: skip


def test_pooled_is_what_wer_has() -> None:
    said = {"1": "a b c", "2": "a", "3": "b b"}
    heard = {"1": "a c", "2": "a a", "3": "b b"}
    scored = wer(said, heard, resamples=200, seed=3)
    found = pooled(list(scored.utterances.values()), 200, 3)
    assert found == (scored.total, scored.low, scored.high)
    with pytest.raises(DataError, match="no references"):
        pooled([])


def test_paired_is_what_compare_has() -> None:
    said = {"1": "a b c", "2": "a", "3": "b b"}
    first = wer(said, {"1": "a c", "2": "a a", "3": "b b"}, resamples=0)
    other = wer(said, {"1": "a b c", "2": "b", "3": "b"}, resamples=0)
    pairs = [(first.utterances[name], other.utterances[name]) for name in said]
    found = paired(pairs, 200, 3)
    assert found == compare(first, other, 200, 3)
    assert found.difference == pytest.approx(100 * (2 - 2) / 6)
    assert found.low < 0 < found.high


def test_what_cannot_be_scored() -> None:
    for measure in (orc, cp):
        with pytest.raises(DataError, match="without streams"):
            measure(TALK, [])
    with pytest.raises(DataError, match="without speaker"):
        cp([Spoken("", 0.0, "a")], ["a"])


def test_without_meeteval_the_message_names_it(monkeypatch) -> None:
    monkeypatch.setattr(multi_stream.importlib, "import_module", _missing)
    with pytest.raises(DependencyError, match="meeteval"):
        orc(TALK, HEARD)


def _missing(name: str) -> None:
    raise ModuleNotFoundError(f"No module named {name!r}")
