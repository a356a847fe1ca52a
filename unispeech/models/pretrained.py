"""The checkpoints of our own trainings, and the recogniser inside."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unispeech.config import ConfigT
from unispeech.errors import DataError
from unispeech.models.config import CtcConfig, EncoderConfig
from unispeech.models.ctc import CtcModel
from unispeech.storage import final_checkpoint


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain containers only, nothing in it is executed.

    Raises:
        DataError: the file is missing, truncated or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("no such checkpoint", where=path, remedy="train it, or give another path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        raise DataError(
            "cannot read the checkpoint",
            where=path,
            expected="a file written by this package, tensors and plain containers only",
            found=str(error).splitlines()[0][:200],
        ) from None
    if not isinstance(state, dict):
        raise DataError("not a checkpoint", where=path, found=type(state).__name__)
    return state


class Recogniser(NamedTuple):
    """A fine-tuned model, the symbols of its columns, and what they are: letters or phones."""

    model: CtcModel
    tokens: list[str]
    units: str


def load_recogniser(path: str | Path, device: str | torch.device = "cpu") -> Recogniser:
    """A fine-tuned model of ours, in evaluation mode, and its tokens.

    Raises:
        DataError: not such a checkpoint.
    """
    file = final_checkpoint(path)
    state = read_checkpoint(file)
    if "tokens" not in state:
        raise DataError(
            "not a recogniser", where=file, found="no tokens", remedy="give a fine-tuned checkpoint"
        )
    ctc = validated(CtcConfig, state.get("ctc"), file)
    encoder = validated(EncoderConfig, state.get("encoder"), file)
    model = CtcModel(encoder, ctc, len(state["tokens"]))
    _load_weights(model, state["model"], file)
    units = str(state.get("units", "letters"))
    return Recogniser(model.eval().to(device), list(state["tokens"]), units)


def validated(
    schema: type[ConfigT],
    values: Any,
    path: Path,
    what: str = "the checkpoint's configuration does not fit this version",
) -> ConfigT:
    """A configuration from what a checkpoint holds.

    Raises:
        DataError: `what`, when the values do not fit the schema.
    """
    try:
        return schema.model_validate(values)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(what, where=path, found=reason) from None


def _load_weights(module: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    problems = [f"missing {n} {own[n]}" for n in sorted(set(own) - set(given))]
    problems += [f"unexpected {n} {given[n]}" for n in sorted(set(given) - set(own))]
    problems += [
        f"{n} is {given[n]}, not {own[n]}"
        for n in sorted(set(own) & set(given))
        if own[n] != given[n]
    ]
    if problems:
        raise DataError("the weights do not fit", where=path, found="; ".join(problems))
    module.load_state_dict(weights)
