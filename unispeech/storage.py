"""Files that are either whole under their final name or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unispeech.errors import DataError

TEMPORARY = ".tmp-*"
"""Names of files and folders that are being written, as a pattern."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; flush and rename it when the block succeeds.

    The temporary name ends with the final one's suffixes, because libraries choose a format by
    them. When the block raises, the temporary file is removed and `path` stays as it was.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=final.parent, prefix=".tmp-", suffix="-" + final.name)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(final)
        _flush(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it when the block succeeds.

    An existing `path` is replaced only then.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=".tmp-"))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush(file)
        temporary.chmod(0o777 & ~_umask())
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _flush(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def final_checkpoint(path: str | Path) -> Path:
    """The final checkpoint of an experiment folder, or `path` itself when it is a file.

    Raises:
        DataError: there is neither a finished training nor a file.
    """
    path = Path(path)
    done = path / "done.json"
    if done.is_file():
        return path / str(json.loads(done.read_text())["checkpoint"])
    if path.is_file():
        return path
    raise DataError(
        "no finished training and no checkpoint here",
        where=path,
        expected="a folder with done.json, or a file",
        remedy="let the training finish, or name one of its checkpoints",
    )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
