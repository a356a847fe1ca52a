"""An experiment folder: what was asked for, on which machine, and what came out."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unispeech.config import Config, dump
from unispeech.storage import sha256, write_json, write_text
from unispeech.train import state
from unispeech.train.config import TrainConfig
from unispeech.train.parallel import Process

PACKAGES = ("torch", "lhotse", "numpy", "scikit-learn", "kaldifst", "kaldi-decoder", "pydantic")


def begin(folder: Path, config: Config, flat: Mapping[str, Any], process: Process) -> None:
    """Write the configuration, the environment and the command."""
    (folder / "log").mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", dump(config))
    write_json(folder / "run.json", dict(flat))
    write_json(folder / "env.json", environment(process.world_size))
    command = [Path(sys.executable).name, "-m", "unispeech", *sys.argv[1:]]
    write_text(folder / "command.txt", shlex.join(command) + "\n")


def finish(folder: Path, model: nn.Module, config: TrainConfig, minutes: float) -> Path:
    """Average the chosen checkpoints into the final model and write `done.json`."""
    checkpoints = state.CheckpointFolder(folder / "checkpoints", config.keep_last, config.keep_best)
    chosen = checkpoints.best() if config.final == "best" else checkpoints.steps()[::-1]
    steps = chosen[: config.final_count]
    final = checkpoints.folder / "final.pt"
    state.save(final, state.average([checkpoints.path(step) for step in steps]))
    scores = checkpoints.scores()
    done = {
        "step": config.updates,
        "minutes": round(minutes, 2),
        "checkpoint": str(final.relative_to(folder)),
        "averaged_steps": steps,
        "sha256": sha256(final),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": config.seed,
        "best": min(scores.values()) if scores else None,
    }
    write_json(folder / "done.json", done)
    return final


def environment(world_size: int) -> dict[str, Any]:
    """Versions, machine and the state of the source tree."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lhotse": importlib.metadata.version("lhotse"),
        "host_os": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
