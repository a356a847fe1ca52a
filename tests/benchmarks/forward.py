"""Forward pass of WavLM against transformers' `WavLMModel` with the same weights.

    python tests/benchmarks/forward.py [--threads 2] [--repeats 5] [--cases base_single ...]

Each case runs both models in turn in one process, so that a busy machine disturbs both alike, and
prints the ratio of the median times, the largest difference of the outputs, the extra peak memory
of each (measured in processes of their own) and the share of this machine's own matrix product
rate.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import WavLMModel

from unispeech.hub.save import save_huggingface
from unispeech.models.config import HeadsConfig
from unispeech.models.families import PRESETS
from unispeech.models.speech import SpeechModel

RAGGED = [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0]
CASES = {
    f"{size}_{shape}": (f"wavlm_{size}", seconds)
    for size in ("base", "large")
    for shape, seconds in (("single", [10.0]), ("ragged", RAGGED))
}
# Multiply-adds of one second of audio at 10 s, in GFLOP (two per multiply-add).
WORK = {"wavlm_base": 14.8, "wavlm_large": 38.4}


def batch(seconds: list[float]) -> tuple[Tensor, Tensor]:
    """Noise of these lengths, padded with zeros, and the lengths."""
    lengths = torch.tensor([round(s * 16000) for s in seconds])
    generator = torch.Generator().manual_seed(1)
    wavs = 0.1 * torch.randn(len(seconds), int(lengths.max()), generator=generator)
    return wavs * (torch.arange(wavs.shape[1]) < lengths[:, None]), lengths


def models(name: str) -> tuple[SpeechModel, WavLMModel]:
    """Ours and theirs with the same random weights."""
    torch.manual_seed(0)
    preset = PRESETS[name]
    ours = SpeechModel(preset.family, preset.encoder, HeadsConfig()).eval()
    with tempfile.TemporaryDirectory() as folder:
        save_huggingface(ours, Path(folder) / "m")
        theirs = WavLMModel.from_pretrained(Path(folder) / "m").eval()
    return ours, theirs


def runs(name: str, seconds: list[float]) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """One forward pass of each."""
    ours, theirs = models(name)
    wavs, lengths = batch(seconds)
    mask = (torch.arange(wavs.shape[1]) < lengths[:, None]).long()
    inputs = wavs
    if ours.config.normalize:
        from unispeech.models.encoder import normalize_waveforms

        inputs = normalize_waveforms(wavs, lengths)
    is_ragged = len(seconds) > 1

    def mine() -> Tensor:
        return ours(wavs, lengths if is_ragged else None).last

    def peer() -> Tensor:
        return theirs(inputs, attention_mask=mask if is_ragged else None).last_hidden_state

    return mine, peer


def matrix_rate() -> float:
    """GFLOP/s of a matrix product of the shapes of Base."""
    a, b = torch.randn(500, 768), torch.randn(768, 3072)
    best = min(timed(lambda: a @ b) for _ in range(20))
    return 2 * 500 * 768 * 3072 / best / 1e9


def timed(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def peak_memory(case: str, which: str, threads: int) -> float:
    """Megabytes above the resting size during one forward pass, in a process of its own."""
    command = [sys.executable, __file__, "--memory", case, which, "--threads", str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def print_memory(case: str, which: str) -> None:
    """Body of the process that `peak_memory` starts."""
    actions = runs(*CASES[case])
    # Linux forgets the peak of building the models when it is asked to.
    Path("/proc/self/clear_refs").write_text("5")
    with torch.inference_mode():
        before = memory_of_this_process("VmRSS")
        actions[which == "theirs"]()
    print(memory_of_this_process("VmHWM") - before)


def memory_of_this_process(field: str) -> float:
    """Megabytes of a field of `/proc/self/status`."""
    rows = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith(field)) / 1024


def compare(case: str, repeats: int, threads: int) -> None:
    """Run one case and print its row."""
    name, seconds = CASES[case]
    mine, peer = runs(name, seconds)
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        outputs = mine(), peer()
        for _ in range(repeats):
            for action, kept in zip((mine, peer), times, strict=True):
                kept.append(timed(action))
    ours, theirs = map(statistics.median, times)
    # Padding changes the peer's group norm, so a ragged Base batch has nothing to compare with.
    is_comparable = len(seconds) == 1 or name == "wavlm_large"
    difference = "-"
    if is_comparable:
        pairs = [
            (outputs[0][i, :n] - outputs[1][i, :n]).abs().max()
            for i, n in enumerate(int((s * 16000 - 400) // 320 + 1) for s in seconds)
        ]
        difference = f"{float(max(pairs)):.1e}"
    rate = WORK[name] * sum(seconds) / ours
    memory = [peak_memory(case, which, threads) for which in ("ours", "theirs")]
    print(
        f"| {case} | {theirs / ours:.2f} | {ours:.2f} | {theirs:.2f} | {difference} |"
        f" {memory[0]:.0f} | {memory[1]:.0f} | {rate / matrix_rate():.0%} |",
        flush=True,
    )


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        print_memory(*args.memory)
        return
    print("| case | speed ratio | ours s | theirs s | difference | ours MB | theirs MB | of peak |")
    print("|---|---|---|---|---|---|---|---|")
    for case in args.cases:
        compare(case, args.repeats, args.threads)


if __name__ == "__main__":
    main()
