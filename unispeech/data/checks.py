"""Everything that can be wrong with manifests, audio, transcripts and labels, in one pass.

Every check returns problems, one line each with a remedy, and changes nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
from lhotse import MonoCut

from unispeech.data.label_checks import check_labels
from unispeech.data.manifests import (
    SAMPLING_RATE,
    audio_file,
    conversion,
    read_audio,
    read_manifest,
    transcript,
)
from unispeech.errors import DataError

SUFFIX = ".jsonl.gz"
# Sets that must not share utterances; `pretrain` may hold the audio of `train`.
DISJOINT = ("train", "dev", "test")
# Times in manifests are rounded.
TOLERANCE = 1e-3

Sets = Mapping[str, Sequence[MonoCut]]


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is checked beyond the rules that always hold; durations in seconds."""

    read_audio: bool = True
    tokens: Path | None = None
    labels: tuple[Path, ...] = ()
    min_duration: float = 0.0
    max_duration: float = float("inf")
    transcribed: tuple[str, ...] = ()
    disjoint_speakers: tuple[str, ...] = ()
    jobs: int = 1


@dataclasses.dataclass
class Findings:
    """The sets by name, and what was found."""

    sets: dict[str, list[MonoCut]]
    problems: list[str]
    warnings: list[str]


def find_manifests(paths: Iterable[Path]) -> dict[str, Path]:
    """Manifests by the name of their set; a folder stands for all its `*.jsonl.gz`.

    Raises:
        DataError: nothing is there, or two manifests have the same name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        files = sorted(path.glob("*" + SUFFIX)) if path.is_dir() else [path]
        if not files:
            raise DataError(
                f"no *{SUFFIX} here",
                where=path,
                remedy="run the stage that prepares the manifests",
            )
        for file in files:
            name = file.name.removesuffix(SUFFIX)
            if name in found:
                raise DataError(f"two sets are called '{name}'", where=file, found=found[name])
            found[name] = file
    return found


def check(manifests: Mapping[str, Path], rules: Rules) -> Findings:
    """Read all manifests and apply all rules."""
    findings = Findings({}, [], [])
    for name, path in manifests.items():
        try:
            findings.sets[name] = read_manifest(path)
        except DataError as error:
            findings.problems.append(str(error))
    sets, problems = findings.sets, findings.problems
    problems += check_ids(sets)
    shared = check_speakers(sets, rules.disjoint_speakers or DISJOINT)
    (problems if rules.disjoint_speakers else findings.warnings).extend(shared)
    for name, cuts in sets.items():
        needs_text = name in rules.transcribed
        problems += itertools.chain.from_iterable(
            check_cut(cut, name, rules, needs_text) for cut in cuts
        )
    if rules.tokens:
        problems += check_tokens(sets, rules.tokens)
    for folder in rules.labels:
        problems += check_labels(sets, folder)
    problems += check_all_audio(sets, rules.read_audio, rules.jobs)
    return findings


def check_ids(sets: Sets) -> list[str]:
    """Ids that are twice in a set, and ids that two of train, dev and test share."""
    problems = []
    for name, cuts in sets.items():
        counts = Counter(cut.id for cut in cuts)
        problems += [
            f"set {name}, utterance {u}: there {n} times; prepare the manifests again with unique "
            "ids (a prefix for each corpus)"
            for u, n in counts.items()
            if n > 1
        ]
    for one, other in itertools.combinations([n for n in DISJOINT if n in sets], 2):
        shared = {cut.id for cut in sets[one]} & {cut.id for cut in sets[other]}
        problems += [
            f"sets {one} and {other}: both hold utterance {u}; remove it from one of them"
            for u in sorted(shared)
        ]
    return problems


def check_speakers(sets: Sets, names: Iterable[str]) -> list[str]:
    """Speakers that two of the named sets share, one line for each pair of sets."""
    problems = []
    people = {n: _speakers(sets[n]) for n in names if n in sets}
    for one, other in itertools.combinations(people, 2):
        if shared := sorted(people[one] & people[other]):
            problems.append(
                f"sets {one} and {other}: {len(shared)} shared speaker(s), e.g. "
                f"{', '.join(shared[:3])}; split the data by speaker"
            )
    return problems


def check_cut(cut: MonoCut, name: str, rules: Rules, needs_text: bool) -> list[str]:
    """The times and the transcript of one utterance."""
    where = f"set {name}, utterance {cut.id}"
    problems = []
    if cut.duration < rules.min_duration:
        problems.append(
            f"{where}: {cut.duration:.2f} s is shorter than {rules.min_duration:g} s; leave it "
            "out (min_duration of the set) or lower --min-duration"
        )
    if cut.duration > rules.max_duration:
        problems.append(
            f"{where}: {cut.duration:.2f} s is longer than {rules.max_duration:g} s; leave it "
            "out (max_duration of the set), cut it or raise --max-duration"
        )
    for supervision in cut.supervisions:
        outside = supervision.start < -TOLERANCE
        if outside or supervision.end > cut.duration + TOLERANCE:
            problems.append(
                f"{where}: the supervision {supervision.start:.3f} to {supervision.end:.3f} s is "
                f"outside the cut of {cut.duration:.3f} s; correct its times"
            )
    if needs_text and not transcript(cut).strip():
        problems.append(f"{where}: no transcript; add it or take the utterance out of the set")
    return problems


def check_tokens(sets: Sets, file: Path) -> list[str]:
    """Characters of transcripts that are not in `tokens.txt`, one line for each of a set."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [f"{file}: cannot read the tokens, {error}; prepare them again"]
    # "|" is the word boundary that stands for a blank.
    tokens = {line.split()[0] for line in lines if line.strip()} - {"|"} | {" "}
    problems = []
    for name, cuts in sets.items():
        first: dict[str, str] = {}
        counts: Counter[str] = Counter()
        for cut in cuts:
            for symbol in set(transcript(cut)) - tokens:
                first.setdefault(symbol, cut.id)
                counts[symbol] += 1
        problems += [
            f"set {name}, utterance {first[symbol]}: symbol {symbol!r} is not in {file} "
            f"({counts[symbol]} utterance(s)); normalise the text or prepare the tokens again"
            for symbol in sorted(first)
        ]
    return problems


def check_all_audio(sets: Sets, decode: bool, jobs: int) -> list[str]:
    """The audio of every utterance, in `jobs` processes; what sets share is read once."""
    tasks: dict[tuple[str, float, float], tuple[MonoCut, str, bool]] = {}
    for name, cuts in sets.items():
        for cut in cuts:
            source = str(cut.recording.sources) if cut.has_recording else cut.id
            tasks.setdefault((source, cut.start, cut.duration), (cut, name, decode))
    if jobs == 1 or len(tasks) < 2 * jobs:
        results: Iterable[str | None] = list(map(check_audio, tasks.values()))
    else:
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            results = pool.map(check_audio, tasks.values(), chunksize=32)
    return [problem for problem in results if problem]


def check_audio(task: tuple[MonoCut, str, bool]) -> str | None:
    """The problem of one utterance's audio, if any; `task` is cut, set, decode all samples."""
    cut, name, decode = task
    try:
        path = audio_file(cut)
        _check_header(cut, path)
        if decode and not np.any(read_audio(cut)):
            raise DataError(
                "all samples are zero",
                where=f"utterance {cut.id}, {path}",
                remedy="replace the file or remove the utterance",
            )
    except DataError as error:
        return f"set {name}, {error}"
    return None


def summary(sets: Sets) -> str:
    """A table with a row for each set; durations in seconds."""
    head = ("set", "utterances", "speakers", "hours", "min s", "median s", "max s", "words")
    rows: list[tuple[str, ...]] = [head]
    for name, cuts in sets.items():
        seconds = [cut.duration for cut in cuts]
        people = len(_speakers(cuts))
        words = sum(len(transcript(cut).split()) for cut in cuts)
        times = (min(seconds), statistics.median(seconds), max(seconds))
        hours = f"{sum(seconds) / 3600:.3f}"
        rows.append(
            (name, str(len(cuts)), str(people), hours, *(f"{t:.2f}" for t in times), str(words))
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _speakers(cuts: Iterable[MonoCut]) -> set[str]:
    """Everybody who speaks in the cuts."""
    return {s.speaker for cut in cuts for s in cut.supervisions if s.speaker}


def _check_header(cut: MonoCut, path: Path) -> None:
    where = f"utterance {cut.id}, {path}"
    if not path.is_file():
        raise DataError(
            "no such audio file",
            where=where,
            remedy="restore the corpus, or prepare the manifests again if it was moved",
        )
    try:
        info = soundfile.info(path)
    except soundfile.SoundFileError as error:
        raise DataError(
            "damaged audio file", where=where, found=error, remedy="copy the file again"
        ) from None
    if info.samplerate != SAMPLING_RATE or info.channels != 1:
        raise DataError(
            "wrong audio format",
            where=where,
            expected=f"{SAMPLING_RATE} Hz, 1 channel",
            found=f"{info.samplerate} Hz, {info.channels} channel(s)",
            remedy=conversion(path),
        )
    if info.frames == 0:
        raise DataError("empty audio", where=where, remedy="remove the utterance")
    if info.frames != cut.recording.num_samples:
        raise DataError(
            "the file and the manifest disagree",
            where=where,
            expected=f"{cut.recording.num_samples} samples",
            found=info.frames,
            remedy="copy the file again, or prepare the manifests again",
        )
