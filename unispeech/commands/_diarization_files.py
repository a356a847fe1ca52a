"""The files of a diarized recording: RTTM, picture, who said what, and what was done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unispeech.diarize.recording import Segment
from unispeech.diarize.words import passages, speakers_of_words, to_stm
from unispeech.errors import DataError
from unispeech.storage import write_json, write_text

if TYPE_CHECKING:
    from unispeech.decode.transcripts import TimedWord


def rttm_name(recording: str) -> str:
    """The name of a recording with `_` for white space, which separates the fields of RTTM."""
    return "_".join(recording.split())


def write_recording(
    path: str,
    segments: Sequence[Segment],
    words: Sequence[TimedWord] | None,
    about: dict[str, Any],
    has_picture: bool,
) -> None:
    """Write PATH.rttm, PATH.png, with words PATH.stm, and PATH.json last: all are whole then.

    Args:
        path: where, without a suffix.
        segments: of the recording.
        words: what is said, or None.
        about: what the JSON says before speakers and words, `recording` and `seconds` included.
        has_picture: whether to draw one.
    """
    from unispeech.data.rttm import Segment as Row
    from unispeech.data.rttm import write_rttm

    name = rttm_name(about["recording"])
    write_rttm(f"{path}.rttm", {name: [Row(a, b - a, who) for a, b, who in segments]})
    if has_picture:
        from unispeech.report.timeline import timeline
        from unispeech.report.verification_figures import write_png

        write_png(Path(f"{path}.png"), timeline(about["recording"], segments, about["seconds"]))
    spoken: dict[str, float] = {}
    for start, end, speaker in segments:
        spoken[speaker] = spoken.get(speaker, 0.0) + end - start
    about |= {"speakers": {speaker: round(value, 3) for speaker, value in spoken.items()}}
    if words is not None:
        owners = speakers_of_words([(one.start, one.end) for one in words], segments)
        said = [(w.word, w.start, w.end, who) for w, who in zip(words, owners, strict=True)]
        write_text(f"{path}.stm", to_stm(passages(said), name))
        rows = [
            {"word": word, "start": round(start, 3), "end": round(end, 3), "speaker": who}
            for word, start, end, who in said
        ]
        about |= {"words": rows}
    write_json(f"{path}.json", about)


def oracle_counts(path: Path, names: Sequence[str]) -> dict[str, int]:
    """Speakers of each recording in a reference; none for those that it does not have.

    Raises:
        DataError: the file is damaged, or has none of the recordings.
    """
    from unispeech.data.rttm import read_rttm

    reference = read_rttm(path)
    if not set(reference) & set(names):
        raise DataError(
            "the reference has none of the recordings",
            where=path,
            expected=", ".join(names[:3]),
            found=", ".join(sorted(reference)[:3]) or "no recording",
            remedy="give the RTTM of these recordings",
        )
    return {name: len({s.speaker for s in reference.get(name, ())}) for name in names}
