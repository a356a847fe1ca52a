"""What a recogniser hears of separated recordings, and the signals they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from lhotse import MonoCut

from unispeech.data.manifests import SAMPLING_RATE, audio_file, read_manifest
from unispeech.errors import DataError

FloatArray = npt.NDArray[np.float32]

STREAMS = "streams.jsonl.gz"
"""The manifest of `separate`: one cut for each stream, supervisions where somebody speaks."""

SHORTEST = 0.1
"""Pieces of fewer seconds hold no word, and fewer samples than a recogniser needs."""


def read_streams(folder: Path) -> dict[str, list[MonoCut]]:
    """The streams of each recording that `separate` wrote into a folder, in their order.

    Raises:
        DataError: there are none, or a cut does not say of what recording it is a stream.
    """
    path = folder / STREAMS
    if not path.is_file():
        raise DataError(
            "no separated streams", where=path, remedy="run separate with this --output"
        )
    found: dict[str, dict[int, MonoCut]] = {}
    for cut in read_manifest(path):
        about = cut.custom or {}
        try:
            found.setdefault(str(about["mixture"]), {})[int(about["stream"])] = cut
        except (KeyError, TypeError, ValueError):
            raise DataError(
                "not a separated stream",
                where=f"{path}, {cut.id}",
                expected="the fields `mixture` and `stream`",
                found=", ".join(about) or "none",
                remedy="run separate again",
            ) from None
    return {name: [own[number] for number in sorted(own)] for name, own in found.items()}


def pieces(cut: MonoCut) -> list[MonoCut]:
    """The supervisions of a cut as cuts of their own, in the order of time.

    A piece has its supervision's id. Pieces that are too short for a word are left out.
    """
    found = []
    for segment in sorted(cut.supervisions, key=lambda segment: segment.start):
        start = max(0.0, segment.start)
        duration = min(segment.end, cut.duration) - start
        if duration < SHORTEST:
            continue
        found.append(
            MonoCut(
                segment.id, cut.start + start, duration, cut.channel, recording=cut.recording
            )  # fmt: skip
        )
    return found


def texts_of_streams(
    cuts: Sequence[MonoCut],
    streams: Mapping[str, Sequence[MonoCut]] | None,
    heard: Mapping[str, str],
    where: Path,
    allow_missing: bool,
) -> dict[str, list[str]]:
    """Words of every stream of the recordings, their pieces joined in the order of time.

    Args:
        cuts: the recordings.
        streams: cuts of their streams; None where the recordings themselves were recognised.
        heard: words by utterance: a whole recording or stream, or a piece of one.
        where: the folder of the hypotheses, for the message.
        allow_missing: count what was not recognised as empty.

    Raises:
        DataError: a recording was not separated, or something was not recognised.
    """
    found: dict[str, list[str]] = {}
    absent: list[str] = []
    used: set[str] = set()
    for cut in cuts:
        if streams is not None and cut.id not in streams:
            raise DataError(
                "a recording without streams",
                where=f"recording {cut.id}",
                found=f"streams of {len(streams)} recordings",
                remedy="separate the set that the reference describes",
            )
        found[cut.id] = []
        for stream in [cut] if streams is None else streams[cut.id]:
            whole = stream.id in heard or streams is None
            names = [stream.id] if whole else [piece.id for piece in pieces(stream)]
            absent += [name for name in names if name not in heard]
            used.update(names)
            found[cut.id].append(" ".join(filter(None, (heard.get(name, "") for name in names))))
    extra = [name for name in heard if name not in used]
    if extra or (absent and not allow_missing):
        what = "reference" if extra else "hypothesis"
        raise DataError(
            f"{len(extra or absent)} utterance(s) without {what}",
            where=f"{where}, utterance {(extra or absent)[0]}",
            remedy="recognise the streams of the recordings that the reference describes",
        )
    return found


def reference_files(cut: MonoCut) -> dict[str, Path]:
    """The file of each speaker of a mixture as heard alone; empty when the cut names none.

    The field `references` lists them, the field `speakers` whose they are; without it they are in
    the order in which the speakers begin.

    Raises:
        DataError: references and the speakers of the transcript are not the same.
    """
    about = cut.custom or {}
    files = [Path(file) for file in about.get("references") or []]
    if not files:
        return {}
    segments = sorted(cut.supervisions, key=lambda segment: segment.start)
    spoken = list(dict.fromkeys(segment.speaker or "" for segment in segments))
    names = [str(name) for name in about.get("speakers") or spoken]
    if len(names) != len(files) or set(names) != set(spoken) or "" in spoken:
        raise DataError(
            "the transcript misses a speaker",
            where=f"mixture {cut.id}",
            expected=f"{len(files)} speakers, one for each reference",
            found=", ".join(filter(None, spoken)) or "none",
            remedy="complete the speakers of the supervisions, or remove the field `references`",
        )
    return dict(zip(names, files, strict=True))


def read_span(cut: MonoCut, start: int, samples: int) -> FloatArray:
    """Samples `(samples,)` of a cut's first channel, from sample `start` of the cut on.

    Raises:
        DataError: the file is missing, damaged, not at 16 kHz, or too short.
    """
    channel = cut.channel if isinstance(cut.channel, int) else cut.channel[0]
    return read_file(audio_file(cut), round(cut.start * SAMPLING_RATE) + start, samples, channel)


def read_file(path: Path, start: int, samples: int, channel: int = 0) -> FloatArray:
    """Samples `(samples,)` of one channel of a file.

    Raises:
        DataError: the file is missing, damaged, not at 16 kHz, or too short.
    """
    if not path.is_file():
        raise DataError("no such audio file", where=path, remedy="restore it, or make it again")
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels = int(file.samplerate), int(file.channels)
            file.seek(min(start, file.frames))
            audio = file.read(samples, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(
            "damaged audio file", where=path, found=error, remedy="make it again"
        ) from None
    if rate != SAMPLING_RATE or channel >= channels or len(audio) < samples:
        raise DataError(
            "the audio does not fit the manifest",
            where=path,
            expected=f"{start + samples} samples at {SAMPLING_RATE} Hz, channel {channel}",
            found=f"{start + len(audio)} samples at {rate} Hz, {channels} channel(s)",
            remedy="prepare the manifests again",
        )
    return np.asarray(audio[:, channel], dtype=np.float32)


def read_streams_span(streams: Sequence[MonoCut], start: int, samples: int) -> FloatArray:
    """Samples `(S, samples)` of all streams of a recording.

    Raises:
        DataError: as for `read_span`.
    """
    return np.stack([read_span(cut, start, samples) for cut in streams])
