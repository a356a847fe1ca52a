"""Chunks of conversations with who speaks in them, stored or simulated on the fly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unispeech.data.conversation_config import ConversationDataConfig
from unispeech.data.manifests import SAMPLING_RATE, audio_file, manifest_lines, parse_cut
from unispeech.data.rttm import Segment, cut_segments, in_order
from unispeech.data.simulation import FloatArray, IntArray, Simulator, read_piece
from unispeech.errors import ConfigError, DataError

TRIES = 100
"""Chunks of a simulated conversation that are looked at for one with few enough speakers."""


class Chunk(NamedTuple):
    """A piece of a conversation; segments relative to its beginning."""

    id: str
    audio: FloatArray
    segments: list[Segment]


class StoredConversations:
    """Conversations of manifests, held as arrays, and the chunks they give.

    Args:
        paths: manifests.
        config: lengths of chunks, and most speakers of one.

    Raises:
        DataError: a manifest is missing or damaged, or there is no usable chunk.
    """

    def __init__(self, paths: Sequence[str], config: ConversationDataConfig) -> None:
        self.where = ", ".join(paths)
        self.length = round(config.chunk_seconds * SAMPLING_RATE)
        people: dict[str, int] = {}
        files: list[tuple[str, str, int, int]] = []
        segments: list[tuple[int, float, float, int]] = []
        for path in paths:
            for number, line in enumerate(manifest_lines(path), start=1):
                cut = parse_cut(line, f"{path}:{number}")
                start = round(cut.start * SAMPLING_RATE)
                segments += [
                    (len(files), s.start, s.end, people.setdefault(s.speaker, len(people)))
                    for s in cut_segments(cut)
                ]
                files.append((cut.id, str(audio_file(cut)), start, cut.num_samples))
        self.ids = [file[0] for file in files]
        self.names = tuple(people)
        self._paths = [file[1] for file in files]
        self._first = np.array([file[2] for file in files], dtype=np.int64)
        self._samples = np.array([file[3] for file in files], dtype=np.int64)
        table = np.array(segments, dtype=np.float64).reshape(-1, 4)
        self._owner, self._person = table[:, 0].astype(np.int64), table[:, 3].astype(np.int64)
        self._times = table[:, 1:3]
        self._edges = np.searchsorted(self._owner, np.arange(len(files) + 1))
        self.chunks = self._usable(config)
        if len(self.chunks) == 0:
            raise DataError(
                "no usable chunk of a conversation",
                where=self.where,
                expected=f"{config.min_seconds:g} s with at most {config.slots} speakers",
                remedy="lower data.chunk_seconds or data.min_seconds, or raise data.slots",
            )

    def _usable(self, config: ConversationDataConfig) -> IntArray:
        """Conversation and first sample of the chunks that are neither short nor crowded."""
        counts = -(-self._samples // self.length)
        offset = np.concatenate([[0], np.cumsum(counts)])
        owner = np.repeat(np.arange(len(counts)), counts)
        first = (np.arange(offset[-1]) - offset[owner]) * self.length
        length = np.minimum(self._samples[owner] - first, self.length)
        is_long = length >= config.min_seconds * SAMPLING_RATE
        # A segment is in all chunks from that of its start to that of its end.
        seconds = self.length / SAMPLING_RATE
        low = np.floor(self._times[:, 0] / seconds).astype(np.int64)
        high = np.ceil(self._times[:, 1] / seconds).astype(np.int64)
        low, high = (np.clip(edge, 0, counts[self._owner]) for edge in (low, high))
        spans = np.maximum(high - low, 0)
        inside = np.arange(spans.sum()) - np.repeat(np.cumsum(spans) - spans, spans)
        place = np.repeat(offset[self._owner] + low, spans) + inside
        pairs = np.unique(np.stack([place, np.repeat(self._person, spans)]), axis=1)
        speakers = np.bincount(pairs[0], minlength=int(offset[-1]))
        keep = is_long & (speakers <= config.slots)
        return np.stack([owner[keep], first[keep]], axis=1)

    def chunk(self, number: int) -> Chunk:
        """One chunk.

        Raises:
            DataError: its audio cannot be read.
        """
        owner, first = (int(value) for value in self.chunks[number])
        samples = min(self.length, int(self._samples[owner]) - first)
        name = f"{self.ids[owner]}@{first / SAMPLING_RATE:g}"
        start = int(self._first[owner]) + first
        audio = read_piece(self._paths[owner], start, samples, name)
        rows = slice(self._edges[owner], self._edges[owner + 1])
        segments = [
            Segment(float(begin), float(end - begin), self.names[person])
            for (begin, end), person in zip(self._times[rows], self._person[rows], strict=True)
        ]
        return Chunk(name, audio, within(segments, first, samples))


class SimulatedConversations:
    """Chunks of conversations that exist for one chunk only.

    Args:
        config: manifests of utterances, noises and rooms, how to simulate, and chunks.

    Raises:
        DataError: a manifest is missing, damaged or empty.
        ConfigError: there are too few speakers.
    """

    def __init__(self, config: ConversationDataConfig) -> None:
        assert config.simulate is not None
        self.where = ", ".join(config.train)
        self.simulator = Simulator.of_manifests(
            config.train, config.simulate, config.noise, config.rir
        )
        self.names = self.simulator.utterances.names
        self.length = round(config.chunk_seconds * SAMPLING_RATE)
        self.slots = config.slots

    def chunk(self, seed: int) -> Chunk:
        """A chunk of the conversation of a seed, anywhere in it.

        Raises:
            DataError: its audio cannot be read.
            ConfigError: all its chunks have more speakers than slots.
        """
        rng = np.random.default_rng(seed)
        conversation = self.simulator.plan(rng)
        segments = self.simulator.segments(conversation)
        for _ in range(TRIES):
            start = int(rng.integers(max(conversation.samples - self.length, 0) + 1))
            samples = min(self.length, conversation.samples - start)
            inside = within(segments, start, samples)
            if len({segment.speaker for segment in inside}) <= self.slots:
                audio = self.simulator.render(conversation, start, start + samples)
                return Chunk(f"simulated-{seed}@{start / SAMPLING_RATE:g}", audio, inside)
        raise ConfigError(
            "simulated chunks have more speakers than slots",
            where="data.simulate",
            expected=f"at most {self.slots} speakers in {self.length / SAMPLING_RATE:g} s",
            remedy="simulate fewer speakers, shorten data.chunk_seconds, or raise data.slots",
        )


def within(segments: Sequence[Segment], first: int, samples: int) -> list[Segment]:
    """The parts of segments in so many samples from `first` on, relative to it."""
    begin, end = first / SAMPLING_RATE, (first + samples) / SAMPLING_RATE
    found = []
    for segment in segments:
        start, stop = max(segment.start, begin), min(segment.end, end)
        if start < stop:
            found.append(Segment(start - begin, stop - start, segment.speaker))
    return in_order(found)


def frame_activity(
    segments: Sequence[Segment], frames: int, seconds_per_frame: float
) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Speakers by their first frame, and `(frames, speakers)` 1 where one speaks.

    Somebody speaks in a frame when at its centre; those who do in none are left out.
    """
    active: dict[str, npt.NDArray[np.float32]] = {}
    for segment in in_order(segments):
        edges = np.array([segment.start, segment.end]) / seconds_per_frame - 0.5
        first, last = np.clip(np.ceil(edges), 0, frames).astype(int)
        if first < last:
            column = active.setdefault(segment.speaker, np.zeros(frames, dtype=np.float32))
            column[first:last] = 1.0
    columns = np.stack(list(active.values()), axis=1) if active else np.zeros((frames, 0))
    return list(active), columns.astype(np.float32)
