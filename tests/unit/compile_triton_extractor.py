"""Compile for a Hopper GPU, without one, what the extractor launches; print its needs as JSON.

Has to run in a process of its own, with TRITON_INTERPRET=0.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from unispeech.kernels import triton_extractor
from unispeech.kernels.blocks import Block

CASES = {"group": [(10, 5), (3, 2), (3, 2)], "layer": [(10, 5), (3, 2)]}
CHANNELS = 512


class Hopper:
    """A driver that knows what to compile for, and no more."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def stack(norm: str) -> list[Block]:
    found = []
    inputs = 1
    for number, (kernel, stride) in enumerate(CASES[norm]):
        own = norm if norm == "layer" or number == 0 else None
        weight = torch.zeros(CHANNELS, inputs, kernel, requires_grad=True)
        bias, scale, shift = (torch.zeros(CHANNELS, requires_grad=True) for _ in range(3))
        has_bias = norm == "layer"
        norms = (scale, shift) if own else (None, None)
        found.append(Block(weight, bias if has_bias else None, stride, own, *norms))  # type: ignore[arg-type]
        inputs = CHANNELS
    return found


def main() -> None:
    launch = JITFunction.run
    programs: dict[int, dict[str, Any]] = {}

    def compile_only(self: JITFunction, *args: Any, warmup: bool, **options: Any) -> None:
        program = launch(self, *args, warmup=True, **options)
        programs[id(program)] = {
            "name": self.fn.__name__,
            "shared": program.metadata.shared,
            "wgmma": "wgmma.mma_async" in program.asm["ptx"],
        }

    JITFunction.run = compile_only
    triton.runtime.driver.set_active(Hopper())
    for norm in CASES:
        with torch.autocast("cpu", torch.bfloat16):
            found = triton_extractor.extract(torch.zeros(2, 1600), None, stack(norm))
        found.sum().backward()
    print(json.dumps(list(programs.values())))


if __name__ == "__main__":
    main()
