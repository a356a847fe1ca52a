"""Fine-tune a pre-trained encoder with CTC.

Runs under torchrun (`utils/launch.sh finetune ...`) or alone. The same command continues an
interrupted run and skips a finished one. `random_init=true` keeps the encoder's shape but not its
weights: the control that shows what pre-training brings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from unispeech.commands._training import add_arguments as add_arguments
from unispeech.commands._training import pending_run, read_config, run_training
from unispeech.hub.registry import weights_file
from unispeech.storage import sha256
from unispeech.train.config import FinetuneConfig


def run(args: argparse.Namespace) -> None:
    """Fine-tune as configured."""
    config = read_config(args, FinetuneConfig)
    if config is None:
        return
    data = config.data
    inputs: dict[str, Sequence[str | Path]] = {
        "manifest": [*data.train, *data.valid],
        "tokens": [data.tokens],
        "init": [weights_file(config.init)],
    }
    flat = pending_run(args, config, inputs)
    if flat is None:
        return

    # Imported only now: skipping a finished run takes no time.
    import torch

    from unispeech.hub.load import load_model
    from unispeech.score.wer import edit_distance
    from unispeech.train.finetuning import CtcTask
    from unispeech.train.parallel import process_group

    init = load_model(config.init, dtype=torch.float32)
    encoder = init.config.model_copy(update=config.overrides.model_dump())
    with process_group() as process:
        task = CtcTask(config, encoder, process, edit_distance)
        model = task.model()
        if not config.random_init:
            model.encoder.load_state_dict(init.encoder.state_dict())
        description = {
            "kind": "ctc",
            "encoder": encoder.model_dump(mode="json"),
            "ctc": config.ctc.model_dump(mode="json"),
            "tokens": task.tokenizer.tokens,
            "units": task.tokenizer.units,
            "init_sha256": sha256(weights_file(config.init)),
        }
        run_training(model, task, config, args.output, flat, description, process)
