"""Files that `der` reads and writes, and the line that it prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unispeech.data.rttm import parse_rttm
from unispeech.errors import DataError
from unispeech.score.diarization import Errors, Recording, Segment
from unispeech.storage import write_text

Sides = Mapping[str, Mapping[str, Sequence[Any]]]


def read_segments(paths: Sequence[Path], keep_empty: bool = False) -> dict[str, list[Segment]]:
    """Segments by recording, from one file or several.

    Args:
        paths: RTTM files.
        keep_empty: whether segments without length stay, as those of a reference must.

    Raises:
        DataError: a file is damaged, or two of them have the same recording.
    """
    found: dict[str, list[Segment]] = {}
    for path in paths:
        recordings, empty = parse_rttm(path, keep_empty)
        if empty:
            what = "have no length, their boundaries a collar" if keep_empty else "without length"
            print(f"warning: {path}: {empty} segment(s) {what}", file=sys.stderr)
        if twice := sorted(found.keys() & recordings.keys()):
            raise DataError("a recording that another file has too", where=path, found=twice[0])
        found |= {
            name: [(one.start, one.end, one.speaker) for one in own]
            for name, own in recordings.items()
        }
    return found


def require_common(
    reference: Mapping[str, Any], hypothesis: Mapping[str, Any], where: Path, given: Sequence[Path]
) -> None:
    """Raise a DataError when the reference is empty or nothing in the hypothesis belongs to it."""
    if not any(reference.values()):
        raise DataError("nobody speaks in the reference", where=where, remedy="give another one")
    if hypothesis and not reference.keys() & hypothesis.keys():
        raise DataError(
            "no recording of the hypothesis is in the reference",
            where=given[0],
            expected=f"names like {min(reference)}",
            found=min(hypothesis),
            remedy="give both files the same names of recordings",
        )


def require_scored(values: Mapping[str, Any], where: Path) -> None:
    """Raise a DataError when collars, regions and overlaps leave nothing to score."""
    if values["der"] is None:
        raise DataError(
            "no speech of the reference is scored",
            where=where,
            remedy="lower --collar, score overlaps, or correct the UEM",
        )


def write_recordings(folder: Path, recordings: Mapping[str, Recording], sides: Sides) -> None:
    """Write one line of JSON for each recording, times in seconds, DER in per cent.

    Args:
        folder: of the results.
        recordings: by name.
        sides: `reference`, `hypothesis` and `regions`, each by recording.
    """
    lines = []
    for name, one in recordings.items():
        rate = one.errors.rate
        row = {
            "recording": name,
            "speakers": one.speakers,
            "found": one.found,
            "der": None if rate is None else 100 * rate,
            **one.errors._asdict(),
            "jaccard": one.jaccard,
            "mapping": one.mapping,
            **{side: own.get(name) for side, own in sides.items()},
        }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(folder / "recordings.jsonl", "".join(lines))


def read_recordings(folder: Path) -> dict[str, Recording]:
    """What `write_recordings` wrote, by name.

    Raises:
        DataError: it is not there or damaged.
    """
    path = folder / "recordings.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {
            row["recording"]: Recording(
                Errors(*(float(row[name]) for name in Errors._fields)),
                tuple(row["jaccard"]),
                row["mapping"],
                row["speakers"],
                row["found"],
            )
            for row in rows
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "no scored recordings here",
            where=path,
            found=error,
            remedy="run der with this --output",
        ) from None


def format_line(values: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """One line with all measures and the rules that they hold for."""
    name = ", ".join(str(about[key]) for key in ("condition", "system", "method") if about.get(key))
    rate = f"DER {values['der']:.2f}%"
    if values["der_low"] is not None:
        rate += f" [{values['der_low']:.2f}, {values['der_high']:.2f}]"
    parts = ", ".join(
        f"{title} {values[key]:.2f}"
        for key, title in (
            ("miss", "miss"), ("false_alarm", "false alarm"), ("confusion", "confusion")
        )
    )  # fmt: skip
    overlaps = "scored" if about["overlap"] else "left out"
    jaccard = "–" if values["jer"] is None else f"{values['jer']:.2f}%"
    numbers = ", ".join(
        f"{n}: {'–' if part['der'] is None else format(part['der'], '.2f')} ({part['recordings']})"
        for n, part in values["by_speakers"].items()
    )
    right = f"number right in {values['right_counts']:.0f}% of {values['recordings']} recordings"
    return (
        f"{name}: {rate} ({parts}), collar {about['collar']:g} s, overlaps {overlaps}; "
        f"JER {jaccard}; by speakers (recordings) {numbers}; {right}, "
        f"{values['scored_seconds']:.1f} s scored"
    )
