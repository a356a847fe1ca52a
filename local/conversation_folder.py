"""Conversations of an RTTM file and a folder of audio, such as those of a meeting corpus."""

from __future__ import annotations

from pathlib import Path

from lhotse import MonoCut
from sets import make_conversation, make_recording

from unispeech.data.rttm import check_recordings, read_rttm
from unispeech.errors import DataError

SUFFIXES = (".flac", ".wav")


def read_conversations(
    rttm: Path, audio: Path, listed: Path | None = None, prefix: str = ""
) -> tuple[list[MonoCut], list[str]]:
    """The recordings of an RTTM file or of a list, and their problems, one line each.

    Args:
        rttm: who speaks when.
        audio: folder with a FLAC or wav file for each recording.
        listed: file with one recording a line, for recordings in which nobody speaks.
        prefix: of the ids of recordings and speakers.

    Raises:
        DataError: a file is damaged, or the RTTM file has recordings that are not in the list.
    """
    recordings = read_rttm(rttm)
    names = sorted(recordings)
    if listed:
        names = read_list(listed)
        check_recordings(recordings, names, rttm)
    cuts: list[MonoCut] = []
    problems = []
    for name in names:
        places = [audio / f"{name}{suffix}" for suffix in SUFFIXES]
        path = next((place for place in places if place.is_file()), places[0])
        try:
            recording = make_recording(prefix + name, path.absolute())
            cuts.append(make_conversation(recording, recordings.get(name, []), rttm, prefix))
        except DataError as error:
            problems.append(f"{rttm}, recording {name}: {error}")
    if not cuts and not problems:
        problems.append(f"{rttm}: no recording; give a list of those in which nobody speaks")
    return cuts, problems


def read_list(path: Path) -> list[str]:
    """The first word of every line that is neither empty nor a comment.

    Raises:
        DataError: the file cannot be read, or a word is there twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "cannot read the list", where=path, found=error, remedy="give a file in UTF-8"
        ) from None
    words = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if twice := sorted({word for word in words if words.count(word) > 1}):
        raise DataError("recordings are listed twice", where=path, found=", ".join(twice[:5]))
    return words
