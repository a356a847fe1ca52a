"""Self-supervised speech recipes: the UniSpeech family from corpus to score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unispeech.hub.load import load_model as load_model

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `import unispeech` costs nothing.
    if name == "load_model":
        from unispeech.hub.load import load_model

        return load_model
    raise AttributeError(f"module 'unispeech' has no attribute '{name}'")
