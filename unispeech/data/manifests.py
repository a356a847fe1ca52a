"""Cut manifests: `.jsonl.gz` files of MonoCuts, one cut and one supervision per utterance."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from lhotse import CutSet, MonoCut
from lhotse.serialization import deserialize_item

from unispeech.data.config import Units
from unispeech.errors import DataError
from unispeech.storage import atomic_path

SAMPLING_RATE = 16000

PathLike = str | Path

AGAIN = "delete it and run the stage that prepares the manifests"


def load_cuts(paths: PathLike | Sequence[PathLike]) -> CutSet:
    """Read one or several manifests into one eager CutSet of MonoCuts, in the files' order.

    Raises:
        DataError: a file is missing, damaged, empty or not a manifest of MonoCuts, or two cuts
            have the same id.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    cuts: list[MonoCut] = []
    seen: dict[str, Path] = {}
    for file in map(Path, files):
        for cut in read_manifest(file):
            if cut.id in seen:
                other = "twice" if seen[cut.id] == file else f"also in {seen[cut.id]}"
                raise DataError(
                    f"utterance {cut.id} is there {other}",
                    where=file,
                    remedy="utterance ids must be unique; prepare the manifests again",
                )
            seen[cut.id] = file
            cuts.append(cut)
    return CutSet.from_cuts(cuts)


def read_manifest(path: PathLike) -> list[MonoCut]:
    """The MonoCuts of one manifest, repeated ids included.

    Raises:
        DataError: the file is missing, damaged, empty or not a manifest of MonoCuts.
    """
    return [
        parse_cut(line, f"{path}:{number}")
        for number, line in enumerate(manifest_lines(path), start=1)
    ]


def manifest_lines(path: PathLike) -> Iterator[str]:
    """The lines of a manifest, one at a time, so that its length does not matter.

    Raises:
        DataError: the file is missing, damaged or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            "no such manifest", where=path, remedy="run the stage that prepares the manifests"
        )
    is_empty = True
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            for line in file:
                is_empty = False
                yield line
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError("damaged manifest", where=path, found=error, remedy=AGAIN) from None
    if is_empty:
        raise DataError("the manifest has no utterances", where=path, remedy=AGAIN)


def write_cuts(cuts: Iterable[MonoCut], path: PathLike) -> None:
    """Write cuts as `.jsonl.gz`, atomically; the same cuts always give the same bytes."""
    write_lines((json.dumps(cut.to_dict(), ensure_ascii=False) + "\n" for cut in cuts), path)


def write_lines(lines: Iterable[str], path: PathLike) -> None:
    """Write the lines of a manifest as they come; the same lines always give the same bytes."""
    # The time and the file name in the gzip header would change the checksum.
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file,
    ):
        file.writelines(line.encode() for line in lines)


def transcript(cut: MonoCut) -> str:
    """The words of an utterance, "" when it is not transcribed."""
    return " ".join(s.text for s in cut.supervisions if s.text)


def phones(cut: MonoCut) -> str:
    """The phones of an utterance, separated by blanks, "" when it has none."""
    found = ((s.custom or {}).get("phones", "") for s in cut.supervisions)
    return " ".join(text for text in found if text)


def target(cut: MonoCut, units: Units) -> str:
    """What a recogniser of these units should say: the transcript or the phones."""
    return phones(cut) if units == "phones" else transcript(cut)


def speaker(cut: MonoCut) -> str:
    """The speaker of an utterance, "" when unknown."""
    return next((s.speaker for s in cut.supervisions if s.speaker), "")


def audio_file(cut: MonoCut) -> Path:
    """The audio file of a cut.

    Raises:
        DataError: the cut has no recording, or one that is not a single file.
    """
    sources = cut.recording.sources if cut.has_recording else []
    if len(sources) != 1 or sources[0].type != "file":
        raise DataError(
            "the cut has no audio file of its own",
            where=f"utterance {cut.id}",
            remedy="prepare the manifests again: one audio file per recording",
        )
    return Path(sources[0].source)


def read_audio(cut: MonoCut) -> npt.NDArray[np.float32]:
    """The waveform of a cut, float32 (samples,) in [-1, 1] at 16 kHz.

    Of a recording that has several channels in the manifest too it is the cut's channel.

    Raises:
        DataError: the file is missing, damaged, shorter than the manifest says, not 16 kHz,
            of more or fewer channels than the manifest says, empty, or holds NaN or infinite
            samples.
    """
    opened, where = _open_source(cut)
    start = round(cut.start * SAMPLING_RATE)
    channels = cut.recording.sources[0].channels
    place = channels.index(cut.channel) if cut.channel in channels else 0
    try:
        with soundfile.SoundFile(opened) as file:
            _check_format(file, where, channels)
            file.seek(min(start, file.frames))
            audio = file.read(cut.num_samples, dtype="float32", always_2d=True)[:, place]
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(
            "damaged audio file",
            where=where,
            found=error,
            remedy="copy or download the file again",
        ) from None
    _check_samples(audio, cut.num_samples, where)
    return np.asarray(audio, dtype=np.float32)


def _open_source(cut: MonoCut) -> tuple[Path | io.BytesIO, str]:
    sources = cut.recording.sources if cut.has_recording else []
    if len(sources) == 1 and sources[0].type == "memory":
        # Shards hand their audio over with the cut.
        return io.BytesIO(sources[0].source), f"utterance {cut.id}"
    path = audio_file(cut)
    where = f"utterance {cut.id}, {path}"
    if not path.is_file():
        raise DataError(
            "no such audio file",
            where=where,
            remedy="restore the corpus, or prepare the manifests again if it was moved",
        )
    return path, where


def parse_cut(line: str, where: str) -> MonoCut:
    """The cut of one line of a manifest; `where` is for the message.

    Raises:
        DataError: the line is not a MonoCut.
    """
    try:
        item: Any = deserialize_item(json.loads(line))
    except Exception as error:  # lhotse raises many kinds for a wrong dictionary
        raise DataError(
            "not a cut", where=where, found=f"{type(error).__name__}: {error}", remedy=AGAIN
        ) from None
    if not isinstance(item, MonoCut):
        raise DataError(
            "not a cut", where=where, expected="MonoCut", found=type(item).__name__, remedy=AGAIN
        )
    return item


def conversion(path: PathLike) -> str:
    """The remedy for audio of another rate or with several channels."""
    path = Path(path)
    return (
        f"convert it, e.g. `ffmpeg -i {path.name} -ar {SAMPLING_RATE} -ac 1 "
        f"{path.stem}.16k.flac` or `sox {path.name} -r {SAMPLING_RATE} -c 1 {path.stem}.16k.flac`"
    )


def _check_format(file: soundfile.SoundFile, where: str, channels: Sequence[int]) -> None:
    if file.samplerate != SAMPLING_RATE:
        raise DataError(
            "wrong sampling rate",
            where=where,
            expected=f"{SAMPLING_RATE} Hz",
            found=f"{file.samplerate} Hz",
            remedy=conversion(file.name),
        )
    if file.channels != len(channels):
        is_mono = len(channels) == 1
        raise DataError(
            "more than one channel" if is_mono else "not the channels of the manifest",
            where=where,
            expected="mono" if is_mono else f"{len(channels)} channels",
            found=f"{file.channels} channels",
            remedy=conversion(file.name),
        )


def _check_samples(audio: npt.NDArray[np.float32], expected: int, where: str) -> None:
    if len(audio) == 0:
        raise DataError("empty audio", where=where, remedy="remove the utterance")
    if len(audio) < expected:
        raise DataError(
            "the audio is shorter than the manifest says",
            where=where,
            expected=f"{expected} samples",
            found=len(audio),
            remedy="copy or download the file again, or prepare the manifests again",
        )
    if not np.isfinite(audio).all():
        raise DataError(
            "NaN or infinite samples",
            where=where,
            found=int((~np.isfinite(audio)).sum()),
            remedy="replace the file or remove the utterance",
        )
