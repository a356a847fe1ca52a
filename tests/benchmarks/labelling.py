"""What labels of a layer cost beside the encoder's forward pass.

    python tests/benchmarks/labelling.py [--threads 2] [--repeats 5] [--models wavlm_base ...]
        [--device cpu] [--utterances N] [--clusters 500] [--json FILE]

FLAC files of 4 to 15 s (10 of them, on a GPU 1000) are read, their states computed and assigned to
centroids, as `label` does; in turn with that, the encoder alone gets the same batches, which then
lie in its device's memory. Weights are random.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from common import Table, save, timed
from lhotse import MonoCut

from unispeech.data.features import LayerExtractor
from unispeech.data.labelling import label_cuts
from unispeech.data.recordings import find_recordings
from unispeech.models.encoder import Encoder
from unispeech.models.families import PRESETS

RATE = 16000
COLUMNS = {
    "model": "s", "layer": "d", "audio s": ".0f", "labels: audio s/s": ".1f",
    "encoder: audio s/s": ".1f", "more than the encoder": ".1%",
}  # fmt: skip


def write_audio(folder: Path, count: int) -> list[MonoCut]:
    """Noise as FLAC."""
    rng = np.random.default_rng(0)
    for number in range(count):
        noise = 0.1 * rng.standard_normal(round(rng.uniform(4.0, 15.0) * RATE))
        soundfile.write(folder / f"{number:04}.flac", noise.astype(np.float32), RATE)
    return list(find_recordings(folder))


def passes(
    name: str, cuts: list[MonoCut], clusters: int, device: str
) -> tuple[int, Callable[[], None], Callable[[], None]]:
    """The layer; a pass that labels all utterances; a pass of the encoder alone."""
    torch.manual_seed(0)
    encoder = Encoder(PRESETS[name].encoder).eval().to(device)
    layer = 3 * encoder.config.layers // 4
    extractor = LayerExtractor(encoder, layer)
    rng = np.random.default_rng(1)
    centroids = rng.standard_normal((clusters, encoder.config.dim)).astype(np.float32)
    calls: list[tuple[Any, Any]] = []

    def label() -> None:
        for _ in label_cuts(cuts, extractor, centroids):
            pass

    def encode() -> None:
        with torch.inference_mode():
            for words, options in calls:
                encoder(*words, **options)

    hook = encoder.register_forward_pre_hook(
        lambda _, words, options: calls.append((words, options)), with_kwargs=True
    )
    label()
    hook.remove()
    return layer, label, encode


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=PRESETS, default=["wavlm_base"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--utterances", type=int)
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table(COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        count = args.utterances or (10 if args.device == "cpu" else 1000)
        cuts = write_audio(Path(folder), count)
        seconds = sum(cut.duration for cut in cuts)
        for name in args.models:
            layer, label, encode = passes(name, cuts, args.clusters, args.device)
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(args.repeats + 1):
                times[0].append(timed(label, args.device))
                times[1].append(timed(encode, args.device))
            labels, alone = (statistics.median(side[1:]) for side in times)
            table.add(name, layer, seconds, seconds / labels, seconds / alone, labels / alone - 1)
    save(args.json, [table], args.device)


if __name__ == "__main__":
    main()
