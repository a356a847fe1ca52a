"""Diarization of long recordings: time and peak memory against length.

    python tests/benchmarks/diarization.py [--model EXP/diarization_frozen] \
        [--speech FILE ...] [--minutes 7.5 15 30 60 120] [--picture curve.png] [--json FILE]

Recordings are made of the files in turn, two to five seconds of each with pauses between, or of
coloured noise. Each is diarized by the command `diarize` in a process of its own, whose peak memory
the system counts; its start and the reading of the model are part of the time. Without --model, a
network of the sizes of egs/callhome/conf/tiny has random weights, which leave every slot of every
chunk active: most work for the clustering.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import soundfile
import torch
import yaml
from common import Table, save
from matplotlib.figure import Figure

from unispeech.models.config import EncoderConfig
from unispeech.models.diarization import EendModel
from unispeech.models.diarization_config import EendConfig
from unispeech.report.figures import BLUE, STYLE, VERMILION

RATE = 16000
TINY = Path(__file__).parents[2] / "egs" / "callhome" / "conf" / "tiny"
COLUMNS = {"minutes": "g", "seconds": ".1f", "times real time": ".1f", "peak MB": ".0f"}
Samples = npt.NDArray[np.float32]


def random_model(path: Path) -> str:
    """Write a checkpoint like those of trainings, with random weights."""
    shapes = {name: yaml.safe_load((TINY / f"{name}.yaml").read_text())["model"] for name in
              ("pretrain", "frozen")}  # fmt: skip
    encoder = EncoderConfig.model_validate(shapes["pretrain"])
    known = EendConfig.model_fields
    eend = EendConfig(**{key: value for key, value in shapes["frozen"].items() if key in known})
    torch.manual_seed(0)
    weights = {f"eend.{name}": w for name, w in EendModel(eend, encoder).state_dict().items()}
    both = {"encoder": encoder.model_dump(mode="json"), "eend": eend.model_dump(mode="json")}
    torch.save({"kind": "diarization", **both, "speakers": [], "model": weights}, path)
    return str(path)


def voices(files: list[Path]) -> list[Samples]:
    """Audio to take turns of: the files', or ten seconds of noise for each of four people."""
    if files:
        found = []
        for path in files:
            audio, rate = soundfile.read(path, dtype="float32")
            if rate != RATE or audio.ndim != 1:
                raise SystemExit(f"{path}: not mono at {RATE} Hz")
            found.append(audio)
        return found
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfftfreq(10 * RATE, 1 / RATE)
    found = []
    for centre in (300.0, 600.0, 1200.0, 2400.0):
        phases = np.exp(2j * np.pi * rng.random(len(spectrum)))
        shape = np.exp(-((np.log2((spectrum + 50) / centre)) ** 2))
        wave = np.fft.irfft(shape * phases)
        found.append((0.1 * wave / wave.std()).astype(np.float32))
    return found


def turns(sources: list[Samples], seconds: float) -> Iterator[Samples]:
    """Pieces of the sources in random order with pauses, `seconds` in all."""
    rng = np.random.default_rng(1)
    left = round(seconds * RATE)
    while left > 0:
        source = sources[int(rng.integers(len(sources)))]
        length = min(len(source), int(rng.uniform(2, 5) * RATE))
        start = int(rng.integers(len(source) - length + 1))
        pause = np.zeros(int(rng.exponential(0.5) * RATE), dtype=np.float32)
        piece = np.concatenate([source[start : start + length], pause])[:left]
        left -= len(piece)
        yield piece


def write(path: Path, sources: list[Samples], seconds: float) -> None:
    """Write a recording piece by piece."""
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for piece in turns(sources, seconds):
            file.write(piece)


def diarize(model: str, audio: Path, output: Path, threads: int) -> tuple[float, float]:
    """Seconds and megabytes of the command."""
    command = [sys.executable, "-m", "unispeech", "diarize", str(audio), "--model", model]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    command += ["--output", str(output), "--device", "cpu"]
    # What the command prints would fall between the rows of the table.
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    start = time.perf_counter()
    child = os.posix_spawn(sys.executable, command, environment, file_actions=quiet)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(os.waitstatus_to_exitcode(status))
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def draw(path: Path, rows: list[tuple[float, float, float]]) -> None:
    """Time and memory over minutes of audio."""
    minutes, seconds, megabytes = np.array(rows).T
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 3.2), layout="constrained")
        for place, (values, title, colour) in enumerate(
            ((seconds, "seconds", BLUE), (megabytes, "peak memory, MB", VERMILION))
        ):
            axes = figure.add_subplot(1, 2, place + 1)
            axes.plot(minutes, values, "o-", color=colour)
            axes.set_ylim(bottom=0)
            axes.set_xlabel("minutes of audio")
            axes.set_title(title)
            axes.grid(True)
        figure.savefig(path, dpi=130)


def main() -> None:
    """Print a row for each length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="experiment folder or checkpoint")
    parser.add_argument("--speech", type=Path, nargs="+", default=[], help="mono audio at 16 kHz")
    parser.add_argument("--minutes", type=float, nargs="+", default=[7.5, 15, 30, 60, 120])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sources = voices(args.speech)
    rows = []
    table = Table(COLUMNS)
    with tempfile.TemporaryDirectory() as name:
        model = args.model or random_model(Path(name) / "model.pt")
        for number, minutes in enumerate(args.minutes):
            audio, output = Path(name) / "long.flac", Path(name) / str(number)
            write(audio, sources, 60 * minutes)
            seconds, megabytes = diarize(model, audio, output, args.threads)
            rows.append((minutes, seconds, megabytes))
            table.add(minutes, seconds, 60 * minutes / seconds, megabytes)
    save(args.json, [table])
    if args.picture:
        draw(args.picture, rows)


if __name__ == "__main__":
    main()
