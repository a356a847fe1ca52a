"""Turn tables of utterances and Kaldi data folders into manifests: for data of your own.

SETS is a YAML file; paths in it are relative to CORPORA:

  normalize_text: upper                 # keep | upper
  sets:
    train:
      min_duration: 0.5                 # seconds; utterances outside are dropped and listed
      max_duration: 30
      sources:
        - {table: mine/utterances.tsv, where: {split: [train]}, prefix: mine-}
        - {kaldi: other/train, prefix: other-, text: none}
    meetings:
      sources:
        - {rttm: ami/train.rttm, audio: ami/audio, uem: ami/train.uem, prefix: ami-}

A table is tab separated with a header and the columns utt_id, speaker, text, path (relative to
the table's folder). A Kaldi folder has wav.scp and, if there are any, text, utt2spk, segments;
its relative paths start in the folder or in the one above. `prefix` goes before the ids of
utterances and speakers. Audio is never converted: 16 kHz mono is required.

Conversations have an RTTM file, a folder of `audio` with a wav or FLAC file named after each
recording, and, if there are any, a file of `recordings`, one a line, which may also name those in
which nobody speaks, and a UEM file with the regions that are scored. A set is either of utterances
or of conversations.

Writes OUTPUT/<set>.jsonl.gz, OUTPUT/dropped.tsv, and for conversations OUTPUT/<set>.rttm and .uem.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pydantic
from conversation_folder import read_conversations
from lhotse import MonoCut, Recording
from sets import (
    check_given,
    fingerprint,
    finished,
    make_cut,
    make_recording,
    write_sets,
)

from unispeech.__main__ import Parser, guard
from unispeech.config import Config, load
from unispeech.data.rttm import Segment, parse_rttm, read_uem, write_uem
from unispeech.errors import ConfigError, DataError, DataProblems, nearest
from unispeech.storage import write_text

COLUMNS = ("utt_id", "speaker", "text", "path")


class Source(Config):
    """One table, one Kaldi data folder or one RTTM file, and what is taken from it.

    `where` keeps the rows of a table whose column has one of the values; `text: none` takes the
    audio only; `prefix` goes before the ids of utterances and speakers. `audio`, `recordings`
    and `uem` belong to an RTTM file.
    """

    table: Path | None = None
    kaldi: Path | None = None
    rttm: Path | None = None
    audio: Path | None = None
    recordings: Path | None = None
    uem: Path | None = None
    where: dict[str, list[str]] = {}
    text: Literal["read", "none"] = "read"
    prefix: str = pydantic.Field(default="", pattern=r"^\S*$")
    language: str = "English"

    @pydantic.model_validator(mode="after")
    def _one_kind(self) -> Source:
        if sum(place is not None for place in (self.table, self.kaldi, self.rttm)) != 1:
            raise ValueError("give either 'table' or 'kaldi' or 'rttm'")
        if self.where and not self.table:
            raise ValueError("'where' chooses rows of a table, a Kaldi folder has no columns")
        if bool(self.rttm) != bool(self.audio):
            raise ValueError("'rttm' and 'audio' belong together")
        return self

    @property
    def place(self) -> Path:
        """The table, folder or RTTM file."""
        place = self.table or self.kaldi or self.rttm
        assert place is not None
        return place


class UtteranceSet(Config):
    """The sources of a set and the durations, in seconds, that stay in it."""

    sources: list[Source] = pydantic.Field(min_length=1)
    min_duration: float = pydantic.Field(default=0.0, ge=0.0)
    max_duration: float = pydantic.Field(default=float("inf"), gt=0.0)

    @pydantic.model_validator(mode="after")
    def _one_kind(self) -> UtteranceSet:
        if len({bool(source.rttm) for source in self.sources}) > 1:
            raise ValueError("a set is of utterances or of conversations ('rttm'), not of both")
        return self

    @property
    def has_conversations(self) -> bool:
        """Whether its sources are RTTM files."""
        return self.sources[0].rttm is not None


class Settings(Config):
    """All sets; `normalize_text: upper` changes letters to upper case and nothing else."""

    normalize_text: Literal["keep", "upper"] = "keep"
    sets: dict[str, UtteranceSet] = pydantic.Field(min_length=1)


class Row(NamedTuple):
    """An utterance of a source; `end` None: to the end of the file. Times in seconds."""

    where: str
    utterance: str
    speaker: str
    text: str
    path: Path
    start: float = 0.0
    end: float | None = None


def read_table(file: Path, where: dict[str, list[str]]) -> Iterator[Row]:
    """The rows of a table that fulfil `where`.

    Raises:
        DataError: the file, a column or a field is missing.
    """
    head, *lines = _lines(file) or [""]
    names = head.split("\t")
    for column in (*COLUMNS, *where):
        if column not in names:
            raise DataError(
                f"no column '{column}'{nearest(column, names)}",
                where=file,
                found=", ".join(names),
                remedy="the first line must name the columns, separated by tabs",
            )
    for number, line in enumerate(lines, start=2):
        fields = line.split("\t")
        if len(fields) != len(names):
            raise DataError(
                "wrong number of fields",
                where=f"{file}:{number}",
                expected=len(names),
                found=len(fields),
                remedy="separate the fields by exactly one tab",
            )
        row = dict(zip(names, fields, strict=True))
        if all(row[column] in values for column, values in where.items()):
            path = (file.parent / row["path"]).absolute()
            yield Row(f"{file}:{number}", row["utt_id"], row["speaker"], row["text"], path)


def read_kaldi(folder: Path) -> Iterator[Row]:
    """The utterances of a Kaldi data folder.

    Raises:
        DataError: wav.scp is missing, or holds a command instead of a file.
    """
    audio = {}
    for place, recording, value in _pairs(folder / "wav.scp"):
        if value.endswith("|"):
            raise DataError(
                "a command instead of an audio file",
                where=place,
                found=value,
                remedy="run the commands once and give the files",
            )
        places = (folder / value, folder.parent / value)
        audio[recording] = next((p.absolute() for p in places if p.exists()), places[0])
    text, speakers = (
        {key: value for _, key, value in _pairs(folder / name)} if (folder / name).exists() else {}
        for name in ("text", "utt2spk")
    )
    if not (folder / "segments").exists():
        for u, path in audio.items():
            yield Row(f"{folder}, {u}", u, speakers.get(u, u), text.get(u, ""), path)
        return
    for place, u, value in _pairs(folder / "segments"):
        recording, *times = value.split()
        if recording not in audio or len(times) != 2:
            raise DataError(
                "not a segment of wav.scp",
                where=place,
                expected="UTTERANCE RECORDING START END",
                found=f"{u} {value}",
                remedy="run Kaldi's utils/fix_data_dir.sh on the folder",
            )
        start, end = (float(t) for t in times)
        yield Row(place, u, speakers.get(u, u), text.get(u, ""), audio[recording], start, end)


def read_source(source: Source, corpora: Path, upper: bool) -> tuple[list[MonoCut], list[str]]:
    """The cuts of a source, and its problems, one line each."""
    if source.rttm and source.audio:
        listed = corpora / source.recordings if source.recordings else None
        places = (corpora / source.rttm, corpora / source.audio, listed)
        return read_conversations(*places, source.prefix)
    if source.table:
        rows = read_table(corpora / source.table, source.where)
    else:
        rows = read_kaldi(corpora / (source.kaldi or ""))
    cuts: list[MonoCut] = []
    problems = []
    recordings: dict[Path, Recording] = {}
    for row in rows:
        try:
            recording = recordings.get(row.path) or make_recording(
                source.prefix + (row.utterance if row.end is None else row.path.stem), row.path
            )
            recordings[row.path] = recording
            cuts.append(_cut(row, source, recording, upper))
        except DataError as error:
            problems.append(f"{row.where}: {error}")
    if not cuts and not problems:
        problems.append(f"{source.place}: no utterance; correct `where`")
    return cuts, problems


def read_references(settings: Settings, corpora: Path) -> dict[str, dict[str, list[Segment]]]:
    """Who speaks when in each recording of every set of conversations."""
    return {
        name: {
            source.prefix + recording: segments
            for source in group.sources
            for recording, segments in parse_rttm(corpora / source.place, True)[0].items()
        }
        for name, group in settings.sets.items()
        if group.has_conversations
    }


def write_regions(settings: Settings, corpora: Path, output: Path) -> None:
    """Write `OUTPUT/<set>.uem` for the sets whose sources name the regions that are scored.

    Raises:
        DataError: a UEM file is damaged.
    """
    for name, group in settings.sets.items():
        regions = {
            source.prefix + recording: own
            for source in group.sources
            if source.uem
            for recording, own in read_uem(corpora / source.uem).items()
        }
        if regions:
            write_uem(output / f"{name}.uem", regions)


def read_sets(
    settings: Settings, corpora: Path
) -> tuple[dict[str, list[MonoCut]], list[tuple[str, str, float, str]]]:
    """The cuts of every set and the dropped ones: set, utterance, seconds, reason.

    Raises:
        DataProblems: everything that is wrong with the audio, the tables and the ids.
    """
    sets: dict[str, list[MonoCut]] = {}
    dropped = []
    problems: list[str] = []
    for name, group in settings.sets.items():
        kept: dict[str, MonoCut] = {}
        for source in group.sources:
            cuts, wrong = read_source(source, corpora, settings.normalize_text == "upper")
            problems += wrong
            for cut in cuts:
                if cut.id in kept:
                    problems.append(
                        f"set {name}: two utterances are called {cut.id}; remove one, or give "
                        "the sources different values of `prefix`"
                    )
                elif cut.duration < group.min_duration:
                    reason = f"shorter than min_duration {group.min_duration:g}"
                    dropped.append((name, cut.id, cut.duration, reason))
                elif cut.duration > group.max_duration:
                    reason = f"longer than max_duration {group.max_duration:g}"
                    dropped.append((name, cut.id, cut.duration, reason))
                else:
                    kept[cut.id] = cut
        sets[name] = list(kept.values())
    if problems:
        raise DataProblems(f"{len(problems)} problem(s) in the sources", problems)
    return sets, dropped


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the manifests."""
    parser = Parser(
        "prepare_folder.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--sets", type=Path, required=True, metavar="SETS")
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="EXP/data")
    parser.add_argument("--check", action="store_true", help="only look whether the tables exist")
    args = parser.parse_args(argv)
    check_given(args.corpora)
    settings = load(Settings, [args.sets])
    corpora = args.corpora.absolute()
    sources = [s for group in settings.sets.values() for s in group.sources]
    for source in sources:
        for place in (source.place, source.audio, source.recordings, source.uem):
            if place and not (path := corpora / place).exists():
                raise ConfigError(
                    "no such table or folder", where=args.sets, found=path, remedy="see --corpora"
                )
    if args.check:
        print(f"{corpora}: has all {len(sources)} sources of {args.sets}")
        return
    # The audio itself is listed too: its folder is the one of the table.
    folders = {(corpora / s.place).parent for s in sources}
    folders |= {corpora / s.audio for s in sources if s.audio}
    inputs = fingerprint([settings.model_dump(mode="json"), str(corpora)], folders)
    if finished(args.output, inputs):
        print(f"{args.output}: manifests of the same inputs are there, skipped")
        return
    sets, dropped = read_sets(settings, corpora)
    lines = [f"{name}\t{cut}\t{seconds:.3f}\t{why}\n" for name, cut, seconds, why in dropped]
    for line in lines:
        print("dropped " + " ".join(line.split("\t")), end="")
    write_text(args.output / "dropped.tsv", "".join(["set\tutt_id\tduration\treason\n", *lines]))
    write_regions(settings, corpora, args.output)
    write_sets(args.output, sets, inputs, read_references(settings, corpora))


def _cut(row: Row, source: Source, recording: Recording, upper: bool) -> MonoCut:
    if not row.utterance or row.utterance.split() != [row.utterance] or not row.speaker:
        raise DataError(
            "wrong id", expected="utterance and speaker, no blanks", found=f"'{row.utterance}'"
        )
    text = "" if source.text == "none" else " ".join(row.text.split())
    end = recording.duration if row.end is None else row.end
    if not 0 <= row.start < end <= recording.duration + 0.01:
        raise DataError(
            "the segment is not in its recording",
            expected=f"0 to {recording.duration:g} s",
            found=f"{row.start:g} to {end:g} s",
            remedy="correct the times",
        )
    return make_cut(
        recording,
        source.prefix + row.utterance,
        speaker=source.prefix + row.speaker,
        text=text.upper() if upper else text,
        language=source.language,
        start=row.start,
        duration=min(end, recording.duration) - row.start,
    )


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "cannot read the table", where=file, found=error, remedy="give a file in UTF-8"
        ) from None


def _pairs(file: Path) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            key, _, value = line.strip().replace("\t", " ").partition(" ")
            yield f"{file}:{number}", key, value.strip()


if __name__ == "__main__":
    sys.exit(guard(main))
