"""What a recipe would run, as its dry run prints it."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(recipe: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Dry run of `egs/RECIPE/run.sh`."""
    command = ["bash", str(ROOT / "egs" / recipe / "run.sh"), *options, "--dry-run", "true"]
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def commands(recipe: str, *options: str) -> list[list[str]]:
    """The words of every command."""
    result = start(recipe, *options)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if not line.startswith("#")]
    return [shlex.split(line) for line in lines]


def with_word(found: list[list[str]], word: str) -> list[list[str]]:
    """The commands that have a word."""
    return [words for words in found if word in words]


def after(words: list[str], option: str) -> str:
    """The value of an option."""
    return words[words.index(option) + 1]
