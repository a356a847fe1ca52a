"""Forward pass of WavLM against transformers' `WavLMModel` with the same weights.

    python tests/benchmarks/forward.py [--threads 2] [--repeats 5] [--cases base_single ...]
        [--precisions fp32 bf16] [--device cpu] [--json FILE]

Each case runs all models in turn in one process, so that a busy machine disturbs them alike, and
prints the ratio of the median times to transformers' fp32 forward pass, the largest (bf16: mean)
difference of the outputs from it, in brackets that of transformers' own bf16 autocast, the extra
peak memory of each (on a CPU measured in processes of their own) and the share of this machine's
own matrix product rate.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from common import (
    KERNELS,
    PRECISIONS,
    Table,
    gpu_megabytes,
    in_own_process,
    matrix_rate,
    models,
    print_peak,
    save,
    timed,
    work,
)
from torch import Tensor

from unispeech.kernels.table import KERNELS_VARIABLE
from unispeech.models.encoder import normalize_waveforms

RAGGED = [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0]
CASES = {
    f"{size}_{shape}": (f"wavlm_{size}", seconds)
    for size in ("base", "large")
    for shape, seconds in (("single", [10.0]), ("ragged", RAGGED))
}


def batch(seconds: list[float]) -> tuple[Tensor, Tensor]:
    """Noise of these lengths, padded with zeros, and the lengths."""
    lengths = torch.tensor([round(s * 16000) for s in seconds])
    generator = torch.Generator().manual_seed(1)
    wavs = 0.1 * torch.randn(len(seconds), int(lengths.max()), generator=generator)
    return wavs * (torch.arange(wavs.shape[1]) < lengths[:, None]), lengths


def runs(case: str, precision: str, device: str) -> dict[str, Callable[[], Tensor]]:
    """One forward pass of each: ours, theirs in fp32, and theirs in this precision."""
    name, seconds = CASES[case]
    ours, theirs = (model.to(device) for model in models(name))
    ours = ours.to(PRECISIONS[precision])
    wavs, lengths = (x.to(device) for x in batch(seconds))
    mask = (torch.arange(wavs.shape[1], device=device) < lengths[:, None]).long()
    inputs = normalize_waveforms(wavs, lengths) if ours.config.normalize else wavs
    is_ragged = len(seconds) > 1

    def mine() -> Tensor:
        own = wavs.to(PRECISIONS[precision])
        return ours(own, lengths if is_ragged else None, keep=False).last.float()

    def peer() -> Tensor:
        return theirs(inputs, attention_mask=mask if is_ragged else None).last_hidden_state

    def cast() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return peer().float()

    return {"ours": mine, "peer": peer, "peer cast": cast}


def print_memory(case: str, which: str, precision: str) -> None:
    """Body of a process that measures one model."""
    action = runs(case, precision, "cpu")[which]
    with torch.inference_mode():
        print_peak(action)


def distance(one: Tensor, other: Tensor, seconds: list[float], precision: str) -> float:
    """Largest difference over valid frames in fp32, mean difference in bf16."""
    sizes = [int((s * 16000 - 400) // 320 + 1) for s in seconds]
    parts = [(one[i, :n] - other[i, :n]).abs().flatten() for i, n in enumerate(sizes)]
    every = torch.cat(parts)
    return float(every.max() if precision == "fp32" else every.mean())


def compare(case: str, precision: str, args: argparse.Namespace, table: Table) -> None:
    """Run one case and print its row."""
    name, seconds = CASES[case]
    actions = runs(case, precision, args.device)
    if precision == "fp32":
        actions.pop("peer cast")
    times: dict[str, list[float]] = {which: [] for which in actions}
    with torch.inference_mode():
        outputs = {which: action() for which, action in actions.items()}
        for _ in range(args.repeats):
            for which, action in actions.items():
                times[which].append(timed(action, args.device))
    ours, theirs = (statistics.median(times[which]) for which in ("ours", "peer"))
    # Padding changes the peer's group norm, so a ragged Base batch has nothing to compare with.
    difference = None
    if len(seconds) == 1 or name == "wavlm_large":
        found = [distance(outputs[w], outputs["peer"], seconds, precision)
                 for w in ("ours", "peer cast") if w in outputs]  # fmt: skip
        difference = " ".join(f"{x:.1e}" if not i else f"({x:.1e})" for i, x in enumerate(found))
    rate = work(name, seconds) / ours
    cast = statistics.median(times["peer cast"]) if "peer cast" in times else None
    if args.device == "cpu":
        words = [[case, which, precision] for which in ("ours", "peer")]
        memory = [in_own_process(__file__, w, args.threads) for w in words]
    else:
        with torch.inference_mode():
            memory = [gpu_megabytes(actions[which]) for which in ("ours", "peer")]
    peak = matrix_rate(PRECISIONS[precision], args.device)
    kernels = os.environ.get(KERNELS_VARIABLE) or "cpu"
    seconds_of_each = (ours, theirs, cast)
    table.add(case, precision, kernels, theirs / ours, *seconds_of_each, difference, *memory,
              rate / peak)  # fmt: skip


COLUMNS = {
    "case": "s", "precision": "s", "kernels": "s", "speed ratio": ".2f",
    "ours s": ".3f", "theirs fp32 s": ".3f", "theirs cast s": ".3f", "difference": "s",
    "ours MB": ".0f", "theirs MB": ".0f", "of peak": ".0%",
}  # fmt: skip


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        print_memory(*args.memory)
        return
    table = Table(COLUMNS)
    for kernels, case, precision in itertools.product(
        KERNELS[args.device], args.cases, args.precisions
    ):
        os.environ[KERNELS_VARIABLE] = kernels
        compare(case, precision, args, table)
    save(args.json, [table], args.device)


if __name__ == "__main__":
    main()
