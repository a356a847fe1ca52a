"""Train a separation model: masks of two speakers and noise from magnitudes and encoder states.

Runs under torchrun (`utils/launch.sh separation ...`) or alone. The same command continues an
interrupted run and skips a finished one. `model.encoder=` gives the pre-trained encoder of a first
stage; `init=` continues from a stage before; `model.features=magnitude` needs neither.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from unispeech.commands._training import add_arguments as add_arguments
from unispeech.commands._training import pending_run, read_config, run_training
from unispeech.errors import ConfigError
from unispeech.hub.registry import weights_file
from unispeech.storage import sha256
from unispeech.train.separation_config import SeparationTrainingConfig


def run(args: argparse.Namespace) -> None:
    """Train as configured."""
    config = read_config(args, SeparationTrainingConfig)
    if config is None:
        return
    _check(config)
    data = config.data
    given = [source for source in (config.init, config.model.encoder) if source]
    inputs: dict[str, Sequence[str | Path]] = {
        "manifest": [*data.train, *data.valid, *data.noise, *data.rir],
        "init": [weights_file(source) for source in given],
    }
    flat = pending_run(args, config, inputs)
    if flat is None:
        return

    # Imported only now: skipping a finished run takes no time.
    import torch

    from unispeech.hub.load import load_model
    from unispeech.hub.separation import KIND, load_separation_model
    from unispeech.score.separation import si_sdr
    from unispeech.train.initial import first_separation
    from unispeech.train.parallel import process_group
    from unispeech.train.separation import SeparationTask

    with process_group() as process:
        task = SeparationTask(config, process, si_sdr)
        source = config.model.encoder
        encoder = load_model(source, dtype=torch.float32).encoder if source else None
        init = load_separation_model(config.init) if config.init else None
        model = task.prepare(first_separation(config.model, init, encoder, config.train.seed))
        if process.is_main:
            print(f"{len(task.training.cuts):,} utterances or mixtures", flush=True)
        inner = model.encoder
        description = {
            "kind": KIND,
            "encoder": None if inner is None else inner.config.model_dump(mode="json"),
            "separation": model.config.model_dump(mode="json"),
            "init_sha256": [sha256(weights_file(source)) for source in given],
        }
        run_training(model, task, config, args.output, flat, description, process)


def _check(config: SeparationTrainingConfig) -> None:
    """Raise a ConfigError when it is not clear where the encoder comes from."""
    has_encoder = bool(config.model.encoder)
    wants_encoder = config.model.features == "ssl" and not config.init
    if has_encoder and not wants_encoder:
        raise ConfigError(
            "key 'model.encoder' has no place here",
            found=f"init={config.init}" if config.init else "model.features=magnitude",
            remedy="leave model.encoder out: init has an encoder, and magnitudes need none",
        )
    if wants_encoder and not has_encoder:
        raise ConfigError(
            "key 'model.encoder' is missing",
            expected="a pre-trained model, or init=",
            remedy="set model.encoder, or model.features=magnitude for the baseline",
        )
