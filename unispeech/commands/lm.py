"""Train a Transformer language model on text.

`data.train` and `data.valid` are text files, one sentence a line, or transcribed manifests, also
compressed. Runs under torchrun (`utils/launch.sh lm ...`) or alone. The same command continues an
interrupted run and skips a finished one. Validation prints the perplexity of words.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from unispeech.commands._training import add_arguments as add_arguments
from unispeech.commands._training import pending_run, read_config, run_training
from unispeech.train.language_modelling_config import LanguageModelTrainingConfig


def run(args: argparse.Namespace) -> None:
    """Train as configured."""
    config = read_config(args, LanguageModelTrainingConfig)
    if config is None:
        return
    data = config.data
    inputs: dict[str, Sequence[str | Path]] = {
        "text": [*data.train, *data.valid],
        "vocabulary": [path for path in (data.vocabulary, data.pieces) if path],
    }
    flat = pending_run(args, config, inputs)
    if flat is None:
        return

    # Imported only now: skipping a finished run takes no time.
    from unispeech.train.language_modelling import LanguageModelTask
    from unispeech.train.parallel import process_group

    with process_group() as process:
        task = LanguageModelTask(config, process)
        if process.is_main:
            corpus = task.corpus
            print(
                f"{len(task.vocabulary):,} {data.units}, {len(corpus):,} sentences of"
                f" {corpus.words.sum():,} words ({corpus.left_out:,} too long)",
                flush=True,
            )
        description = {
            "kind": "language_model",
            "language_model": config.model.model_dump(mode="json"),
            "vocabulary": task.vocabulary.state(),
        }
        model = task.model()
        run_training(model, task, config, args.output, flat, description, process)
