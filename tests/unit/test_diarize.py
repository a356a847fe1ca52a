"""Clustering that keeps the speakers of a chunk apart, and stitching, against their laws."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist
from sklearn.metrics import adjusted_rand_score

from unispeech.diarize.clustering import cluster, separated
from unispeech.diarize.config import DiarizeConfig
from unispeech.diarize.recording import LocalDiarization
from unispeech.diarize.stitching import Chunk, Turn, cleaned, median_filtered, plan, turns


@st.composite
def slots(draw):
    """Vectors of the slots of some chunks, close to a few directions or anywhere."""
    chunks = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    people = rng.normal(size=(draw(st.integers(1, 5)), 6))
    spread = draw(st.sampled_from([0.0, 0.3, 3.0]))
    owners, vectors = [], []
    for chunk in range(chunks):
        for _ in range(int(rng.integers(1, 4))):
            # Two slots of one chunk may well be the same voice.
            owners.append(chunk)
            vectors.append(people[rng.integers(len(people))] + spread * rng.normal(size=6))
    order = rng.permutation(len(owners))
    return np.array(vectors)[order] + 1e-9, np.array(owners)[order]


@settings(max_examples=100, deadline=None)
@given(
    slots(),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.one_of(st.none(), st.integers(3, 6)),
    st.sampled_from([4, 1000]),
)
def test_speakers_of_one_chunk_never_meet(drawn, distance, speakers, most) -> None:
    vectors, chunks = drawn
    labels = cluster(vectors, chunks, distance, speakers, most)
    pairs = set(zip(chunks.tolist(), labels.tolist(), strict=True))
    assert len(pairs) == len(labels)
    assert sorted(set(labels.tolist())) == list(range(labels.max() + 1))
    assert speakers is None or labels.max() < speakers


def test_they_do_not_meet_where_a_constant_penalty_would_give_way() -> None:
    """The mean over 200 by 200 pairs, one of them at 1e4, is 0.25, within every reach."""
    vectors = np.tile([1.0, 0.0], (400, 1)) + 1e-3 * np.random.default_rng(0).normal(size=(400, 2))
    chunks = np.arange(400)
    chunks[399] = 0
    labels = cluster(vectors, chunks)
    assert labels[0] != labels[399]
    assert labels.max() == 1
    labels = cluster(vectors, chunks, speakers=2)
    assert labels[0] != labels[399]
    with pytest.raises(ValueError, match="more vectors than 1 speakers"):
        cluster(vectors, chunks, speakers=1)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(0, 2**32 - 1), st.sampled_from([0.4, 0.9, 1.3]))
def test_without_constraints_it_is_scipys_average_linkage(count, seed, distance) -> None:
    vectors = np.random.default_rng(seed).normal(size=(count, 4))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = fcluster(linkage(pdist(unit), "average"), distance, "distance")
    found = cluster(vectors, np.arange(count), distance)
    assert adjusted_rand_score(expected, found) == 1.0


def test_voices_are_found_and_counted_also_in_sections() -> None:
    """Four voices in 300 chunks of two or three; the number is found, with sections too."""
    rng = np.random.default_rng(1)
    people = np.linalg.qr(rng.normal(size=(16, 4)))[0].T
    truth, chunks = [], []
    for chunk in range(300):
        for person in rng.permutation(4)[: int(rng.integers(2, 4))]:
            truth.append(person)
            chunks.append(chunk)
    vectors = people[truth] + 0.08 * rng.normal(size=(len(truth), 16))
    for most in (10_000, 100):
        for speakers in (None, 4):
            found = cluster(vectors, np.array(chunks), 1.0, speakers, most)
            assert adjusted_rand_score(truth, found) == 1.0
    # Numbered by first appearance.
    assert found[0] == 0
    firsts = [int(np.argmax(found == one)) for one in range(4)]
    assert firsts == sorted(firsts)


def test_a_given_number_that_joining_cannot_reach_is_matched() -> None:
    """Vectors at these angles, a pair for each chunk: joining the closest strands some of them."""
    stuck = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        angles = rng.uniform(0, 2 * math.pi, 12)
        vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
        chunks = np.repeat(np.arange(6), 2)
        free = cluster(vectors, chunks, 2.0)
        stuck += free.max() > 1
        found = cluster(vectors, chunks, speakers=2)
        assert sorted(np.bincount(found)) == [6, 6]
        assert all(found[2 * c] != found[2 * c + 1] for c in range(6))
    assert stuck > 0


def test_labels_that_meet_are_separated() -> None:
    found = separated(np.array([0, 0, 1, 0, 1]), np.array([0, 1, 1, 1, 2]))
    assert found.tolist() == [0, 0, 1, 2, 1]


def test_no_vectors_no_speakers() -> None:
    assert cluster(np.zeros((0, 4)), np.zeros(0, dtype=np.int64)).tolist() == []


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 400), st.integers(1, 90), st.floats(0, 0.5))
def test_every_frame_is_kept_once(frames, size, share) -> None:
    overlap = int(share * size)
    chunks = list(plan(frames, size, overlap))
    kept = [frame for chunk in chunks for frame in range(chunk.first, chunk.last)]
    assert kept == list(range(frames))
    for chunk in chunks:
        assert chunk.start <= chunk.first < chunk.last <= chunk.stop
        assert chunk.stop - chunk.start == min(size, frames)
    for before, after in zip(chunks[:-2], chunks[1:-1], strict=True):
        assert before.stop - after.start == overlap


def test_last_chunk_is_whole_and_keeps_its_tail() -> None:
    """As the reference, whose last chunk is the last full window."""
    assert list(plan(70, 30, 0)) == [
        Chunk(0, 30, 0, 30), Chunk(30, 60, 30, 60), Chunk(40, 70, 60, 70)
    ]  # fmt: skip
    assert list(plan(20, 30, 0)) == [Chunk(0, 20, 0, 20)]


@st.composite
def blocks_of_decisions(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    whole = rng.random((draw(st.integers(1, 80)), 2)) < draw(st.sampled_from([0.2, 0.5, 0.8]))
    edges = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    return whole, np.split(whole, edges)


@settings(max_examples=100, deadline=None)
@given(blocks_of_decisions(), st.integers(0, 20))
def test_median_filter_is_scipys_however_the_blocks_come(decisions, half) -> None:
    whole, blocks = decisions
    width = 2 * half + 1
    expected = scipy.ndimage.median_filter(whole.astype(int), (width, 1), mode="constant")
    found = np.concatenate(list(median_filtered(blocks, width)))
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(blocks_of_decisions())
def test_turns_are_the_decisions(decisions) -> None:
    whole, blocks = decisions
    found = turns(blocks)
    drawn = np.zeros_like(whole, dtype=int)
    for turn in found:
        drawn[turn.first : turn.last, turn.speaker] += 1
    np.testing.assert_array_equal(drawn, whole)
    for one in found:
        assert not any(one.last == two.first and one.speaker == two.speaker for two in found)


def test_gaps_are_filled_before_short_segments_go() -> None:
    given = [Turn(0, 3, 0), Turn(4, 6, 0), Turn(5, 7, 1), Turn(20, 22, 0), Turn(30, 50, 1)]
    assert cleaned(given, 0, 0) == given
    assert cleaned(given, 3, 2) == [Turn(0, 6, 0), Turn(30, 50, 1)]
    assert cleaned(given, 0, 30) == [Turn(0, 22, 0), Turn(5, 50, 1)]


def recording(pieces: list[tuple[list[list[float]], list[list[float]]]]) -> LocalDiarization:
    """A recording of chunks with (activities of two slots, their vectors)."""
    local = LocalDiarization(io.BytesIO(), 2, 0.1)
    place = 0
    for activity, vectors in pieces:
        chunk = Chunk(place, place + len(activity), place, place + len(activity))
        local.add(chunk, np.array(activity), np.array(vectors))
        place += len(activity)
    return local


PLAIN = DiarizeConfig(median=0.0)
A, B, C = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]


def test_slots_become_the_speakers_of_the_recording() -> None:
    local = recording(
        [
            ([[0.9, 0.0]] * 5 + [[0.9, 0.9]] * 5, [A, B]),
            ([[0.8, 0.01]] * 10, [B, A]),
            ([[0.6, 0.3]] * 5, [C, A]),
        ]
    )
    assert local.segments(PLAIN) == [
        (0.0, 1.0, "speaker1"),
        (0.5, 2.0, "speaker2"),
        (2.0, 2.5, "speaker3"),
    ]
    assert local.speakers_of_slots(PLAIN).tolist() == [[0, 1], [1, -1], [2, 0]]
    low = PLAIN.model_copy(update={"threshold": 0.2})
    assert local.segments(low)[-1] == (2.0, 2.5, "speaker3")
    assert (2.0, 2.5, "speaker1") in local.segments(low)


def test_a_given_number_and_a_limit_of_speakers() -> None:
    local = recording([([[0.9, 0.7]] * 10, [A, B]), ([[0.8, 0.9]] * 10, [[0.2, 0.1, 1.0], A])])
    assert {s[2] for s in local.segments(PLAIN)} == {"speaker1", "speaker2", "speaker3"}
    two = [(0.0, 2.0, "speaker1"), (0.0, 2.0, "speaker2")]
    assert local.segments(PLAIN, 2) == two
    assert local.segments(PLAIN.model_copy(update={"max_speakers": 2})) == two
    # One speaker: the more active slot of each chunk.
    assert local.segments(PLAIN, 1) == [(0.0, 2.0, "speaker1")]
    # More than there are vectors for: as many as there are.
    assert len({s[2] for s in local.segments(PLAIN, 9)}) == 4


def test_silence_has_no_segments() -> None:
    local = recording([([[0.0, 0.0]] * 10, [[0.0] * 3] * 2)])
    assert local.segments(PLAIN) == []
    assert local.segments(PLAIN, 2) == []
    # Active enough to be a speaker, never above the threshold.
    assert recording([([[0.3, 0.0]] * 10, [A, B])]).segments(PLAIN) == []


def test_median_of_a_second_is_the_papers_filters() -> None:
    """25 frames at 25 a second and 11 at 10: a burst of half of that does not pass, more does."""
    for shift, width in ((0.04, 25), (0.1, 11)):
        for burst, passes in ((width // 2, False), (width // 2 + 1, True)):
            local = LocalDiarization(io.BytesIO(), 1, shift)
            activity = np.zeros((200, 1))
            activity[100 : 100 + burst] = 1.0
            local.add(Chunk(0, 200, 0, 200), activity, np.ones((1, 3)))
            assert bool(local.segments(DiarizeConfig(silence=0.01))) == passes


def test_overlap_of_more_than_half_is_refused() -> None:
    with pytest.raises(ValueError, match="at most half"):
        DiarizeConfig(chunk=10.0, overlap=6.0)
