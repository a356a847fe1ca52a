"""What `mixtures.yaml` of a recipe holds: rooms, pairs of utterances, conversations."""

from __future__ import annotations

from typing import Literal

import pydantic
from libricss import CONDITIONS

from unispeech.config import Config
from unispeech.data.config import MixtureDataConfig, Range, RoomConfig


class ConversationConfig(Config):
    """Test conversations in the manner of LibriCSS; its conditions, eight speakers, ten minutes.

    LibriCSS was played in an office; levels and noise of simulated conversations are ours.
    """

    conditions: tuple[str, ...] = tuple(CONDITIONS)
    speakers: int = pydantic.Field(8, ge=1)
    """In each conversation."""
    utterances: int = pydantic.Field(80, ge=1)
    """In each conversation; fewer where its speakers have fewer."""
    channels: Literal[1, 7] = 7
    energy_ratio: Range = (-5.0, 5.0)
    """Decibels between two speakers at most."""
    snr: Range = (10.0, 20.0)
    """Decibels of the speech over the diffuse noise."""
    level: Range = (-33.0, -23.0)
    """In dB of full scale."""

    @pydantic.field_validator("conditions")
    @classmethod
    def _known(cls, conditions: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in conditions if name not in CONDITIONS]
        if unknown or not conditions:
            raise ValueError(f"conditions must be some of {', '.join(CONDITIONS)}")
        return conditions


class SimulationConfig(Config):
    """All that is simulated before a training and after it."""

    rooms: RoomConfig = RoomConfig()
    """Of the responses for training, and of the conversations."""
    pairs: MixtureDataConfig = MixtureDataConfig()
    """Mixtures of two utterances for validation, or for training on stored ones."""
    conversations: ConversationConfig = ConversationConfig()
