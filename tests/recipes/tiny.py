"""Runs of a recipe on the corpus that it synthesises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Twice what a recipe is allowed to take, for a busy machine; less than the tests' own limit.
LIMIT = 1750


def environment() -> dict[str, str]:
    # The recipe sets the threads itself; it uses the environment that runs the tests.
    kept = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    return {**kept, "UNISPEECH_PYTHON": sys.executable}


def start(recipe: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `egs/RECIPE/run.sh`."""
    command = ["bash", str(ROOT / "egs" / recipe / "run.sh"), *options]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False
    )


def finish(recipe: str, exp: Path, *more: str) -> str:
    """What the recipe with `--tiny true` printed; it has to succeed."""
    result = start(recipe, "--tiny", "true", "--exp", str(exp), *more)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert "Traceback" not in result.stderr
    return result.stdout
