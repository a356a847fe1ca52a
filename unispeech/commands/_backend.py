"""Embeddings to scores of trials, for `trials` and `verify`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unispeech.data.embeddings import Embeddings, read_embeddings
from unispeech.data.trials import Trials
from unispeech.errors import DataError
from unispeech.score import normalisation

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def add_backend_options(parser: argparse.ArgumentParser) -> None:
    """How embeddings become scores."""
    parser.add_argument(
        "--mean", type=Path, metavar="DIR", help="embeddings whose mean is subtracted from all"
    )
    parser.add_argument(
        "--cohort", type=Path, metavar="DIR", help="embeddings of the speakers of AS-norm"
    )
    parser.add_argument("--top", type=int, default=300, help="closest speakers of the cohort (300)")


class Backend(NamedTuple):
    """How embeddings become scores; `record` says it in values that can be compared."""

    mean: FloatArray | None
    cohort: FloatArray | None
    top: int
    record: dict[str, str | int | None]

    @property
    def title(self) -> str:
        """`cosine` or `AS-norm`."""
        return "cosine" if self.cohort is None else "AS-norm"


def backend(args: argparse.Namespace, model: str) -> Backend:
    """The mean and the cohort that the options name.

    Args:
        args: with the options of `add_backend_options`.
        model: SHA-256 of the model of the trials' embeddings.

    Raises:
        DataError: no such embeddings, of another model, or a cohort without speakers.
    """
    mean = cohort = None
    record: dict[str, str | int | None] = {"mean": None, "cohort": None, "top": None}
    if args.mean is not None:
        found = _same_model(args.mean, model)
        mean, record["mean"] = normalisation.mean_embedding(found.values), found.digest
    if args.cohort is not None:
        found = _same_model(args.cohort, model)
        if not all(found.speakers):
            raise DataError(
                "a cohort with utterances of unknown speakers",
                where=args.cohort,
                found=f"{found.speakers.count('')} of {len(found.speakers)}",
                remedy="run embed on a manifest whose supervisions name the speakers",
            )
        cohort = normalisation.cohort_vectors(found.values, found.speakers, mean)
        record |= {"cohort": found.digest, "top": min(args.top, len(cohort))}
    return Backend(mean, cohort, args.top, record)


def _same_model(folder: Path, model: str) -> Embeddings:
    found = read_embeddings(folder)
    if found.model != model:
        raise DataError(
            "embeddings of another model",
            where=folder,
            expected=model[:12],
            found=found.model[:12],
            remedy="run embed with the model of the trials",
        )
    return found


class Scored(NamedTuple):
    """Scores of trials, and the quality of every utterance by name."""

    scores: FloatArray
    qualities: dict[str, FloatArray]


def score(
    how: Backend,
    values: npt.NDArray[np.float32],
    durations: FloatArray,
    trials: tuple[IntArray, IntArray],
    ids: Sequence[str],
) -> Scored:
    """Score trials.

    Args:
        how: from `backend`.
        values: embeddings `(N, D)` of the utterances of the trials.
        durations: seconds of each.
        trials: rows of both sides.
        ids: names of the utterances.

    Raises:
        DataError: an embedding is zero or not finite.
    """
    norms = normalisation.norms(values, how.mean, ids)
    scores = normalisation.cosine_scores(values, *trials, how.mean)
    qualities = {"duration": durations, "norm": norms}
    if how.cohort is not None:
        found = normalisation.cohort_statistics(values, how.cohort, how.top, how.mean)
        scores = normalisation.as_norm(scores, *trials, found)
        qualities["cohort"] = found.mean
    return Scored(scores, qualities)


def score_list(
    how: Backend, embeddings: Embeddings, listed: Trials, where: Path
) -> tuple[Scored, list[str]]:
    """Scores of a list of trials, and the speaker of each of its utterances.

    Raises:
        DataError: an utterance of the list has no embedding, or one without direction.
    """
    rows = embeddings.rows(listed.ids, where)
    values, durations = embeddings.values[rows], embeddings.durations[rows]
    sides = listed.enrollment, listed.test
    found = score(how, values, durations, sides, listed.ids)
    return found, [embeddings.speakers[row] for row in rows]
