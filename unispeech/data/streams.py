"""Separated streams: audio of several channels in, one file for each stream and cuts out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource

from unispeech.data.manifests import SAMPLING_RATE, audio_file, write_cuts
from unispeech.data.mixtures import read_mixture
from unispeech.data.recordings import SampleReader
from unispeech.errors import DataError
from unispeech.storage import atomic_path, write_json

FloatArray = npt.NDArray[np.float32]

ABOUT = "activity.json"
"""Beside the streams of a recording; written last."""
FULL = 1.0 - 2.0**-23
"""Greatest sample of 24-bit audio."""
CLIPPED, BADLY_CLIPPED = 0.001, 0.05
"""Shares of clipped samples from which there is a warning, and an error."""
AUDIBLE = 0.01
"""Peaks below this are too few steps of 16-bit audio to tell clipping from quiet."""


class ChannelReader(SampleReader):
    """Samples of one or all channels of a cut, at 16 kHz; says what is wrong with the recording.

    Args:
        cut: its channel is the reference, which comes first.
        is_array: read all channels of the recording.
        resample: convert another sampling rate; otherwise it is an error.

    Raises:
        DataError: missing or damaged file, a wrong rate, one channel where several are asked for.
    """

    def __init__(self, cut: MonoCut, is_array: bool, resample: bool = False) -> None:
        super().__init__(cut, resample, mix_channels=True)
        with self._open() as file:
            channels = int(file.channels)
        if is_array and channels < 2:
            raise DataError(
                "one channel, where the beamformer needs several",
                where=self.where,
                expected="a recording of a microphone array, e.g. 7 channels",
                found="1 channel",
                remedy="give the array's recording, or take --method mask",
            )
        first = cut.channel if isinstance(cut.channel, int) else cut.channel[0]
        if first >= channels:
            raise DataError(
                "no such channel", where=self.where, expected=f"0 to {channels - 1}", found=first
            )
        others = [number for number in range(channels) if number != first] if is_array else []
        self.channels = [first, *others]
        self._known = 0
        self._extremes = np.array([np.inf, -np.inf], np.float32)
        self._at_extremes = np.zeros(2, np.int64)

    def read(self, start: int, stop: int) -> FloatArray:
        """Samples `(C, stop - start)`, the reference channel first."""
        audio = np.ascontiguousarray(super().read(start, stop).T)
        new = audio[0, max(0, self._known - start) :]
        if len(new):
            self._known = max(self._known, stop)
            self._note(new)
        return audio

    def verdict(self, allow_clipped: bool) -> str:
        """A warning about what was read of the reference channel, "" for none.

        Clipped is what lies at its extremes, which speech otherwise reaches a few times.

        Args:
            allow_clipped: badly clipped audio is a warning.

        Raises:
            DataError: silence, or badly clipped audio.
        """
        low, high = self._extremes
        if low >= high:
            raise DataError(
                "silence: every sample is the same", where=self.where, remedy="remove the recording"
            )
        peaks = zip((-low, high), self._at_extremes.tolist(), strict=True)
        share = sum(n for peak, n in peaks if peak >= AUDIBLE and n > 1) / max(self._known, 1)
        if share >= BADLY_CLIPPED and not allow_clipped:
            raise DataError(
                f"clipped audio: {100 * share:.1f} % of the samples are at the extremes",
                where=self.where,
                expected=f"less than {100 * BADLY_CLIPPED:g} %",
                remedy="record at a lower level, or add --allow-clipped",
            )
        if share < CLIPPED:
            return ""
        return f"{self.where}: clipped audio, {100 * share:.1f} % of the samples"

    def _note(self, audio: FloatArray) -> None:
        for side, (value, is_further) in enumerate(
            ((audio.min(), np.less), (audio.max(), np.greater))
        ):
            if is_further(value, self._extremes[side]):
                self._extremes[side], self._at_extremes[side] = value, 0
            self._at_extremes[side] += int((audio == self._extremes[side]).sum())

    def _native(self, start: int, stop: int) -> FloatArray:
        with self._open() as file:
            file.seek(min(self._start + start, file.frames))
            try:
                audio = file.read(stop - start, dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, OSError) as error:
                raise self._damaged(error) from None
        if len(audio) < stop - start:
            raise self._damaged(f"{len(audio)} samples where {stop - start} were expected")
        if not np.isfinite(audio).all():
            raise DataError("NaN or infinite samples", where=self.where)
        return np.asarray(audio[:, self.channels], dtype=np.float32)


def read_references(cut: MonoCut, start: int, stop: int) -> FloatArray:
    """The references of a stored mixture and what else is in it, `(S + 1, stop - start)`.

    Raises:
        DataError: it has none, or they do not fit.
    """
    mixture = read_mixture(cut, start, stop - start)
    return np.concatenate([mixture.sources, mixture.noise[None]])


class StreamWriter:
    """Writes the streams of one recording as they come, FLAC of 24 bits at the mixture's level.

    Args:
        files: temporary paths, one for each stream.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        settings = {"samplerate": SAMPLING_RATE, "channels": 1, "subtype": "PCM_24"}
        self._stack = contextlib.ExitStack()
        self._files = [
            self._stack.enter_context(soundfile.SoundFile(path, "w", format="FLAC", **settings))
            for path in files
        ]
        self.cut_off = 0
        """Samples beyond full scale, which 24 bits cannot hold."""

    def write(self, audio: FloatArray) -> None:
        """Append samples `(S, n)`."""
        self.cut_off += int((np.abs(audio) > 1.0).sum())
        for file, samples in zip(self._files, np.clip(audio, -1.0, FULL), strict=True):
            file.write(samples)

    def close(self) -> None:
        """Finish the files."""
        self._stack.close()


@contextlib.contextmanager
def stream_files(folder: Path, streams: int) -> Iterator[StreamWriter]:
    """A writer of `folder/stream1.flac` and so on; they are there when the block succeeds."""
    names = [f"stream{number}.flac" for number in range(1, streams + 1)]
    try:
        with contextlib.ExitStack() as stack:
            paths = [stack.enter_context(atomic_path(folder / name)) for name in names]
            writer = StreamWriter(paths)
            try:
                yield writer
            finally:
                writer.close()
    except BaseException:
        # Nothing of a recording that could not be separated.
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def write_activity(
    folder: Path, cut: MonoCut, samples: int, pieces: Sequence[Sequence[Sequence[float]]]
) -> None:
    """Write when somebody speaks on each stream, in seconds from, up to. This ends a recording."""
    about = {"input": _fingerprint(cut), "samples": samples, "pieces": pieces}
    write_json(folder / ABOUT, about)


def is_separated(folder: Path, cut: MonoCut) -> bool:
    """Whether the streams of this recording, as it is now, are there."""
    path = folder / ABOUT
    if not path.is_file():
        return False
    return bool(json.loads(path.read_text(encoding="utf-8"))["input"] == _fingerprint(cut))


def _fingerprint(cut: MonoCut) -> list[float]:
    """Which part of the file is meant, and the file's size and time."""
    path = audio_file(cut)
    stat = path.stat() if path.is_file() else None
    size = [stat.st_size, stat.st_mtime_ns] if stat else []
    return [cut.start, cut.duration, *size]


def stream_cuts(cut: MonoCut, folder: Path) -> list[MonoCut]:
    """One cut for each stream of a separated recording; supervisions are its active pieces.

    Fields: `mixture`, the id of the recording; `stream`, from 1; those of the recording's cut but
    for its references.
    """
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    samples = int(about["samples"])
    seconds = samples / SAMPLING_RATE
    kept = {k: v for k, v in (cut.custom or {}).items() if k != "references"}
    cuts = []
    for number, pieces in enumerate(about["pieces"], start=1):
        name = f"{cut.id}-stream{number}"
        source = AudioSource("file", [0], str(folder / f"stream{number}.flac"))
        recording = Recording(name, [source], SAMPLING_RATE, samples, seconds)
        segments = [
            SupervisionSegment(f"{name}-{i:04d}", name, start, round(stop - start, 6))
            for i, (start, stop) in enumerate(pieces)
        ]
        custom = {**kept, "mixture": cut.id, "stream": number}
        cuts.append(MonoCut(name, 0.0, seconds, 0, segments, recording=recording, custom=custom))
    return cuts


def write_stream_cuts(cuts: Iterable[MonoCut], folder: Path) -> Path:
    """Write `streams.jsonl.gz` for separated recordings in the folder, and return its path."""
    path = folder / "streams.jsonl.gz"
    write_cuts((one for cut in cuts for one in stream_cuts(cut, folder / cut.id)), path)
    return path
