"""Pre-train an encoder by masked prediction of frame labels.

Runs under torchrun (`utils/launch.sh pretrain ...`) or alone. The same command continues an
interrupted run and skips a finished one.
"""

from __future__ import annotations

import argparse

from unispeech.commands._training import add_arguments as add_arguments
from unispeech.commands._training import pending_run, read_config, run_training
from unispeech.train.config import PretrainConfig


def run(args: argparse.Namespace) -> None:
    """Pre-train as configured."""
    config = read_config(args, PretrainConfig)
    if config is None:
        return
    data = config.data
    inputs = {
        "manifest": [*data.train, *data.valid, *data.noise],
        "labels": [f"{data.labels}/labels.json"],
    }
    flat = pending_run(args, config, inputs)
    if flat is None:
        return

    # Imported only now: skipping a finished run takes no time.
    from unispeech.train.parallel import process_group
    from unispeech.train.pretraining import PretrainTask

    with process_group() as process:
        task = PretrainTask(config, process)
        model = task.model()
        description = {
            "kind": "pretrain",
            "encoder": config.model.model_dump(mode="json"),
            "objective": config.objective.model_dump(mode="json"),
            "clusters": task.labels.clusters,
        }
        run_training(model, task, config, args.output, flat, description, process)
