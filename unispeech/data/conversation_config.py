"""Configuration of simulated conversations and of training on conversations."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from unispeech.config import Config, Paths

Counts = Annotated[
    tuple[Annotated[int, pydantic.Field(ge=1)], ...],
    pydantic.BeforeValidator(lambda value: (value,) if isinstance(value, int) else value),
    pydantic.Field(min_length=1),
]
Seconds = Annotated[
    tuple[Annotated[float, pydantic.Field(gt=0)], ...],
    pydantic.BeforeValidator(lambda value: (value,) if isinstance(value, int | float) else value),
    pydantic.Field(min_length=1),
]


class TurnsConfig(Config):
    """Pauses and overlaps of conversations in which speakers take turns.

    Lengths are exponential with these means, or are drawn from those of real conversations. The
    means are ours.
    """

    same_pause: float = pydantic.Field(0.5, gt=0)
    """Mean pause in seconds before a speaker goes on."""
    pause: float = pydantic.Field(0.5, gt=0)
    """Mean pause in seconds before another speaker begins."""
    overlap: float = pydantic.Field(1.0, gt=0)
    """Mean time in seconds that another speaker begins before the end of the turn."""
    overlap_prob: float = pydantic.Field(0.3, ge=0, le=1)
    """Share of the changes of speaker that overlap."""
    like: str = ""
    """RTTM of real conversations whose pauses, overlaps and their share are drawn instead."""


class SimulationConfig(Config):
    """How conversations are put together from utterances of single speakers.

    Defaults are those of NTT's EEND-VC recipe for CALLHOME: three speakers with 10 to 20
    utterances each, silences of 10 s on average, a room for one speaker in ten, and background
    noise 10, 15 or 20 dB below the speech.
    """

    style: Literal["independent", "turns"] = "independent"
    """`independent`: every speaker's utterances, with exponential silences before them, are one
    track, and the tracks are summed (EEND, algorithm 1). `turns`: one utterance follows another,
    with a pause or an overlap."""
    speakers: Counts = (3,)
    """Numbers of speakers, each equally likely."""
    utterances: tuple[int, int] = (10, 20)
    """Fewest and most utterances of each speaker."""
    silence: Seconds = (10.0,)
    """Mean silence in seconds before an utterance where tracks are independent; one value, or one
    for each number of speakers."""
    turns: TurnsConfig = TurnsConfig()
    reverb_prob: float = pydantic.Field(0.1, ge=0, le=1)
    """Share of the speakers that get an impulse response, where there are any."""
    snr: tuple[float, ...] = (10.0, 15.0, 20.0)
    """Decibels of the speech over the background noise, each equally likely, where there is any."""
    noise_kinds: tuple[str, ...] = ("noise",)
    """Kinds of noises that are background."""
    levels: tuple[float, float] = (0.0, 0.0)
    """Lowest and highest gain in decibels that a speaker gets; the reference changes none."""
    telephone: bool = False
    """Send the sum through a telephone: 300 to 3400 Hz, 8 kHz, 8-bit mu-law. Speech that was
    recorded by telephone does not need it."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> SimulationConfig:
        if len(self.silence) not in (1, len(self.speakers)):
            raise ValueError("give one silence, or one for each number of speakers")
        if not 1 <= self.utterances[0] <= self.utterances[1]:
            raise ValueError("utterances: the fewest, at least 1, then the most")
        if self.levels[0] > self.levels[1]:
            raise ValueError("levels: the lowest, then the highest")
        return self


class ConversationBatchingConfig(Config):
    """Batches of chunks of one length."""

    size: int = pydantic.Field(64, ge=1)
    """Chunks in one batch of one process."""
    workers: int = pydantic.Field(2, ge=0)
    """Processes that read audio; 0 reads in the training process."""


class ConversationDataConfig(Config):
    """Training of a diarization model; defaults are those of NTT's EEND-VC recipe."""

    train: Paths = ()
    """Manifests of conversations; of utterances of single speakers where `simulate` is given."""
    valid: Paths = ()
    """Manifests of conversations to validate on."""
    speakers: str = ""
    """File with one training speaker a line, in the order of their numbers; empty takes those of
    the manifests, sorted."""
    slots: int = pydantic.Field(3, ge=1)
    """Most speakers of a chunk; chunks with more are left out."""
    chunk_seconds: float = pydantic.Field(15.0, gt=0)
    """Length of a chunk; the last chunk of a recording may be shorter."""
    min_seconds: float = pydantic.Field(1.0, gt=0)
    """Shorter chunks are left out. Ours."""
    simulate: SimulationConfig | None = None
    """Simulate while reading: every chunk is of a new conversation. None reads conversations."""
    batches_per_epoch: int = pydantic.Field(1000, ge=1)
    """What counts as an epoch where conversations are simulated while reading. Ours."""
    noise: Paths = ()
    """Manifests of noises for simulation; the field `kind` of a cut says of which kind."""
    rir: Paths = ()
    """Manifests of impulse responses for simulation."""
    batching: ConversationBatchingConfig = ConversationBatchingConfig()
