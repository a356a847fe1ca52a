"""Compute CTC log-probabilities once and store them for any number of decodings.

--pieces takes each supervision of the manifest for an utterance of its own, named by its id: of
separated streams these are the pieces in which somebody speaks. --window keeps memory bounded where
utterances are long.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unispeech.errors import DataError, UsageError
from unispeech.hub.registry import weights_file
from unispeech.storage import sha256

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from unispeech.models.ctc import CtcModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--model",
        required=True,
        help="experiment folder or checkpoint, or a CTC model of Hugging Face: folder, owner/name",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the emissions")
    parser.add_argument("--pieces", action="store_true", help="each supervision is an utterance")
    parser.add_argument(
        "--window",
        type=float,
        metavar="SECONDS",
        help="encode longer utterances in windows of so many (default: whole)",
    )
    parser.add_argument("--device", help="cuda or cpu (default: cuda if there)")
    parser.add_argument("manifest", help="utterances to recognise")


def run(args: argparse.Namespace) -> None:
    """Write the emissions of every utterance, one at a time: no padding."""
    if args.window is not None and args.window < 1:
        raise UsageError("--window must be at least a second", found=args.window)
    checkpoint = weights_file(args.model)
    about: dict[str, Any] = {"checkpoint_sha256": sha256(checkpoint)}
    about["manifest_sha256"] = sha256(args.manifest)
    # What was stored without these options keeps its description.
    about |= {name: getattr(args, name) for name in ("pieces", "window") if getattr(args, name)}
    done = args.output / "emissions.json"
    if done.is_file() and _is_same(json.loads(done.read_text()).get("meta", {}), about):
        print(f"{args.output}: emissions are there, skipped")
        return

    # Imported only now: skipping what is there takes no time.
    import torch

    from unispeech.data.manifests import SAMPLING_RATE, load_cuts
    from unispeech.data.stream_pieces import pieces
    from unispeech.decode.emissions import EmissionWriter
    from unispeech.hub.recogniser import open_recogniser

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, tokens, units = open_recogniser(args.model, device)
    cuts = list(load_cuts(args.manifest))
    if args.pieces:
        cuts = [piece for cut in cuts for piece in pieces(cut)]
    meta = {**about, "model": str(args.model), "manifest": str(args.manifest), "units": units}
    shift = model.encoder.config.hop / SAMPLING_RATE
    with EmissionWriter(args.output, tokens, shift, meta) as writer:
        for cut in cuts:
            writer.write(cut.id, _log_probs(model, cut, args))
    print(f"{args.output}: emissions of {len(cuts)} utterances")


def _is_same(stored: dict[str, Any], about: dict[str, Any]) -> bool:
    keys = {*about, "pieces", "window"}
    return all(stored.get(key) == about.get(key) for key in keys)


def _log_probs(model: CtcModel, cut: Any, args: argparse.Namespace) -> npt.NDArray[np.float32]:
    import numpy as np
    import torch

    from unispeech.data.datasets import normalize
    from unispeech.data.manifests import read_audio
    from unispeech.decode.long import stream_emissions

    config = model.encoder.config
    waveform = read_audio(cut)
    if len(waveform) < config.receptive_field:
        raise DataError(
            f"utterance {cut.id} is too short",
            where=args.manifest,
            expected=f"at least {config.receptive_field} samples",
            found=len(waveform),
        )
    device = next(model.parameters()).device
    if args.window is not None:
        samples = torch.from_numpy(waveform)
        parts = stream_emissions(
            model, lambda a, b: samples[a:b].to(device), len(waveform), args.window, name=cut.id
        )
        return np.concatenate(list(parts))
    if config.normalize:
        waveform = normalize(waveform)
    with torch.inference_mode():
        log_probs, _ = model(torch.from_numpy(waveform)[None].to(device), None)
    found: npt.NDArray[np.float32] = log_probs[0].float().cpu().numpy()
    return found
