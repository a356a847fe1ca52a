"""Letters to ids and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unispeech.data.tokens import Tokenizer
from unispeech.errors import DataError

WORDS = st.lists(st.text("ABC'", min_size=1), max_size=6)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("lang") / "tokens.txt"
    path.write_text("<blk> 0\n| 1\n' 2\nA 3\nB 4\nC 5\n")
    return Tokenizer(path)


def test_every_word_ends_with_a_boundary(tokenizer) -> None:
    assert tokenizer.encode("AB C") == [3, 4, 1, 5, 1]


@given(words=WORDS)
def test_round_trip(tokenizer, words) -> None:
    text = " ".join(words)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unknown_symbols_are_named(tokenizer) -> None:
    with pytest.raises(DataError, match="'D' 'Ü'"):
        tokenizer.encode("ADÜ")


@pytest.mark.parametrize(
    "table", ["", "A 0\n", "<blk> 0\nA 2\n", "<blk> 0\nA\n", "<blk> 0\nA 1\nA 2\n"]
)
def test_bad_tables(tmp_path, table) -> None:
    (tmp_path / "tokens.txt").write_text(table)
    with pytest.raises(DataError, match=r"tokens\.txt"):
        Tokenizer(tmp_path / "tokens.txt")
