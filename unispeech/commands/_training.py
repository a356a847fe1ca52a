"""What `pretrain`, `finetune` and `lm` have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from unispeech.config import Config, dump, load
from unispeech.errors import UsageError
from unispeech.train.record import describe_run, is_done

if TYPE_CHECKING:
    from torch import nn

    from unispeech.train.parallel import Process
    from unispeech.train.task import Task

NOT_DONE = 4
"""Exit code of `--is-done` when there is something to train."""

ConfigT = TypeVar("ConfigT", bound=Config)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of a training command."""
    parser.add_argument(
        "--config", action="append", default=[], help="YAML file; repeat to merge left to right"
    )
    parser.add_argument("--output", type=Path, help="experiment folder")
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )
    parser.add_argument(
        "--is-done",
        type=int,
        metavar="PROCESSES",
        help=f"only tell whether this training on so many processes has finished: exit 0 or"
        f" {NOT_DONE}",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override the files")


def read_config(args: argparse.Namespace, schema: type[ConfigT]) -> ConfigT | None:
    """The configuration, or None after printing it for `--print-config`."""
    config = load(schema, args.config, args.overrides)
    if args.print_config:
        print(dump(config), end="")
        return None
    if args.output is None:
        raise UsageError("--output is missing", remedy="give the experiment folder")
    return config


def pending_run(
    args: argparse.Namespace, config: Config, inputs: Mapping[str, Sequence[str | Path]]
) -> dict[str, Any] | None:
    """The identity of the run, or None when it has finished.

    Raises:
        ConfigError: another run is in the folder.
        SystemExit: with `--is-done`, when there is something to train.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1")) if args.is_done is None else args.is_done
    flat = describe_run(config, inputs, processes)
    if is_done(args.output, config, flat):
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"{args.output}: already trained, skipped")
        return None
    if args.is_done is not None:
        sys.exit(NOT_DONE)
    return flat


def run_training(
    model: nn.Module,
    task: Task,
    config: Any,
    folder: Path,
    flat: Mapping[str, Any],
    description: Mapping[str, Any],
    process: Process,
) -> None:
    """Train, average the final model and mark the folder as done."""
    from unispeech.train import experiment
    from unispeech.train.loop import train
    from unispeech.train.parallel import barrier

    if process.is_main:
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
        experiment.begin(folder, config, flat, process)
    barrier(process)
    contents = {**description, "config": dict(flat)}
    minutes = train(model, task, config.train, config.optim, folder, contents, process)
    if process.is_main:
        final = experiment.finish(folder, model, config.train, minutes)
        print(f"final model: {final}")
    barrier(process)
