"""Everything that is made of speaker manifests: classes, trial lists, cohort, calibration trials.

MANIFESTS has train.jsonl.gz, dev.jsonl.gz and test.jsonl.gz. A list is one of the published ones,
by name, or NAME=FILE+FILE relative to CORPORA, lines "label enrolment test" with paths below the
corpus or below the list. Published lists (vox1-o, vox1-e, vox1-h and vox1-o-original, ...) are
looked for by their file names in CORPORA and compared with the published counts and checksums;
nothing is downloaded. LISTS may also be a file with one list a line. Writes

  OUTPUT/speakers.txt               the training speakers, in the order of the classes
  OUTPUT/NAME/{trials.tsv,trials.json}   each list
  OUTPUT/eval.jsonl.gz              the utterances of the lists
  OUTPUT/cohort.jsonl.gz            utterances of every training speaker, for AS-norm and the mean
  OUTPUT/calibration/{trials.tsv,trials.json}, OUTPUT/calibration.jsonl.gz
                                    a third of the trials each between two short utterances (2 to
                                    6 s), a short and a long one, and two long ones

All draws depend on the seed and on the names of the utterances alone.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lhotse import MonoCut
from sets import fingerprint, finished, make_cut, write_record

from unispeech.__main__ import Parser, guard
from unispeech.data.manifests import SAMPLING_RATE, manifest_lines, parse_cut, speaker, write_cuts
from unispeech.data.sampling import stable_seed
from unispeech.data.trials import (
    OFFICIAL,
    Trials,
    check_official,
    draw_trials,
    numbered,
    parse_trials,
    resolve,
    write_trials,
)
from unispeech.errors import DataError, UsageError, nearest
from unispeech.storage import sha256, write_text

# Seconds of the utterances of calibration trials: wespeaker's.
SHORT = (2.0, 6.0)
# Utterances of each speaker and length among which calibration trials are drawn; ours.
PER_SPEAKER = 4


class List(NamedTuple):
    """A trial list that was asked for: its files, and whether it is a published one."""

    name: str
    files: tuple[Path, ...]
    official: bool


def find_lists(words: Sequence[str], corpora: Path) -> list[List]:
    """The files of the lists that the options name.

    Raises:
        UsageError: a name is neither published nor has files, or is there twice.
        DataError: a file is missing.
    """
    lists: list[List] = []
    for word in words:
        name, separator, value = word.partition("=")
        if not separator and name not in OFFICIAL:
            raise UsageError(
                f"--lists {word}: no published list of that name{nearest(name, OFFICIAL)}",
                expected=f"{', '.join(OFFICIAL)}, or NAME=FILE",
            )
        if name in {own.name for own in lists} or name == "calibration" or "/" in name:
            raise UsageError(f"--lists {word}", expected="each name once, not 'calibration'")
        if separator:
            files = tuple(corpora / file for file in value.split("+"))
            missing = next((file for file in files if not file.is_file()), None)
        else:
            file = OFFICIAL[name].file
            found = [*sorted(corpora.glob(file)), *sorted(corpora.glob(f"*/{file}"))]
            files = tuple(found[:1])
            missing = None if found else corpora / file
        if missing is not None:
            raise DataError(
                f"no trial list {name}",
                where=missing,
                remedy="copy it there; the published lists are on the pages of VoxCeleb",
            )
        lists.append(List(name, files, not separator))
    return lists


def read_list(own: List, paths: dict[str, str], ids: set[str], restrict: bool) -> Trials:
    """The trials of a list between utterances of the test set.

    Args:
        own: the list.
        paths: id of every utterance of the test set by the path of its audio.
        ids: the ids of the test set.
        restrict: leave out trials with other utterances; otherwise they are an error.

    Raises:
        DataError: a file is damaged or not the published one, or an utterance is not there.
    """
    rows: list[tuple[bool, str, str]] = []
    for file in own.files:
        if own.official:
            check_official(own.name, file)
        trials = parse_trials(file)
        names = [paths.get(str(file.parent / name), name) for name in trials.ids]
        sides = zip(trials.labels, trials.enrollment, trials.test, strict=True)
        found = [(bool(label), names[one], names[other]) for label, one, other in sides]
        if restrict:
            kept = [row for row in found if row[1] in ids and row[2] in ids]
            if len(kept) < len(found):
                print(f"{file}: {len(kept)} of {len(found)} trials are within the test set")
            found = kept
        rows += found
    where = ", ".join(map(str, own.files))
    if not rows:
        raise DataError("no trial is left", where=where, remedy="give the list of the test set")
    return resolve(numbered(rows), ids, where)


class Sampled:
    """A few utterances of each speaker: those whose names have the smallest hashes.

    Args:
        count: of each speaker, 0 for all.
        seed: of the hashes.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self._heaps: dict[str, list[tuple[int, str, str]]] = {}

    def add(self, person: str, name: str, line: str) -> None:
        """Consider one utterance, a line of a manifest."""
        heap = self._heaps.setdefault(person, [])
        entry = (-_hash(self.seed, name), name, line)
        if self.count and len(heap) >= self.count:
            heapq.heappushpop(heap, entry)
        else:
            heapq.heappush(heap, entry)

    def cuts(self) -> Iterator[MonoCut]:
        """The utterances, speaker by speaker."""
        for person in sorted(self._heaps):
            for _, name, line in sorted(self._heaps[person], key=lambda entry: entry[1]):
                yield parse_cut(line, name)


def calibration_cuts(short: Iterable[MonoCut], long: Iterable[MonoCut], seed: int) -> list[MonoCut]:
    """Short utterances, cropped where they are longer, and long ones, with ids of their own."""
    cuts = []
    for cut in short:
        rng = np.random.default_rng(stable_seed(seed, "short", cut.id))
        seconds = min(cut.duration, float(rng.uniform(*SHORT)))
        # Whole samples, or the recording would end before the cut.
        samples = int(seconds * SAMPLING_RATE)
        start = int(rng.integers(round(cut.duration * SAMPLING_RATE) - samples + 1))
        place = cut.start + start / SAMPLING_RATE
        cuts.append(_renamed(cut, f"{cut.id}-short", place, samples / SAMPLING_RATE))
    return cuts + [_renamed(cut, f"{cut.id}-long", cut.start, cut.duration) for cut in long]


def calibration_trials(cuts: Sequence[MonoCut], count: int, seed: int) -> Trials:
    """Trials between utterances of each pair of lengths, half of them of one speaker.

    Raises:
        DataError: there is no such trial.
    """
    names = [cut.id for cut in cuts]
    # Ids of VoxCeleb name the video, and two utterances of one are too easy.
    sessions = [name.rpartition("/")[0] for name in names] if "/" in names[0] else []
    groups = [name.rpartition("-")[2] for name in names]
    lengths = [("short", "short"), ("short", "long"), ("long", "long")]
    drawn = draw_trials([speaker(cut) for cut in cuts], count // 2, seed, groups, lengths, sessions)
    if not drawn:
        raise DataError(
            "no calibration trials can be drawn",
            expected="speakers with two utterances of 2 s or more",
            remedy="take another set with --calibration",
        )
    return numbered((label, names[one], names[other]) for label, one, other in drawn)


def read_test(path: Path) -> tuple[dict[str, str], set[str]]:
    """Ids of a manifest by the path of their audio, and all its ids."""
    paths, ids = {}, set()
    for line in manifest_lines(path):
        entry = json.loads(line)
        ids.add(entry["id"])
        paths[entry["recording"]["sources"][0]["source"]] = entry["id"]
    return paths, ids


def prepare(args: argparse.Namespace, lists: Sequence[List]) -> dict[str, str]:
    """Write everything; returns checksums by name."""
    paths, ids = read_test(args.manifests / "test.jsonl.gz")
    output, used, written = args.output, set(), []
    for own in lists:
        trials = read_list(own, paths, ids, args.restrict)
        condition = OFFICIAL[own.name].condition if own.official else own.name
        write_trials(trials, output / own.name, ", ".join(f.name for f in own.files), condition)
        used.update(trials.ids)
        written += _listed(own.name)
        print(f"{output / own.name}: {_counts(trials)}")
    cohort = Sampled(args.cohort_utterances, args.seed)
    short, long = (Sampled(PER_SPEAKER, args.seed + k) for k in (1, 2))
    people = set()
    for name in dict.fromkeys(("train", args.calibration)):
        for line in manifest_lines(args.manifests / f"{name}.jsonl.gz"):
            entry = json.loads(line)
            person = (entry.get("supervisions") or [{}])[0].get("speaker") or ""
            if name == "train":
                people.add(person)
                cohort.add(person, entry["id"], line)
            if name == args.calibration and entry["duration"] >= SHORT[0]:
                short.add(person, entry["id"], line)
            if name == args.calibration and entry["duration"] > SHORT[1]:
                long.add(person, entry["id"], line)
    write_text(output / "speakers.txt", "".join(f"{name}\n" for name in sorted(people)))
    write_cuts(cohort.cuts(), output / "cohort.jsonl.gz")
    cuts = calibration_cuts(short.cuts(), long.cuts(), args.seed)
    trials = calibration_trials(cuts, args.calibration_trials, args.seed)
    drawn = f"drawn from {args.calibration}, seed {args.seed}"
    write_trials(trials, output / "calibration", drawn, "calibration")
    heard = set(trials.ids)
    write_cuts((cut for cut in cuts if cut.id in heard), output / "calibration.jsonl.gz")
    print(f"{output / 'calibration'}: {_counts(trials)}, {drawn}")
    lines = manifest_lines(args.manifests / "test.jsonl.gz")
    cuts_of_lists = (parse_cut(line, "test") for line in lines if json.loads(line)["id"] in used)
    write_cuts(cuts_of_lists, output / "eval.jsonl.gz")
    manifests = [f"{name}.jsonl.gz" for name in ("eval", "cohort", "calibration")]
    files = ["speakers.txt", *manifests, *written, *_listed("calibration")]
    return {name: sha256(output / name) for name in files}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write classes, lists, cohort and calibration trials."""
    parser = Parser(
        "prepare_trials.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--manifests", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--lists", nargs="+", required=True, metavar="NAME[=FILE+FILE]")
    parser.add_argument(
        "--restrict", action="store_true", help="keep the trials within the test set only"
    )
    parser.add_argument(
        "--cohort-utterances", type=int, default=20, help="of each speaker, 0 for all (20)"
    )
    parser.add_argument(
        "--calibration", choices=("train", "dev"), default="train", help="set to draw from (train)"
    )
    parser.add_argument("--calibration-trials", type=int, default=30000, help="number (30000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", action="store_true", help="only look for the lists")
    args = parser.parse_args(argv)
    if args.cohort_utterances < 0 or args.calibration_trials < 6:
        raise UsageError(
            "a number is out of range",
            expected="--cohort-utterances of at least 0, --calibration-trials of at least 6",
        )
    corpora = args.corpora.absolute()
    words = args.lists
    if len(words) == 1 and Path(words[0]).is_file():
        words = _read_words(Path(words[0]))
    lists = find_lists(words, corpora)
    if args.check:
        print(f"{corpora}: has the trial lists {', '.join(own.name for own in lists)}")
        return
    settings = [words, args.restrict, args.cohort_utterances, args.calibration]
    settings += [args.calibration_trials, args.seed]
    manifests = [args.manifests / f"{name}.jsonl.gz" for name in ("train", "dev", "test")]
    for path in manifests:
        if not path.is_file():
            raise DataError(
                "no such manifest", where=path, remedy="run the stage that prepares the manifests"
            )
    files = [*manifests, *(file for own in lists for file in own.files)]
    inputs = fingerprint(settings, [], files)
    if finished(args.output, inputs):
        print(f"{args.output}: trials of the same inputs are there, skipped")
        return
    write_record(args.output, prepare(args, lists), inputs)


def _read_words(file: Path) -> list[str]:
    lines = (line.partition("#")[0] for line in file.read_text(encoding="utf-8").splitlines())
    return list(itertools.chain.from_iterable(line.split() for line in lines))


def _renamed(cut: MonoCut, name: str, start: float, duration: float) -> MonoCut:
    return make_cut(
        cut.recording, name, speaker=speaker(cut), text="", start=start, duration=duration
    )


def _counts(trials: Trials) -> str:
    targets = int(trials.labels.sum())
    return f"{len(trials.labels)} trials ({targets} of one speaker), {len(trials.ids)} utterances"


def _listed(name: str) -> list[str]:
    return [f"{name}/trials.tsv", f"{name}/trials.json"]


def _hash(seed: int, name: str) -> int:
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


if __name__ == "__main__":
    sys.exit(guard(main))
