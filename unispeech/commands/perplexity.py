"""Perplexity of text under an n-gram or Transformer language model.

TEXT are text files, one sentence a line, or transcribed manifests, also compressed. Two values are
printed, on the same definition for every model, exp(-ln P / (words + sentences)): with unknown
words, each as likely as the model's own unknown word, and without them. Only models that know the
same words can be compared by either.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unispeech.data.vocabulary import read_sentences
from unispeech.decode.scorers import open_scorer, perplexity
from unispeech.errors import DataError
from unispeech.storage import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--lm",
        required=True,
        metavar="PATH",
        help="ARPA file, binary file of KenLM, experiment of `lm`, or checkpoint of fairseq",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the values as JSON too")
    parser.add_argument("text", nargs="+", metavar="TEXT")


def run(args: argparse.Namespace) -> None:
    """Print one line for each text."""
    scorer = open_scorer(args.lm)
    rows: list[dict[str, Any]] = []
    for path in args.text:
        found = perplexity(scorer, read_sentences(path))
        if not found.sentences:
            raise DataError("no text", where=path)
        rate = 100 * found.unknown / found.words
        print(
            f"{path}: perplexity {found.value:.2f}, without unknown words {found.known:.2f};"
            f" {found.sentences} sentences, {found.words} words, {rate:.2f}% unknown"
        )
        rows.append({"text": str(path), **found._asdict()})
    if args.output:
        about = {"lm": str(args.lm), "name": scorer.name, "sha256": scorer.sha256}
        write_json(args.output, {**about, "texts": rows})
