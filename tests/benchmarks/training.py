"""One training step of WavLM: ours against transformers' `WavLMModel` with the same head.

    python tests/benchmarks/training.py [--model wavlm_base] [--seconds 10 10 10 10]
        [--precisions fp32 bf16] [--threads 2] [--repeats 5] [--device cpu] [--json FILE]

A step is forward, masked prediction, backward, clipping and AdamW. All variants take their turns in
one process, so that a busy machine disturbs them alike. Printed are medians, ratios to the peer,
the peak memory of one step above the resting size with weights and optimizer (on a CPU each in a
process of its own) and the share of this machine's matrix product rate, recomputation and padding
not counted. In a ragged batch padding changes the statistics of transformers' group norm, hence its
loss. On a GPU both sides are also compiled, and ours runs with each kind of kernels.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
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
    training_step,
    work,
)
from torch import Tensor, nn
from transformers import WavLMModel

from unispeech.kernels.table import KERNELS_VARIABLE
from unispeech.losses.masked import masked_prediction
from unispeech.models.config import MaskConfig
from unispeech.models.encoder import Encoder
from unispeech.models.masking import span_mask
from unispeech.train.config import TrainConfig
from unispeech.train.execution import set_execution

LABELS = 504
VARIANTS = ("ours", "ours, recomputing", "peer", "peer, recomputing")
ON_A_GPU = ("ours, flex", "ours, triton", "ours, compiled", "peer, compiled")
COLUMNS = {
    "precision": "s", "step": "s", "loss": ".5f", "s": ".2f", "audio s/s": ".2f",
    "speed ratio": ".2f", "MB": ".0f", "memory ratio": ".2f", "of peak": ".0%",
}  # fmt: skip


class Pretraining(nn.Module):
    """An encoder of either side and the head of masked prediction."""

    def __init__(self, encoder: Encoder | WavLMModel) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encoder = encoder
        width = encoder.config.dim if isinstance(encoder, Encoder) else encoder.config.hidden_size
        self.projection = nn.Linear(width, 256)
        self.labels = nn.Parameter(torch.rand(LABELS, 256))

    def forward(
        self, wavs: Tensor, lengths: Tensor | None, mask: Tensor, targets: Tensor
    ) -> Tensor:
        """Loss in nats per masked frame."""
        if isinstance(self.encoder, Encoder):
            hidden = self.encoder.encode(self.encoder.front_end(wavs, lengths), mask).last
        else:
            valid = None
            if lengths is not None:
                valid = (torch.arange(wavs.shape[1], device=wavs.device) < lengths[:, None]).long()
            output = self.encoder(wavs, attention_mask=valid, mask_time_indices=mask)
            hidden = output.last_hidden_state
        output = masked_prediction(self.projection(hidden[mask]), self.labels, targets[mask])
        return output.loss / output.frames


Inputs = tuple[Tensor, Tensor | None, Tensor, Tensor]


def batch(seconds: list[float]) -> Inputs:
    """Noise, its lengths where they differ, its mask and its labels."""
    generator = torch.Generator().manual_seed(1)
    samples = torch.tensor([round(s * 16000) for s in seconds])
    wavs = 0.1 * torch.randn(len(seconds), int(samples.max()), generator=generator)
    wavs = wavs * (torch.arange(wavs.shape[1]) < samples[:, None])
    frames = (samples - 400) // 320 + 1
    mask = torch.zeros(len(seconds), int(frames.max()), dtype=torch.bool)
    for row, size in enumerate(frames.tolist()):
        own = span_mask(size, MaskConfig(), np.random.default_rng(row))
        mask[row, :size] = torch.from_numpy(own)
    targets = torch.randint(4, LABELS, mask.shape, generator=generator)
    return wavs, samples if len(set(seconds)) > 1 else None, mask, targets


def set_variant(model: Pretraining, variant: str) -> None:
    """Switch recomputation on or off, and choose the kernels of a GPU."""
    name = variant.split(", ")[-1]
    os.environ[KERNELS_VARIABLE] = name if name in KERNELS["cuda"] else "torch"
    recomputing = "recomputing" in variant
    if isinstance(model.encoder, Encoder):
        for module in model.modules():
            if hasattr(module, "activation_checkpointing"):
                module.activation_checkpointing = recomputing
    elif recomputing:
        model.encoder.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.encoder.gradient_checkpointing_disable()


def step_of(
    encoder: Encoder | WavLMModel, precision: str, inputs: Inputs, is_compiled: bool = False
) -> tuple[Pretraining, Callable[[], float]]:
    """The model of one side and its training step."""
    model = Pretraining(encoder).to(inputs[0].device).train()
    if is_compiled and isinstance(encoder, Encoder):
        set_execution(model, TrainConfig(compile=True))
    elif is_compiled:
        encoder.compile()
    return model, training_step(model, lambda: model(*inputs), precision, inputs[0].device.type)


def encoders(name: str) -> dict[str, Encoder | WavLMModel]:
    """Both encoders with the same weights, without LayerDrop."""
    ours, theirs = models(name)
    theirs.config.layerdrop = 0.0
    return {"ours": ours.encoder, "peer": theirs}


Sides = dict[str, tuple[Pretraining, Callable[[], float]]]


def side_of(variant: str) -> str:
    """Variants that share a model share its name."""
    return variant if "compiled" in variant else variant.split(",")[0]


def seconds_of(
    variants: tuple[str, ...], sides: Sides, args: argparse.Namespace
) -> dict[str, float]:
    """Median seconds of a step of each variant, in turn."""
    times: dict[str, list[float]] = {variant: [] for variant in variants}
    for repeat in range(args.repeats + 1):
        for variant, kept in times.items():
            model, step = sides[side_of(variant)]
            set_variant(model, variant)
            spent = timed(step, args.device)
            if repeat:
                kept.append(spent)
    return {variant: statistics.median(kept) for variant, kept in times.items()}


def megabytes_of(
    variants: tuple[str, ...], precision: str, sides: Sides, args: argparse.Namespace
) -> dict[str, float]:
    """Peak memory of a step of each variant above the resting size."""
    if args.device == "cpu":
        size = [precision, args.model, " ".join(map(str, args.seconds))]
        return {v: in_own_process(__file__, [v, *size], args.threads) for v in variants}
    found = {}
    for variant in variants:
        model, step = sides[side_of(variant)]
        set_variant(model, variant)
        found[variant] = gpu_megabytes(step)
    return found


def compare(precision: str, args: argparse.Namespace, table: Table) -> None:
    """Measure all variants of one precision and print their rows."""
    inputs = tuple(x if x is None else x.to(args.device) for x in batch(args.seconds))
    sides = {side: step_of(e, precision, inputs) for side, e in encoders(args.model).items()}
    variants = VARIANTS
    if args.device != "cpu":
        variants += ON_A_GPU
        for side, encoder in encoders(args.model).items():
            sides[f"{side}, compiled"] = step_of(encoder, precision, inputs, is_compiled=True)
    losses = {}
    with torch.no_grad():
        for side, (model, _) in sides.items():
            losses[side] = float(model.eval()(*inputs))
            model.train()
    medians = seconds_of(variants, sides, args)
    memory = megabytes_of(variants, precision, sides, args)
    audio = sum(args.seconds)
    peak = matrix_rate(PRECISIONS[precision], args.device)
    for variant in variants:
        spent, mine = medians[variant], memory[variant]
        used = 3 * work(args.model, args.seconds) / spent / peak
        speed, share = medians["peer"] / spent, mine / memory["peer"]
        loss = losses[side_of(variant)]
        table.add(precision, variant, loss, spent, audio / spent, speed, mine, share, used)


def print_memory(variant: str, precision: str, name: str, seconds: str) -> None:
    """Body of a process that measures one variant."""
    inputs = batch([float(s) for s in seconds.split()])
    model, step = step_of(encoders(name)[variant.split(",")[0]], precision, inputs)
    set_variant(model, variant)
    print_peak(step)


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("wavlm_base", "wavlm_large"), default="wavlm_base")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0] * 4)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        print_memory(*args.memory)
        return
    table = Table(COLUMNS)
    for precision in args.precisions:
        compare(precision, args, table)
    save(args.json, [table], args.device)


if __name__ == "__main__":
    main()
