"""Make a language folder: tokens, words, lexicon, n-gram model and decoding graph.

Letters and words come from the transcripts of --text; an official ARPA file or lexicon replaces
what would be made from them. Prints sizes, and with --dev perplexity and out-of-vocabulary rate.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unispeech.__main__ import Parser, guard
from unispeech.decode.arpa_reader import BOS, EOS, UNK, Header, copy_arpa, ngrams_of, read_header
from unispeech.decode.graph import (
    BACKOFF,
    BLANK,
    BOUNDARY,
    EPSILON,
    INPUTS,
    build_graph,
    read_lexicon,
)
from unispeech.decode.ngram import estimate, read_arpa, run_lmplz, write_arpa
from unispeech.decode.results import fingerprint, read_json
from unispeech.errors import DataError, UsageError
from unispeech.storage import sha256, write_json, write_text

# Raise it when the same inputs give other files.
CODE_VERSION = 1
# Words of text from which "auto" prefers lmplz: Python holds every n-gram in memory.
LARGE_TEXT = 2_000_000

RESERVED = {EPSILON, BACKOFF, BOS, EOS, UNK}

Lexicon = list[tuple[str, tuple[str, ...]]]


def main() -> None:
    """Make the folder, or say that it is there."""
    args = _parser().parse_args()
    if args.order < 1:
        raise UsageError("--order must be at least 1", found=args.order)
    output = Path(args.output)
    inputs = _fingerprint(args)
    done = read_json(output / "lang.json")
    if done.get("inputs") == inputs and _is_whole(output, done):
        built = build_graph(output)
        print(f"{output}: inputs unchanged, {'graph rebuilt' if built else 'skipped'}")
        return
    (output / "lang.json").unlink(missing_ok=True)
    sentences = read_sentences(args.text)
    letters = sorted({letter for words in sentences for word in words for letter in word})
    _check_text(sentences, letters, args.text)
    model = make_model(args, sentences, output / "lm.arpa")
    lexicon = read_lexicon(args.lexicon) if args.lexicon else spell(model, args, letters)
    tokens = [BLANK, BOUNDARY, *letters] if not args.lexicon else _lexicon_tokens(lexicon, letters)
    write_tables(output, tokens, lexicon)
    build_graph(output)
    about = report(args, output, tokens, lexicon, model)
    files = {name: sha256(output / name) for name in INPUTS}
    write_json(output / "lang.json", {"inputs": inputs, "sha256": files, **about})


def read_sentences(path: str) -> list[list[str]]:
    """The transcripts of a manifest as words.

    Raises:
        DataError: an utterance has no transcript.
    """
    sentences = []
    # Imported only here: a finished folder is skipped without it.
    from unispeech.data.manifests import load_cuts, transcript

    for cut in load_cuts(path):
        words = transcript(cut).split()
        if not words:
            raise DataError(
                "no transcript",
                where=f"{path}, utterance {cut.id}",
                remedy="use a manifest in which every utterance is transcribed",
            )
        sentences.append(words)
    return sentences


def make_model(args: argparse.Namespace, sentences: list[list[str]], path: Path) -> Header:
    """Estimate or copy the ARPA file to `path`, and tell its sizes and words.

    A given file is read as a stream.

    Raises:
        DataError: the given ARPA file or list of words is wrong.
    """
    if args.arpa:
        return copy_arpa(args.arpa, path)
    extra = _read_words(args.extra_words) if args.extra_words else []
    if args.lexicon:
        extra += [word for word, _ in read_lexicon(args.lexicon)]
    size = sum(map(len, sentences))
    on_path = shutil.which("lmplz") is not None
    if args.estimator == "lmplz" or (
        args.estimator == "auto" and on_path and not extra and size > LARGE_TEXT
    ):
        if extra:
            raise UsageError("--estimator lmplz cannot add words", remedy="use python")
        run_lmplz(sentences, args.order, path)
    else:
        write_arpa(estimate(sentences, args.order, extra), path)
    return read_header(path)


def spell(model: Header, args: argparse.Namespace, letters: Iterable[str]) -> Lexicon:
    """Spell the words of the model by letters, leaving out words with letters never seen.

    Raises:
        DataError: no word can be spelled.
    """
    known = set(letters)
    lexicon = [(w, (*w, BOUNDARY)) for w in sorted(model.vocabulary) if known.issuperset(w)]
    if not lexicon:
        raise DataError(
            "no word of the language model can be spelled with the letters of the text",
            where=args.arpa or args.text,
            expected=f"letters {' '.join(sorted(known))}",
            remedy="check the case of both",
        )
    return lexicon


def write_tables(output: Path, tokens: list[str], lexicon: Lexicon) -> None:
    """Write `tokens.txt`, `words.txt` and `lexicon.txt`."""
    words = [EPSILON, *sorted({word for word, _ in lexicon}), BACKOFF, BOS, EOS]
    for name, symbols in (("tokens.txt", tokens), ("words.txt", words)):
        write_text(output / name, "".join(f"{s} {i}\n" for i, s in enumerate(symbols)))
    lines = [f"{word} {' '.join(spelling)}\n" for word, spelling in lexicon]
    write_text(output / "lexicon.txt", "".join(lines))


def report(
    args: argparse.Namespace,
    output: Path,
    tokens: list[str],
    lexicon: Lexicon,
    model: Header,
) -> dict[str, Any]:
    """Print and return sizes, and perplexity and out-of-vocabulary rate on --dev."""
    words = {word for word, _ in lexicon}
    graph = read_json(output / "graph.json")["HLG"]
    about: dict[str, Any] = {
        "tokens": len(tokens),
        "words": len(words),
        "left_out": len(set(model.vocabulary) - words),
        "ngrams": model.counts,
        "states": graph["states"],
        "arcs": graph["arcs"],
    }
    print(
        f"{output}: {len(tokens)} tokens, {len(words)} words ({about['left_out']} left out), "
        f"n-grams {' '.join(map(str, about['ngrams']))}, "
        f"graph {graph['states']} states {graph['arcs']} arcs"
    )
    if args.dev:
        from unispeech.data.manifests import load_cuts, transcript

        sentences = [transcript(cut).split() for cut in load_cuts(args.dev)]
        wanted = ngrams_of(sentences, len(model.counts))
        scored = read_arpa(output / "lm.arpa", wanted)
        found = scored.perplexity([s for s in sentences if s])
        running = [word for sentence in sentences for word in sentence]
        oov = 100 * sum(w not in words for w in running) / len(running) if running else 0.0
        about |= {"dev_perplexity": round(found.value, 3), "dev_oov": round(oov, 3)}
        print(f"{args.dev}: perplexity {found.value:.1f}, {oov:.2f}% of words unknown")
    return about


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="prepare_lang.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--text", required=True, metavar="CUTS", help="transcribed manifest")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--order", type=int, default=3, help="of the n-gram model (3)")
    parser.add_argument("--arpa", metavar="FILE", help="use this model as it is")
    parser.add_argument("--lexicon", metavar="FILE", help="use these spellings as they are")
    parser.add_argument("--extra-words", metavar="FILE", help="words the text may lack")
    parser.add_argument("--dev", metavar="CUTS", help="manifest to measure the model on")
    parser.add_argument(
        "--estimator",
        choices=["auto", "python", "lmplz"],
        default="auto",
        help="both give the same model; auto takes KenLM's lmplz for large texts if it is on PATH",
    )
    return parser


def _fingerprint(args: argparse.Namespace) -> str:
    files = {}
    for name in ("text", "arpa", "lexicon", "extra_words", "dev"):
        path = getattr(args, name)
        if path and not Path(path).is_file():
            option = "--" + name.replace("_", "-")
            raise DataError("no such file", where=path, remedy=f"give an existing file to {option}")
        files[name] = sha256(path) if path else None
    return fingerprint([CODE_VERSION, args.order, files])


def _is_whole(output: Path, done: dict[str, Any]) -> bool:
    hashes = done.get("sha256", {})
    return all((output / n).is_file() and sha256(output / n) == hashes.get(n) for n in INPUTS)


def _check_text(sentences: list[list[str]], letters: list[str], path: str) -> None:
    used = {word for words in sentences for word in words}
    reserved = sorted(used & RESERVED)
    if BOUNDARY in letters or reserved:
        raise DataError(
            f"a transcript holds '{reserved[0] if reserved else BOUNDARY}', which is reserved",
            where=path,
            remedy="normalise the transcripts",
        )


def _lexicon_tokens(lexicon: Lexicon, letters: list[str]) -> list[str]:
    found = {token for _, spelling in lexicon for token in spelling} - {BOUNDARY}
    # With a lexicon of phonemes the letters would be columns that nothing ever uses.
    if all(len(token) == 1 for token in found):
        found |= set(letters)
    return [BLANK, BOUNDARY, *sorted(found)]


def _read_words(path: str) -> list[str]:
    words = Path(path).read_text(encoding="utf-8").split()
    reserved = sorted(RESERVED.intersection(words))
    if reserved:
        raise DataError(f"the word '{reserved[0]}' is reserved", where=path)
    return words


if __name__ == "__main__":
    sys.exit(guard(main))
