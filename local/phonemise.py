"""Give transcribed manifests phones, and make the vocabularies of phones.

Reads the manifests of prepare_commonvoice.py and writes each again to OUTPUT, with the phones of
an utterance, separated by blanks, in the field `phones` of its supervision. Writes

  LANG/source/tokens.txt     phones of the source languages, for pre-training
  LANG/target/tokens.txt     phones of the target language, for fine-tuning; of several ones
                             LANG/target_<language>/tokens.txt, or with --together one of all
  LANG/phones/LANGUAGE.json  the phones of every sentence seen so far

Phones are those of espeak-ng through phonemizer, without stress, with the settings that give the
phone transcripts which UniSpeech published. Word boundaries are no tokens: the vocabularies and
the phone lists of that release have none, and its phone error rates count none. Of several
languages that one model learns, `separate` keeps phones apart by language (`en:a`, `fr:a`), and
`shared` merges them.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from commonvoice import LANGUAGES, check_language, target_prefix
from espeak import find_library
from lhotse import MonoCut
from sets import fingerprint, finished, write_sets

from unispeech.__main__ import Parser, guard
from unispeech.data.manifests import read_manifest, transcript
from unispeech.data.tokens import BLANK
from unispeech.decode.results import read_json
from unispeech.errors import DataError, DependencyError, UsageError
from unispeech.storage import sha256, write_json, write_text

TARGET_SETS = ("train", "dev", "test")
BOUNDARY = "|"
# Settings that reproduce the published phone transcripts; part of what a cache is valid for.
SETTINGS: dict[str, Any] = {
    "language_switch": "remove-flags",
    "with_stress": False,
    "words_mismatch": "ignore",
}
# Fewer sentences are done before other processes have started.
PARALLEL_FROM = 5000


class Phonemiser:
    """The phones of sentences, each computed once; `folder` keeps them by language.

    Raises:
        DependencyError: phonemizer or espeak-ng is missing.
    """

    def __init__(self, folder: Path, jobs: int) -> None:
        self.folder = folder
        self.jobs = jobs
        self.origin = {**SETTINGS, **versions()}

    def __call__(self, code: str, texts: Iterable[str]) -> dict[str, str]:
        """Phones, separated by blanks, of sentences of a language; "" where there are none."""
        file = self.folder / f"{code}.json"
        stored = read_json(file)
        known = stored["phones"] if stored.get("origin") == self.origin else {}
        new = sorted(set(texts) - set(known))
        if new:
            jobs = self.jobs if len(new) >= PARALLEL_FROM else 1
            known = {**known, **dict(zip(new, to_phones(code, new, jobs), strict=True))}
            write_json(file, {"origin": self.origin, "phones": known})
        return known


def to_phones(code: str, texts: Sequence[str], jobs: int = 1) -> list[str]:
    """IPA phones, separated by blanks, of sentences of a language.

    Raises:
        DependencyError: phonemizer or espeak-ng is missing.
    """
    library, data = find_library()
    try:
        backend: Any = importlib.import_module("phonemizer.backend")
        wrapper: Any = importlib.import_module("phonemizer.backend.espeak.wrapper")
        separators: Any = importlib.import_module("phonemizer.separator")
    except ImportError as error:
        raise _missing(error) from None
    wrapper.EspeakWrapper.set_library(library)
    wrapper.EspeakWrapper.set_data_path(data)
    # It counts language switches, which the settings already deal with.
    logger = logging.getLogger("phonemise")
    logger.setLevel(logging.ERROR)
    espeak = backend.EspeakBackend(LANGUAGES[code].voice, logger=logger, **SETTINGS)
    separator = separators.Separator(phone=" ", word=f" {BOUNDARY} ")
    lines = espeak.phonemize(list(texts), separator=separator, strip=True, njobs=jobs)
    return [" ".join(p for p in line.split() if p != BOUNDARY) for line in lines]


def add_phones(cuts: Iterable[MonoCut], phones: Mapping[str, str], tag: str) -> list[MonoCut]:
    """The cuts that have phones, with them, each phone after `tag`."""
    kept = []
    for cut in cuts:
        own = phones[transcript(cut)].split()
        if own:
            supervision = cut.supervisions[0]
            said = " ".join(tag + phone for phone in own)
            supervision.custom = {**(supervision.custom or {}), "phones": said}
            kept.append(cut)
    return kept


def write_tokens(file: Path, sets: Iterable[Sequence[MonoCut]]) -> int:
    """Write `tokens.txt` with all phones of the sets; returns the number of tokens."""
    supervisions = (cut.supervisions[0] for cuts in sets for cut in cuts)
    phones = sorted({p for s in supervisions for p in (s.custom or {})["phones"].split()})
    lines = [f"{symbol} {number}\n" for number, symbol in enumerate([BLANK, *phones])]
    write_text(file, "".join(lines))
    return len(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write manifests and vocabularies."""
    args = _arguments(argv)
    sources, targets = (
        list(dict.fromkeys(map(check_language, codes))) for codes in (args.source, args.target)
    )
    if args.jobs < 1:
        raise UsageError("--jobs must be at least 1", found=args.jobs)
    source_sets = {f"{code}-{part}": code for code in sources for part in ("train", "dev")}
    target_sets = {
        f"{target_prefix(code, targets)}{part}": code for code in targets for part in TARGET_SETS
    }
    audio = [f"{target_prefix(code, targets)}pretrain" for code in targets]
    files = {n: args.manifests / f"{n}.jsonl.gz" for n in (*source_sets, *audio, *target_sets)}
    for file in files.values():
        if not file.is_file():
            remedy = "run the stage that prepares the manifests, for the same languages"
            raise DataError("no such manifest", where=file, remedy=remedy)
    phonemise = Phonemiser(args.lang / "phones", args.jobs)
    hashes = {name: sha256(file) for name, file in files.items()}
    named = args.target[0] if len(targets) == 1 else [targets, args.together]
    inputs = fingerprint([hashes, sources, named, args.vocabulary, phonemise.origin], [])
    tables = vocabularies(source_sets, target_sets, args.together)
    tokens = {name: args.lang / name / "tokens.txt" for name in tables}
    if finished(args.output, inputs) and all(file.is_file() for file in tokens.values()):
        print(f"{args.output}: phones of the same manifests are there, skipped")
        return
    sets = {name: read_manifest(file) for name, file in files.items()}
    dropped = []
    for own in tables.values():
        is_apart = args.vocabulary == "separate" and len(set(own.values())) > 1
        for name, code in own.items():
            cuts = sets[name]
            phones = phonemise(code, map(transcript, cuts))
            sets[name] = add_phones(cuts, phones, f"{code}:" if is_apart else "")
            kept = {cut.id for cut in sets[name]}
            dropped += [f"{code}\t{cut.id}\tno phones\n" for cut in cuts if cut.id not in kept]
    write_text(args.output / "dropped.tsv", "".join(["language\tclip\treason\n", *dropped]))
    for name, own in tables.items():
        # A phone that only dev or test has must be a token as well: it counts in the error rate.
        count = write_tokens(tokens[name], (sets[n] for n in own))
        print(f"{tokens[name]}: {count} tokens")
    write_sets(args.output, sets, inputs)


def vocabularies(
    sources: Mapping[str, str], targets: Mapping[str, str], together: bool
) -> dict[str, dict[str, str]]:
    """The sets, with their languages, that each table of tokens is for."""
    codes = dict.fromkeys(targets.values())
    found = {"source": dict(sources)}
    if together or len(codes) == 1:
        return {**found, "target": dict(targets)}
    apart = {f"target_{c}": {n: own for n, own in targets.items() if own == c} for c in codes}
    return found | apart


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "phonemise.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--manifests", type=Path, required=True, help="of prepare_commonvoice.py")
    parser.add_argument("--output", type=Path, required=True, help="EXP/data")
    parser.add_argument("--lang", type=Path, required=True, help="EXP/lang")
    parser.add_argument("--source", nargs="+", required=True, metavar="LANGUAGE")
    parser.add_argument("--target", nargs="+", required=True, metavar="LANGUAGE")
    parser.add_argument("--together", action="store_true", help="one model for all targets")
    parser.add_argument("--vocabulary", choices=["separate", "shared"], default="separate")
    parser.add_argument("--jobs", type=int, default=2, help="processes, for many sentences")
    return parser.parse_args(argv)


def versions() -> dict[str, str]:
    """The versions of the packages that phones depend on.

    Raises:
        DependencyError: one is missing.
    """
    try:
        return {name: version(name) for name in ("phonemizer", "espeakng-loader")}
    except PackageNotFoundError as error:
        raise _missing(error) from None


def _missing(error: ImportError) -> DependencyError:
    return DependencyError(
        "phones need phonemizer and espeak-ng",
        found=error,
        remedy="pip install phonemizer espeakng-loader",
    )


if __name__ == "__main__":
    sys.exit(guard(main))
