"""Average the weights of several checkpoints of one training."""

from __future__ import annotations

import argparse
from pathlib import Path

from unispeech.train import state


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("checkpoints", nargs="+", type=Path, help="checkpoints to average")


def run(args: argparse.Namespace) -> None:
    """Write the average."""
    state.save(args.output, state.average(args.checkpoints))
    print(f"{args.output}: average of {len(args.checkpoints)} checkpoints")
