"""How the layers of a model are executed: activations recomputed, layers compiled."""

from __future__ import annotations

import os
import shutil

from torch import nn

from unispeech.errors import DependencyError
from unispeech.models.frontend import ConvExtractor
from unispeech.models.language_model import LanguageModel
from unispeech.models.transformer import Transformer
from unispeech.train.config import TrainConfig


def set_execution(model: nn.Module, config: TrainConfig) -> None:
    """Switch on what the configuration asks for; names and values of weights stay the same.

    Raises:
        DependencyError: layers are to be compiled and there is no C++ compiler.
    """
    if config.compile:
        _check_compiler()
    for module in model.modules():
        if isinstance(module, ConvExtractor | Transformer | LanguageModel):
            module.activation_checkpointing = config.activation_checkpointing
        if isinstance(module, Transformer | LanguageModel) and config.compile:
            for layer in module.layers:
                # Shapes that are variable from the start give the same kernels whichever batch
                # comes first, so a run that continues repeats the one that did not stop.
                layer.compile(dynamic=True)


def _check_compiler() -> None:
    names = [os.environ.get("CXX", ""), "g++", "c++", "clang++"]
    if not any(name and shutil.which(name) for name in names):
        raise DependencyError(
            "train.compile needs a C++ compiler",
            expected="g++ or clang++, or $CXX",
            remedy="install one, or set train.compile=false",
        )
