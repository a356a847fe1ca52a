"""Many lines split over files by a hash of their keys: shuffling and uniqueness in flat memory."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from unispeech.errors import DataError


class Partition:
    """Collects lines under keys and gives them back group by group, each sorted by hash.

    Equal keys come into the same group, and the order over all groups is a shuffle that depends on
    the seed alone. One group at a time is in memory, one 256th of the lines.

    Args:
        folder: where the temporary files go; they need as much space as the lines.
        seed: of the order.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self._seed = str(seed).encode()
        self._stack = contextlib.ExitStack()
        self._folder = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder))
        )
        self._files: dict[int, BinaryIO] = {}

    def __enter__(self) -> Partition:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add(self, key: str, line: str) -> None:
        """Keep a line (without a line break) under a key.

        Raises:
            DataError: the key holds a tab or a line break.
        """
        if "\t" in key or "\n" in key:
            raise DataError("an id must not hold tabs or line breaks", found=repr(key))
        digest = hashlib.blake2b(key.encode(), key=self._seed, digest_size=8).digest()
        row = b"\t".join((digest.hex().encode(), key.encode(), line.encode())) + b"\n"
        number = digest[0]
        if number not in self._files:
            file = (self._folder / f"{number:03d}").open("wb")
            self._files[number] = self._stack.enter_context(file)
        self._files[number].write(row)

    def groups(self) -> Iterator[list[tuple[str, str]]]:
        """Keys and lines of each group; nothing can be added any more."""
        for file in self._files.values():
            file.close()
        for number in sorted(self._files):
            rows = (self._folder / f"{number:03d}").read_bytes().split(b"\n")[:-1]
            rows.sort()
            parts = (row.decode().split("\t", 2) for row in rows)
            yield [(key, line) for _, key, line in parts]
