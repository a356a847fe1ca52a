"""Real-time factor and memory of separation over the length of a recording.

    python tests/benchmarks/separation.py [--minutes 1 10 60] [--model MODEL ...] [--channels 1 7]
        [--speech FOLDER] [--threads N] [--device cuda] [--json FILE]

MODEL is an experiment or checkpoint of `separation`, or the name of a shape whose random weights
cost the same: `magnitude` (the Conformer alone), `wavlm_base_plus`, `wavlm_large`. The mixture is
made of the audio below FOLDER, two files at a time with half of each overlapped, else of bursts of
noise; with seven channels each is a delayed copy. `separate` runs in a process of its own: masks on
one channel, the beamformer on seven. Memory is the peak of that process, and how much of it came
after its imports and the model; both must not grow with the minutes. The last table is what scoring
costs: ORC-WER of one recording of so many minutes, 150 words each, on two streams.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from common import Table, memory_of_this_process, save

from unispeech.__main__ import main as unispeech
from unispeech.models.families import PRESETS
from unispeech.models.separation import SeparationModel
from unispeech.models.separation_config import SeparationConfig
from unispeech.score.multi_stream import Spoken, orc

COLUMNS = {
    "model": "s", "channels": "d", "minutes": "g", "real-time factor": ".3f", "peak MiB": ".0f",
    "of it while separating": ".0f",
}  # fmt: skip
RATE = 16000
WORDS = 150
"""Of a minute: read speech."""

FloatArray = npt.NDArray[np.float32]


def random_model(name: str, folder: Path) -> Path:
    """A checkpoint of a shape with random weights."""
    encoder = None if name == "magnitude" else PRESETS[name].encoder
    config = SeparationConfig(features="magnitude" if encoder is None else "ssl")
    torch.manual_seed(0)
    model = SeparationModel(config, encoder)
    state = {
        "kind": "separation",
        "separation": config.model_dump(mode="json"),
        "encoder": encoder.model_dump(mode="json") if encoder else None,
        "model": model.state_dict(),
    }
    path = folder / f"{name}.pt"
    torch.save(state, path)
    return path


def utterances(speech: Path | None) -> Iterator[FloatArray]:
    """Utterances without end: files one after the other, or bursts of noise."""
    if speech is not None:
        files = sorted(p for p in speech.rglob("*") if p.suffix in (".flac", ".wav"))
        for path in itertools.cycle(files):
            audio, _ = soundfile.read(path, dtype="float32", always_2d=True)
            yield audio[:, 0]
    rng = np.random.default_rng(0)
    while True:
        size = int(rng.uniform(2, 8) * RATE)
        level = 0.1 * np.abs(np.sin(np.arange(size) / RATE * 12))
        yield (level * rng.standard_normal(size)).astype(np.float32)


def write_mixture(path: Path, minutes: float, channels: int, speech: Path | None) -> None:
    """A recording in which half of every utterance is overlapped by the next one."""
    rng = np.random.default_rng(1)
    source = utterances(speech)
    rest = np.zeros(0, np.float32)
    left = round(minutes * 60 * RATE)
    with soundfile.SoundFile(path, "w", RATE, channels, "PCM_16") as file:
        while left > 0:
            audio = next(source)
            both = np.zeros(max(len(audio), len(rest)), np.float32)
            both[: len(rest)] += rest
            both[: len(audio)] += audio
            size = min(max(len(audio) // 2, len(rest)), len(both), left)
            block, rest = both[:size], both[size:]
            block = np.clip(block + 1e-3 * rng.standard_normal(size), -0.99, 0.99)
            file.write(np.stack([np.roll(block, 2 * k) for k in range(channels)], axis=1))
            left -= size


def separated(model: Path, recording: Path, args: argparse.Namespace) -> tuple[float, float, float]:
    """Seconds, peak and growth in MiB of one call of `separate`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--measure", str(model), str(recording), folder]
        command += ["--threads", str(args.threads), "--device", args.device]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak, growth = map(float, done.stdout.split()[-3:])
    return seconds, peak, growth


def measure(args: argparse.Namespace) -> None:
    """What the process of its own does: separate, and print seconds, peak and growth."""
    from unispeech.hub.separation import load_separation_model

    torch.set_num_threads(args.threads)
    model, recording, folder = args.measure
    load_separation_model(model, args.device)
    before = memory_of_this_process("VmRSS")
    method = "mvdr" if soundfile.info(recording).channels > 1 else "mask"
    given = ["--model", model, "--wavs", recording, "--output", folder, "--method", method]
    began = time.perf_counter()
    code = unispeech(["separate", *given, "--device", args.device])
    spent = time.perf_counter() - began
    if code:
        sys.exit(code)
    peak = memory_of_this_process("VmHWM")
    print(spent, peak, peak - before)


def scoring(minutes: float) -> tuple[int, float, str]:
    """Words, seconds, and how utterances were assigned."""
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"w{k}" for k in range(3000)])
    words = rng.choice(vocabulary, round(minutes * WORDS))
    parts = [words[first : first + 15] for first in range(0, len(words), 15)]
    talk = [Spoken(str(k % 8), float(k), " ".join(part)) for k, part in enumerate(parts)]
    wrong = np.where(rng.random(len(words)) < 0.1, rng.choice(vocabulary, len(words)), words)
    heard = [wrong[first : first + 15] for first in range(0, len(words), 15)]
    streams = [" ".join(itertools.chain(*heard[k::2])) for k in range(2)]
    began = time.perf_counter()
    found = orc(talk, streams)
    way = "exact" if found.is_exact else "greedy"
    return len(words), time.perf_counter() - began, way


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 10.0, 60.0])
    parser.add_argument("--model", nargs="+", default=["magnitude", "wavlm_base_plus"])
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 7])
    parser.add_argument("--speech", type=Path, metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args)
        return
    table = Table(COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        models = [Path(m) if Path(m).exists() else random_model(m, place) for m in args.model]
        for channels, minutes in itertools.product(args.channels, args.minutes):
            recording = place / f"mixture{channels}_{minutes:g}.flac"
            write_mixture(recording, minutes, channels, args.speech)
            for model in models:
                seconds, peak, growth = separated(model, recording, args)
                factor = seconds / (60 * minutes)
                table.add(model.stem, channels, minutes, factor, peak, growth)
            recording.unlink()
    scores = Table({"minutes": "g", "words": "d", "ORC-WER s": ".2f", "assignment": "s"})
    for minutes in args.minutes:
        scores.add(minutes, *scoring(minutes))
    save(args.json, [table, scores], args.device)


if __name__ == "__main__":
    main()
