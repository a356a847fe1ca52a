"""The task of language modelling: the next unit of sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from unispeech.data.loading import batches
from unispeech.data.sampling import BEGINNING, Position
from unispeech.data.text import Corpus, TextBatch, TextDataset, TextStream
from unispeech.data.vocabulary import PADDING, build_vocabulary
from unispeech.errors import DataError
from unispeech.models.language_model import LanguageModel
from unispeech.train.language_modelling_config import LanguageModelTrainingConfig
from unispeech.train.parallel import Process, all_sum
from unispeech.train.task import LossOutput


class LanguageModelTask:
    """Predicts the text of a configuration.

    Raises:
        DataError: text is missing or cannot be read.
    """

    has_unused = False

    def __init__(self, config: LanguageModelTrainingConfig, process: Process) -> None:
        self.config = config
        self.process = process
        data = config.data
        for name, paths in (("train", data.train), ("valid", data.valid)):
            if not paths:
                raise DataError("no text given", remedy=f"set data.{name}, e.g. data.{name}=a.txt")
        self.vocabulary = build_vocabulary(
            data.train,
            data.units,
            pieces=data.pieces,
            words=data.vocabulary,
            min_count=data.min_count,
            max_words=data.max_words,
        )
        self.corpus = Corpus(data.train, self.vocabulary, data.max_units)
        self.valid_corpus = Corpus(data.valid, self.vocabulary)
        self.dataset = TextDataset(
            self.corpus, config.train.seed, self.vocabulary.rare, data.unknown_rate
        )

    def model(self) -> LanguageModel:
        """A new model; the same weights on every process."""
        torch.manual_seed(self.config.train.seed)
        return LanguageModel(self.config.model, len(self.vocabulary))

    def _stream(
        self, corpus: Corpus, start: Position = BEGINNING, epochs: int | None = None
    ) -> TextStream:
        units, seed = self.config.data.batch_units, self.config.train.seed
        ranks = (self.process.rank, self.process.world_size)
        return TextStream(corpus.lengths, units, seed, *ranks, start, epochs)

    def batches(self, start: Position) -> Iterator[TextBatch]:
        """Endless training batches from `start` on."""
        return batches(self.dataset, self._stream(self.corpus, start), 0)

    def largest_batches(self) -> list[TextBatch]:
        """The longest sentences, and the batch with most of them."""
        specs = list(self._stream(self.corpus, epochs=1))
        longest = max(specs, key=lambda spec: int(self.corpus.lengths[spec.sentences].max()))
        widest = max(specs, key=lambda spec: len(spec.sentences))
        return [self.dataset[longest], self.dataset[widest]]

    def loss(self, model: nn.Module, batch: TextBatch, update: int) -> LossOutput:
        """Cross entropy in nats, summed over units and sentence ends."""
        del update
        loss = -self._scores(model, batch).sum()
        units = int((batch.targets != PADDING).sum())
        return LossOutput(loss, units, {"words": torch.tensor(float(batch.words))})

    def _scores(self, model: nn.Module, batch: TextBatch) -> torch.Tensor:
        device = self.process.device
        tokens = batch.tokens.to(device, non_blocking=True)
        scores: torch.Tensor = model(tokens, batch.targets.to(device, non_blocking=True))
        return scores

    def metrics(self, sums: Mapping[str, float], size: float) -> dict[str, float]:
        """Perplexity of the words, whatever the units are."""
        del size
        return {"perplexity": _perplexity(sums["loss"], sums["words"])}

    def validate(self, model: nn.Module) -> tuple[dict[str, float], float]:
        """Nats per unit, and the perplexity of words, unknown ones included; the score is its log.

        The definition is that of `python -m unispeech perplexity`, with unknown words.
        """
        dataset = TextDataset(self.valid_corpus)
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in batches(dataset, self._stream(self.valid_corpus, epochs=1), 0):
            scores = self._scores(model, batch)
            units = float((batch.targets != PADDING).sum())
            sums += torch.tensor([-float(scores.double().sum()), units, float(batch.words)])
        total, units, words = all_sum(sums.to(self.process.device), self.process).tolist()
        values = {"loss": total / units, "perplexity": _perplexity(total, words)}
        return values, total / words


def _perplexity(nats: float, words: float) -> float:
    # A model that has just begun may be beyond what a float holds.
    return math.exp(min(nats / max(words, 1.0), 700.0))
