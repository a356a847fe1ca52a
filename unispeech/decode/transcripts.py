"""Words with times as JSON, CTM and SRT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unispeech.decode.results import read_json
from unispeech.storage import write_json, write_text


class TimedWord(NamedTuple):
    """A word, where it is in seconds, and its confidence from 0 to 1."""

    word: str
    start: float
    end: float
    confidence: float


def write_transcript(
    path: Path, name: str, words: Sequence[TimedWord], about: Mapping[str, Any]
) -> None:
    """Write PATH.ctm, PATH.srt and PATH.json, the last one last: it says that all are whole.

    Args:
        path: where, without a suffix.
        name: of the recording.
        words: in the order of their times.
        about: what the JSON says before the words; `inputs` is what `is_transcribed` compares.
    """
    write_text(f"{path}.ctm", to_ctm(words, name))
    write_text(f"{path}.srt", to_srt(words))
    write_json(f"{path}.json", {**about, **to_json(words)})


def is_transcribed(path: Path, inputs: str) -> bool:
    """Whether the three files are there and come from the same inputs."""
    others = (Path(f"{path}.ctm"), Path(f"{path}.srt"))
    is_same = read_json(f"{path}.json").get("inputs") == inputs
    return is_same and all(other.is_file() for other in others)


def to_json(words: Sequence[TimedWord]) -> dict[str, Any]:
    """`text`, and `words` with start and end in seconds."""
    rows = [
        {
            "word": one.word,
            "start": round(one.start, 3),
            "end": round(one.end, 3),
            "confidence": round(one.confidence, 4),
        }
        for one in words
    ]
    return {"text": " ".join(one.word for one in words), "words": rows}


def to_ctm(words: Sequence[TimedWord], name: str) -> str:
    """NIST's CTM: recording, channel, start, duration, word, confidence; one word a line.

    White space in the name becomes `_`, because blanks separate the fields.
    """
    recording = "_".join(name.split())
    rows = [
        f"{recording} 1 {one.start:.3f} {one.end - one.start:.3f} {one.word} {one.confidence:.4f}\n"
        for one in words
    ]
    return "".join(rows)


def to_srt(
    words: Sequence[TimedWord], pause: float = 0.6, seconds: float = 6.0, letters: int = 42
) -> str:
    """SubRip subtitles.

    Args:
        words: in the order of their times.
        pause: a caption ends where nobody speaks for so many seconds.
        seconds: a caption is not longer.
        letters: nor wider.
    """
    captions = [
        f"{number}\n{_clock(caption[0].start)} --> {_clock(caption[-1].end)}\n"
        + " ".join(one.word for one in caption)
        + "\n\n"
        for number, caption in enumerate(_captions(words, pause, seconds, letters), start=1)
    ]
    return "".join(captions)


def _captions(
    words: Sequence[TimedWord], pause: float, seconds: float, letters: int
) -> Iterator[list[TimedWord]]:
    caption: list[TimedWord] = []
    for one in words:
        if caption and (
            one.start - caption[-1].end >= pause
            or one.end - caption[0].start > seconds
            or sum(len(word.word) + 1 for word in caption) + len(one.word) > letters
        ):
            yield caption
            caption = []
        caption.append(one)
    if caption:
        yield caption


def _clock(seconds: float) -> str:
    whole = round(seconds * 1000)
    minutes, rest = divmod(whole, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"
