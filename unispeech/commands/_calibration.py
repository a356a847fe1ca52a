"""Calibrations with the scoring that they belong to, for `trials` and `verify`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pydantic

from unispeech.commands._backend import Backend, FloatArray, IntArray, Scored
from unispeech.errors import DataError, UsageError
from unispeech.score import calibration
from unispeech.storage import write_json

QUALITIES = ("duration", "norm", "cohort")


def chosen_qualities(text: str | None, has_cohort: bool) -> tuple[str, ...]:
    """The names in `--quality`; None is all that there are.

    Raises:
        UsageError: an unknown name, or `cohort` without one.
    """
    known = QUALITIES if has_cohort else QUALITIES[:2]
    if text is None:
        return known
    names = () if text == "none" else tuple(text.split(","))
    if not set(names) <= set(known):
        wanted = f"none, or some of {','.join(known)}"
        raise UsageError("no such quality", where="--quality", expected=wanted, found=text)
    return tuple(name for name in known if name in names)


def measures(
    found: Scored, trials: tuple[IntArray, IntArray], names: Sequence[str]
) -> tuple[tuple[str, ...], FloatArray]:
    """What a calibration with these qualities sees of the trials."""
    own = {name: found.qualities[name] for name in names}
    return calibration.trial_measures(found.scores, *trials, own)


def qualities_of(model: calibration.Calibration) -> tuple[str, ...]:
    """The qualities that a calibration was trained with."""
    return tuple(name for name in QUALITIES if f"{name}_min" in model.measures)


def write_calibration(
    path: Path, model: calibration.Calibration, how: Backend, trials: int
) -> None:
    """Write a calibration with the scoring that it belongs to."""
    write_json(path, {**model.model_dump(mode="json"), "scoring": how.record, "trials": trials})


def read_calibration(path: Path, how: Backend) -> calibration.Calibration:
    """A calibration for scores that are made in this way.

    Raises:
        DataError: no calibration, or one of scores with another mean or cohort.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        scoring = found.pop("scoring")
        found.pop("trials", None)
        model = calibration.Calibration.model_validate(found)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, pydantic.ValidationError) else error
        remedy = "trials --calibrate-on writes one"
        raise DataError("not a calibration", where=path, found=first, remedy=remedy) from None
    if scoring != how.record:
        wrong = [name for name, value in how.record.items() if scoring.get(name) != value]
        raise DataError(
            "the calibration belongs to scores that were made otherwise",
            where=path,
            found=f"another value of --{' and --'.join(wrong)}",
            remedy="give the options with which it was trained",
        )
    return model
