"""Configuration of language-model training; importing it costs nothing."""

from __future__ import annotations

import pydantic

from unispeech.config import Config, Paths
from unispeech.data.config import TextUnits
from unispeech.models.language_model_config import LanguageModelConfig
from unispeech.train.config import OptimConfig, TrainConfig


class TextDataConfig(Config):
    """Where the text is, and what its units are."""

    train: Paths = ()
    """Text files, one sentence a line, or transcribed manifests; also compressed (.gz)."""
    valid: Paths = ()
    units: TextUnits = "words"
    pieces: str = ""
    """Model of sentencepiece, for units=pieces."""
    vocabulary: str = ""
    """Words to keep, one a line, what follows a word on its line being ignored; without it, those
    of the training text. Other words are unknown."""
    min_count: int = pydantic.Field(1, ge=1)
    """Words of the training text that are rarer are unknown."""
    max_words: int | None = pydantic.Field(None, ge=1)
    """Keep the most frequent ones only."""
    unknown_rate: float = pydantic.Field(0.5, ge=0, le=1)
    """How often a word that the training text has once is shown as unknown, so that the
    probability of unknown words is learnt; ours."""
    max_units: int = pydantic.Field(512, ge=2)
    """Longer sentences are left out of the training (fairseq's tokens_per_sample; recalled)."""
    batch_units: int = pydantic.Field(4096, ge=2)
    """Units of one batch of one process, padding included."""


class LanguageModelTrainingConfig(Config):
    """Training of a language model."""

    model: LanguageModelConfig = LanguageModelConfig()
    data: TextDataConfig = TextDataConfig()
    optim: OptimConfig = OptimConfig(lr=1e-4, eps=1e-8, clip=0.1, warmup=16000)
    """The rate is ours. Warm-up and clipping are those of Baevski & Auli 2019, section 4.3, which
    trains with Nesterov's momentum and a cosine schedule."""
    train: TrainConfig = TrainConfig(updates=286_000, final="best", keep_best=1)
    """The length is that of Baevski & Auli 2019, section 4.3 (recalled)."""
