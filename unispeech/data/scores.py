"""Scores of trials: lines "enrollment<TAB>test<TAB>score", in any order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from unispeech.data.trials import Trials
from unispeech.errors import DataError
from unispeech.storage import atomic_path

FloatArray = npt.NDArray[np.float64]


def write_scores(path: Path, trials: Trials, scores: FloatArray) -> None:
    """Write a line "enrollment<TAB>test<TAB>score" for each trial; scores read back exactly."""
    names = trials.ids
    rows = zip(trials.enrollment.tolist(), trials.test.tolist(), scores.tolist(), strict=True)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{names[e]}\t{names[t]}\t{score!r}\n" for e, t, score in rows)


def read_scores(path: Path, trials: Trials) -> FloatArray:
    """Scores of all trials, float64 `(N,)`, from lines "enrollment test score" in any order.

    Raises:
        DataError: a line has another form, a trial has no score or two different ones, or a score
            has no trial.
    """
    numbers = {name: number for number, name in enumerate(trials.ids)}
    size = len(trials.ids)
    keys: list[int] = []
    values: list[float] = []
    strangers: list[str] = []
    for place, (one, other, text) in _rows(path):
        try:
            values.append(float(text))
        except ValueError:
            raise DataError("not a score", where=place, expected="number", found=text) from None
        known = one in numbers and other in numbers
        keys.append(numbers[one] * size + numbers[other] if known else -1)
        if not known:
            strangers.append(f"{one} {other}")
    wanted = trials.enrollment * size + trials.test
    found = np.array(keys, dtype=np.int64)
    scores = np.array(values)
    order = np.argsort(found, kind="stable")
    found, scores = found[order], scores[order]
    twice = (found[1:] == found[:-1]) & (found[1:] >= 0) & (scores[1:] != scores[:-1])
    if twice.any():
        left, right = divmod(int(found[1:][twice][0]), size)
        raise DataError(
            "a trial with different scores",
            where=path,
            found=f"{int(twice.sum())}, the first {trials.ids[left]} {trials.ids[right]}",
            remedy="keep one line for each trial",
        )
    unknown = ~np.isin(found, wanted)
    if unknown.any():
        if not strangers:
            left, right = divmod(int(found[unknown][0]), size)
            strangers = [f"{trials.ids[left]} {trials.ids[right]}"]
        raise DataError(
            "scores without a trial",
            where=path,
            found=f"{int(unknown.sum())}, the first {strangers[0]}",
            remedy="give the list that was scored",
        )
    absent = ~np.isin(wanted, found)
    if absent.any():
        row = int(np.flatnonzero(absent)[0])
        first = f"{trials.ids[trials.enrollment[row]]} {trials.ids[trials.test[row]]}"
        raise DataError(
            "trials without a score",
            where=path,
            found=f"{int(absent.sum())} of {len(wanted)}, the first {first}",
            remedy="score the whole list",
        )
    return scores[np.searchsorted(found, wanted)]


def _rows(path: Path) -> list[tuple[str, list[str]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("cannot read the scores", where=path, found=error) from None
    rows = []
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t") if "\t" in line else line.split()
        if len(fields) != 3:
            raise DataError(
                "wrong number of columns",
                where=f"{path}:{number}",
                expected="3: enrollment, test, score",
                found=len(fields),
            )
        rows.append((f"{path}:{number}", fields))
    return rows
