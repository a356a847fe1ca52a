"""One row of a results file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unispeech.config import Config

PAPER_ROW = "paper row"
"""The condition that names the published number a row is compared with."""


class Result(Config):
    """One row of a results file, as CONTRIBUTING.md describes it.

    `value`, `low`, `high` (95 % interval) and `paper` are in the unit of `metric`; `paper` is None
    where no published number is about the same data and model. `minutes` is the training time of
    everything that led to the system. `conditions` says how the system was scored.
    """

    recipe: str
    dataset: str
    system: str
    metric: str
    value: float
    low: float
    high: float
    paper: float | None
    conditions: dict[str, str | int | float | bool | None]
    config: str
    command: str
    commit: str
    checkpoint_sha256: str
    seed: int | None
    minutes: float | None

    @property
    def state(self) -> str:
        """`reproduced` when the paper's value lies in the interval, else by how much it is off."""
        if self.paper is None:
            return "no paper number: other data"
        if self.low <= self.paper <= self.high:
            return "reproduced"
        return f"off by {self.value - self.paper:+.1f}"

    @property
    def decoding(self) -> str:
        """How emissions became words: `greedy`, `graph`, `graph_4gram` or `rescored`."""
        return str(self.conditions.get("decoding", ""))

    @property
    def key(self) -> tuple[str, ...]:
        """Rows with equal keys are the same measurement; the later one replaces the earlier."""
        lm = str(self.conditions.get("LM"))
        return (
            self.recipe, self.dataset, self.metric, self.decoding, lm, self.command, self.system
        )  # fmt: skip


def training_facts(model: object) -> dict[str, Any]:
    """What the folder of a model says of its training, as far as it does."""
    found: dict[str, Any] = {}
    if not isinstance(model, (str, Path)) or not Path(model).is_dir():
        return found
    for name in ("done.json", "env.json"):
        try:
            values = json.loads((Path(model) / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        known = ("seed", "minutes", "commit")
        found |= {key: values[key] for key in known if values.get(key) is not None}
        if values.get("commit") and values.get("dirty"):
            found["commit"] = f"{values['commit']}-dirty"
    if "minutes" in found:
        found["minutes"] = round(float(found["minutes"]), 1)
    return found
