"""Turn VoxCeleb1 and VoxCeleb2, in their native layouts, into manifests.

CORPORA holds VoxCeleb1/{dev,test}/wav/id*/ and VoxCeleb2/{dev,test}/aac/id*/, or each corpus as its
archives unpack it; some speakers of a part are enough. A set is one or several parts:

  --sets train=vox2-dev dev=vox2-test test=vox1-dev+vox1-test

writes OUTPUT/<set>.jsonl.gz, in the order of speakers. An utterance is called by its path,
id10270/x6uYqmx31kE/00001. AAC is decoded once, to 16 kHz FLAC in AUDIO, which several experiments
may share; wav stays where it is. Files that cannot be used are listed in OUTPUT/dropped.tsv.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lhotse import MonoCut
from sets import check_given, fingerprint, finished, make_cut, make_recording, write_record
from voxceleb import Utterance, check_decoder, decode_all, find_part, utterances

from unispeech.__main__ import Parser, guard
from unispeech.data.manifests import speaker, write_cuts
from unispeech.errors import DataError, UsageError
from unispeech.storage import sha256, write_text

# Spoken by celebrities of 145 nationalities; no language is given.
LANGUAGE = "unknown"


def parse_sets(texts: Iterable[str]) -> dict[str, list[str]]:
    """`NAME=part+part` options as a dictionary.

    Raises:
        UsageError: an option does not look like that, or a name or a part is there twice.
    """
    sets: dict[str, list[str]] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not value or name in ("", *sets):
            raise UsageError(f"--sets {text}", expected="NAME=part+part, each NAME once")
        sets[name] = value.split("+")
    used = list(itertools.chain(*sets.values()))
    if len(set(used)) < len(used):
        raise UsageError("--sets", expected="every part in one set", found=" ".join(used))
    return sets


class Corpus:
    """The usable utterances of all parts.

    Args:
        corpora: folder of the corpora.
        audio: where decoded files go.
        jobs: processes that decode.
    """

    def __init__(self, corpora: Path, audio: Path, jobs: int) -> None:
        self.corpora = corpora
        self.audio = audio
        self.jobs = jobs
        self.dropped: list[tuple[str, str, str]] = []

    def cuts(self, part: str) -> Iterator[MonoCut]:
        """The utterances of a part, one at a time; what cannot be used goes to `dropped`."""
        listed = list(utterances(self.corpora, part))
        coded = [u for u in listed if u.path.suffix == ".m4a"]
        files = ((u.path, self.flac(u)) for u in coded)
        decoded = decode_all(files, self.jobs) if coded else iter(())
        wrong = {path: reason for path, reason in decoded if reason}
        for utterance in listed:
            path, reason = utterance.path, wrong.get(utterance.path, "")
            try:
                if not reason:
                    path = self.flac(utterance) if path.suffix == ".m4a" else path
                    recording = make_recording(utterance.id, path)
                    yield make_cut(
                        recording, utterance.id,
                        speaker=utterance.speaker, text="", language=LANGUAGE,
                    )  # fmt: skip
            except DataError as error:
                reason = error.what
            if reason:
                self.dropped.append((part, utterance.id, reason))

    def flac(self, utterance: Utterance) -> Path:
        """Where a decoded utterance is."""
        return self.audio / f"{utterance.id}.flac"


class Counted:
    """The utterances of a set as they come, counted.

    Args:
        corpus: what they are of.
        parts: of the set.
        where: the set, for messages.
    """

    def __init__(self, corpus: Corpus, parts: Sequence[str], where: str) -> None:
        self.corpus = corpus
        self.parts = parts
        self.where = where
        self.count = 0
        self.seconds = 0.0
        self.people: set[str] = set()

    def __iter__(self) -> Iterator[MonoCut]:
        for cut in itertools.chain.from_iterable(map(self.corpus.cuts, self.parts)):
            self.count += 1
            self.seconds += cut.duration
            self.people.add(speaker(cut))
            yield cut
        if self.count == 0:
            raise DataError(
                "no utterance is left",
                where=self.where,
                found=f"{len(self.corpus.dropped)} dropped, for instance {self.corpus.dropped[0]}",
                remedy="unpack the archives again",
            )


def write(output: Path, sets: Mapping[str, Sequence[str]], corpus: Corpus, inputs: str) -> None:
    """Write every set as its utterances come, what was dropped, and the record.

    Raises:
        DataError: a set has no utterance.
    """
    hashes = {}
    for name, parts in sets.items():
        path = output / f"{name}.jsonl.gz"
        counted = Counted(corpus, parts, f"set {name}")
        write_cuts(counted, path)
        hashes[path.name] = sha256(path)
        hours = f"{counted.seconds / 3600:,.3f} h"
        print(f"{path}: {counted.count} utterances, {len(counted.people)} speakers, {hours}")
    lines = ["\t".join(row) + "\n" for row in corpus.dropped]
    write_text(output / "dropped.tsv", "".join(["part\tutterance\treason\n", *lines]))
    if lines:
        print(f"{output / 'dropped.tsv'}: {len(lines)} files cannot be used")
    write_record(output, hashes, inputs)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the manifests."""
    parser = Parser(
        "prepare_voxceleb.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--audio", type=Path, required=True, help="folder of the decoded files")
    parser.add_argument("--output", type=Path, required=True, help="folder of the manifests")
    parser.add_argument("--sets", nargs="+", required=True, metavar="NAME=PART+PART")
    parser.add_argument("--jobs", type=int, default=4, help="processes that decode")
    parser.add_argument("--check", action="store_true", help="only look for the parts")
    args = parser.parse_args(argv)
    check_given(args.corpora)
    if args.jobs < 1:
        raise UsageError("--jobs must be at least 1", found=args.jobs)
    sets = parse_sets(args.sets)
    corpora = args.corpora.absolute()
    parts = list(itertools.chain(*sets.values()))
    folders = {part: find_part(corpora, part) for part in parts}
    if any(folder.name == "aac" for folder in folders.values()):
        check_decoder()
    if args.check:
        print(f"{corpora}: has {', '.join(parts)}")
        return
    audio = args.audio.absolute()
    inputs = fingerprint([sets, str(audio)], set(folders.values()))
    decoded = audio.is_dir() or all(folder.name == "wav" for folder in folders.values())
    if decoded and finished(args.output, inputs):
        print(f"{args.output}: manifests of the same inputs are there, skipped")
        return
    write(args.output, sets, Corpus(corpora, audio, args.jobs), inputs)


if __name__ == "__main__":
    sys.exit(guard(main))
