"""What the benchmarks share: timing, memory of a process, the machine's matrix rate."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import WavLMModel

from unispeech.hub.save import save_huggingface
from unispeech.models.config import HeadsConfig
from unispeech.models.families import PRESETS
from unispeech.models.speech import SpeechModel
from unispeech.storage import write_json
from unispeech.train.config import OptimConfig, TrainConfig
from unispeech.train.optim import build_optimizer, set_step
from unispeech.train.precision import Precision

KERNELS = {"cpu": ("",), "cuda": ("torch", "flex", "triton")}
"""What `UNISPEECH_KERNELS` can name."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
WORK = {"wavlm_base": (13.88, 0.0921), "wavlm_large": (35.95, 0.2454)}
"""GFLOP per second of audio, two per multiply-add, and what attention adds per second squared."""


def work(name: str, seconds: Sequence[float]) -> float:
    """GFLOP of a forward pass over utterances of so many seconds; training takes three times it."""
    linear, attention = WORK[name]
    return sum(own * (linear + attention * own) for own in seconds)


def models(name: str) -> tuple[SpeechModel, WavLMModel]:
    """Ours and theirs with the same random weights."""
    torch.manual_seed(0)
    preset = PRESETS[name]
    ours = SpeechModel(preset.family, preset.encoder, HeadsConfig()).eval()
    with tempfile.TemporaryDirectory() as folder:
        save_huggingface(ours, Path(folder) / "m")
        theirs = WavLMModel.from_pretrained(Path(folder) / "m").eval()
    return ours, theirs


def training_step(
    model: nn.Module, loss_of: Callable[[], Tensor], precision: str, device: str = "cpu"
) -> Callable[[], float]:
    """One update of `model` by the mean loss that `loss_of` returns; the step returns that loss."""
    optimizer = build_optimizer(model.parameters(), OptimConfig())
    held = Precision(TrainConfig(precision=precision), torch.device(device))
    # The moments belong to the resting size.
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

    def step() -> float:
        with held.autocast():
            loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        set_step(optimizer, OptimConfig(), 1e-6, 0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


class Table:
    """A table that is printed row by row and kept for a file.

    Args:
        columns: name of each column, and how its values are printed (`.2f`, `.0%`, `s`).
    """

    def __init__(self, columns: dict[str, str]) -> None:
        self.columns = columns
        self.rows: list[dict[str, object]] = []
        print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)

    def add(self, *values: object) -> None:
        """Print and keep a row; None is a value that does not exist."""
        self.rows.append(dict(zip(self.columns, values, strict=True)))
        print(printed(self.columns, values), flush=True)


def printed(columns: dict[str, str], values: Iterable[object]) -> str:
    """A row of a table in Markdown."""
    cells = zip(values, columns.values(), strict=True)
    return "| " + " | ".join("-" if v is None else format(v, form) for v, form in cells) + " |"


def save(path: Path | None, tables: list[Table], device: str = "cpu") -> None:
    """Write the tables of a run and what this machine can do, measured now."""
    if path is not None:
        found = [{"columns": table.columns, "rows": table.rows} for table in tables]
        write_json(path, {"limits": limits(device), "tables": found})


def limits(device: str = "cpu") -> dict[str, float]:
    """What this machine can do: matrix products in GFLOP/s, copies in GB/s (read and written)."""
    source = torch.randn(64 * 2**20, device=device)
    target = torch.empty_like(source)
    best = min(timed(lambda: target.copy_(source), device) for _ in range(10))
    rates = {f"{n} GFLOP/s": matrix_rate(d, device) for n, d in PRECISIONS.items()}
    return {**rates, "copy GB/s": 8 * source.numel() / best / 1e9}


def matrix_rate(dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """GFLOP/s of a matrix product: shapes of Base on a CPU, large ones on a GPU."""
    m, k, n = (500, 768, 3072) if device == "cpu" else (8192, 8192, 8192)
    a = torch.randn(m, k, device=device).to(dtype)
    b = torch.randn(k, n, device=device).to(dtype)
    best = min(timed(lambda: a @ b, device) for _ in range(20))
    return 2 * m * k * n / best / 1e9


def timed(action: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one call."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def gpu_megabytes(action: Callable[[], object]) -> float:
    """Megabytes of peak memory of the GPU above what lies there before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    action()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def in_own_process(script: str, words: list[str], threads: int) -> float:
    """Megabytes that `script --memory <words>` prints last."""
    command = [sys.executable, script, "--memory", *words, "--threads", str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def print_peak(action: Callable[[], object]) -> None:
    """Run `action` and print its megabytes of peak memory above the resting size."""
    # Linux forgets the peak of building the models when it is asked to.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_of_this_process("VmRSS")
    action()
    print(memory_of_this_process("VmHWM") - before)


def memory_of_this_process(field: str) -> float:
    """Megabytes of a field of `/proc/self/status`."""
    rows = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith(field)) / 1024
