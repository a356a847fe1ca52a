"""One training step of WavLM Base: ours against transformers' `WavLMModel` with the same head.

    python tests/benchmarks/training.py [--threads 2] [--repeats 3] [--seconds 10] [--rows 4]

A step is forward, masked prediction, backward, clipping and AdamW. All variants take their turns in
one process, so that a busy machine disturbs them alike. Printed are medians, ratios to the peer,
the peak memory of one step above the resting size with weights and optimizer (each measured in a
process of its own) and the share of this machine's matrix product rate, recomputation not counted.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from common import WORK, in_own_process, matrix_rate, models, print_peak, timed, training_step
from torch import Tensor, nn
from transformers import WavLMModel

from unispeech.losses.masked import masked_prediction
from unispeech.models.config import MaskConfig
from unispeech.models.encoder import Encoder
from unispeech.models.masking import span_mask
from unispeech.train.config import TrainConfig
from unispeech.train.execution import set_execution

LABELS = 504
VARIANTS = ("ours", "ours, recomputing", "peer", "peer, recomputing")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Pretraining(nn.Module):
    """An encoder of either side and the head of masked prediction."""

    def __init__(self, encoder: Encoder | WavLMModel) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encoder = encoder
        self.projection = nn.Linear(768, 256)
        self.labels = nn.Parameter(torch.rand(LABELS, 256))

    def forward(self, wavs: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        """Loss in nats per masked frame."""
        if isinstance(self.encoder, Encoder):
            hidden = self.encoder.encode(self.encoder.front_end(wavs, None), mask).last
        else:
            hidden = self.encoder(wavs, mask_time_indices=mask).last_hidden_state
        output = masked_prediction(self.projection(hidden[mask]), self.labels, targets[mask])
        return output.loss / output.frames


def batch(rows: int, seconds: float) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, its mask and its labels."""
    generator = torch.Generator().manual_seed(1)
    wavs = 0.1 * torch.randn(rows, round(seconds * 16000), generator=generator)
    frames = (wavs.shape[1] - 400) // 320 + 1
    masks = [span_mask(frames, MaskConfig(), np.random.default_rng(row)) for row in range(rows)]
    targets = torch.randint(4, LABELS, (rows, frames), generator=generator)
    return wavs, torch.from_numpy(np.stack(masks)), targets


def set_variant(model: Pretraining, variant: str) -> None:
    """Switch recomputation on or off."""
    recomputing = "recomputing" in variant
    if isinstance(model.encoder, Encoder):
        set_execution(model, TrainConfig(activation_checkpointing=recomputing))
    elif recomputing:
        model.encoder.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.encoder.gradient_checkpointing_disable()


def step_of(
    encoder: Encoder | WavLMModel, precision: str, inputs: tuple[Tensor, Tensor, Tensor]
) -> tuple[Pretraining, Callable[[], float]]:
    """The model of one side and its training step."""
    model = Pretraining(encoder).train()
    return model, training_step(model, lambda: model(*inputs), precision)


def encoders() -> dict[str, Encoder | WavLMModel]:
    """Both encoders with the same weights, without LayerDrop."""
    ours, theirs = models("wavlm_base")
    theirs.config.layerdrop = 0.0
    return {"ours": ours.encoder, "peer": theirs}


def compare(precision: str, args: argparse.Namespace) -> None:
    """Time all variants of one precision and print their rows."""
    inputs = batch(args.rows, args.seconds)
    sides = {side: step_of(e, precision, inputs) for side, e in encoders().items()}
    with torch.no_grad():
        losses = [float(model.eval()(*inputs)) for model, _ in sides.values()]
        for model, _ in sides.values():
            model.train()
    times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for repeat in range(args.repeats + 1):
        for variant, kept in times.items():
            model, step = sides[variant.split(",")[0]]
            set_variant(model, variant)
            seconds = timed(step)
            if repeat:
                kept.append(seconds)
    audio = args.rows * args.seconds
    medians = {variant: statistics.median(kept) for variant, kept in times.items()}
    size = [precision, str(args.rows), str(args.seconds)]
    memory = {v: in_own_process(__file__, [v, *size], args.threads) for v in VARIANTS}
    peak = matrix_rate(PRECISIONS[precision])
    print(f"losses {losses[0]:.5f} and {losses[1]:.5f}, matrix product {peak:.0f} GFLOP/s")
    print("| precision | step | s | audio s/s | speed ratio | MB | memory ratio | of peak |")
    print("|---|---|---|---|---|---|---|---|")
    for variant in VARIANTS:
        used = 3 * WORK["wavlm_base"] * audio / medians[variant] / peak
        print(
            f"| {precision} | {variant} | {medians[variant]:.2f} | {audio / medians[variant]:.2f} |"
            f" {medians['peer'] / medians[variant]:.2f} | {memory[variant]:.0f} |"
            f" {memory[variant] / memory['peer']:.2f} | {used:.0%} |",
            flush=True,
        )


def print_memory(variant: str, precision: str, rows: int, seconds: float) -> None:
    """Body of a process that measures one variant."""
    model, step = step_of(encoders()[variant.split(",")[0]], precision, batch(rows, seconds))
    set_variant(model, variant)
    print_peak(step)


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        variant, precision, rows, seconds = args.memory
        print_memory(variant, precision, int(rows), float(seconds))
        return
    for precision in args.precisions:
        compare(precision, args)


if __name__ == "__main__":
    main()
