"""Write hidden states of a model for a folder, an audio file or a manifest of cuts.

Each recording gives one array `states/ID.npy`, `(frames, width)`, or `(frames, layers + 1, width)`
for `--layer all`, and `cuts.jsonl.gz` names them for lhotse: `cut.load_states()`. Recordings of any
length are encoded in windows. Finished recordings are skipped when the command runs again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unispeech.errors import DataError, UsageError
from unispeech.hub.registry import weights_file
from unispeech.storage import sha256, write_json

if TYPE_CHECKING:
    from unispeech.models.speech import SpeechModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--model", required=True, help="name, folder or file of a model")
    parser.add_argument("--wavs", required=True, type=Path, help="folder, audio file or manifest")
    parser.add_argument("--output", required=True, type=Path, help="folder for the states")
    parser.add_argument(
        "--layer",
        default="last",
        help="0 (encoder input) to L, last (after the final norm), all, or weighted",
    )
    parser.add_argument(
        "--weights", type=Path, help="JSON list of L + 1 weights for --layer weighted; else equal"
    )
    parser.add_argument("--resample", action="store_true", help="convert other sampling rates")
    parser.add_argument("--mono", action="store_true", help="average several channels")
    parser.add_argument("--window", type=float, default=30.0, help="seconds kept of one window")
    parser.add_argument("--context", type=float, default=5.0, help="seconds seen on each side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")


def run(args: argparse.Namespace) -> None:
    """Extract every recording."""
    if args.window <= 0 or args.context < 0:
        raise UsageError("--window must be positive and --context not negative")
    import torch

    from unispeech.data.recordings import FrameStore, SampleReader, find_recordings
    from unispeech.hub.load import load_model

    cuts = find_recordings(args.wavs)
    model = load_model(args.model, args.device, getattr(torch, args.dtype))
    until, weights = _selection(args, model)
    _check_same_settings(args)
    store = FrameStore(args.output, model.config.hop / 16000)
    for cut in cuts:
        reader = SampleReader(cut, args.resample, args.mono)
        if reader.samples < model.config.receptive_field:
            raise DataError(
                f"recording {cut.id} is too short",
                where=reader.path,
                expected=f"at least {model.config.receptive_field} samples",
                found=reader.samples,
            )
        shape = _shape(args.layer, model, reader.samples)
        if (args.output / "states" / store.key(cut)).is_file():
            store.add(cut, shape)
            continue
        store.write(cut, shape, _pieces(args, model, reader, until, weights))
        print(f"{cut.id}: {' x '.join(map(str, shape))}")
    print(f"{store.finish()}: states of {len(cuts)} recordings")


def _pieces(
    args: argparse.Namespace, model: SpeechModel, reader: Any, until: int | None, weights: Any
) -> Iterator[tuple[int, Any]]:
    import torch

    from unispeech.models.windows import encode_windows

    def read(start: int, stop: int) -> torch.Tensor:
        audio = torch.from_numpy(reader.read(start, stop))
        return audio.to(args.device, getattr(torch, args.dtype))

    lengths = (args.window, args.context)
    for piece in encode_windows(model.encoder, read, reader.samples, until, *lengths):
        if args.layer == "last":
            states = piece.last
        elif args.layer == "all":
            states = torch.stack(piece.states, 1)
        elif args.layer == "weighted":
            states = torch.tensordot(torch.stack(piece.states, 1).float(), weights, ([1], [0]))
        else:
            states = piece.states[-1]
        yield piece.first, states.float().cpu().numpy()


def _selection(args: argparse.Namespace, model: SpeechModel) -> tuple[int | None, Any]:
    import torch

    layers = model.config.layers
    if args.layer in ("last", "all"):
        return None, None
    if args.layer == "weighted":
        values = [1.0 / (layers + 1)] * (layers + 1)
        if args.weights:
            values = json.loads(args.weights.read_text(encoding="utf-8"))
        if len(values) != layers + 1:
            raise DataError("wrong number of weights", expected=layers + 1, found=len(values))
        return None, torch.tensor(values, dtype=torch.float32, device=args.device)
    if not args.layer.isdigit() or int(args.layer) > layers:
        raise UsageError(
            "no such layer",
            expected=f"0 to {layers}, last, all or weighted",
            found=args.layer,
        )
    return int(args.layer), None


def _shape(layer: str, model: SpeechModel, samples: int) -> tuple[int, ...]:
    from unispeech.models.frontend import output_length

    frames = output_length(samples, model.config.conv_layers)
    width = model.config.dim
    return (frames, model.config.layers + 1, width) if layer == "all" else (frames, width)


def _check_same_settings(args: argparse.Namespace) -> None:
    """Refuse to mix two extractions in one folder."""
    names = ("layer", "resample", "mono", "window", "context", "dtype")
    settings = {name: getattr(args, name) for name in names}
    settings["model_sha256"] = sha256(weights_file(args.model))
    settings["weights"] = sha256(args.weights) if args.weights else None
    path = args.output / "extract.json"
    is_begun = any((args.output / "states").rglob("[!.]*.npy"))
    if is_begun and path.is_file() and json.loads(path.read_text()) != settings:
        raise DataError(
            "the folder holds states of another model or other options",
            where=args.output,
            remedy="give another --output, or delete the folder",
        )
    write_json(path, settings)
