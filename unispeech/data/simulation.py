"""Conversations simulated from utterances of single speakers.

A conversation is a pure function of the utterances, the settings and a random generator: first the
plan (who speaks when, in which room, over which noise), made from durations alone, then any stretch
of its sound, for which only the utterances in it are read. Storing a conversation and training on
chunks of unstored ones are the same code. lhotse's simulators are not used because they draw the
same silences in every conversation and shuffle utterances without a seed (lhotse 1.33).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
from lhotse import AudioSource, MonoCut, Recording
from scipy.signal import butter, resample_poly, sosfilt

from unispeech.data.augmentation import add_noise, read_channel, reverberate
from unispeech.data.conversation_config import SimulationConfig, TurnsConfig
from unispeech.data.manifests import (
    SAMPLING_RATE,
    audio_file,
    load_cuts,
    manifest_lines,
    parse_cut,
    read_audio,
    speaker,
)
from unispeech.data.rttm import Segment, joined, read_rttm
from unispeech.errors import ConfigError, DataError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

TELEPHONE_RATE = 8000
TELEPHONE_BAND = (300.0, 3400.0)
"""Hertz; ITU-T G.712."""
PEAK = 0.95
"""Louder sums are turned down to it, so that they can be stored."""
SPEECH_LEVEL = -26.0
"""Level in dBFS (the nominal one of ITU-T P.56) that noise refers to where nobody speaks."""


class Turn(NamedTuple):
    """One utterance in a conversation; `start` and `samples` at 16 kHz."""

    utterance: int
    speaker: int
    start: int
    samples: int


class Conversation(NamedTuple):
    """The plan of a conversation; speakers are numbers in the pool of utterances."""

    turns: tuple[Turn, ...]
    """By start."""
    samples: int
    rooms: dict[int, int]
    """Speakers that get an impulse response, and which."""
    gains: dict[int, float]
    """Factor of each speaker."""
    noise: int | None
    """Which background noise."""
    snr: float
    """Decibels of the speech over it."""


class Utterances:
    """Utterances of single speakers, held as arrays: millions fit, and processes share them.

    Args:
        cuts: one speaker each.
        where: their source, for messages.

    Raises:
        DataError: there are none, or nobody speaks in one.
    """

    def __init__(self, cuts: Iterable[MonoCut], where: object) -> None:
        files: dict[str, int] = {}
        people: dict[str, int] = {}
        rows = []
        for cut in cuts:
            name = speaker(cut)
            if not name:
                raise DataError(
                    f"utterance {cut.id} has no speaker",
                    where=where,
                    remedy="prepare the manifests with speakers",
                )
            file = files.setdefault(str(audio_file(cut)), len(files))
            owner = people.setdefault(name, len(people))
            rows.append((file, round(cut.start * SAMPLING_RATE), cut.num_samples, owner))
        if not rows:
            raise DataError("no utterance to simulate from", where=where)
        table = np.array(rows, dtype=np.int64)
        self.where = where
        self.files = tuple(files)
        self.names = tuple(sorted(people))
        numbers = {name: number for number, name in enumerate(self.names)}
        order = np.array([numbers[name] for name in people])
        self._file, self._first, self.samples = table[:, 0], table[:, 1], table[:, 2]
        self.owners: IntArray = order[table[:, 3]]
        ranked = np.argsort(self.owners, kind="stable")
        edges = np.searchsorted(self.owners[ranked], np.arange(1, len(self.names)))
        self.of_speaker: list[IntArray] = np.split(ranked, edges)

    @classmethod
    def of_manifests(cls, paths: Sequence[str]) -> Utterances:
        """The utterances of manifests, read one at a time.

        Raises:
            DataError: a manifest is missing, damaged or empty.
        """
        cuts = (
            parse_cut(line, f"{path}:{number}")
            for path in paths
            for number, line in enumerate(manifest_lines(path), start=1)
        )
        return cls(cuts, ", ".join(paths))

    def read(self, utterance: int, start: int, stop: int) -> FloatArray:
        """Samples `start` to `stop` of an utterance, float32.

        Raises:
            DataError: the file is missing, damaged, or not 16 kHz mono.
        """
        path = self.files[self._file[utterance]]
        return read_piece(path, int(self._first[utterance]) + start, stop - start)


def read_piece(path: str, first: int, samples: int, name: str = "") -> FloatArray:
    """So many samples of a 16 kHz mono file from sample `first` on, float32 (samples,).

    Raises:
        DataError: the file is missing, damaged, too short, or not 16 kHz mono.
    """
    seconds = (first + samples) / SAMPLING_RATE
    source = AudioSource("file", [0], path)
    recording = Recording(name or path, [source], SAMPLING_RATE, first + samples, seconds)
    start = first / SAMPLING_RATE
    cut = MonoCut(recording.id, start, samples / SAMPLING_RATE, 0, recording=recording)
    return read_audio(cut)


class TurnLengths:
    """Pauses and overlaps in seconds, as the settings or real conversations have them.

    Args:
        config: means, or the file of the real ones.

    Raises:
        DataError: the file cannot be read, or nobody takes turns in it.
    """

    def __init__(self, config: TurnsConfig) -> None:
        self.config = config
        self.overlap_prob = config.overlap_prob
        self._real: dict[str, npt.NDArray[np.float64]] = {}
        if config.like:
            self._learn(config.like)

    def _learn(self, path: str) -> None:
        found: dict[str, list[float]] = {"same_pause": [], "pause": [], "overlap": []}
        for segments in read_rttm(path).values():
            last: Segment | None = None
            for segment in joined(segments):
                if last is not None:
                    gap = segment.start - last.end
                    if gap < 0:
                        found["overlap"].append(-gap)
                    else:
                        is_same = segment.speaker == last.speaker
                        found["same_pause" if is_same else "pause"].append(gap)
                if last is None or segment.end > last.end:
                    last = segment
        changes = len(found["pause"]) + len(found["overlap"])
        if not found["same_pause"] or not changes:
            raise DataError(
                "nobody takes turns in these conversations",
                where=path,
                expected="pauses of one speaker, and changes of speaker",
                remedy="give longer conversations, or leave turns.like empty",
            )
        self.overlap_prob = len(found["overlap"]) / changes
        self._real = {name: np.array(values) for name, values in found.items() if values}

    def draw(self, name: str, rng: np.random.Generator) -> float:
        """One `same_pause`, `pause` or `overlap`."""
        if name in self._real:
            return float(rng.choice(self._real[name]))
        return float(rng.exponential(getattr(self.config, name)))


class Simulator:
    """Plans and renders conversations.

    Args:
        utterances: what they are made of.
        config: how.
        noises: background noises.
        responses: impulse responses of rooms.

    Raises:
        ConfigError: there are fewer speakers than a conversation needs.
        DataError: the file of real pauses cannot be used.
    """

    def __init__(
        self,
        utterances: Utterances,
        config: SimulationConfig,
        noises: Sequence[MonoCut] = (),
        responses: Sequence[MonoCut] = (),
    ) -> None:
        if max(config.speakers) > len(utterances.names):
            raise ConfigError(
                "a conversation needs more speakers than there are",
                where=utterances.where,
                expected=f"{max(config.speakers)} speakers",
                found=len(utterances.names),
                remedy="simulate fewer speakers, or from more",
            )
        self.utterances = utterances
        self.config = config
        kinds = config.noise_kinds
        self.noises = [c for c in noises if (c.custom or {}).get("kind", "noise") in kinds]
        self.responses = list(responses)
        self.lengths = TurnLengths(config.turns)

    @classmethod
    def of_manifests(
        cls, paths: Sequence[str], config: SimulationConfig, noise: Sequence[str],
        rir: Sequence[str],
    ) -> Simulator:  # fmt: skip
        """A simulator that reads manifests of utterances, noises and impulse responses."""
        noises, responses = list(load_cuts(noise)), list(load_cuts(rir))
        return cls(Utterances.of_manifests(paths), config, noises, responses)

    def plan(self, rng: np.random.Generator) -> Conversation:
        """A new conversation; no audio is read."""
        config = self.config
        kind = int(rng.integers(len(config.speakers)))
        chosen = rng.choice(len(self.utterances.names), config.speakers[kind], replace=False)
        people = [int(number) for number in chosen]
        said = {person: self._utterances_of(person, rng) for person in people}
        if config.style == "independent":
            silence = config.silence[kind if len(config.silence) > 1 else 0]
            turns = self._independent(said, silence, rng)
        else:
            turns = self._in_turns(said, rng)
        rooms = {}
        for person in people:
            if self.responses and rng.random() < config.reverb_prob:
                rooms[person] = int(rng.integers(len(self.responses)))
        gains = {p: 10.0 ** (float(rng.uniform(*config.levels)) / 20.0) for p in people}
        noise = int(rng.integers(len(self.noises))) if self.noises and config.snr else None
        snr = float(rng.choice(config.snr)) if config.snr else 0.0
        turns.sort(key=lambda turn: (turn.start, turn.speaker))
        samples = max(turn.start + turn.samples for turn in turns)
        return Conversation(tuple(turns), samples, rooms, gains, noise, snr)

    def render(
        self, conversation: Conversation, start: int = 0, stop: int | None = None
    ) -> FloatArray:
        """Samples `start` to `stop` of the sound of a conversation, float32.

        The level of the noise, the peak and the telephone are those of the stretch.

        Raises:
            DataError: an utterance, noise or response cannot be read.
        """
        stop = conversation.samples if stop is None else stop
        audio = np.zeros(stop - start, dtype=np.float32)
        for turn in conversation.turns:
            first, last = max(start, turn.start), min(stop, turn.start + turn.samples)
            if first < last:
                place = slice(first - turn.start, last - turn.start)
                audio[first - start : last - start] += self._said(conversation, turn, place)
        if conversation.noise is not None:
            audio = self._with_noise(audio, conversation, start)
        peak = float(np.abs(audio).max(initial=0.0))
        audio = audio * np.float32(min(1.0, PEAK / max(peak, 1e-9)))
        return telephone(audio) if self.config.telephone else audio

    def segments(self, conversation: Conversation) -> list[Segment]:
        """Who speaks when, in seconds."""
        names = self.utterances.names
        return [
            Segment(turn.start / SAMPLING_RATE, turn.samples / SAMPLING_RATE, names[turn.speaker])
            for turn in conversation.turns
        ]

    def _utterances_of(self, person: int, rng: np.random.Generator) -> IntArray:
        """What a speaker says: utterances in random order, again from the first when all are."""
        count = int(rng.integers(self.config.utterances[0], self.config.utterances[1] + 1))
        return np.resize(rng.permutation(self.utterances.of_speaker[person]), count)

    def _independent(
        self, said: dict[int, IntArray], silence: float, rng: np.random.Generator
    ) -> list[Turn]:
        turns = []
        for person, numbers in said.items():
            pauses = np.rint(rng.exponential(silence, len(numbers)) * SAMPLING_RATE)
            end = 0
            for number, pause in zip(numbers, pauses.astype(int), strict=True):
                samples = int(self.utterances.samples[number])
                turns.append(Turn(int(number), person, end + int(pause), samples))
                end = turns[-1].start + samples
        return turns

    def _in_turns(self, said: dict[int, IntArray], rng: np.random.Generator) -> list[Turn]:
        """One utterance after another, speakers in random order; nobody overlaps with oneself."""
        order = rng.permutation(np.repeat(list(said), [len(own) for own in said.values()]))
        remaining = {person: iter(numbers) for person, numbers in said.items()}
        own_end = dict.fromkeys(said, 0)
        turns: list[Turn] = []
        latest = Turn(-1, -1, 0, 0)
        for person in map(int, order):
            number = int(next(remaining[person]))
            samples = int(self.utterances.samples[number])
            is_other = bool(turns) and person != latest.speaker
            if is_other and rng.random() < self.lengths.overlap_prob:
                most = min(samples, latest.samples) / SAMPLING_RATE
                gap = -min(self.lengths.draw("overlap", rng), most)
            else:
                gap = self.lengths.draw("pause" if is_other else "same_pause", rng)
            end = latest.start + latest.samples
            start = max(end + round(gap * SAMPLING_RATE), own_end[person])
            turns.append(Turn(number, person, start, samples))
            own_end[person] = start + samples
            latest = max(latest, turns[-1], key=lambda turn: turn.start + turn.samples)
        return turns

    def _said(self, conversation: Conversation, turn: Turn, place: slice) -> FloatArray:
        gain = np.float32(conversation.gains[turn.speaker])
        room = conversation.rooms.get(turn.speaker)
        if room is None:
            said = self.utterances.read(turn.utterance, place.start, place.stop)
            return np.asarray(gain * said)
        # What was said before the stretch still sounds in it.
        whole = self.utterances.read(turn.utterance, 0, turn.samples)
        response = self.responses[room]
        heard = reverberate(whole, read_channel(response, 0, response.num_samples))
        return np.asarray(gain * heard[place])

    def _with_noise(self, audio: FloatArray, conversation: Conversation, start: int) -> FloatArray:
        assert conversation.noise is not None
        cut = self.noises[conversation.noise]
        recorded = read_channel(cut, 0, cut.num_samples)
        noise = np.resize(np.roll(recorded, -(start % len(recorded))), len(audio))
        if np.any(audio):
            return add_noise(audio, noise, conversation.snr)
        power = float(np.square(noise, dtype=np.float64).mean())
        level = 10.0 ** ((SPEECH_LEVEL - conversation.snr) / 20.0)
        return (noise * (level / np.sqrt(power)) if power > 0 else noise).astype(np.float32)


def telephone(audio: FloatArray) -> FloatArray:
    """Speech (samples,) at 16 kHz as a telephone passes it, at 16 kHz again, of the same length.

    The band of a telephone, 8 kHz, and eight bits of the mu-law of ITU-T G.711.
    """
    band = butter(4, TELEPHONE_BAND, "bandpass", fs=TELEPHONE_RATE, output="sos")
    narrow = sosfilt(band, resample_poly(audio, TELEPHONE_RATE, SAMPLING_RATE))
    stored = io.BytesIO()
    soundfile.write(stored, np.clip(narrow, -1.0, 1.0), TELEPHONE_RATE, "ULAW", format="AU")
    stored.seek(0)
    received, _ = soundfile.read(stored, dtype="float32")
    wide = resample_poly(received, SAMPLING_RATE, TELEPHONE_RATE)[: len(audio)]
    return np.asarray(wide, dtype=np.float32)
