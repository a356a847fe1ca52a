"""Make text to train a language model on, where the transcripts alone are few.

    python local/prepare_text.py --transcripts CUTS --wordnet DIR --output TEXT

Transcripts come --copies times. Other sentences come once, in the letter case of the transcripts,
without punctuation, when at most --unknown of their words are not in the transcripts: those of
--text files, and the example sentences of WordNet 3.0 (--wordnet, the folder of its `data.noun`;
the package `wordnet-base` of Debian, or wordnet.princeton.edu).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from unispeech.__main__ import Parser, guard
from unispeech.data.vocabulary import read_sentences
from unispeech.errors import DataError, UsageError
from unispeech.storage import write_text

PARTS = ("noun", "verb", "adj", "adv")
EXAMPLE = re.compile(r'"([^"]+)"')
# What is no letter of a word; an apostrophe is one only inside.
OTHER = re.compile(r"[^\w' ]|\d|_|(?<!\w)'|'(?!\w)")
LENGTHS = range(3, 21)


def main() -> None:
    """Write the text."""
    args = _parser().parse_args()
    if args.copies < 1:
        raise UsageError("--copies must be at least 1", found=args.copies)
    if not 0 <= args.unknown <= 1:
        raise UsageError("--unknown must be between 0 and 1", found=args.unknown)
    own = [sentence for path in args.transcripts for sentence in read_sentences(path)]
    if not own:
        raise DataError("no transcripts", where=", ".join(args.transcripts))
    words = {word for sentence in own for word in sentence.split()}
    is_upper = sum(map(str.isupper, words)) > len(words) / 2
    others: list[str] = [sentence for path in args.text for sentence in read_sentences(path)]
    if args.wordnet:
        others += examples(args.wordnet)
    plain = dict.fromkeys(spoken(others, is_upper))
    kept = [sentence for sentence in plain if is_known(sentence.split(), words, args.unknown)]
    write_text(args.output, "".join(f"{sentence}\n" for sentence in own * args.copies + kept))
    print(
        f"{args.output}: {len(own):,} transcripts {args.copies} times,"
        f" {len(kept):,} of {len(plain):,} other sentences"
    )


def examples(folder: Path) -> Iterator[str]:
    """The example sentences of WordNet's glosses.

    Raises:
        DataError: the folder is not WordNet's.
    """
    for part in PARTS:
        path = folder / f"data.{part}"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            remedy = "install the package wordnet-base, and give its folder /usr/share/wordnet"
            raise DataError("not WordNet", where=path, found=error, remedy=remedy) from None
        for line in lines:
            _, is_entry, gloss = line.partition(" | ")
            if is_entry:
                yield from EXAMPLE.findall(gloss)


def spoken(sentences: Iterable[str], is_upper: bool) -> Iterator[str]:
    """Words without punctuation in one letter case; sentences of unusual length are left out."""
    for sentence in sentences:
        plain = " ".join(OTHER.sub(" ", sentence.replace("’", "'")).split())
        if len(plain.split()) in LENGTHS:
            yield plain.upper() if is_upper else plain.lower()


def is_known(sentence: list[str], words: set[str], share: float) -> bool:
    """Whether at most `share` of the words are not among `words`."""
    return sum(word not in words for word in sentence) <= share * len(sentence)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transcripts", nargs="+", required=True, help="manifests or text files")
    parser.add_argument("--copies", type=int, default=4, help="of the transcripts (4)")
    parser.add_argument("--text", nargs="*", default=[], metavar="FILE", help="other sentences")
    parser.add_argument("--wordnet", type=Path, metavar="DIR", help="folder of WordNet 3.0")
    parser.add_argument(
        "--unknown", type=float, default=0.34, help="greatest share of other words (0.34)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(guard(main))
