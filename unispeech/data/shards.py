"""Folders of lhotse Shar shards: their description, their checks, and reading them in order.

`shar/` is lhotse Shar and nothing else: `cuts.000000.jsonl.gz` and `recording.000000.tar` of each
shard. `records/000000.json`, written after these, has its counts, sizes and checksums, and
`shards.json`, written last of all, the numbers of shards, cuts and seconds. Cuts and audio are read
side by side from the start of a shard to its end, so what is in memory does not depend on how many
shards there are.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lhotse import MonoCut
from lhotse.serialization import deserialize_item
from lhotse.shar.readers.lazy import LazySharIterator

from unispeech.data.manifests import manifest_lines
from unispeech.errors import DataError, DataProblems, UsageError
from unispeech.storage import sha256

SHAR, RECORDS, DESCRIPTION = "shar", "records", "shards.json"
REMEDY = "run `python -m unispeech shards` again: it writes what is missing"


def is_shards(path: str | Path) -> bool:
    """Whether a training set is read as shards: it is when it is a folder, not a manifest."""
    return Path(path).is_dir()


def shard_file(folder: Path, field: str, index: int) -> Path:
    """The file of one field of one shard: `cuts`, `recording` or `labels`."""
    suffix = "jsonl.gz" if field == "cuts" else "tar"
    return folder / SHAR / f"{field}.{index:06d}.{suffix}"


def record_file(folder: Path, index: int) -> Path:
    """Where counts and checksums of one shard are kept."""
    return folder / RECORDS / f"{index:06d}.json"


def file_facts(path: Path) -> dict[str, Any]:
    """Size in bytes and checksum, for a record."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def read_record(folder: Path, index: int, keys: Sequence[str]) -> dict[str, Any]:
    """The record of one shard.

    Raises:
        DataError: it is missing, damaged or lacks one of `keys`.
    """
    path = record_file(folder, index)
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8")))
        missing = [key for key in keys if key not in record]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
    except (OSError, ValueError) as error:
        raise DataError(
            f"no valid record of shard {index}", where=path, found=error, remedy=REMEDY
        ) from None
    return record


def check_names(folder: Path, field: str, count: int, remedy: str) -> None:
    """Raise a DataError when the file of a shard is missing; looks at the folder once."""
    here = {path.name for path in (folder / SHAR).glob(f"{field}.*")}
    names = (shard_file(folder, field, index).name for index in range(count))
    missing = [name for name in names if name not in here]
    if missing:
        raise DataError(
            f"{len(missing)} of {count} shards are missing",
            where=folder / SHAR,
            found=f"no {', '.join(missing[:3])}",
            remedy=remedy,
        )


def check_tar_path(folder: Path) -> None:
    """Raise a UsageError for a folder that lhotse's writer of tar files cannot write to."""
    if "%" in str(folder.absolute()):
        raise UsageError("a folder of shards must not have '%' in its path", where=folder)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left behind; call it before any process writes."""
    for part in (folder, folder / SHAR, folder / RECORDS):
        for path in part.glob(".tmp-*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def remove_after(folder: Path, fields: Sequence[str], count: int) -> None:
    """Remove the shards from number `count` on, which an earlier, larger run wrote."""
    for path in (folder / RECORDS).glob("*.json"):
        index = int(path.stem)
        if index >= count:
            path.unlink()
            for field in fields:
                shard_file(folder, field, index).unlink(missing_ok=True)


class ShardFolder:
    """A finished folder of shards.

    Args:
        path: folder written by the `shards` command.

    Raises:
        DataError: it is not finished, its description is damaged, or a shard is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        file = self.path / DESCRIPTION
        try:
            description = json.loads(file.read_text(encoding="utf-8"))
            self.count, self.cuts = int(description["shards"]), int(description["cuts"])
            self.seconds = float(description["seconds"])
            self.identity = str(description["sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                "not a finished folder of shards",
                where=file,
                found=f"{type(error).__name__} {error}",
                remedy=REMEDY,
            ) from None
        if self.count < 1:
            raise DataError("the folder has no shards", where=file, remedy=REMEDY)
        for field in ("cuts", "recording"):
            check_names(self.path, field, self.count, REMEDY)

    def record(self, index: int) -> dict[str, Any]:
        """Counts, sizes and checksums of one shard; a DataError when they are damaged."""
        return read_record(self.path, index, ("cuts", "seconds", "files"))

    def read(self, index: int, labels: Path | None = None) -> Iterator[MonoCut]:
        """The cuts of one shard with their audio in memory, one at a time.

        Args:
            index: number of the shard.
            labels: file of its labels, which come as `cut.labels`.

        Raises:
            DataError: a file is truncated, empty or damaged, or the fields do not belong together.
        """
        record = self.record(index)
        files = {field: shard_file(self.path, field, index) for field in ("cuts", "recording")}
        for field, file in files.items():
            check_size(file, record["files"][field]["bytes"], REMEDY)
        if labels is not None:
            files["labels"] = labels
        found = 0
        try:
            for cut in LazySharIterator({field: [file] for field, file in files.items()}):
                found += 1
                yield cut
        # lhotse reports a damaged shard by any of these.
        except (
            tarfile.TarError, OSError, EOFError, RuntimeError, AssertionError, ValueError, KeyError,
            TypeError, AttributeError,
        ) as error:  # fmt: skip
            raise DataError(
                f"damaged shard, after {found} utterances",
                where=" and ".join(map(str, files.values())),
                found=f"{type(error).__name__} {error}",
                remedy=REMEDY,
            ) from None
        # Reading side by side ends with the shortest field and says nothing.
        if found != record["cuts"] or found == 0:
            raise DataError(
                "the shard is incomplete",
                where=" and ".join(map(str, files.values())),
                expected=f"{record['cuts']} utterances",
                found=found,
                remedy=REMEDY,
            )

    def durations(self, most: int) -> list[float]:
        """Durations in seconds of the cuts of a few shards, about `most` of them."""
        shards = min(self.count, max(1, round(most * self.count / max(self.cuts, 1))))
        found = []
        for index in range(0, self.count, -(-self.count // shards)):
            lines = manifest_lines(shard_file(self.path, "cuts", index))
            found += [float(deserialize_item(json.loads(line)).duration) for line in lines]
        return found

    def verify(self) -> None:
        """Read every file of every shard.

        Raises:
            DataProblems: a size or a checksum is not the recorded one.
        """
        problems, cuts = [], 0
        for index in range(self.count):
            try:
                record = self.record(index)
                cuts += record["cuts"]
                check_files(self.path, index, record["files"])
            except DataError as error:
                problems.append(str(error))
        if not problems and cuts != self.cuts:
            problems.append(f"{self.path}: {cuts} utterances, expected {self.cuts}; {REMEDY}")
        raise_problems(self.path, problems)


def check_size(file: Path, expected: int, remedy: str) -> None:
    """Raise a DataError when a file is missing or has not the recorded size."""
    found = file.stat().st_size if file.is_file() else "nothing"
    if found != expected:
        raise DataError(
            "truncated or changed", where=file, expected=f"{expected} bytes", found=found,
            remedy=remedy,
        )  # fmt: skip


def check_files(folder: Path, index: int, files: Mapping[str, Any], remedy: str = REMEDY) -> None:
    """Raise a DataError when a file of a shard is not the recorded one; reads all of it."""
    for field, facts in files.items():
        file = shard_file(folder, field, index)
        check_size(file, facts["bytes"], remedy)
        if sha256(file) != facts["sha256"]:
            raise DataError(
                "not the file that was written", where=file, expected=facts["sha256"],
                remedy=remedy,
            )  # fmt: skip


def raise_problems(folder: Path, problems: Sequence[str]) -> None:
    """Raise DataProblems when there are any."""
    if problems:
        raise DataProblems(f"{len(problems)} problem(s) in {folder}", problems)
