"""Trial lists: reading, writing, published lists, draws."""

from __future__ import annotations

import collections
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unispeech.data import trials as lists
from unispeech.data.trials import TrialList, draw_trials, numbered, read_trials, write_trials
from unispeech.errors import DataError

NAMES = st.sampled_from([f"id{a}/v{b}/0000{c}" for a in range(3) for b in range(2) for c in "123"])


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=30))
def test_what_is_written_is_read(rows: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [(one[:3] == two[:3], one, two) for one, two in rows if one != two]
    if not rows:
        return
    folder = tmp_path_factory.mktemp("list")
    write_trials(numbered(rows), folder, "here", "mine")
    found = read_trials(folder)
    listed = [
        (bool(label), found.ids[e], found.ids[t])
        for label, e, t in zip(found.labels, found.enrollment, found.test, strict=True)
    ]
    assert listed == rows
    assert (found.labels.dtype, found.enrollment.dtype, found.test.dtype) == (
        bool, np.int64, np.int64,
    )  # fmt: skip
    text = (folder / "trials.tsv").read_bytes()
    facts = json.loads((folder / "trials.json").read_text())
    assert facts["sha256"] == hashlib.sha256(text).hexdigest()
    assert facts["trials"] == len(rows) == len(text.splitlines())
    assert facts["targets"] == sum(label for label, _, _ in rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\ta\tb\n1\ta\n", "trials.tsv:2: wrong number of columns; expected 3"),
        ("1\ta\tb\tc\n", "found 4"),
        ("1\ta\t\n", "wrong number of columns"),
        ("2\ta\tb\n", "trials.tsv:1: wrong label; expected 0 or 1, found 2"),
        ("target\ta\tb\n", "wrong label"),
        ("0\ta\tb\n1\tc\tc\n", "trials.tsv:2: the same utterance on both sides; found c"),
        ("1\ta\tb\n0\tc\td\n0\tb\ta\n", "a pair is there with both labels; found a b"),
        ("", "the list has no trials"),
    ],
)
def test_damaged_lists(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "trials.tsv").write_text(text)
    with pytest.raises(DataError) as caught:
        read_trials(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_changed_lists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the trials"):
        read_trials(tmp_path / "trials.tsv")
    write_trials(numbered([(True, "a", "b")]), tmp_path, "here", "mine")
    (tmp_path / "trials.tsv").write_text("0\ta\tb\n")
    with pytest.raises(DataError, match="not the list that was written"):
        read_trials(tmp_path)


def test_published_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Counts of the specification of the lists; a name without a suffix means the cleaned one.
    counts = {"o": (37_611, 37_720), "e": (579_818, 581_480), "h": (550_894, 552_536)}
    for letter, (cleaned, original) in counts.items():
        assert lists.OFFICIAL[f"vox1-{letter}"].trials == cleaned
        assert lists.OFFICIAL[f"vox1-{letter}-original"].trials == original
    digests = [known.md5 for known in lists.OFFICIAL.values()]
    assert len(set(digests)) == 6
    assert {len(digest) for digest in digests} == {32}
    text = "1 id1/v/00001.wav id1/v/00002.wav\n0 id1/v/00001.wav id2/v/00001.wav\n"
    file = tmp_path / "veri_test2.txt"
    file.write_text(text)
    with pytest.raises(DataError, match="expected 37611 trials, found 2"):
        lists.check_official("vox1-o", file)
    file.write_text("x\n" * 37_720)
    with pytest.raises(DataError, match="this looks like vox1-o-original"):
        lists.check_official("vox1-o", file)
    file.write_text("x\n" * 37_611)
    with pytest.raises(DataError, match="md5 b73110731c9223c1461fe49cb48dddfc"):
        lists.check_official("vox1-o", file)
    file.write_text(text)
    digest = hashlib.md5(text.encode()).hexdigest()
    monkeypatch.setitem(lists.OFFICIAL, "vox1-o", TrialList("veri_test2.txt", 2, digest, "O"))
    lists.check_official("vox1-o", file)


def test_unknown_utterances(tmp_path: Path) -> None:
    trials = numbered([(True, "id1/v/1.wav", "id1/v/2.wav"), (False, "id1/v/1.wav", "id2/v/1.wav")])
    known = {"id1/v/1", "id1/v/2", "id2/v/1"}
    assert lists.resolve(trials, known, "here").ids == ["id1/v/1", "id1/v/2", "id2/v/1"]
    with pytest.raises(DataError, match="1 of 3 utterances of the trials are not there; found id2"):
        lists.resolve(trials, known - {"id2/v/1"}, "here")


@settings(max_examples=40, deadline=None)
@given(
    people=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12")), min_size=2),
    targets=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_draws(people: list[tuple[str, str]], targets: int, seed: int) -> None:
    speakers = [who for who, _ in people]
    sessions = [who + where for who, where in people]
    drawn = draw_trials(speakers, targets, seed, sessions=sessions)
    assert drawn == draw_trials(speakers, targets, seed, sessions=sessions)
    pairs = [frozenset((one, other)) for _, one, other in drawn]
    assert len(set(pairs)) == len(pairs)
    assert all(len(pair) == 2 for pair in pairs)
    count = collections.Counter(label for label, _, _ in drawn)
    assert count[False] <= count[True] <= targets
    for label, one, other in drawn:
        assert label == (speakers[one] == speakers[other])
        assert not label or sessions[one] != sessions[other]


def test_all_pairs_are_found_and_groups_are_kept() -> None:
    # Three utterances each of two speakers: 6 pairs of one speaker, 9 of two.
    drawn = draw_trials(list("aaabbb"), 6, 0)
    assert collections.Counter(label for label, _, _ in drawn) == {True: 6, False: 6}
    groups = ["short", "long"] * 6
    lengths = [("short", "short"), ("short", "long"), ("long", "long")]
    drawn = draw_trials(list("aaaaaabbbbbb"), 9, 0, groups, lengths)
    found = collections.Counter(
        (label, *sorted((groups[one], groups[other]))) for label, one, other in drawn
    )
    assert found == {
        (label, *sorted(pair)): 3 for label in (True, False) for pair in lengths
    }  # fmt: skip
