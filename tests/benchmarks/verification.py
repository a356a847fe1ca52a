"""Speaker verification: embeddings against the encoder alone, and passes over lists of trials.

    python tests/benchmarks/verification.py [--threads 2] [--encoder wavlm_base_plus]
        [--utterances 1000] [--repeats 5] [--json FILE]

The first table times `embed` as a command does it, audio files to embeddings on disk, and the
encoder's forward pass over the same batches in memory, in turn, part by part of the utterances. The
second times `trials` as a process of its own, start and 1000 bootstrap draws included, with AS-norm
and a calibration on a list of its own, at 10,000 trials and at the size of Vox1-E.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from common import Table, save

from unispeech.commands._embedding import _batches, embed_cuts
from unispeech.data.embeddings import write_embeddings
from unispeech.data.recordings import find_recordings
from unispeech.models.families import PRESETS
from unispeech.models.speaker import SpeakerModel
from unispeech.models.speaker_config import SpeakerConfig

RATE = 16000
LISTS = {"10,000 trials": (10_000, 1_000, 40), "Vox1-E (cleaned)": (579_818, 145_160, 1251)}
"""Trials, utterances, speakers."""
EMBEDDINGS = {
    "encoder": "s", "utterances": "d", "embed: audio s/s": ".1f", "encoder alone": ".1f",
    "share": ".0%",
}  # fmt: skip
WIDTH = 256
COHORT = 5994


def write_audio(folder: Path, count: int) -> float:
    """Noise of 3 to 8 s as FLAC; returns all seconds."""
    rng = np.random.default_rng(0)
    total = 0.0
    for number in range(count):
        samples = int(rng.uniform(3.0, 8.0) * RATE)
        noise = (0.1 * rng.standard_normal(samples)).astype(np.float32)
        soundfile.write(folder / f"{number:05}.flac", noise, RATE)
        total += samples / RATE
    return total


def embedding_times(folder: Path, name: str, repeats: int, table: Table) -> None:
    """Add the row of an encoder."""
    torch.manual_seed(0)
    model = SpeakerModel(SpeakerConfig(), PRESETS[name].encoder).eval()
    encoder = model.encoder
    assert encoder is not None
    options = argparse.Namespace(resample=False, mono=False, device="cpu")
    cuts = find_recordings(folder)
    times: tuple[list[float], list[float]] = ([], [])
    seconds = sum(cut.duration for cut in cuts)
    for part in range(repeats):
        own = cuts[part::repeats]
        began = time.perf_counter()
        lengths = [cut.duration for cut in own]
        with tempfile.TemporaryDirectory() as output:
            found = embed_cuts(model, own, options)
            names = [cut.id for cut in own]
            write_embeddings(Path(output) / "e", names, names, lengths, found, {"model": name})
        times[0].append(time.perf_counter() - began)
        audio = [torch.from_numpy(cut.load_audio()[0]) for cut in own]
        began = time.perf_counter()
        with torch.inference_mode():
            for rows in _batches(lengths, 60.0):
                waves = [audio[row] for row in rows]
                sizes = torch.tensor([len(wave) for wave in waves])
                encoder(torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), sizes)
        times[1].append(time.perf_counter() - began)
    whole, alone = (sum(side) for side in times)
    ratios = [b / a for a, b in zip(*times, strict=True)]
    share = statistics.median(ratios)
    table.add(name, len(cuts), seconds / whole, seconds / alone, share)


def folder_of_embeddings(folder: Path, count: int, speakers: int, seed: int) -> list[str]:
    """Embeddings around one centre for each speaker; returns the names of the utterances."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((speakers, WIDTH)).astype(np.float32)
    people = np.arange(count) % speakers
    values = centres[people] + 2.5 * rng.standard_normal((count, WIDTH)).astype(np.float32)
    names = [f"id{seed}{who:05}/s/{number:06}" for number, who in enumerate(people)]
    durations = rng.uniform(2.0, 12.0, count).tolist()
    about = {"model": "random", "model_sha256": "0" * 64, "inputs": str(seed)}
    parts = [(list(range(count)), values)]
    titles = [name.split("/")[0] for name in names]
    write_embeddings(folder, names, titles, durations, parts, about)
    return names


def write_trials(path: Path, names: list[str], speakers: int, count: int) -> None:
    """As many trials of one speaker as of two."""
    rng = np.random.default_rng(1)
    first = rng.integers(len(names), size=count)
    same = np.arange(count) % 2 == 0
    steps = rng.integers(1, len(names) // speakers, size=count) * speakers
    other = np.where(same, (first + steps) % len(names), rng.integers(len(names), size=count))
    wrong = ~same & (first % speakers == other % speakers)
    other[wrong] = (other[wrong] + 1) % len(names)
    same |= first % speakers == other % speakers
    path.parent.mkdir()
    lines = (
        f"{int(k)}\t{names[a]}\t{names[b]}\n" for k, a, b in zip(same, first, other, strict=True)
    )
    path.write_text("".join(lines))


def trial_times(folder: Path, title: str, table: Table) -> None:
    """Add the row of a list."""
    count, utterances, speakers = LISTS[title]
    utterances -= utterances % speakers
    places = {name: folder / name for name in ("eval", "cohort", "list", "scores")}
    names = folder_of_embeddings(places["eval"], utterances, speakers, 1)
    folder_of_embeddings(places["cohort"], COHORT, COHORT, 2)
    write_trials(places["list"] / "trials.tsv", names, speakers, count)
    own = names[: 40 * speakers] if len(names) > 40 * speakers else names
    write_trials(folder / "calibration" / "trials.tsv", own, speakers, 10_000)
    cohort = ["--mean", places["cohort"], "--cohort", places["cohort"], "--top", 300]
    command = [
        sys.executable, "-m", "unispeech", "trials", "--embeddings", places["eval"],
        "--trials", places["list"] / "trials.tsv", *cohort, "--output", places["scores"],
        "--calibrate-on", folder / "calibration" / "trials.tsv",
    ]  # fmt: skip
    measured = ["/usr/bin/env", "python", "-c", CHILD, *map(str, command)]
    began = time.perf_counter()
    result = subprocess.run(measured, capture_output=True, text=True, check=True)
    spent = time.perf_counter() - began
    table.add(title, count, spent, int(result.stderr.split()[-1]) / 1024)


CHILD = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--encoder", nargs="+", choices=PRESETS, default=["wavlm_base_plus"])
    parser.add_argument("--utterances", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trials = Table({"list": "s", "trials": "d", "seconds": ".1f", "MB": ".0f"})
    for title in LISTS:
        with tempfile.TemporaryDirectory() as folder:
            trial_times(Path(folder), title, trials)
    embeddings = Table(EMBEDDINGS)
    with tempfile.TemporaryDirectory() as folder:
        write_audio(Path(folder), args.utterances)
        for name in args.encoder:
            embedding_times(Path(folder), name, args.repeats, embeddings)
    save(args.json, [trials, embeddings])


if __name__ == "__main__":
    main()
