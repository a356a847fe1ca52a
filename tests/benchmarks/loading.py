"""What one core reads: batches of pre-training from files and from shards.

    python tests/benchmarks/loading.py [--utterances 400] [--repeats 5] [--speech FOLDER]
        [--json FILE]

Audio is FLAC of 12 to 16 s, or what lies below FOLDER. A batch is read, cropped, mixed with
WavLM's settings and made into tensors, in the process that measures, on one thread. Files and
shards take their turns. The last column is what eight H200 that train Base at 40 % of 790 TFLOP/s
would consume, in cores that read.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from common import Table, save, work
from lhotse import CutSet

from unispeech.data.config import BatchingConfig, CropConfig, MixingConfig
from unispeech.data.datasets import PretrainDataset
from unispeech.data.loading import batches
from unispeech.data.manifests import write_cuts
from unispeech.data.recordings import find_recordings
from unispeech.data.sampling import BatchStream
from unispeech.data.shard_export import export_shards
from unispeech.data.shard_stream import ShardStream
from unispeech.data.shards import ShardFolder

RATE = 16000
DEMAND = 8 * 0.4 * 790e3 / (3 * work("wavlm_base", [10.0]) / 10)
"""Seconds of audio that eight GPUs take in a second."""
COLUMNS = {"source": "s", "audio s/s of a core": ".0f", "batches": "d", "cores for 8 H200": ".1f"}


def write_audio(folder: Path, count: int) -> None:
    """Noise that rises and falls, as FLAC."""
    rng = np.random.default_rng(0)
    for number in range(count):
        size = round(rng.uniform(12.0, 16.0) * RATE)
        level = 0.1 * np.abs(np.sin(np.arange(size) / RATE * 12))
        noise = level * rng.standard_normal(size)
        soundfile.write(folder / f"{number:05}.flac", noise.astype(np.float32), RATE)


def sources(folder: Path, speech: Path) -> dict[str, Callable[[int], Any]]:
    """Streams of an epoch of batches, by the name of what is read, for a seed."""
    manifest = folder / "train.jsonl.gz"
    cuts = list(find_recordings(speech))
    write_cuts(cuts, manifest)
    export_shards(manifest, folder / "shards", 100, 1)
    shards = ShardFolder(folder / "shards")
    batching = BatchingConfig(shuffle_buffer=max(1, min(2000, len(cuts) // 4)))

    def from_files(seed: int) -> BatchStream:
        return BatchStream(CutSet.from_cuts(cuts), batching, seed, epochs=1)

    def from_shards(seed: int) -> ShardStream:
        return ShardStream(shards, None, batching, CropConfig(), seed)

    return {"files": from_files, "shards": from_shards}


def read(stream: Any, limit: int) -> tuple[int, float]:
    """Batches, at most `limit`, and seconds of audio a second."""
    dataset = PretrainDataset([], CropConfig(), MixingConfig(), 0, 320, False)
    began = time.perf_counter()
    samples = number = 0
    for batch in itertools.islice(batches(dataset, stream, 0), limit):
        number += 1
        samples += batch.waveforms.numel()
    return number, samples / RATE / (time.perf_counter() - began)


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--speech", type=Path, metavar="FOLDER")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        speech = args.speech
        if speech is None:
            speech = Path(name) / "speech"
            speech.mkdir()
            write_audio(speech, args.utterances)
        made = sources(Path(name), speech)
        rates: dict[str, list[float]] = {source: [] for source in made}
        counts: dict[str, int] = {}
        for repeat in range(args.repeats):
            for source, stream in made.items():
                # Shards are read without end; as much of them as an epoch of files has.
                limit = counts.get("files", sys.maxsize)
                counts[source], rate = read(stream(repeat), limit)
                rates[source].append(rate)
    table = Table(COLUMNS)
    for source, found in rates.items():
        rate = statistics.median(found)
        table.add(source, rate, counts[source], DEMAND / rate)
    save(args.json, [table])


if __name__ == "__main__":
    main()
