"""Train a speaker model: ECAPA-TDNN or another network on an encoder's layers or filter banks.

Runs under torchrun (`utils/launch.sh speaker ...`) or alone. The same command continues an
interrupted run and skips a finished one. `model.encoder=` gives the pre-trained encoder of a first
stage; `init=` continues from a stage before, its class vectors included.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unispeech.commands._training import add_arguments as add_arguments
from unispeech.commands._training import pending_run, read_config, run_training
from unispeech.errors import ConfigError
from unispeech.hub.registry import weights_file
from unispeech.storage import sha256
from unispeech.train.verification_config import VerificationConfig

if TYPE_CHECKING:
    from unispeech.hub.speaker import SavedSpeaker


def run(args: argparse.Namespace) -> None:
    """Train as configured."""
    config = read_config(args, VerificationConfig)
    if config is None:
        return
    _check(config)
    data = config.data
    given = [source for source in (config.init, config.model.encoder) if source]
    files = [path for path in (*data.train, *data.valid, *data.noise, *data.rir)]
    inputs: dict[str, Sequence[str | Path]] = {
        "manifest": files,
        "list": [path for path in (data.speakers, data.trials) if path],
        "init": [weights_file(source) for source in given],
    }
    flat = pending_run(args, config, inputs)
    if flat is None:
        return

    # Imported only now: skipping a finished run takes no time.
    import torch

    from unispeech.hub.load import load_model
    from unispeech.hub.speaker import read_speaker
    from unispeech.score.trials import curve, equal_error_rate
    from unispeech.train.initial import first_speaker
    from unispeech.train.parallel import process_group
    from unispeech.train.verification import VerificationTask, carry_classes

    with process_group() as process:
        saved = read_speaker(config.init) if config.init else None
        task = VerificationTask(
            config, process, lambda labels, scores: equal_error_rate(curve(labels, scores))
        )
        source = config.model.encoder
        on = load_model(source, dtype=torch.float32).encoder if source else None
        init = None if saved is None else saved.model
        model = task.model(first_speaker(config.model, init, on, config.train.seed))
        lines = _described(task)
        if saved is not None and config.init_classes == "load":
            wanted = (task.speakers, data.speeds)
            lines.append(carry_classes(model, *_classes_of(saved, config.init), wanted))
        if process.is_main:
            print("\n".join(lines), flush=True)
        encoder = model.speaker.encoder
        description = {
            "kind": "speaker",
            "encoder": None if encoder is None else encoder.config.model_dump(mode="json"),
            "speaker": model.speaker.config.model_dump(mode="json"),
            "speakers": list(task.speakers),
            "speeds": list(data.speeds),
            "sub_centres": config.loss.sub_centres,
            "init_sha256": [sha256(weights_file(source)) for source in given],
        }
        run_training(model, task, config, args.output, flat, description, process)


def _check(config: VerificationConfig) -> None:
    """Raise a ConfigError when it is not clear where the encoder comes from."""
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


def _described(task: Any) -> list[str]:
    trials = task.trials
    return [
        f"{len(task.speakers):,} speakers at {len(task.config.data.speeds)} speeds;"
        f" validation on {len(trials.labels):,} trials of {len(trials.ids):,} utterances"
    ]


def _classes_of(
    saved: SavedSpeaker, path: str
) -> tuple[Any, tuple[tuple[str, ...], tuple[float, ...]]]:
    if saved.classes is None or not saved.speakers:
        raise ConfigError(
            "the model that the training continues from does not name its training speakers",
            where=path,
            remedy="set init_classes=new",
        )
    return saved.classes, (saved.speakers, saved.speeds)
