"""Packages that only some machines have."""

from __future__ import annotations

import importlib
import os

import pytest

from unispeech.decode import k2_process

MODULES = {"flashlight": ("flashlight.lib.text.decoder", "kenlm")}


def require(name: str) -> None:
    """Skip without an optional package; fail when $UNISPEECH_REQUIRE lists it.

    "k2" is also there when it has an environment of its own.
    """
    try:
        for module in MODULES.get(name, (name,)):
            importlib.import_module(module)
    except ImportError as error:
        if name == "k2" and k2_process.find_python() is not None:
            return
        if name in os.environ.get("UNISPEECH_REQUIRE", "").split():
            pytest.fail(f"{name} is required here and missing: {error}")
        pytest.skip(f"{name} is not installed: {error}")
