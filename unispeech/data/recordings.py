"""Recordings of any length and format, read in pieces, and arrays of frames beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.signal
import soundfile
from lhotse import MonoCut, Recording
from lhotse.array import Array, TemporalArray

from unispeech.data.manifests import (
    SAMPLING_RATE,
    audio_file,
    conversion,
    read_manifest,
    write_cuts,
)
from unispeech.errors import DataError
from unispeech.storage import atomic_path

FloatArray = npt.NDArray[np.float32]

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".sph")


def find_recordings(source: Path) -> list[MonoCut]:
    """One cut for each recording of a folder, a manifest of cuts, or a single audio file.

    Raises:
        DataError: nothing is there, or a file is no audio.
    """
    if source.is_dir():
        files = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError("no audio here", where=source, expected=f"files like *{SUFFIXES[0]}")
        return [_cut(path, str(path.relative_to(source).with_suffix(""))) for path in files]
    if source.name.endswith((".jsonl", ".jsonl.gz")):
        return read_manifest(source)
    if not source.is_file():
        raise DataError(
            "no such file or folder", where=source, remedy="give audio, a folder, or a manifest"
        )
    return [_cut(source, source.stem)]


def _cut(path: Path, name: str) -> MonoCut:
    try:
        recording = Recording.from_file(path, recording_id=name)
    except Exception as error:  # the libraries behind raise many kinds
        raise DataError(
            "cannot read the audio",
            where=path,
            found=" ".join(str(error).split())[:200],
            remedy="remove or repair the file",
        ) from None
    if recording.num_samples == 0:
        raise DataError("empty audio", where=path, remedy="remove the file")
    return MonoCut(name, 0, recording.duration, 0, recording=recording)


class SampleReader:
    """Samples of one cut from any position, mono at 16 kHz.

    Recordings that need resampling are read whole.

    Args:
        cut: what to read.
        resample: convert another sampling rate; otherwise it is an error.
        mix_channels: average several channels; otherwise they are an error.

    Raises:
        DataError: missing or damaged file, or a rate or channels that may not be converted.
    """

    def __init__(self, cut: MonoCut, resample: bool = False, mix_channels: bool = False) -> None:
        self.path = audio_file(cut)
        self.where = f"utterance {cut.id}, {self.path}"
        if not self.path.is_file():
            raise DataError("no such audio file", where=self.where)
        with self._open() as file:
            self.rate, channels = int(file.samplerate), int(file.channels)
        if self.rate != SAMPLING_RATE and not resample:
            raise DataError(
                "wrong sampling rate",
                where=self.where,
                expected=f"{SAMPLING_RATE} Hz",
                found=f"{self.rate} Hz",
                remedy=f"add --resample, or {conversion(self.path)}",
            )
        if channels != 1 and not mix_channels:
            raise DataError(
                "more than one channel",
                where=self.where,
                expected="mono",
                found=f"{channels} channels",
                remedy=f"add --mono to average them, or {conversion(self.path)}",
            )
        self._start = round(cut.start * self.rate)
        self._count = round(cut.duration * self.rate)
        self._whole: FloatArray | None = None
        if self.rate != SAMPLING_RATE:
            divisor = math.gcd(self.rate, SAMPLING_RATE)
            up, down = SAMPLING_RATE // divisor, self.rate // divisor
            native = self._native(0, self._count)
            self._whole = scipy.signal.resample_poly(native, up, down).astype(np.float32)
        self.samples = self._count if self._whole is None else len(self._whole)

    def read(self, start: int, stop: int) -> FloatArray:
        """Samples `(stop - start,)` at 16 kHz."""
        if self._whole is not None:
            return self._whole[start:stop]
        return self._native(start, stop)

    def _native(self, start: int, stop: int) -> FloatArray:
        with self._open() as file:
            file.seek(min(self._start + start, file.frames))
            try:
                audio = file.read(stop - start, dtype="float32", always_2d=True).mean(1)
            except (soundfile.SoundFileError, OSError) as error:
                raise self._damaged(error) from None
        if len(audio) < stop - start:
            raise self._damaged(f"{len(audio)} samples where {stop - start} were expected")
        if not np.isfinite(audio).all():
            raise DataError("NaN or infinite samples", where=self.where)
        return np.asarray(audio, dtype=np.float32)

    def _open(self) -> Any:
        try:
            return soundfile.SoundFile(self.path)
        except (soundfile.SoundFileError, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, found: object) -> DataError:
        return DataError(
            "damaged audio file", where=self.where, found=found, remedy="copy the file again"
        )


class FrameStore:
    """Arrays of frames as `.npy` files, and a manifest through which lhotse reads them.

    Args:
        folder: where `states/` and `cuts.jsonl.gz` go.
        frame_shift: seconds between two frames.
    """

    def __init__(self, folder: Path, frame_shift: float) -> None:
        self.folder = folder
        self.frame_shift = frame_shift
        self._cuts: list[MonoCut] = []

    def key(self, cut: MonoCut) -> str:
        """Name of the file of a cut, relative to `states/`."""
        return f"{cut.id}.npy"

    def write(
        self, cut: MonoCut, shape: tuple[int, ...], pieces: Iterator[tuple[int, Any]]
    ) -> None:
        """Write one array as its pieces come; nothing is held in memory.

        Args:
            cut: whose frames these are.
            shape: `(T, ...)` of the whole array.
            pieces: first frame and `(t, ...)` float32, in any order.
        """
        path = self.folder / "states" / self.key(cut)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
            for first, piece in pieces:
                array[first : first + len(piece)] = piece
            array.flush()
            del array
        self.add(cut, shape)

    def add(self, cut: MonoCut, shape: tuple[int, ...]) -> None:
        """List the array of a cut in the manifest."""
        array = Array("numpy_files", str(self.folder / "states"), self.key(cut), list(shape))
        custom = {**(cut.custom or {}), "states": TemporalArray(array, 0, self.frame_shift, 0)}
        cut.custom = custom
        self._cuts.append(cut)

    def finish(self) -> Path:
        """Write the manifest and return its path."""
        path = self.folder / "cuts.jsonl.gz"
        write_cuts(self._cuts, path)
        return path
