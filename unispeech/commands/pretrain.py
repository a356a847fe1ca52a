"""Pre-train an encoder: masked prediction of frame labels, contrast, or UniSpeech's multitask.

Runs under torchrun (`utils/launch.sh pretrain ...`) or alone. The same command continues an
interrupted run and skips a finished one. `init=` continues from a released or own model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unispeech.commands._training import add_arguments as add_arguments
from unispeech.commands._training import pending_run, read_config, run_training
from unispeech.hub.registry import weights_file
from unispeech.models.objective import MultitaskConfig, family_of
from unispeech.storage import sha256
from unispeech.train.config import PretrainConfig

if TYPE_CHECKING:
    from unispeech.train.multitask import MultitaskTask
    from unispeech.train.parallel import Process
    from unispeech.train.pretraining import PretrainTask


def run(args: argparse.Namespace) -> None:
    """Pre-train as configured."""
    config = read_config(args, PretrainConfig)
    if config is None:
        return
    data = config.data
    # A folder is one of shards; what is in it is listed in its description.
    train = [f"{path}/shards.json" if Path(path).is_dir() else path for path in data.train]
    inputs: dict[str, Sequence[str | Path]] = {
        "manifest": [*train, *data.valid, *data.noise, *data.unlabelled],
        "labels": [f"{folder}/labels.json" for folder in data.labels],
        "tokens": [data.tokens] if data.tokens else [],
        "init": [weights_file(config.init)] if config.init else [],
    }
    flat = pending_run(args, config, inputs)
    if flat is None:
        return

    # Imported only now: skipping a finished run takes no time.
    from unispeech.hub.load import FORMAT, load_model
    from unispeech.train.initial import shape_of, start_from
    from unispeech.train.parallel import process_group

    init = load_model(config.init) if config.init else None
    if init is not None:
        config = config.model_copy(update={"model": shape_of(config.model, init.config)})
    with process_group() as process:
        task = _task(config, process)
        model = task.model()
        if init is not None:
            for line in start_from(model, init, config.init_heads):
                if process.is_main:
                    print(line, flush=True)
        description = {
            "format": FORMAT,
            "kind": "pretrain",
            "family": family_of(config.model, config.objective),
            "encoder": config.model.model_dump(mode="json"),
            "heads": model.heads.config.model_dump(mode="json"),
            "objective": config.objective.model_dump(mode="json"),
            "tokens": list(task.tokens),
            "init_sha256": sha256(weights_file(config.init)) if config.init else None,
        }
        run_training(model, task, config, args.output, flat, description, process)


def _task(config: PretrainConfig, process: Process) -> PretrainTask | MultitaskTask:
    if isinstance(config.objective, MultitaskConfig):
        from unispeech.score.wer import edit_distance
        from unispeech.train.multitask import MultitaskTask

        return MultitaskTask(config, process, edit_distance)
    from unispeech.train.pretraining import PretrainTask

    return PretrainTask(config, process)
