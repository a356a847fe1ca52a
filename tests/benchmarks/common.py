"""What the benchmarks share: timing, memory of a process, the machine's matrix rate."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import WavLMModel

from unispeech.hub.save import save_huggingface
from unispeech.models.config import HeadsConfig
from unispeech.models.families import PRESETS
from unispeech.models.speech import SpeechModel
from unispeech.train.config import OptimConfig, TrainConfig
from unispeech.train.optim import build_optimizer, set_step
from unispeech.train.precision import Precision

# One second of audio at 10 s forward, in GFLOP (two per multiply-add); training takes three times.
WORK = {"wavlm_base": 14.8, "wavlm_large": 38.4}


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
    model: nn.Module, loss_of: Callable[[], Tensor], precision: str
) -> Callable[[], float]:
    """One update of `model` by the mean loss that `loss_of` returns; the step returns that loss."""
    optimizer = build_optimizer(model.parameters(), OptimConfig())
    held = Precision(TrainConfig(precision=precision), torch.device("cpu"))
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


def matrix_rate(dtype: torch.dtype = torch.float32) -> float:
    """GFLOP/s of a matrix product of the shapes of Base."""
    a, b = torch.randn(500, 768).to(dtype), torch.randn(768, 3072).to(dtype)
    best = min(timed(lambda: a @ b) for _ in range(20))
    return 2 * 500 * 768 * 3072 / best / 1e9


def timed(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


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
