"""Many lines split over files by a hash of their keys: shuffling and uniqueness in flat memory."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

FILES = 256


class Partition:
    """Collects lines under keys and gives them back group by group, each sorted by hash.

    Equal keys come into the same group, and the order over all groups is a shuffle that depends on
    the seed alone. One group at a time is in memory, a 256th of the lines.

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
        self._files = [
            self._stack.enter_context((self._folder / f"{number:03d}").open("wb"))
            for number in range(FILES)
        ]

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
        """Keep a line (without a line break) under a key (without a tab)."""
        digest = hashlib.blake2b(key.encode(), key=self._seed, digest_size=8).digest()
        row = b"\t".join((digest.hex().encode(), key.encode(), line.encode())) + b"\n"
        self._files[digest[0]].write(row)

    def groups(self) -> Iterator[list[tuple[str, str]]]:
        """Keys and lines of each group; nothing can be added any more."""
        for file in self._files:
            file.close()
        for number in range(FILES):
            rows = (self._folder / f"{number:03d}").read_bytes().split(b"\n")[:-1]
            rows.sort()
            parts = (row.decode().split("\t", 2) for row in rows)
            yield [(key, line) for _, key, line in parts]
