"""The released checkpoints by name, and where they lie on this machine."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

import pydantic
import yaml

from unispeech.config import Config
from unispeech.errors import DataError, nearest
from unispeech.models.config import Family
from unispeech.storage import final_checkpoint

CACHE_VARIABLE = "UNISPEECH_CACHE"


class RemoteFile(Config):
    """One file of a release."""

    name: str
    url: str
    sha256: str | None = None


class Release(Config):
    """A released checkpoint."""

    family: Family
    size: str
    unlabelled: str
    """Speech of the self-supervised training."""
    labelled: str
    """Speech of the supervised part of the pre-training (UniSpeech)."""
    fine_tuned: str
    """What it was fine-tuned on, if anything."""
    page: str
    """Where the authors describe it."""
    licence: str
    files: tuple[RemoteFile, ...]

    @pydantic.field_validator("page")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if not value.startswith("https://"):
            raise ValueError("the page must be an https address")
        return value


@functools.cache
def releases() -> dict[str, Release]:
    """All entries of `registry.yaml` by name."""
    text = Path(__file__).with_name("registry.yaml").read_text(encoding="utf-8")
    return {name: Release.model_validate(entry) for name, entry in yaml.safe_load(text).items()}


def cache_folder(name: str) -> Path:
    """Where the files of a release lie: `$UNISPEECH_CACHE/NAME`, by default under `~/.cache`."""
    root = os.environ.get(CACHE_VARIABLE)
    base = Path(root) if root else Path.home() / ".cache" / "unispeech"
    return base / name


def find(path_or_name: str | Path) -> Path:
    """The file or folder that a path or the name of a fetched release means.

    `owner/name` is also looked for in the cache of Hugging Face (`$HF_HUB_CACHE`, `$HF_HOME/hub`).

    Raises:
        DataError: there is no such file and no such release, or it was not fetched.
    """
    path = Path(path_or_name)
    if path.exists():
        return path
    name = str(path_or_name)
    if (cached := _in_cache_of_hugging_face(name)) is not None:
        return cached
    if name not in releases():
        raise DataError(
            f"no such file, and no released model of this name{nearest(name, releases())}",
            where=name,
            remedy="`python -m unispeech models` lists the released models; those of Hugging Face"
            " are found as owner/name after `hf download owner/name`",
        )
    folder = cache_folder(name)
    if (folder / "config.json").is_file():
        return folder
    weights = sorted(folder.glob("*.pt")) + sorted(folder.glob("*.pth"))
    if len(weights) == 1:
        return weights[0]
    raise DataError(
        f"the released model {name} is not on this machine",
        where=folder,
        remedy=f"run `python -m unispeech fetch {name}`",
    )


def _in_cache_of_hugging_face(name: str) -> Path | None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    own = hub / f"models--{name.replace('/', '--')}"
    newest = own / "refs" / "main"
    if not newest.is_file():
        return None
    folder = own / "snapshots" / newest.read_text(encoding="utf-8").strip()
    return folder if (folder / "config.json").is_file() else None


def weights_file(path_or_name: str | Path) -> Path:
    """The file that holds the weights of what `load_model` would read.

    Raises:
        DataError: there is none.
    """
    path = find(path_or_name)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return path / name
    return final_checkpoint(path)
