"""N-gram estimation against stored output of KenLM's lmplz, and the laws of a distribution."""

from __future__ import annotations

import math
import stat
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unispeech.decode.ngram import (
    NgramModel,
    estimate,
    read_arpa,
    run_lmplz,
    write_arpa,
)
from unispeech.errors import DataError, DependencyError

DATA = Path(__file__).parent / "data"

sentences_of = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=6), min_size=1)


def read(name: str) -> list[list[str]]:
    return [line.split() for line in (DATA / name).read_text().splitlines()]


@pytest.mark.parametrize("name", ["closed_form", "fallback"])
def test_equals_lmplz(name: str) -> None:
    # Made with: lmplz -o 3 --discount_fallback (KenLM 0.3.0 from the Python package index). The
    # first text has closed-form discounts for every order, the second falls back for one.
    expected = read_arpa(DATA / f"ngram_{name}.arpa")
    found = estimate(read(f"ngram_{name}.txt"), 3)
    for theirs, ours in zip(expected.grams, found.grams, strict=True):
        assert theirs.keys() == ours.keys()
        for words in theirs:
            assert ours[words] == pytest.approx(theirs[words], abs=1e-6), words


def test_a_bigram_model_by_hand() -> None:
    # Counts too small for closed-form discounts: 0.5 for one, 1 for two.
    model = estimate([["a"], ["a"], ["b"]], 2)
    # Unigrams: a, b and </s> follow 1, 1 and 2 words; the vocabulary is a, b, </s>, <unk>.
    left = (0.5 + 0.5 + 1.0) / 4
    unigram_a = (1 - 0.5) / 4 + left / 4
    assert 10 ** model.log10("a") == pytest.approx(unigram_a)
    assert 10 ** model.log10("never seen") == pytest.approx(left / 4)
    # <s> a occurs twice, <s> b once.
    left_start = (1.0 + 0.5) / 3
    assert 10 ** model.log10("a", ["<s>"]) == pytest.approx(1 / 3 + left_start * unigram_a)


@settings(max_examples=50, deadline=None)
@given(sentences_of, st.integers(1, 4))
# Its discount of counts above two is zero: the history <s> a leaves nothing over.
@example([["a"], ["a"], ["a"], ["a", "a", "b", "a", "a", "b"]], 3)
def test_every_history_sums_to_one(sentences: list[list[str]], order: int) -> None:
    model = estimate(sentences, order, ["extra"])
    words = [*model.vocabulary, "</s>", "<unk>"]
    assert "extra" in words
    for history in ([], ["<s>"], ["a"], ["<s>", "a"], ["b", "a"], ["extra", "d"]):
        total = sum(10 ** model.log10(word, history) for word in words)
        assert total == pytest.approx(1.0, abs=1e-9)


def test_arpa_round_trip(tmp_path: Path) -> None:
    model = estimate(read("ngram_closed_form.txt"), 3)
    write_arpa(model, tmp_path / "lm.arpa")
    found = read_arpa(tmp_path / "lm.arpa")
    for ours, theirs in zip(model.grams, found.grams, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(theirs[words] == pytest.approx(ours[words], abs=1e-6) for words in ours)


def test_perplexity_of_a_uniform_model() -> None:
    share = math.log10(0.25)
    model = NgramModel([{(word,): (share, 0.0) for word in ("a", "b", "</s>", "<unk>")}])
    found = model.perplexity([["a", "b"], ["a", "unheard"]])
    assert found.value == pytest.approx(4.0)
    assert (found.words, found.oov, found.sentences) == (4, 1, 2)
    assert model.sentence_log10(["a", "b"]) == pytest.approx(3 * share)


@pytest.mark.parametrize("sentences", [[], [[]], [["a", "</s>"]]])
def test_unusable_text(sentences: list[list[str]]) -> None:
    with pytest.raises(DataError):
        estimate(sentences, 2)


@pytest.mark.parametrize("lines", [0, 1, 5, 20, -1])
def test_damaged_arpa(tmp_path: Path, lines: int) -> None:
    text = (DATA / "ngram_fallback.arpa").read_text().splitlines(keepends=True)
    (tmp_path / "lm.arpa").write_text("".join(text[:lines]))
    with pytest.raises(DataError, match="not an ARPA file"):
        read_arpa(tmp_path / "lm.arpa")


def test_lmplz_is_called_with_the_same_discounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "lmplz"
    program.write_text('#!/bin/sh\necho "$@"\ncat\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    run_lmplz([["a", "b"], [], ["c"]], 4, tmp_path / "lm.arpa")
    first, *rest = (tmp_path / "lm.arpa").read_text().splitlines()
    assert first.startswith("-o 4 ")
    assert "--discount_fallback" in first.split()
    assert rest == ["a b", "c"]
    program.write_text("#!/bin/sh\necho no memory >&2\nexit 3\n")
    with pytest.raises(DependencyError, match="no memory"):
        run_lmplz([["a"]], 2, tmp_path / "other.arpa")
    assert not (tmp_path / "other.arpa").exists()


def test_lmplz_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DependencyError, match="lmplz is not on PATH"):
        run_lmplz([["a"]], 2, tmp_path / "lm.arpa")
