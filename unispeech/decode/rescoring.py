"""n-best lists with the scores of further language models, and how to weigh these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unispeech.decode.nbest import Entry
from unispeech.decode.scales import Distance, Table, count_errors, minimise, tabulate
from unispeech.decode.scorers import Scorer

# Raise it when the same lists give other weights.
VERSION = 1

Lists = dict[str, list[Entry]]

_SCALES = (0.0, 4.0)
_INSERTIONS = (-6.0, 6.0)


class Mixture(NamedTuple):
    """What the logarithms of several language models count.

    Attributes:
        lm_scale: of the language model that the lists were made with.
        scales: of the further ones, by name.
        word_insertion: added for every word.
    """

    lm_scale: float
    scales: Mapping[str, float]
    word_insertion: float

    def total(self, entry: Entry) -> float:
        """Log score of a hypothesis."""
        further = sum(scale * entry.scores[name] for name, scale in self.scales.items())
        words = len(entry.text.split())
        return entry.acoustic + self.lm_scale * entry.lm + further + self.word_insertion * words


def add_scores(lists: Mapping[str, Sequence[Entry]], scorers: Mapping[str, Scorer]) -> Lists:
    """Give every hypothesis ln P(words) by each language model, every text scored once.

    Args:
        lists: hypotheses by utterance.
        scorers: language models by the names that their scores get.
    """
    texts = list(dict.fromkeys(entry.text for entries in lists.values() for entry in entries))
    by_text = {
        name: dict(zip(texts, scorer.score(texts), strict=True)) for name, scorer in scorers.items()
    }
    return {
        utt_id: [
            entry._replace(
                scores={
                    **entry.scores,
                    **{name: scores[entry.text] for name, scores in by_text.items()},
                }
            )
            for entry in entries
        ]
        for utt_id, entries in lists.items()
    }


def choose(lists: Mapping[str, Sequence[Entry]], mixture: Mixture) -> dict[str, str]:
    """The text with the best total of every utterance; none where the list is empty."""
    return {
        utt_id: max(entries, key=mixture.total).text if entries else ""
        for utt_id, entries in lists.items()
    }


def tune_mixture(
    lists: Mapping[str, Sequence[Entry]],
    references: Mapping[str, str],
    names: Sequence[str],
    distance: Distance,
    first_pass: Mixture,
) -> dict[str, Any]:
    """Weights with the fewest word errors on lists that have their references.

    Each language model is first tuned alone, with the number of words; all of them together
    then start from these and from the first pass, so they never make more errors than any.

    Args:
        lists: hypotheses by utterance, with the scores of all language models.
        references: words by utterance.
        names: the further language models.
        distance: edit distance of two word sequences.
        first_pass: the weights that the lists were made with.

    Returns:
        The weights (`lm_scale`, `scales`, `word_insertion`), `errors`, and `table`: the first
        pass, each model alone, and the mixture, as `columns` says.

    Raises:
        DataError: an utterance has no reference.
    """
    table = tabulate(lists, references, names, distance)
    count = len(names) + 2
    start = np.zeros(count)
    start[[0, -1]] = first_pass.lm_scale, first_pass.word_insertion
    starts = [tuple(start.tolist())]
    for model in range(count - 1):
        starts.append(_alone(table, model, first_pass))
    limits = [_SCALES] * (count - 1) + [_INSERTIONS]
    best = minimise(table, starts[::-1], limits)
    points = [*starts, best.values]
    errors, _ = count_errors(table, np.array(points).T)
    return {
        "lm_scale": best.values[0],
        "scales": dict(zip(names, best.values[1:-1], strict=True)),
        "word_insertion": best.values[-1],
        "errors": best.errors,
        "utterances": len(lists),
        "columns": ["lm_scale", *(f"{name}_scale" for name in names), "word_insertion", "errors"],
        "table": [[*point, int(n)] for point, n in zip(points, errors, strict=True)],
    }


def _alone(table: Table, model: int, first_pass: Mixture) -> tuple[float, ...]:
    """Weights of one language model and of words, with the other models left out."""
    own = table._replace(features=table.features[..., [model, -1]])
    start = (first_pass.lm_scale, first_pass.word_insertion)
    scale, insertion = minimise(own, [start], [_SCALES, _INSERTIONS]).values
    weights = [0.0] * table.features.shape[2]
    weights[model], weights[-1] = scale, insertion
    return tuple(weights)
