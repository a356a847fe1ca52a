"""LibriCSS as it is released: where it is, its sessions, and what can be wrong with them.

for_release/CONDITION/overlap_ratio_<R>_sil<a>_<b>_session<k>_actual<x>/ has
record/raw_recording.wav (7 channels), clean/{mix,each_spk}.wav and
transcription/meeting_info.txt; for_release/all_res.json has the bounds of the segments.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from lhotse.recipes.libricss import SPK_TO_CHANNEL_MAP

from unispeech.data.manifests import SAMPLING_RATE
from unispeech.errors import DataError

CHANNELS = 7
RECORDING = "record/raw_recording.wav"
INFO = "transcription/meeting_info.txt"
SEGMENTS = "all_res.json"
COLUMNS = ("start_time", "end_time", "speaker", "utterance_id", "transcription")
DEVELOPMENT = 0
"""The session of each condition that settings are chosen on; the others are for evaluation."""
NAME = re.compile(r"overlap_ratio_([\d.]+)_sil([\d.]+)_([\d.]+)_session(\d+)_actual([\d.]+)")
# Share of the samples at full scale from which a recording counts as clipped.
CLIPPED = 1e-3


class Condition(NamedTuple):
    """How much of the time with speech two people speak at once, and the pauses in seconds."""

    overlap: float
    pause: tuple[float, float]


CONDITIONS = {
    "0S": Condition(0.0, (0.1, 0.5)),
    "0L": Condition(0.0, (2.9, 3.0)),
    "OV10": Condition(0.1, (0.1, 1.0)),
    "OV20": Condition(0.2, (0.1, 1.0)),
    "OV30": Condition(0.3, (0.1, 1.0)),
    "OV40": Condition(0.4, (0.1, 1.0)),
}
"""In the order of the papers' tables."""


class Session(NamedTuple):
    """One session of ten minutes; `id` is that of lhotse's recipe, such as OV10_session3."""

    id: str
    condition: str
    number: int
    folder: Path


class Line(NamedTuple):
    """A line of meeting_info.txt; times in seconds of the recording."""

    start: float
    end: float
    speaker: str
    utterance: str
    text: str


def find_corpus(corpora: Path) -> Path:
    """The folder `for_release`.

    Raises:
        DataError: it is not there, or a condition is missing.
    """
    places = [corpora / name for name in ("for_release", "LibriCSS/for_release")]
    for folder in [corpora, *places] if corpora.name == "for_release" else places:
        here = [name for name in CONDITIONS if (folder / name).is_dir()]
        if len(here) == len(CONDITIONS):
            return folder
        if here:
            missing = ", ".join(name for name in CONDITIONS if name not in here)
            raise DataError(
                f"conditions of LibriCSS are missing: {missing}",
                where=folder,
                found=", ".join(here),
                remedy="unpack for_release.zip again",
            )
    raise DataError(
        "LibriCSS is not here",
        where=corpora,
        expected="the folder for_release with " + ", ".join(CONDITIONS),
        found=", ".join(sorted(p.name for p in corpora.glob("*"))[:8]) or "nothing",
        remedy="download for_release.zip as https://github.com/chenzhuo1011/libri_css says, "
        "unpack it there and give the folder to --corpora",
    )


def find_sessions(corpus: Path) -> list[Session]:
    """All sessions, by condition and number.

    Raises:
        DataError: a condition has no session, or a folder has another name.
    """
    sessions = []
    for condition in CONDITIONS:
        folders = sorted((corpus / condition).iterdir())
        for folder in folders:
            match = NAME.fullmatch(folder.name)
            # lhotse's recipe ends with an exception at anything else.
            if not match or not folder.is_dir():
                raise DataError(
                    "not the folder of a session",
                    where=folder,
                    expected="overlap_ratio_<R>_sil<a>_<b>_session<k>_actual<x>",
                    remedy="remove it, or unpack for_release.zip again",
                )
            number = int(match[4])
            sessions.append(Session(f"{condition}_session{number}", condition, number, folder))
        if not folders:
            raise DataError(
                "no session", where=corpus / condition, remedy="unpack for_release.zip again"
            )
    return sorted(sessions, key=lambda s: (list(CONDITIONS).index(s.condition), s.number))


def read_info(session: Session) -> list[Line]:
    """Who said what when.

    Raises:
        DataError: the file is missing, a line has other fields, or times are not in order.
    """
    file = session.folder / INFO
    try:
        head, *lines = file.read_text(encoding="utf-8").splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "cannot read the transcripts", where=file, found=error, remedy="unpack it again"
        ) from None
    if head.split("\t") != list(COLUMNS):
        raise DataError(
            "not the transcripts of a session",
            where=f"{file}:1",
            expected=" ".join(COLUMNS),
            found=f"'{head}'",
            remedy="unpack it again",
        )
    found = [
        _parse_line(line, f"{file}:{number}")
        for number, line in enumerate(lines, start=2)
        if line.strip()
    ]
    if not found:
        raise DataError("no utterance in the session", where=file, remedy="unpack it again")
    return found


def check_session(session: Session, channels: int, read_audio: bool) -> tuple[list[str], list[str]]:
    """Problems and warnings of a session, one line each.

    Args:
        session: to check.
        channels: that are asked for; 1 is enough of a recording with more.
        read_audio: also read all samples.
    """
    try:
        lines = read_info(session)
        frames = _check_recording(session.folder / RECORDING, channels)
    except DataError as error:
        return [str(error)], []
    problems = [
        f"{session.folder / INFO}: {line.utterance} ends at {line.end:g} s, after the recording "
        f"of {frames / SAMPLING_RATE:g} s; unpack the session again"
        for line in lines
        if line.end > frames / SAMPLING_RATE
    ]
    problems += _check_speakers(session, {line.speaker for line in lines})
    warnings = []
    if read_audio and not problems:
        try:
            warnings = list(_check_samples(session.folder / RECORDING))
        except DataError as error:
            problems.append(str(error))
    return problems, warnings


def read_segments(corpus: Path, sessions: Sequence[Session]) -> dict[str, list[tuple[int, int]]]:
    """First and last sample of the segments of every session, by its id.

    Raises:
        DataError: the file cannot be read or a session is missing in it.
    """
    file = corpus / SEGMENTS
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        found = {name: [(int(a), int(b)) for a, b in own] for name, own in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            "cannot read the bounds of the segments",
            where=file,
            expected="a mapping of session names to pairs of samples",
            found=error,
            remedy="unpack for_release.zip again",
        ) from None
    for session in sessions:
        if not found.get(session.folder.name):
            raise DataError(
                f"session {session.folder.name} has no segments",
                where=file,
                remedy="unpack for_release.zip again",
            )
    return {session.id: found[session.folder.name] for session in sessions}


def _parse_line(line: str, where: str) -> Line:
    fields = [field.strip() for field in line.split("\t")]
    try:
        start, end = (float(field) for field in fields[:2])
        _, _, speaker, utterance, text = fields
        usable = 0 <= start < end < math.inf and speaker and utterance
    except ValueError:
        usable = False
    if not usable:
        raise DataError(
            "not a line of the transcripts",
            where=where,
            expected=" ".join(COLUMNS) + ", separated by tabs",
            found=f"'{line[:80]}'",
            remedy="unpack it again",
        )
    return Line(start, end, speaker, utterance, text)


def _check_recording(path: Path, channels: int) -> int:
    """Number of samples of a recording that has the channels.

    Raises:
        DataError: it is missing, not audio, of another rate, or has fewer channels.
    """
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(
            "cannot read the recording",
            where=path,
            found="no such file" if not path.is_file() else error,
            remedy="unpack it again",
        ) from None
    if info.samplerate != SAMPLING_RATE or info.channels < channels or info.frames == 0:
        raise DataError(
            "not a recording with the channels that are asked for",
            where=path,
            expected=f"{channels} channel(s) at {SAMPLING_RATE} Hz",
            found=f"{info.channels} channel(s) at {info.samplerate} Hz, {info.frames} samples",
            remedy="take the recording of the array, or prepare with --channels 1",
        )
    return int(info.frames)


def _check_speakers(session: Session, speakers: set[str]) -> list[str]:
    """A line when the transcripts do not have all speakers that were played."""
    where = session.folder / INFO
    known = set(SPK_TO_CHANNEL_MAP.get(session.folder.name, ()))
    clean = session.folder / "clean" / "each_spk.wav"
    # A corpus of other speakers may have sessions of the same name.
    if known & speakers:
        missing = ", ".join(sorted(known - speakers))
        line = f"{where}: the transcripts miss speaker {missing}; unpack the session again"
        return [line] if missing else []
    if clean.is_file():
        count = soundfile.info(clean).channels
        if len(speakers) < count:
            return [
                f"{where}: the transcripts miss a speaker; expected {count}, the channels of "
                f"{clean.name}, found {', '.join(sorted(speakers))}; restore the lines"
            ]
    return []


def _check_samples(path: Path) -> Iterator[str]:
    """Read all samples, a minute at a time; yields warnings.

    Raises:
        DataError: a channel is silent, samples are not finite, or the file ends early.
    """
    clipped, count = 0, 0
    peaks = np.zeros(1)
    try:
        for block in soundfile.blocks(path, 60 * SAMPLING_RATE, dtype="float32", always_2d=True):
            sizes = np.abs(block)
            peaks = np.maximum(peaks, sizes.max(axis=0))
            clipped += int((sizes >= 1.0 - 2.0**-15).sum())
            count += block.size
    except soundfile.SoundFileError as error:
        raise DataError(
            "damaged audio file", where=path, found=error, remedy="unpack it again"
        ) from None
    if not np.isfinite(peaks).all():
        raise DataError("NaN or infinite samples", where=path, remedy="unpack it again")
    if (peaks == 0).any():
        silent = ", ".join(map(str, np.flatnonzero(peaks == 0)))
        raise DataError("silence", where=path, found=f"channel {silent}", remedy="unpack it again")
    if clipped > CLIPPED * count:
        yield f"{path}: {clipped / count:.1%} of the samples are clipped; separation suffers"
