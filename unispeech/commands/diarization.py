"""Train a diarization model: EEND-VC on an encoder's layers or on filter banks.

Runs under torchrun (`utils/launch.sh diarization ...`) or alone. The same command continues an
interrupted run and skips a finished one. `model.encoder=` gives the pre-trained encoder of a first
stage; `init=` continues from a stage before, or adapts it to other speakers (init_table=extract).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unispeech.commands._training import add_arguments as add_arguments
from unispeech.commands._training import pending_run, read_config, run_training
from unispeech.errors import ConfigError
from unispeech.hub.registry import weights_file
from unispeech.storage import sha256
from unispeech.train.diarization_config import DiarizationConfig

if TYPE_CHECKING:
    from unispeech.hub.diarization import SavedDiarization
    from unispeech.models.diarization import EendTraining
    from unispeech.train.diarization import DiarizationTask


def run(args: argparse.Namespace) -> None:
    """Train as configured."""
    config = read_config(args, DiarizationConfig)
    if config is None:
        return
    _check(config)
    given = [source for source in (config.init, config.model.encoder) if source]
    flat = pending_run(args, config, _inputs(config, given))
    if flat is None:
        return

    # Imported only now: skipping a finished run takes no time.
    import torch

    from unispeech.hub.diarization import read_diarization
    from unispeech.hub.load import load_model
    from unispeech.train.diarization import DiarizationTask
    from unispeech.train.initial import first_eend
    from unispeech.train.parallel import process_group

    with process_group() as process:
        saved = read_diarization(config.init) if config.init else None
        source = config.model.encoder
        on = load_model(source, dtype=torch.float32).encoder if source else None
        init = None if saved is None else saved.model
        eend = first_eend(config.model, init, on, config.train.seed)
        task = DiarizationTask(config, eend.config, process)
        model = task.model(eend)
        is_new = not any((args.output / "checkpoints").glob("step-*.pt"))
        line = _start(model, task, saved) if is_new else "continues"
        if process.is_main:
            print(f"{len(task.speakers):,} training speakers; {line}", flush=True)
        encoder = eend.encoder
        description = {
            "kind": "diarization",
            "encoder": None if encoder is None else encoder.config.model_dump(mode="json"),
            "eend": eend.config.model_dump(mode="json"),
            "speakers": list(task.speakers),
            "init_sha256": [sha256(weights_file(source)) for source in given],
        }
        run_training(model, task, config, args.output, flat, description, process)


def _start(model: EendTraining, task: DiarizationTask, saved: SavedDiarization | None) -> str:
    """Set the vectors of the training speakers; what was done, for the log."""
    import torch

    from unispeech.train.diarization import carry_table

    if saved is None:
        return "their vectors are new"
    if saved.scale is not None:
        with torch.no_grad():
            model.alpha.copy_(saved.scale[0])
            model.beta.copy_(saved.scale[1])
    if task.config.init_table == "load":
        return carry_table(model, saved.table, saved.speakers, task.speakers)
    if task.config.init_table == "extract":
        return task.extract_table(model)
    return "their vectors are new"


def _inputs(config: DiarizationConfig, given: Sequence[str]) -> dict[str, Sequence[str | Path]]:
    data = config.data
    lists = [data.speakers, data.simulate.turns.like if data.simulate else ""]
    return {
        "manifest": [*data.train, *data.valid, *data.noise, *data.rir],
        "list": [path for path in lists if path],
        "init": [weights_file(source) for source in given],
    }


def _check(config: DiarizationConfig) -> None:
    """Raise a ConfigError when it is not clear where encoder or vectors come from."""
    has_encoder = bool(config.model.encoder)
    wants_encoder = config.model.features == "ssl" and not config.init
    if has_encoder and not wants_encoder:
        raise ConfigError(
            "key 'model.encoder' has no place here",
            found=f"init={config.init}" if config.init else "model.features=fbank",
            remedy="leave model.encoder out: init has an encoder, and filter banks need none",
        )
    if wants_encoder and not has_encoder:
        raise ConfigError(
            "key 'model.encoder' is missing",
            expected="a pre-trained model, or init=",
            remedy="set model.encoder, or model.features=fbank for filter banks",
        )
    if config.init_table == "extract" and not config.init:
        raise ConfigError(
            "key 'init_table': there is no model to extract the vectors of speakers with",
            found="extract",
            remedy="set init, or leave init_table out",
        )
