"""Checkpoints: what a run needs to continue, and averages of weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unispeech.errors import DataError, StorageError
from unispeech.models.pretrained import read_checkpoint
from unispeech.storage import TEMPORARY, atomic_path, write_json

STEP_FILE = re.compile(r"step-(\d+)\.pt")
RUNNING = ("optimizer", "position", "precision")
"""What only a run that goes on needs of a checkpoint."""


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Raises:
        StorageError: the disk is full or not writable; an older file of that name stays.
    """
    try:
        with atomic_path(path) as temporary:
            torch.save(dict(state), temporary)
    except (OSError, RuntimeError) as error:
        # torch reports a failed write as a RuntimeError of its zip writer.
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise StorageError(
            "cannot write the checkpoint",
            where=path,
            found=reason,
            remedy="free some space and run the same command again: it continues from the last"
            " complete checkpoint",
        ) from None


class CheckpointFolder:
    """Keeps the last and the best checkpoints of a run.

    Args:
        folder: `checkpoints/` of the experiment.
        keep_last: how many of the newest to keep.
        keep_best: how many of the best to keep.
    """

    def __init__(self, folder: Path, keep_last: int, keep_best: int) -> None:
        self.folder = folder
        self.keep_last = keep_last
        self.keep_best = keep_best

    def path(self, step: int) -> Path:
        """File of the checkpoint after `step` updates."""
        return self.folder / f"step-{step:08d}.pt"

    def steps(self) -> list[int]:
        """Updates of the complete checkpoints, ascending."""
        if not self.folder.is_dir():
            return []
        matches = (STEP_FILE.fullmatch(file.name) for file in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def latest(self) -> Path | None:
        """The newest checkpoint."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def remove_unfinished(self) -> None:
        """Delete what a killed process has left of a file that it was writing."""
        for path in self.folder.glob(TEMPORARY):
            path.unlink(missing_ok=True)

    def scores(self) -> dict[int, float]:
        """Validation score of each update that was validated; lower is better."""
        path = self.folder / "scores.json"
        if not path.is_file():
            return {}
        return {int(k): float(v) for k, v in json.loads(path.read_text()).items()}

    def best(self) -> list[int]:
        """Updates of the kept checkpoints with the lowest scores, best first."""
        kept = set(self.steps())
        ranked = sorted((score, step) for step, score in self.scores().items() if step in kept)
        return [step for _, step in ranked[: self.keep_best]]

    def save(self, step: int, state: Mapping[str, Any], score: float | None) -> None:
        """Note the score, write the checkpoint and remove those that are neither last nor best.

        In this order: a run that is killed in between writes both again, while a checkpoint
        without its score would never be validated.
        """
        scores = {k: v for k, v in self.scores().items() if k < step}
        if score is not None:
            scores[step] = score
        write_json(self.folder / "scores.json", scores)
        save(self.path(step), state)
        keep = set(self.steps()[-self.keep_last :]) | set(self.best())
        for old in set(self.steps()) - keep:
            self.path(old).unlink()


def average(paths: Sequence[Path]) -> dict[str, Any]:
    """The first checkpoint with the mean of all weights and without its optimizer state.

    Args:
        paths: checkpoints of one architecture.

    Raises:
        DataError: no checkpoint, or different weights.
    """
    if not paths:
        raise DataError("no checkpoint to average")
    first = read_checkpoint(paths[0])
    total: dict[str, Tensor] = {k: v.double() for k, v in first["model"].items()}
    for path in paths[1:]:
        other = read_checkpoint(path)["model"]
        if {k: v.shape for k, v in other.items()} != {k: v.shape for k, v in total.items()}:
            raise DataError("checkpoints of different models", where=path, expected=paths[0])
        for name, value in other.items():
            total[name] += value.double()
    weights = {k: (v / len(paths)).to(first["model"][k].dtype) for k, v in total.items()}
    kept = {k: v for k, v in first.items() if k not in RUNNING}
    return {**kept, "model": weights, "averaged": [path.name for path in paths]}
