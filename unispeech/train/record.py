"""What identifies a run: its configuration and the checksums of what it reads.

Imports nothing heavy, so that a finished run is skipped and a wrong configuration is reported
before any process is started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unispeech.config import Config, defaults, flatten
from unispeech.errors import ConfigError
from unispeech.storage import sha256

# Changing these changes neither the weights, beyond the order of sums, nor what is comparable
# between two runs.
NEUTRAL = ("train.log_every", "train.probe", "train.parallel", "data.batching.workers")


def describe_run(
    config: Config, inputs: Mapping[str, Sequence[str | Path]], world_size: int
) -> dict[str, Any]:
    """The flat configuration that must not change within a run, with its inputs' checksums.

    Files that are missing have no checksum; whoever reads them reports them.

    Args:
        config: the resolved configuration.
        inputs: files that the run reads, by what they are.
        world_size: number of processes.
    """
    flat = {k: v for k, v in flatten(config).items() if k not in NEUTRAL}
    files = [(name, path) for name, paths in inputs.items() for path in paths]
    sums = {f"sha256({name} {p})": sha256(p) for name, p in files if Path(p).is_file()}
    return {**flat, "processes": world_size, **sums}


def is_done(folder: Path, config: Config, flat: Mapping[str, Any]) -> bool:
    """Whether this very run has finished, on however many processes.

    Args:
        folder: the experiment folder.
        config: the resolved configuration.
        flat: what `describe_run` says of it.

    Raises:
        ConfigError: a different run has finished or begun in this folder.
    """
    record = folder / "run.json"
    done = (folder / "done.json").is_file()
    if record.is_file():
        saved = json.loads(record.read_text())
        if done:
            # A model that was trained on a cluster is as finished on a laptop.
            saved["processes"] = flat["processes"]
        # A setting that came with a later version has the value that the run had without it.
        unsaid = {k: v for k, v in defaults(config).items() if k in flat and k not in saved}
        check_same_config({**unsaid, **saved}, flat, folder)
    return done


def check_same_config(saved: Mapping[str, Any], current: Mapping[str, Any], where: Path) -> None:
    """Raise a ConfigError that lists what changed since the run began.

    Args:
        saved: flat configuration of the run.
        current: flat configuration of this command.
        where: the experiment folder.
    """
    changed = [
        f"{key}: {saved.get(key)} -> {current.get(key)}"
        for key in sorted(set(saved) | set(current))
        if saved.get(key) != current.get(key)
    ]
    if changed:
        raise ConfigError(
            "the configuration changed since this run began",
            where=where,
            found="; ".join(changed),
            remedy="use another folder, or delete this one to start again",
        )
