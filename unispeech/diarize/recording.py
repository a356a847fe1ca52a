"""A recording that was diarized chunk by chunk, and who speaks when in all of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from unispeech.diarize.clustering import cluster
from unispeech.diarize.config import DiarizeConfig
from unispeech.diarize.stitching import Chunk, Turn, cleaned, median_filtered, plan, turns

FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

Segment = tuple[float, float, str]
"""Start and end in seconds, and the speaker's name."""


class LocalDiarization:
    """What the model says of every chunk: activities in a file, vectors in memory.

    Args:
        file: new and open to write and read; it gets one byte for each frame and slot.
        slots: S.
        seconds_per_frame: distance of two frames.
    """

    def __init__(self, file: BinaryIO, slots: int, seconds_per_frame: float) -> None:
        self.slots = slots
        self.seconds_per_frame = seconds_per_frame
        self.chunks: list[Chunk] = []
        self._file = file
        self._vectors: list[FloatArray] = []
        self._means: list[FloatArray] = []

    def add(self, chunk: Chunk, activity: FloatArray, vectors: FloatArray) -> None:
        """Keep one chunk; they come in order.

        Args:
            chunk: the next one of `plan`.
            activity: `(T, S)` in [0, 1] of all its frames.
            vectors: `(S, E)`.
        """
        kept = activity[chunk.first - chunk.start : chunk.last - chunk.start]
        self._file.write(np.rint(255 * kept).astype(np.uint8).tobytes())
        self.chunks.append(chunk)
        self._vectors.append(np.asarray(vectors, dtype=np.float32))
        self._means.append(activity.mean(0))

    def segments(self, config: DiarizeConfig, speakers: int | None = None) -> list[Segment]:
        """Who speaks when, sorted; speakers are numbered from 1 by their first segment.

        Args:
            config: clustering and smoothing.
            speakers: their number, where it is known; 0 for nobody.
        """
        labels = self.speakers_of_slots(config, speakers)
        count = int(labels.max(initial=-1)) + 1
        if count == 0:
            return []
        shift = self.seconds_per_frame
        width = max(1, round(config.median / shift)) | 1
        decided = median_filtered(self._decisions(labels, count, config.threshold), width)
        shortest = (round(seconds / shift) for seconds in (config.min_speech, config.min_silence))
        return _named(cleaned(turns(decided), *shortest), shift)

    def fill(
        self,
        frames: int,
        config: DiarizeConfig,
        read: Callable[[int, int], FloatArray],
        model: Callable[[FloatArray], tuple[FloatArray, FloatArray]],
        batch: int = 1,
    ) -> None:
        """Diarize a recording chunk by chunk; one without any sound is silence.

        Args:
            frames: of the recording.
            config: length and overlap of chunks.
            read: samples `(N,)` from one frame to before another.
            model: activities `(B, T, S)` and vectors `(B, S, E)` of chunks `(B, N)`.
            batch: chunks that the model sees at once.
        """
        size = max(1, round(config.chunk / self.seconds_per_frame))
        chunks = plan(frames, size, round(config.overlap / self.seconds_per_frame))
        while group := list(itertools.islice(chunks, batch)):
            audio = np.stack([read(chunk.start, chunk.stop) for chunk in group])
            activity, vectors = model(audio)
            is_silent = audio.min(1) == audio.max(1)
            activity = np.where(is_silent[:, None, None], 0.0, activity)
            for row, chunk in enumerate(group):
                self.add(chunk, activity[row], vectors[row])

    def speakers_of_slots(self, config: DiarizeConfig, speakers: int | None = None) -> IntArray:
        """Number of the speaker of each chunk's slots `(chunks, S)`, -1 for an empty slot.

        Args:
            config: when a slot is empty, and clustering.
            speakers: their number, where it is known; of chunks with more, the most active slots
                are taken.
        """
        means = np.array(self._means).reshape(-1, self.slots)
        labels = self._labels(means, config, speakers)
        limit = config.max_speakers
        if speakers is None and limit is not None and labels.max(initial=-1) >= limit:
            labels = self._labels(means, config, limit)
        return labels

    def _labels(self, means: FloatArray, config: DiarizeConfig, speakers: int | None) -> IntArray:
        is_used = means > config.silence
        if speakers is not None and speakers < self.slots:
            rank = np.argsort(np.argsort(-means, axis=1, kind="stable"), axis=1)
            is_used &= rank < speakers
        labels = np.full(is_used.shape, -1)
        if is_used.any():
            vectors = np.stack(self._vectors)[is_used].astype(np.float64)
            labels[is_used] = cluster(vectors, np.nonzero(is_used)[0], config.distance, speakers)
        return labels

    def _decisions(self, labels: IntArray, count: int, threshold: float) -> Iterator[BoolArray]:
        """Decisions `(t, count)` chunk by chunk."""
        self._file.seek(0)
        for chunk, own in zip(self.chunks, labels, strict=True):
            size = chunk.last - chunk.first
            raw = np.frombuffer(self._file.read(size * self.slots), dtype=np.uint8)
            active = raw.reshape(size, self.slots) > 255 * threshold
            block = np.zeros((size, count), dtype=np.bool_)
            for slot, speaker in enumerate(own.tolist()):
                if speaker >= 0:
                    block[:, speaker] = active[:, slot]
            yield block


def _named(found: list[Turn], shift: float) -> list[Segment]:
    names: dict[int, str] = {}
    return [
        (
            turn.first * shift,
            turn.last * shift,
            names.setdefault(turn.speaker, f"speaker{len(names) + 1}"),
        )
        for turn in found
    ]
