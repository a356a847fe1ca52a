"""Runs of a recipe on the corpus that it synthesises.

Five recipes would take the tests most of an hour. The recipe of the README's command runs whole;
the others train one of their systems for an eighth of the updates, too little to learn by. With
UNISPEECH_RECIPES=whole in the environment all run whole, and what they learnt is compared with what
chance would give.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]

# Twice what a recipe is allowed to take, for a busy machine; less than the tests' own limit.
LIMIT = 1750

WHOLE = os.environ.get("UNISPEECH_RECIPES") == "whole"
SHARE = 8
SYSTEMS = {
    "voxceleb": ("fbank", "frozen", "joint", "large_margin"),
    "libricss": ("magnitude", "frozen", "joint"),
    "callhome": ("fbank", "frozen", "adapted"),
}
# What a configuration counts in updates.
COUNTED = {
    "optim": ("warmup", "hold", "decay"),
    "train": ("updates", "log_every", "validate_every", "checkpoint_every"),
}


def environment() -> dict[str, str]:
    # Tests run side by side: threads of several processes on the same cores wait for each other.
    return {**os.environ, "OMP_NUM_THREADS": "1", "UNISPEECH_PYTHON": sys.executable}


def start(recipe: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `egs/RECIPE/run.sh`."""
    command = ["bash", str(ROOT / "egs" / recipe / "run.sh"), *options]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False
    )


def shortened(recipe: str, folder: Path) -> Path:
    """A folder `tiny` with the recipe's small configurations, of an eighth of the updates."""
    short = folder / "tiny"
    if short.exists():
        return short
    shutil.copytree(ROOT / "egs" / recipe / "conf/tiny", short)
    for path in short.glob("*.yaml"):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        for section, names in COUNTED.items():
            values = config.get(section, {})
            values.update({name: -(-values[name] // SHARE) for name in names if values.get(name)})
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return short


def systems(recipe: str) -> tuple[str, ...]:
    """What the recipe trains here."""
    return SYSTEMS[recipe] if WHOLE else ("frozen",)


def finish(recipe: str, exp: Path, *more: str) -> str:
    """What the recipe with `--tiny true` printed; it has to succeed."""
    options = ["--tiny", "true", "--exp", str(exp), *more]
    if recipe != "librispeech" and not WHOLE:
        options += ["--conf", str(shortened(recipe, exp.parent))]
    if recipe in SYSTEMS:
        options += ["--systems", " ".join(systems(recipe))]
    result = start(recipe, *options)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert "Traceback" not in result.stderr
    return result.stdout
