"""Turn Common Voice, in its native layout, into manifests; decode its clips once.

CORPORA holds `cv-corpus-*/<language>/{train,dev,test,validated}.tsv` and `clips/*.mp3`, or the
languages directly. Clips become 16 kHz mono FLAC in AUDIO/<language>, which several experiments
may share; what is dropped is listed with its reason in OUTPUT/dropped.tsv. Writes

  OUTPUT/<source>-train.jsonl.gz, <source>-dev.jsonl.gz   labelled speech of each source language
  OUTPUT/pretrain.jsonl.gz     audio of the target language, without transcripts
  OUTPUT/{train,dev,test}.jsonl.gz     transcribed speech of the target language, few hours

and of several target languages OUTPUT/<target>_{pretrain,train,dev,test}.jsonl.gz.

Nobody who speaks in a dev or test set speaks in another set. The few hours are those of the
published lists in SPLITS/<target> (train*, val* or dev*, test*), or, without --splits, drawn from
train.tsv, dev.tsv and test.tsv, many speakers before many clips of one.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from commonvoice import (
    TABLES,
    Clip,
    check_language,
    decode_clips,
    find_language,
    find_lists,
    read_list,
    read_table,
    target_prefix,
    wrong_text,
)
from lhotse import MonoCut
from sets import check_given, fingerprint, finished, make_cut, make_recording, write_sets

from unispeech.__main__ import Parser, guard
from unispeech.data.manifests import SAMPLING_RATE
from unispeech.errors import UsageError
from unispeech.storage import write_text

# Hours of the published lists: UniSpeech (arXiv:2101.07597), data folder of the release.
HOURS = (1.0, 0.3, 1.0)

Tables = Mapping[str, Sequence[Clip]]


class Corpus:
    """The clips of one language that can be used, and those that cannot.

    Args:
        code: the language.
        folder: its folder in the release.
        audio: where its FLAC files go.
        limits: least and greatest duration in seconds.
        jobs: processes that decode.
    """

    def __init__(
        self, code: str, folder: Path, audio: Path, limits: tuple[float, float], jobs: int
    ) -> None:
        self.code = code
        self.audio = audio / code
        tables = {name: read_table(folder, name) for name in TABLES}
        clips = {clip.name: clip for table in tables.values() for clip in table}
        self.dropped = {
            name: reason for name, c in clips.items() if (reason := wrong_text(c.text, code))
        }
        sound = [clip for name, clip in clips.items() if name not in self.dropped]
        decoded = decode_clips(sound, self.audio, limits, jobs)
        self.dropped |= {name: reason for name, (_, reason) in decoded.items() if reason}
        self.seconds = {name: n / SAMPLING_RATE for name, (n, reason) in decoded.items()}
        self.clips = {name: c for name, c in clips.items() if name not in self.dropped}
        self.tables: Tables = {
            name: [clip for clip in table if clip.name in self.clips]
            for name, table in tables.items()
        }

    def cuts(self, clips: Iterable[Clip], transcribed: bool = True) -> list[MonoCut]:
        """Manifest entries of clips; the text is left out where it must not be seen."""
        return [
            make_cut(
                make_recording(clip.name, self.audio / f"{clip.name}.flac"),
                clip.name,
                speaker=clip.speaker,
                text=clip.text if transcribed else "",
                language=self.code,
            )
            for clip in clips
        ]

    def draw(self, clips: Iterable[Clip], hours: float) -> list[Clip]:
        """About so many hours: in rounds, one clip of every speaker in each.

        The order comes from hashes of the names, so that it is the same for any order of the
        table and has nothing to do with who recorded first.
        """
        people: dict[str, list[Clip]] = {}
        for clip in sorted(clips, key=lambda c: _hash(c.name)):
            people.setdefault(clip.speaker, []).append(clip)
        turns = [people[name] for name in sorted(people, key=_hash)]
        chosen: list[Clip] = []
        seconds = 0.0
        for clip in filter(None, itertools.chain(*itertools.zip_longest(*turns))):
            if seconds >= 3600 * hours:
                break
            chosen.append(clip)
            seconds += self.seconds[clip.name]
        return chosen


def split(
    corpus: Corpus, lists: Mapping[str, Path], hours: Sequence[float]
) -> dict[str, list[Clip]]:
    """The few hours of the target language: `train`, `dev` and `test`.

    Clips that a list names and the release lacks are added to what was dropped.
    """
    if lists:
        sets = {}
        for name, file in lists.items():
            names = read_list(file)
            sets[name] = [corpus.clips[n] for n in names if n in corpus.clips]
            for clip in names:
                if clip not in corpus.clips:
                    reason = f"listed in {file.name}, not in the release's tables"
                    corpus.dropped.setdefault(clip, reason)
        return sets
    test = corpus.draw(corpus.tables["test"], hours[2])
    dev = corpus.draw(_others(corpus.tables["dev"], [test]), hours[1])
    train = corpus.draw(_others(corpus.tables["train"], [dev, test]), hours[0])
    return {"train": train, "dev": dev, "test": test}


def make_sets(
    corpora: Mapping[str, Corpus],
    sources: Sequence[str],
    targets: Sequence[str],
    lists: Mapping[str, Mapping[str, Path]],
    hours: Sequence[float],
) -> dict[str, list[MonoCut]]:
    """All sets by name; `lists` are those of each target."""
    sets = {}
    for code in dict.fromkeys([*sources, *targets]):
        corpus, tables = corpora[code], corpora[code].tables
        held_out = [tables["dev"], tables["test"]]
        few = split(corpus, lists[code], hours) if code in targets else {}
        if few:
            held_out += [few["dev"], few["test"]]
        known = {clip.name: clip for name in ("validated", "train") for clip in tables[name]}
        rest = _others(known.values(), held_out)
        if code in sources:
            dev = _others(tables["dev"], [few["test"], few["train"]] if few else [])
            sets[f"{code}-train"] = corpus.cuts(rest)
            sets[f"{code}-dev"] = corpus.cuts(corpus.draw(dev, hours[1]))
        if few:
            before = target_prefix(code, targets)
            sets[f"{before}pretrain"] = corpus.cuts(rest, transcribed=False)
            sets |= {f"{before}{name}": corpus.cuts(clips) for name, clips in few.items()}
    return sets


def report(output: Path, corpora: Mapping[str, Corpus]) -> None:
    """Write `dropped.tsv` and print how many clips of a language were dropped, by reason."""
    lines = []
    for code, corpus in corpora.items():
        lines += [f"{code}\t{name}\t{why}\n" for name, why in sorted(corpus.dropped.items())]
        kinds = Counter(why.split(":")[0] for why in corpus.dropped.values())
        if kinds:
            reasons = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            print(f"{code}: {len(corpus.dropped)} clips dropped ({reasons})")
    write_text(output / "dropped.tsv", "".join(["language\tclip\treason\n", *lines]))


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the manifests."""
    args = _arguments(argv)
    check_given(args.corpora)
    sources = list(dict.fromkeys(map(check_language, args.source)))
    targets = list(dict.fromkeys(map(check_language, args.target)))
    codes = list(dict.fromkeys([*sources, *targets]))
    limits = (args.min_seconds, args.max_seconds)
    if args.jobs < 1 or not 0 <= limits[0] < limits[1] or min(args.hours) <= 0:
        raise UsageError(
            "a number is out of range",
            expected="--jobs and --hours above 0, 0 <= --min-seconds < --max-seconds",
        )
    folders = {code: find_language(args.corpora, code) for code in codes}
    lists = {code: find_lists(args.splits, code) if args.splits else {} for code in targets}
    if args.check:
        print(f"{args.corpora}: has {', '.join(codes)}")
        return
    named = args.target[0] if len(targets) == 1 else targets
    settings = [sources, named, limits, args.hours, str(args.audio)]
    tables = [folders[code] / f"{name}.tsv" for code in codes for name in TABLES]
    inputs = fingerprint(
        settings,
        [folders[code] / "clips" for code in codes],
        [
            *(table for table in tables if table.is_file()),
            *(file for own in lists.values() for file in own.values()),
        ],
    )
    decoded = all((args.audio / code).is_dir() for code in codes)
    if decoded and finished(args.output, inputs):
        print(f"{args.output}: manifests of the same inputs are there, skipped")
        return
    corpora = {c: Corpus(c, folders[c], args.audio, limits, args.jobs) for c in codes}
    sets = make_sets(corpora, sources, targets, lists, args.hours)
    report(args.output, corpora)
    write_sets(args.output, sets, inputs)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "prepare_commonvoice.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--audio", type=Path, required=True, help="folder of the decoded clips")
    parser.add_argument("--output", type=Path, required=True, help="folder of the manifests")
    parser.add_argument("--source", nargs="+", required=True, metavar="LANGUAGE")
    parser.add_argument("--target", nargs="+", required=True, metavar="LANGUAGE")
    parser.add_argument("--splits", type=Path, metavar="DIR", help="published lists of clips")
    parser.add_argument(
        "--hours",
        type=float,
        nargs=3,
        default=list(HOURS),
        metavar=("TRAIN", "DEV", "TEST"),
        help="hours of the target's sets, without --splits (default 1 0.3 1)",
    )
    parser.add_argument("--min-seconds", type=float, default=0.5, help="drop shorter clips (0.5)")
    parser.add_argument("--max-seconds", type=float, default=30.0, help="drop longer clips (30)")
    parser.add_argument("--jobs", type=int, default=4, help="processes that decode")
    parser.add_argument("--check", action="store_true", help="only look for the languages")
    return parser.parse_args(argv)


def _others(clips: Iterable[Clip], held_out: Iterable[Iterable[Clip]]) -> list[Clip]:
    """Clips of people who speak in none of the sets held out."""
    people = {clip.speaker for own in held_out for clip in own}
    return [clip for clip in clips if clip.speaker not in people]


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


if __name__ == "__main__":
    sys.exit(guard(main))
