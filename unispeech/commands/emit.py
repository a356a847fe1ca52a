"""Compute CTC log-probabilities once and store them for any number of decodings."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from unispeech.errors import DataError
from unispeech.storage import final_checkpoint, sha256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--model", required=True, help="experiment folder or checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="folder of the emissions")
    parser.add_argument("--device", help="cuda or cpu (default: cuda if there)")
    parser.add_argument("manifest", help="utterances to recognise")


def run(args: argparse.Namespace) -> None:
    """Write the emissions of every utterance, one at a time: no padding."""
    checkpoint = final_checkpoint(args.model)
    sums = {"checkpoint_sha256": sha256(checkpoint), "manifest_sha256": sha256(args.manifest)}
    done = args.output / "emissions.json"
    if done.is_file() and sums.items() <= json.loads(done.read_text()).get("meta", {}).items():
        print(f"{args.output}: emissions are there, skipped")
        return

    # Imported only now: skipping what is there takes no time.
    import torch

    from unispeech.data.datasets import normalize
    from unispeech.data.manifests import SAMPLING_RATE, load_cuts, read_audio
    from unispeech.decode.emissions import EmissionWriter
    from unispeech.models.pretrained import load_recogniser

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, tokens, units = load_recogniser(checkpoint, device)
    config = model.encoder.config
    cuts = load_cuts(args.manifest)
    meta = {**sums, "model": str(args.model), "manifest": str(args.manifest), "units": units}
    with (
        torch.inference_mode(),
        EmissionWriter(args.output, tokens, config.hop / SAMPLING_RATE, meta) as writer,
    ):
        for cut in cuts:
            waveform = read_audio(cut)
            if len(waveform) < config.receptive_field:
                raise DataError(
                    f"utterance {cut.id} is too short",
                    where=args.manifest,
                    expected=f"at least {config.receptive_field} samples",
                    found=len(waveform),
                )
            if config.normalize:
                waveform = normalize(waveform)
            log_probs, _ = model(torch.from_numpy(waveform)[None].to(device), None)
            writer.write(cut.id, log_probs[0].float().cpu().numpy())
    print(f"{args.output}: emissions of {len(cuts)} utterances")
