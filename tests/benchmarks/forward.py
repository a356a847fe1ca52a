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
from collections.abc import Callable

import torch
from common import WORK, in_own_process, matrix_rate, models, print_peak, timed
from torch import Tensor

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


def print_memory(case: str, which: str) -> None:
    """Body of a process that measures one model."""
    actions = runs(*CASES[case])
    with torch.inference_mode():
        print_peak(actions[which == "theirs"])


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
    memory = [in_own_process(__file__, [case, w], threads) for w in ("ours", "theirs")]
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
