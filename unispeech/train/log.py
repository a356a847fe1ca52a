"""What a run says: console line, metrics.jsonl, TensorBoard, progress bar."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from unispeech.storage import write_text


def memory_mb() -> float:
    """Peak memory of this process: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class RunLog:
    """Writes the metrics of the main process; other processes get a silent one.

    Args:
        folder: the experiment folder.
        updates: length of the run.
        start: update to continue from; later lines of an interrupted run are removed.
        minutes: time already spent before `start`.
        is_main: whether this process writes.
    """

    def __init__(
        self, folder: Path, updates: int, start: int, minutes: float, is_main: bool
    ) -> None:
        self.is_main = is_main
        self.updates = updates
        self.start = start
        self._minutes_before = minutes
        self._began = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if not is_main:
            return
        self._path = folder / "metrics.jsonl"
        _drop_later_lines(self._path, start)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        if sys.stderr.isatty():
            self._bar = tqdm(total=updates, initial=start, unit="update", dynamic_ncols=True)

    def __enter__(self) -> RunLog:
        if self.start:
            self.say(f"continuing after update {self.start} of {self.updates}")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def minutes(self) -> float:
        """Time spent on this run so far, earlier parts included."""
        return self._minutes_before + (time.monotonic() - self._began) / 60

    def step(self, count: int = 1) -> None:
        """Advance the progress bar."""
        if self._bar is not None:
            self._bar.update(count)

    def write(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """One line on the console and in metrics.jsonl, and the values for TensorBoard."""
        if not self.is_main:
            return
        row = {"phase": phase, "step": step, **values, "minutes": round(self.minutes, 3)}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{phase}/{name}", value, step)
        shown = "  ".join(f"{name} {_short(value)}" for name, value in values.items())
        left = f"  ETA {self._eta(step)}" if phase == "train" else ""
        self.say(f"{phase} {step}/{self.updates}  {shown}{left}")

    def say(self, text: str) -> None:
        """One line on the console, above the progress bar."""
        if self.is_main:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def _eta(self, step: int) -> str:
        done = step - self.start
        if done <= 0:
            return "?"
        seconds = (time.monotonic() - self._began) / done * (self.updates - step)
        return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d}:{int(seconds % 60):02d}"

    def close(self) -> None:
        """Flush everything."""
        if not self.is_main:
            return
        self._file.close()
        self._board.close()
        if self._bar is not None:
            self._bar.close()


def _short(value: float) -> str:
    if not math.isfinite(value) or value == 0 or 0.01 <= abs(value) < 10000:
        return f"{value:.4g}"
    return f"{value:.2e}"


def _drop_later_lines(path: Path, step: int) -> None:
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            # The last line of a killed run may be cut off.
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


class Meter:
    """Sums and times since the last log line."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, float] = {}
        self.began = time.monotonic()
        self.waited = 0.0

    def waiting(self) -> Waiting:
        """A context whose time counts as waiting for data."""
        return Waiting(self)

    def add(self, sums: Mapping[str, float]) -> None:
        """Add the sums of one update."""
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def rates(self) -> dict[str, float]:
        """Speed, memory and share of time spent waiting; then start anew."""
        elapsed = time.monotonic() - self.began
        speeds = (("audio_seconds_per_second", "seconds"), ("words_per_second", "words"))
        values = {name: self.sums[of] / elapsed for name, of in speeds if self.sums.get(of)}
        values |= {"memory_mb": memory_mb(), "data_wait": self.waited / elapsed}
        self._reset()
        return values


class Waiting:
    """Times a block."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.meter.waited += time.monotonic() - self.began
