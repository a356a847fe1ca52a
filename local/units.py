"""What words are made of: pieces by sentencepiece, or phones by a lexicon or espeak-ng.

Letters need nothing of this; see prepare_lang.py, which makes the language folder.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from unispeech.data.tokens import BLANK, WORD_START, Pieces
from unispeech.decode.graph import read_lexicon
from unispeech.errors import DataError, UsageError
from unispeech.storage import atomic_path

# Kaldi's phone of words that the lexicon lacks ("spoken noise").
UNKNOWN_PHONE = "SPN"

Lexicon = list[tuple[str, tuple[str, ...]]]


def train_pieces(sentences: Iterable[Sequence[str]], size: int, path: Path) -> list[str]:
    """Train byte-pair pieces on the words of a text, write the model, return the pieces.

    Every letter of the text is a piece. A text too small for `size` gives fewer.

    Raises:
        UsageError: `size` is too small for the letters.
        DataError: a word holds the mark that begins words.
    """
    lines = [" ".join(words) for words in sentences]
    letters = {letter for line in lines for letter in line} - {" "}
    if WORD_START in letters:
        raise DataError(f"a transcript holds '{WORD_START}', which is reserved", where=path)
    # The letters, the mark that begins words, and sentencepiece's <unk>.
    if size < len(letters) + 2:
        raise UsageError(
            "--pieces is too small", expected=f"at least {len(letters) + 2}", found=size
        )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.getvalue())
    return Pieces(path).symbols


def spell_by_pieces(words: Iterable[str], path: Path) -> Lexicon:
    """The pieces of every word that has no other letters than the text of the model."""
    pieces = Pieces(path)
    known = set(pieces.symbols)
    spelled = ((word, tuple(pieces.split(word))) for word in sorted(words))
    return [(word, spelling) for word, spelling in spelled if known.issuperset(spelling)]


def pronounce(words: Iterable[str], language: str) -> Lexicon:
    """One pronunciation of every word, said by itself, by espeak-ng; IPA without stress.

    Raises:
        UsageError: there is no such language.
        DependencyError: phonemizer or espeak-ng is missing.
    """
    # Imported only here: they load lhotse.
    from commonvoice import check_language
    from phonemise import to_phones

    known = sorted(words)
    # Capitals would be read as abbreviations: "US" letter by letter.
    said = to_phones(check_language(language), [word.lower() for word in known])
    return [(word, tuple(p.split())) for word, p in zip(known, said, strict=True) if p.split()]


def read_pronunciations(path: str, keep_stress: bool) -> Lexicon:
    """The pronunciations of a lexicon file, one or several to a word.

    Lines are a word and its phones, as in LibriSpeech's lexicon and CMUdict; the numbers that tell
    the pronunciations of a word apart in the latter, `WORD(2)`, are dropped.

    Raises:
        DataError: the file is missing or not a lexicon, or has a reserved phone.
    """
    entries: dict[tuple[str, tuple[str, ...]], None] = {}
    for word, phones in read_lexicon(path):
        if BLANK in phones:
            raise DataError(f"the phone '{BLANK}' is reserved", where=path)
        if not keep_stress:
            # ARPAbet marks the stress of vowels: AH0, AH1, AH2.
            phones = tuple(re.sub(r"(?<=^[A-Z]{2})[0-2]$", "", phone) for phone in phones)
        entries[re.sub(r"\(\d+\)$", "", word), phones] = None
    return list(entries)


def phone_tokens(lexicon: Lexicon) -> list[str]:
    """The tokens of a lexicon of phones, the blank first."""
    return [BLANK, *sorted({p for _, phones in lexicon for p in phones} | {UNKNOWN_PHONE})]
