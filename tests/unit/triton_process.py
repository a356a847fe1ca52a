"""What runs where Triton is: a process of its own, interpreted or compiling, without a GPU.

Whether Triton interprets is settled when it is first imported, for its own library too, and other
tests import it.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unispeech.errors import ConfigError


def start(is_interpreted: bool, cache: Path) -> ProcessPoolExecutor:
    """One process; `cache` is where compiled kernels go."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, _prepare, (is_interpreted, str(cache)))


def _prepare(is_interpreted: bool, cache: str) -> None:
    os.environ["TRITON_INTERPRET"] = str(int(is_interpreted))
    os.environ["TRITON_CACHE_DIR"] = cache
    torch.set_num_threads(1)
    if not is_interpreted:
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    dot = InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        # It keeps bf16 as integers, and would multiply these.
        pair = (self.cast_impl(x, tl.float32) if x.dtype == tl.bfloat16 else x for x in (a, b))
        return dot(self, *pair, *others)

    InterpreterBuilder.create_dot = create_dot


def attend(
    inputs: Sequence[Tensor | None],
    mask: Tensor | None,
    dropout: float,
    seed: int,
    direction: Tensor,
    autocast: bool = False,
) -> list[Tensor]:
    """Context and the gradients of what is there of q, k, v, bias and gate."""
    from unispeech.kernels import triton_attention

    torch.manual_seed(seed)
    inputs = [None if x is None else x.detach().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        lengths = triton_attention.padding(mask)
        out = triton_attention.attention(*inputs, lengths, dropout)
    wanted = [x for x in inputs if x is not None]
    grads = torch.autograd.grad(out, wanted, direction.to(out.dtype))
    return [out.detach(), *grads]


def refusal(head_dim: int) -> str:
    """The line that heads of so many channels end with."""
    from unispeech.kernels import triton_attention

    x = torch.zeros(1, 1, 4, head_dim)
    try:
        triton_attention.attention(x, x, x, None, None, None, 0.0)
    except ConfigError as error:
        return str(error)
    return ""


def encode(encoder: torch.nn.Module, waveforms: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """`last_and_gradients` with the Triton attention."""
    from unispeech.kernels import table
    from unispeech.models import transformer

    transformer.choose = lambda *_: table.cuda_triton()
    return last_and_gradients(encoder, waveforms, lengths)


def last_and_gradients(
    encoder: torch.nn.Module, waveforms: Tensor, lengths: Tensor
) -> dict[str, Tensor]:
    """The last layer of an encoder and the gradients of its weights."""
    torch.manual_seed(0)
    last = encoder(waveforms, lengths).last
    last.sin().sum().backward()
    grads = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
    return {"last": last.detach(), **grads}


def compile_for_hopper(
    kernel: str, dtype: str, head_dim: int, dropout: float, absent: Sequence[str] = ()
) -> Mapping[str, Any]:
    """What the compiler says of a kernel with every argument but those absent."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from unispeech.kernels import triton_attention, triton_attention_kernels

    torch.set_float32_matmul_precision("high")
    types = {"lengths": "*i32", "seed": "*i64", "heads": "i32", "frames": "i32"}
    types |= dict.fromkeys(("bias", "gate", "lse", "delta", "bins", "grad_gate"), "*fp32")
    short = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32"}[dtype]
    program = getattr(triton_attention_kernels, kernel)
    torch_dtype = getattr(torch, dtype)
    launch = getattr(triton_attention.launches(torch_dtype, head_dim), kernel)
    constants = triton_attention.constants(torch_dtype, head_dim, launch, dropout)
    constants |= dict.fromkeys(absent)
    names = program.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, short) for n in names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n][0] == "*"
    }
    source = ASTSource(program, signature, {n: constants[n] for n in names if n in constants},
                       aligned)  # fmt: skip
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    cubin = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    report = subprocess.run(
        [tool, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"STACK:(\d+)", report)
    assert found is not None, report
    return {
        "shared": compiled.metadata.shared,
        "stack": int(found[1]),
        "atomics": compiled.asm["ttir"].count("atomic"),
        "exchanges": compiled.asm["ttgir"].count("ttg.convert_layout"),
        "wgmma": compiled.asm["ptx"].count("wgmma.mma_async"),
    }
