"""How whole recordings are diarized; importing it costs nothing."""

from __future__ import annotations

import pydantic

from unispeech.config import Config


class DiarizeConfig(Config):
    """Chunks, clustering and smoothing; defaults are the UniSpeech authors'."""

    chunk: float = pydantic.Field(30.0, gt=0)
    """Seconds of a chunk."""
    overlap: float = pydantic.Field(0.0, ge=0)
    """Seconds that neighbouring chunks share; each keeps its half. The authors have none."""
    silence: float = pydantic.Field(0.05, ge=0, le=1)
    """A slot with this mean activity in a chunk, or less, is empty."""
    distance: float = pydantic.Field(1.0, ge=0, le=2)
    """Clusters of speaker vectors are joined up to this mean distance."""
    threshold: float = pydantic.Field(0.4, ge=0, lt=1)
    """Somebody speaks where the activity is greater (the authors' default; NTT chooses the best of
    0.3 to 0.7)."""
    median: float = pydantic.Field(1.0, ge=0)
    """Seconds of the median filter over decisions: 25 frames at 25 a second, 11 at 10; 0 for
    none."""
    min_speech: float = pydantic.Field(0.0, ge=0)
    """Shorter segments are left out; ours."""
    min_silence: float = pydantic.Field(0.0, ge=0)
    """Shorter gaps of a speaker are filled first; ours."""
    max_speakers: int | None = pydantic.Field(None, ge=1)
    """Where more are found, so many; None for no limit."""

    @pydantic.model_validator(mode="after")
    def _chunks_advance(self) -> DiarizeConfig:
        if self.overlap > self.chunk / 2:
            raise ValueError("overlap must be at most half of chunk")
        return self
