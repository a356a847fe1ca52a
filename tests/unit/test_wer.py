"""Word error rate: hand-counted examples, an independent edit distance, and binomial intervals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jiwer
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lhotse import MonoCut, SupervisionSegment
from meeteval.wer import combine_error_rates, siso_word_error_rate

from unispeech.__main__ import main
from unispeech.data.manifests import write_cuts
from unispeech.errors import DataError
from unispeech.score.wer import align, cer, compare, format_alignments, format_line, wer

words_of = st.lists(st.sampled_from("abc"), max_size=8)


def levenshtein(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        left, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            left, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, left + (x != y))
    return row[-1]


@settings(deadline=None)
@given(words_of, words_of)
def test_errors_equal_the_edit_distance(a: list[str], b: list[str]) -> None:
    pairs = align(a, b)
    assert [x for x, _ in pairs if x is not None] == a
    assert [y for _, y in pairs if y is not None] == b
    assert sum(x != y for x, y in pairs) == levenshtein(a, b)
    result = wer({"u": " ".join(a)}, {"u": " ".join(b)}, resamples=1)
    assert result.total.errors == levenshtein(a, b)
    assert result.total.words == len(a)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(words_of, words_of), min_size=1, max_size=5))
def test_rates_are_those_of_jiwer_and_meeteval(utterances: list[tuple[list, list]]) -> None:
    assume(any(a for a, _ in utterances))
    texts = {str(i): (" ".join(a), " ".join(b)) for i, (a, b) in enumerate(utterances)}
    ours = wer(*({k: pair[side] for k, pair in texts.items()} for side in (0, 1)), resamples=1)
    theirs = combine_error_rates([siso_word_error_rate(a, b) for a, b in texts.values()])
    assert (ours.total.errors, ours.total.words) == (theirs.errors, theirs.length)
    assert ours.rate == pytest.approx(100 * theirs.error_rate)
    # jiwer refuses empty references.
    spoken = {k: pair for k, pair in texts.items() if pair[0]}
    part = wer(*({k: pair[side] for k, pair in spoken.items()} for side in (0, 1)), resamples=1)
    both = [list(column) for column in zip(*spoken.values(), strict=True)]
    assert part.rate == pytest.approx(100 * jiwer.wer(*both))
    letters = cer(*({k: pair[side] for k, pair in spoken.items()} for side in (0, 1)), resamples=1)
    assert letters.rate == pytest.approx(100 * jiwer.cer(*both))


def test_counts() -> None:
    result = wer(
        {"1": "THE CAT SAT", "2": "A DOG", "3": ""},
        {"1": "THE BAT SAT DOWN", "2": "DOG", "3": "OH"},
        speakers={"1": "anna", "2": "anna", "3": "ben"},
    )
    assert result.total == (2, 1, 1, 5)
    assert result.rate == pytest.approx(80.0)
    assert result.speakers["anna"].rate == pytest.approx(60.0)
    assert math.isinf(result.speakers["ben"].rate)
    summary = json.loads(json.dumps(result.summary(), allow_nan=False))
    assert summary["speakers"] == {"anna": 60.0, "ben": None}
    assert (summary["insertions"], summary["deletions"], summary["substitutions"]) == (2, 1, 1)
    assert format_line(result, "test greedy").startswith(
        "%WER 80.00 [ 4 / 5, 2 ins, 1 del, 1 sub ] 95% ["
    )
    text = format_alignments(result)
    assert "1  2 / 3\nref THE CAT SAT ***\nhyp THE BAT SAT DOWN\nerr     S       I\n" in text


def test_a_word_may_look_like_the_marker_of_a_missing_word() -> None:
    result = wer({"u": "*** A"}, {"u": "***"}, resamples=1)
    assert result.total == (0, 1, 0, 2)


def test_characters_count_spaces() -> None:
    assert cer({"u": "AB C"}, {"u": "ABC"}).total == (0, 1, 0, 4)


def test_interval_is_binomial_for_one_word_utterances() -> None:
    share, count = 0.2, 2000
    references = {str(i): "YES" for i in range(count)}
    hypotheses = {str(i): "NO" if i % 5 == 0 else "YES" for i in range(count)}
    result = wer(references, hypotheses, resamples=2000)
    half = 100 * 1.96 * math.sqrt(share * (1 - share) / count)
    assert result.rate == pytest.approx(20.0)
    assert result.low == pytest.approx(20.0 - half, abs=0.15)
    assert result.high == pytest.approx(20.0 + half, abs=0.15)


def test_the_interval_depends_on_the_seed_alone() -> None:
    references = {str(i): "A B C" for i in range(20)}
    hypotheses = {str(i): "A B" if i % 3 else "A B C" for i in range(20)}
    first, again = (wer(references, hypotheses, seed=5) for _ in range(2))
    assert (first.low, first.high) == (again.low, again.high)
    assert first.low <= first.rate <= first.high


def test_paired_comparison() -> None:
    references = {str(i): "A B C D" for i in range(40)}
    bad = wer(references, {str(i): "A B X Y" if i % 2 else "A B C D" for i in range(40)})
    good = wer(references, {str(i): "A B C X" if i % 2 else "A B C D" for i in range(40)})
    result = compare(bad, good)
    assert result.difference == pytest.approx(-12.5)
    assert result.low < -12.5 < result.high < 0
    assert result.probability_of_improvement == 1.0
    assert compare(good, bad).probability_of_improvement == 0.0
    same = compare(bad, bad)
    assert (same.difference, same.low, same.high, same.probability_of_improvement) == (0, 0, 0, 0)
    with pytest.raises(DataError, match="different utterances"):
        compare(bad, wer({"0": "A"}, {"0": "A"}))


def test_utterances_must_match() -> None:
    with pytest.raises(DataError, match="without hypothesis"):
        wer({"a": "X", "b": "Y"}, {"a": "X"})
    with pytest.raises(DataError, match="without reference"):
        wer({"a": "X"}, {"a": "X", "b": "Y"}, allow_missing=True)
    with pytest.raises(DataError, match="no references"):
        wer({}, {})
    assert wer({"a": "X", "b": "Y"}, {"a": "X"}, allow_missing=True).total == (0, 1, 0, 2)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    cuts = []
    for name, text, seconds in (("u1", "THE CAT", 1.0), ("u2", "A DOG RAN", 2.0)):
        supervision = SupervisionSegment(name, name, 0.0, seconds, text=text, speaker="anna")
        cuts.append(MonoCut(name, 0.0, seconds, 0, supervisions=[supervision]))
    write_cuts(cuts, tmp_path / "test.jsonl.gz")
    return tmp_path / "test.jsonl.gz"


def decoded(folder: Path, text: str) -> str:
    folder.mkdir(parents=True)
    (folder / "text").write_text(text)
    return str(folder)


def test_score_command(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = decoded(tmp_path / "test" / "graph", "u1 THE CAT\nu2 A DOG RUN\n")
    bad = decoded(tmp_path / "test" / "greedy", "u1\nu2 A DOG RAN OFF\n")
    argv = ["score", "--reference", str(reference), "--hypothesis", good, "--compare", bad]
    assert main(argv) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("%WER 20.00 [ 1 / 5, 0 ins, 0 del, 1 sub ] 95% [")
    assert first.endswith("]  test graph")
    assert second.startswith("test graph - test greedy: -40.00 points")
    stored = json.loads((Path(good) / "wer.json").read_text())
    assert (stored["wer"], stored["words"], stored["utterances"]) == (20.0, 5, 2)
    assert stored["speakers"] == {"anna": 20.0}
    assert stored["cer"] == pytest.approx(100 / 16, abs=1e-3)
    assert [(row["from"], row["utterances"], row["wer"]) for row in stored["by_words"]] == [
        (1.0, 2, 20.0)
    ]
    assert [(row["from"], row["below"], row["words"]) for row in stored["by_seconds"]] == [
        (0.0, 2, 2),
        (2, 5, 3),
    ]
    assert stored["confusions"]["substitutions"] == [["RAN", "RUN", 1]]
    assert stored["normalisation"].startswith("none: ")
    alignments = (Path(good) / "alignments.txt").read_text()
    assert "u2  1 / 3" in alignments
    assert alignments.endswith("\nconfusions\n     1 RAN -> RUN\n")
    compared = json.loads((Path(good) / "comparison.json").read_text())
    # Against nothing but deletions: 2 errors fewer in one segment, 0 in the other.
    assert compared["mapsswe"]["segments"] == 2
    assert compared["mapsswe"]["mean"] == -1.0
    assert f"MAPSSWE p {compared['mapsswe']['p']:.3f} (z -1.00, 2 segments)" in second
    assert main(argv[:-2]) == 0
    assert capsys.readouterr().out.strip() == first + "  (already scored, skipped)"
    (Path(good) / "text").write_text("u1 THE CAT\nu2 A DOG RAN\n")
    assert main(argv[:-2]) == 0
    assert capsys.readouterr().out.startswith("%WER 0.00")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1 THE CAT\n", "1 utterance(s) without hypothesis"),
        ("u1 A\nu2 B\nu3 C\n", "utterance u3"),
        ("u1 A\nu1 B\nu2 C\n", "there twice"),
        (None, "no decoded text"),
    ],
)
def test_score_errors(
    reference: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    message: str,
) -> None:
    folder = decoded(tmp_path / "out", text) if text is not None else str(tmp_path)
    assert main(["score", "--reference", str(reference), "--hypothesis", folder]) == 65
    assert message in capsys.readouterr().err
    assert not (Path(folder) / "wer.json").exists()
