"""Who speaks when: RTTM files, and UEM files with the regions that are scored.

RTTM is the format of NIST's Rich Transcription evaluations (RT-09 evaluation plan, appendix A).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from unispeech.errors import DataError
from unispeech.storage import write_text

if TYPE_CHECKING:
    from lhotse import MonoCut

# The other types of objects in the format; they hold no speakers' turns.
IGNORED = (
    "NOSCORE", "NO_RT_METADATA", "SEGMENT", "LEXEME", "NON-LEX", "NON-SPEECH", "FILLER", "EDIT",
    "IP", "SU", "CB", "A/P", "SPKR-INFO",
)  # fmt: skip
FIELDS = "SPEAKER RECORDING CHANNEL START DURATION <NA> <NA> NAME <NA> [<NA>]"


class Segment(NamedTuple):
    """One speaker speaks from `start` for `duration`, in seconds from the recording's beginning."""

    start: float
    duration: float
    speaker: str

    @property
    def end(self) -> float:
        """Where it stops, in seconds."""
        return self.start + self.duration


def read_rttm(path: str | Path) -> dict[str, list[Segment]]:
    """The segments of every recording, sorted by start and speaker.

    Segments without length are left out, with a warning that counts them. An empty file gives no
    recordings: nobody speaks.

    Raises:
        DataError: the file cannot be read; a line has the wrong number of fields, a type that
            RTTM does not have, or a time that is negative or not finite.
    """
    recordings, dropped = parse_rttm(path)
    if dropped:
        print(f"warning: {path}: {dropped} segment(s) without length left out", file=sys.stderr)
    return recordings


def parse_rttm(path: str | Path, keep_empty: bool = False) -> tuple[dict[str, list[Segment]], int]:
    """What `read_rttm` returns, and how many segments without length there were.

    Args:
        path: the file.
        keep_empty: whether those stay; in a reference, their boundary has a collar.
    """
    recordings: dict[str, list[Segment]] = {}
    dropped = 0
    for where, fields in _lines(Path(path), "RTTM"):
        if fields[0] in IGNORED:
            continue
        if fields[0] != "SPEAKER" or len(fields) not in (9, 10):
            raise DataError(
                "not a line of RTTM",
                where=where,
                expected=FIELDS,
                found=" ".join(fields)[:100],
                remedy="give nine or ten fields separated by blanks",
            )
        start, duration = (_time(text, where) for text in fields[3:5])
        segments = recordings.setdefault(fields[1], [])
        if duration > 0 or keep_empty:
            segments.append(Segment(start, duration, fields[7]))
        dropped += duration == 0
    return {name: in_order(segments) for name, segments in recordings.items()}, dropped


def write_rttm(
    path: str | Path, recordings: Mapping[str, Iterable[Segment]], keep_empty: bool = False
) -> None:
    """Write RTTM with ten fields and milliseconds, recordings by name, segments in order.

    Segments that touch still do after rounding; those that round to nothing are left out, unless
    they are to stay: in a reference they have a collar.

    Raises:
        DataError: a name is empty or has blanks in it.
    """
    own = (rttm_lines(name, recordings[name], keep_empty) for name in sorted(recordings))
    write_text(path, "".join(line for lines in own for line in lines))


def rttm_lines(
    name: str, segments: Iterable[Segment], keep_empty: bool = False
) -> Iterator[str]:
    """The lines of one recording, as `write_rttm` writes them.

    Raises:
        DataError: a name is empty or has blanks in it.
    """
    for segment in in_order(segments):
        for word in (name, segment.speaker):
            if word.split() != [word]:
                raise DataError(
                    "a name that RTTM cannot hold",
                    where=f"recording {name}",
                    expected="no blanks, not empty",
                    found=repr(word),
                    remedy="rename the recording or the speaker",
                )
        start, end = (round(1000 * time) for time in (segment.start, segment.end))
        if end > start or keep_empty:
            times = f"{start / 1000:.3f} {(end - start) / 1000:.3f}"
            yield f"SPEAKER {name} 1 {times} <NA> <NA> {segment.speaker} <NA> <NA>\n"


def read_uem(path: str | Path) -> dict[str, list[tuple[float, float]]]:
    """The regions of every recording that are scored, (start, end) in seconds, sorted.

    Raises:
        DataError: the file cannot be read, a line has not four fields, or a region does not
            end after it starts.
    """
    regions: dict[str, list[tuple[float, float]]] = {}
    for where, fields in _lines(Path(path), "UEM"):
        if len(fields) != 4:
            raise DataError(
                "not a line of UEM",
                where=where,
                expected="RECORDING CHANNEL START END",
                found=" ".join(fields)[:100],
            )
        start, end = (_time(text, where) for text in fields[2:])
        if end <= start:
            raise DataError(
                "a region that does not end after it starts",
                where=where,
                found=f"{start:g} to {end:g} s",
                remedy="correct or remove the line",
            )
        regions.setdefault(fields[0], []).append((start, end))
    return {name: sorted(own) for name, own in regions.items()}


def write_uem(path: str | Path, regions: Mapping[str, Iterable[tuple[float, float]]]) -> None:
    """Write UEM, recordings by name, times in seconds with milliseconds."""
    lines = [
        f"{name} 1 {start:.3f} {end:.3f}\n"
        for name in sorted(regions)
        for start, end in sorted(regions[name])
    ]
    write_text(path, "".join(lines))


def read_unscored(path: str | Path) -> dict[str, list[tuple[float, float]]]:
    """The regions that the lines NOSCORE of an RTTM take out, (start, end) in seconds, sorted.

    Raises:
        DataError: the file cannot be read, or a time is missing, negative or not finite.
    """
    regions: dict[str, list[tuple[float, float]]] = {}
    for where, fields in _lines(Path(path), "RTTM"):
        if fields[0] == "NOSCORE":
            if len(fields) < 5:
                raise DataError("a line NOSCORE without times", where=where, expected=FIELDS)
            start, duration = (_time(text, where) for text in fields[3:5])
            regions.setdefault(fields[1], []).append((start, start + duration))
    return {name: sorted(own) for name, own in regions.items()}


def in_order(segments: Iterable[Segment]) -> list[Segment]:
    """Segments by start, then by speaker."""
    return sorted(segments, key=lambda segment: (segment.start, segment.speaker, segment.duration))


def joined(segments: Iterable[Segment], pause: float = 0.0) -> list[Segment]:
    """Segments of one speaker that overlap, touch or are at most `pause` seconds apart, as one."""
    speakers: dict[str, list[Segment]] = {}
    for segment in in_order(segments):
        own = speakers.setdefault(segment.speaker, [])
        if own and segment.start - own[-1].end <= pause:
            end = max(own[-1].end, segment.end)
            own[-1] = own[-1]._replace(duration=end - own[-1].start)
        else:
            own.append(segment)
    return in_order(segment for own in speakers.values() for segment in own)


def check_recordings(recordings: Mapping[str, object], known: Iterable[str], where: object) -> None:
    """Raise a DataError when a file speaks of recordings that are not there."""
    if unknown := sorted(set(recordings) - set(known)):
        raise DataError(
            f"{len(unknown)} recording(s) that are not there",
            where=where,
            found=", ".join(unknown[:5]),
            remedy="take the lines out, or restore the audio of these recordings",
        )


def cut_segments(cut: MonoCut) -> list[Segment]:
    """Who speaks when in a cut, times relative to its beginning."""
    return in_order(Segment(s.start, s.duration, s.speaker or "") for s in cut.supervisions)


def _lines(path: Path, format_name: str) -> Iterator[tuple[str, list[str]]]:
    """Place and fields of every line that is neither empty nor a comment."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"cannot read the {format_name} file",
            where=path,
            found=reason,
            remedy="give an existing file in UTF-8",
        ) from None
    for number, line in enumerate(lines, start=1):
        if (fields := line.split()) and not fields[0].startswith(";;"):
            yield f"{path}:{number}", fields


def _time(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise DataError(
            "not a time",
            where=where,
            expected="seconds, finite and not negative",
            found=f"'{text}'",
            remedy="correct the line",
        )
    return value
