"""One recording to its streams, for `separate`."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unispeech.errors import DataError, UnispeechError
from unispeech.hub.registry import weights_file
from unispeech.storage import sha256, write_json

SHORTEST = 1600
"""Samples below which there is nothing to separate: a tenth of a second."""
SETTINGS = (
    "oracle", "method", "whole", "history", "current", "future", "distance", "beam",
    "beam_context", "alone", "activity", "resample",
)  # fmt: skip


def check_settings(args: argparse.Namespace) -> None:
    """Refuse to mix two ways of separation in one folder.

    Raises:
        DataError: the folder holds streams of another model or other options.
    """
    settings = {name: getattr(args, name) for name in SETTINGS}
    settings["model_sha256"] = None if args.oracle else sha256(weights_file(args.model))
    path = args.output / "separate.json"
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) == settings:
            return
        if any(args.output.rglob("activity.json")):
            raise DataError(
                "the folder holds streams of another model or other options",
                where=args.output,
                remedy="give another --output, or delete the folder",
            )
    write_json(path, settings)


def refuse_repeated(cuts: Sequence[Any], where: Path) -> None:
    """Raise a DataError when two recordings have one name."""
    seen: set[str] = set()
    for cut in cuts:
        if cut.id in seen:
            raise DataError(
                f"two recordings are called {cut.id}",
                where=where,
                remedy="give them different ids, or names that differ by more than the suffix",
            )
        seen.add(cut.id)


def separate_recording(cut: Any, model: Any, args: argparse.Namespace) -> None:
    """Write the streams of one recording and when they are active.

    Args:
        cut: the recording.
        model: a separation model, or None for masks from the references.
        args: options of `separate`.

    Raises:
        DataError: the audio is missing or damaged, too short, silent, badly clipped, or of one
            channel where an array is asked for; there are no references.
        NumericsError: a mask is not finite.
    """
    import numpy as np
    import torch

    from unispeech.data.streams import ChannelReader, stream_files, write_activity
    from unispeech.models.separation_config import SeparationConfig
    from unispeech.models.stft import Stft
    from unispeech.separate.activity import active_pieces
    from unispeech.separate.pipeline import separate
    from unispeech.separate.windows import Grid

    reader = ChannelReader(cut, args.method == "mvdr", args.resample)
    reader.require(SHORTEST)
    shape = SeparationConfig() if model is None else model.config
    stft = Stft(shape.window, shape.fft, shape.hop)
    source = (_tensors(reader.read), reader.samples)
    estimate = _estimate(cut, model, stft, reader.samples, args)
    settings = _settings(args, stft)
    folder = args.output / cut.id
    # Small arrays that live long, made one by one between large ones, would keep the memory of the
    # large ones from being used again.
    levels = np.empty((2, shape.speakers, Grid(stft, reader.samples).frames), np.float32)
    done = 0
    with stream_files(folder, shape.speakers) as writer:
        try:
            for part in separate(*source, stft, estimate, shape.speakers, settings):
                writer.write(part.audio.numpy())
                begun, done = done, done + part.share.shape[1]
                levels[:, :, begun:done] = torch.stack([part.share, part.power]).numpy()
        except UnispeechError as error:
            error.where = error.where or reader.where
            raise
        warning = reader.verdict(args.allow_clipped)
    pieces = active_pieces(levels[0], levels[1], stft.hop / 16000, args.activity)
    seconds = [[_seconds(piece, stft, reader.samples) for piece in one] for one in pieces]
    write_activity(folder, cut, reader.samples, seconds)
    if warning:
        _warn(warning)
    if writer.cut_off:
        _warn(f"{reader.where}: {writer.cut_off} samples of the streams beyond full scale cut off")


def _estimate(cut: Any, model: Any, stft: Any, samples: int, args: argparse.Namespace) -> Any:
    """What gives masks."""
    from unispeech.data.streams import read_references
    from unispeech.separate.pipeline import ModelMasks, OracleMasks

    if model is None:
        return OracleMasks(stft, _tensors(functools.partial(read_references, cut)), samples)
    return ModelMasks(model, args.device)


def _tensors(read: Any) -> Any:
    import torch

    return lambda start, stop: torch.from_numpy(read(start, stop))


def _settings(args: argparse.Namespace, stft: Any) -> Any:
    from unispeech.separate.pipeline import Settings
    from unispeech.separate.windows import Plan

    lengths = (args.history, args.current, args.future)
    plan = None if args.whole else Plan.of_seconds(stft, 16000, *lengths)
    beam, context = (round(s * 16000 / stft.hop) for s in (args.beam, args.beam_context))
    blocks = (beam, context, args.alone)
    return Settings(plan, args.method, args.distance, args.batch, *blocks)


def _seconds(piece: tuple[int, int], stft: Any, samples: int) -> tuple[float, float]:
    """Seconds of frames, each of which stands for the hop in the middle of its window."""
    middle = (stft.size - stft.hop) // 2 - stft.margin
    first, last = (frame * stft.hop + middle for frame in piece)
    return round(max(0, first) / 16000, 4), round(min(samples, last) / 16000, 4)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
