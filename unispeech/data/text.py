"""Text for language models: corpora of unit ids, and their batches."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from unispeech.data.sampling import BEGINNING, Position, stable_seed
from unispeech.data.vocabulary import END, PADDING, UNKNOWN, Vocabulary, read_sentences
from unispeech.errors import DataError


class Corpus:
    """Sentences as unit ids, in one array.

    Args:
        paths: text files or manifests.
        vocabulary: gives the ids.
        max_units: longer sentences are left out; None keeps all.

    Raises:
        DataError: there is no sentence.
    """

    def __init__(
        self, paths: Sequence[str | Path], vocabulary: Vocabulary, max_units: int | None = None
    ) -> None:
        self.left_out = 0
        # Arrays of the standard library grow in place: a corpus of a billion words fits.
        units, lengths, words = array("i"), array("i"), array("i")
        for path in paths:
            for sentence in read_sentences(path):
                ids = vocabulary.encode(sentence)
                if max_units is not None and len(ids) > max_units:
                    self.left_out += 1
                    continue
                units.extend(ids)
                lengths.append(len(ids))
                words.append(sentence.count(" ") + 1)
        if not lengths:
            raise DataError(
                "no sentence is left",
                where=", ".join(map(str, paths)) or None,
                remedy="give text files or manifests with transcripts",
            )
        self.units, self.lengths, self.words = (
            np.frombuffer(values, dtype=np.intc) for values in (units, lengths, words)
        )
        self._starts = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> npt.NDArray[np.int32]:
        return self.units[self._starts[index] : self._starts[index + 1]]


class TextBatch(NamedTuple):
    """Sentences padded behind."""

    tokens: Tensor
    """`(B, T)` int64, END and the units."""
    targets: Tensor
    """`(B, T)` int64, the units and END."""
    words: int
    """Words of the sentences, their ends included."""
    ids: list[str]
    position: Position
    seconds: float
    """0: there is no audio."""


class TextSpec(NamedTuple):
    """Which sentences make a batch."""

    position: Position
    sentences: npt.NDArray[np.int64]


class TextDataset(Dataset[TextBatch]):
    """Makes batches of a corpus.

    Args:
        corpus: the sentences.
        seed: of the units that are shown as unknown.
        rare: units from this id on are shown as unknown at times.
        unknown_rate: how often.
    """

    def __init__(
        self, corpus: Corpus, seed: int = 0, rare: int = 0, unknown_rate: float = 0.0
    ) -> None:
        self.corpus = corpus
        self.seed = seed
        self.rare = rare
        self.unknown_rate = unknown_rate

    def __getitem__(self, spec: TextSpec) -> TextBatch:
        rows = [self.corpus[index] for index in spec.sentences]
        tokens, targets = pad(rows)
        if self.unknown_rate > 0:
            rng = np.random.default_rng(stable_seed(self.seed, *spec.position, "unknown"))
            draws = torch.from_numpy(rng.random(tokens.shape)) < self.unknown_rate
            hidden = (targets >= self.rare) & draws
            targets[hidden] = UNKNOWN
            # What is predicted as unknown is unknown as history too.
            tokens[:, 1:][hidden[:, :-1]] = UNKNOWN
        return TextBatch(
            tokens=tokens,
            targets=targets,
            words=int(self.corpus.words[spec.sentences].sum()) + len(rows),
            ids=[f"sentence {index}" for index in spec.sentences],
            position=spec.position,
            seconds=0.0,
        )


def pad(sentences: Iterable[Sequence[int] | npt.NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
    """Inputs and targets `(B, longest + 1)` int64 of sentences of unit ids."""
    rows = [torch.as_tensor(np.asarray(row, dtype=np.int64)) for row in sentences]
    longest = max(map(len, rows))
    tokens = torch.full((len(rows), longest + 1), PADDING)
    targets = tokens.clone()
    for place, row in enumerate(rows):
        tokens[place, 0] = END
        tokens[place, 1 : len(row) + 1] = row
        targets[place, : len(row)] = row
        targets[place, len(row)] = END
    return tokens, targets


class TextStream(Sampler[TextSpec]):
    """Endless batches of sentences of similar lengths, a pure function of seed and position.

    Args:
        lengths: units of each sentence.
        batch_units: most units of a batch, padding and sentence ends included; a longer sentence
            is a batch of its own.
        seed: of the order.
        rank: of this process.
        world_size: number of processes; in an endless stream each gets as many batches.
        start: first batch to yield.
        epochs: number of epochs, None for endless.
    """

    def __init__(
        self,
        lengths: npt.NDArray[np.int32],
        batch_units: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: Position = BEGINNING,
        epochs: int | None = None,
    ) -> None:
        self.lengths = lengths
        self.batch_units = batch_units
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self.epochs = epochs

    def __iter__(self) -> Iterator[TextSpec]:
        epoch = self.start.epoch
        while self.epochs is None or epoch < self.epochs:
            skip = self.start.batch if epoch == self.start.epoch else 0
            own = self._epoch(epoch)[self.rank :: self.world_size]
            for index, sentences in enumerate(own):
                if index >= skip:
                    yield TextSpec(Position(epoch, index), sentences)
            epoch += 1

    def _epoch(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        rng = np.random.default_rng(stable_seed(self.seed, epoch, "text"))
        order = np.lexsort((rng.random(len(self.lengths)), self.lengths))
        batches = plan(self.lengths[order], self.batch_units)
        shuffled = [order[batches[i]] for i in rng.permutation(len(batches))]
        missing = -len(shuffled) % self.world_size
        if self.epochs is None and missing:
            shuffled += (shuffled * self.world_size)[:missing]
        return shuffled


def plan(lengths: npt.NDArray[np.int32], batch_units: int) -> list[slice]:
    """Cut ascending lengths into batches of at most `batch_units`, sentence ends included."""
    batches, begin = [], 0
    while begin < len(lengths):
        most = max(1, batch_units // (int(lengths[begin]) + 1))
        end = bisect.bisect_right(
            range(begin + 1, min(begin + most, len(lengths)) + 1),
            batch_units,
            key=lambda stop: (stop - begin) * (int(lengths[stop - 1]) + 1),
        )
        end = begin + max(end, 1)
        batches.append(slice(begin, end))
        begin = end
    return batches
