"""List what is usable here and the one command that mends what is not.

Ends with 69 when something that every recipe needs is missing, else with 0.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

from unispeech.decode import k2_process
from unispeech.errors import DependencyError

INSTALL = "source path.sh"
EXTRA = "pip install -c constraints.txt -e '.[{}]'"


class Check(NamedTuple):
    """One thing that recipes may need.

    Attributes:
        name: what it is.
        purpose: what it is for.
        look: gives a line of facts, or raises when it does not work.
        remedy: the command that mends it.
        required: whether every recipe needs it.
    """

    name: str
    purpose: str
    look: Callable[[], str]
    remedy: str
    required: bool = False


def package(module: str, distribution: str = "") -> Callable[[], str]:
    """A look at a package: it is imported, and its version told."""

    def look() -> str:
        importlib.import_module(module)
        return importlib.metadata.version(distribution or module)

    return look


def cuda() -> str:
    """The GPUs that torch sees."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"CUDA {torch.version.cuda}, {', '.join(names)}"


def k2() -> str:
    """The k2 of this environment, else the one in an environment of its own."""
    from unispeech.decode import k2 as back_end

    if back_end.available():
        return f"{back_end.version()}, in this environment"
    python = k2_process.find_python()
    if python is None:
        raise RuntimeError("not in this environment, and it has none of its own")
    code = (
        "import k2.version, torch; print(k2.version.__version__, 'with torch', torch.__version__)"
    )
    command = [str(python), "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{python} cannot import it ({last})")
    return f"{done.stdout.strip()}, by {python}"


def espeak() -> str:
    """The library of espeak-ng that phones and synthesised corpora come from."""
    loader = importlib.import_module("espeakng_loader")
    return f"{importlib.metadata.version('espeakng-loader')}, {loader.get_library_path()}"


def faiss() -> str:
    """The faiss of this environment, of whichever package, and the GPUs that it sees."""
    found = importlib.import_module("faiss")
    return f"{found.__version__}, {found.get_num_gpus()} GPUs"


CHECKS = (
    Check("torch", "models", package("torch"), INSTALL, True),
    Check("lhotse", "manifests", package("lhotse"), INSTALL, True),
    Check("soundfile", "audio files", package("soundfile"), INSTALL, True),
    Check("kaldialign", "error rates", package("kaldialign"), INSTALL, True),
    Check("kaldifst", "decoding graphs", package("kaldifst"), INSTALL, True),
    Check("kaldilm", "n-gram models in graphs", package("kaldilm"), INSTALL, True),
    Check("kaldi-decoder", "--backend kaldi", package("kaldi_decoder", "kaldi-decoder"),
          INSTALL, True),
    Check("espeak-ng", "--tiny true, phones", espeak, INSTALL),
    Check("CUDA", "training and decoding on a GPU", cuda,
          "install the driver and a torch that is built for it"),
    Check("triton", "UNISPEECH_KERNELS on a GPU", package("triton"),
          "pip install -c constraints.txt triton"),
    Check("k2", "--backend k2, ctc.loss=k2", k2, k2_process.SETUP),
    Check("flashlight-text", "--backend flashlight",
          package("flashlight.lib.text.decoder", "flashlight-text"),
          EXTRA.format("flashlight")),
    Check("kenlm", "--backend flashlight, n-gram scores", package("kenlm"),
          EXTRA.format("flashlight")),
    Check("sentencepiece", "BPE tokens", package("sentencepiece"), INSTALL),
    Check("faiss", "kmeans.engine=faiss", faiss, EXTRA.format("faiss")),
    Check("onnx", "export --to onnx", package("onnx"), EXTRA.format("onnx")),
    Check("meeteval", "WER of continuous input, in separated", package("meeteval"),
          EXTRA.format("separation")),
    Check("ijson", "GigaSpeech's metadata", package("ijson"),
          EXTRA.format("gigaspeech")),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def run(args: argparse.Namespace) -> None:
    """Print one line for each thing, and what is missing.

    Raises:
        DependencyError: something that every recipe needs is missing.
    """
    print(f"Python {platform.python_version()}, {sys.executable}")
    width = max(len(check.name) for check in CHECKS)
    missing = []
    for check in CHECKS:
        try:
            state, facts = "yes", check.look()
        except Exception as error:  # a package built for another system fails in many ways
            state = "NO" if check.required else "no"
            facts = f"{' '.join(str(error).split())}; for {check.purpose}: {check.remedy}"
            if check.required:
                missing.append(check)
        print(f"{check.name:<{width}}  {state:<3}  {facts}", flush=True)
    if missing:
        raise DependencyError(
            f"required and missing: {', '.join(check.name for check in missing)}",
            remedy=missing[0].remedy,
        )
