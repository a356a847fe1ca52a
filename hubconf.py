"""`torch.hub` entry points: one for each released model, by its name in the registry."""

from __future__ import annotations

import functools
from typing import Any

dependencies = ["torch", "numpy", "pydantic", "yaml", "lhotse", "safetensors", "urllib3"]


def _released(name: str, **options: Any) -> Any:
    """Load a released model, downloading it first when it is not on this machine.

    Args:
        name: of the registry.
        options: passed to `unispeech.load_model`: `device`, `dtype`, `padding_rule`.
    """
    from unispeech.hub.download import download
    from unispeech.hub.load import load_model
    from unispeech.hub.registry import cache_folder, releases

    for file in releases()[name].files:
        download(file, cache_folder(name))
    return load_model(name, **options)


def _entry_points() -> dict[str, Any]:
    from unispeech.hub.registry import releases

    return {name: functools.partial(_released, name) for name in releases()}


globals().update(_entry_points())
