"""Frame labels of shards: one more field of lhotse Shar in a folder of its own, audio untouched.

The folder has `shar/labels.000000.tar`, uint16 arrays in the order of the cuts, for each shard
`records/000000.json` with counts, rate, size and checksums, written after that file, and last of
all `labels.json`, the description that other labels have too, with an entry `shards`.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lhotse import MonoCut
from lhotse.array import Array, TemporalArray
from lhotse.shar import ArrayTarWriter

from unispeech.data.clustering import POLL_SECONDS
from unispeech.data.features import Extractor
from unispeech.data.labelling import label_cuts
from unispeech.data.labels import TOLERANCE_SECONDS, Labels, check_length, read_description
from unispeech.data.shards import (
    ShardFolder,
    check_files,
    check_names,
    check_size,
    check_tar_path,
    file_facts,
    is_shards,
    raise_problems,
    read_record,
    record_file,
    remove_after,
    remove_unfinished,
    shard_file,
)
from unispeech.errors import DataError
from unispeech.storage import atomic_path, sha256, write_json

REMEDY = "run `python -m unispeech label --shards` again: it writes what is missing"
KEYS = ("cuts", "frames", "rate", "clusters", "audio", "kmeans", "files")


def sample_cuts(shards: ShardFolder, share: float, seed: int) -> Iterator[MonoCut]:
    """A share of the cuts, from whole shards in random order, so that few shards are read.

    Raises:
        DataError: a shard is damaged.
    """
    order = np.random.default_rng(seed).permutation(shards.count)
    cuts = (cut for index in order for cut in shards.read(int(index)))
    yield from islice(cuts, max(1, round(share * shards.cuts)))


class LabelledShards:
    """Labels of the shards of one folder, made by one k-means model.

    Args:
        folder: of the labels.
        shards: the audio.
        rate: labels per second.
        clusters: number of labels.
        kmeans: checksum of the centroids.
    """

    def __init__(
        self, folder: Path, shards: ShardFolder, rate: int, clusters: int, kmeans: str
    ) -> None:
        self.folder = folder
        self.shards = shards
        self.rate = rate
        self.clusters = clusters
        self.kmeans = kmeans

    def is_done(self, index: int) -> bool:
        """Whether the labels of a shard are there, as large as recorded, and of this run."""
        try:
            record = read_record(self.folder, index, KEYS)
            file = shard_file(self.folder, "labels", index)
            check_size(file, record["files"]["labels"]["bytes"], REMEDY)
        except DataError:
            return False
        return self._is_ours(record, index)

    def write(self, index: int, extractor: Extractor, centroids: npt.NDArray[np.float32]) -> None:
        """Label one shard; features exist for a few minutes of audio at a time.

        Args:
            index: number of the shard.
            extractor: of the features.
            centroids: `(K, D)`.

        Raises:
            DataError: the shard is damaged.
        """
        path = shard_file(self.folder, "labels", index)
        record_file(self.folder, index).unlink(missing_ok=True)
        cuts = frames = 0
        with (
            atomic_path(path) as temporary,
            ArrayTarWriter(str(temporary), shard_size=None, compression="numpy") as writer,
        ):
            for cut, labels in label_cuts(self.shards.read(index), extractor, centroids):
                array = Array("shar", "", "", [len(labels)])
                writer.write(cut.id, labels, TemporalArray(array, 0, 1 / self.rate, 0))
                cuts, frames = cuts + 1, frames + len(labels)
        record = {"cuts": cuts, "frames": frames, **self._identity(index)}
        facts = file_facts(path)
        write_json(record_file(self.folder, index), {**record, "files": {"labels": facts}})

    def entry(self) -> dict[str, Any]:
        """What `labels.json` says of the shards.

        Raises:
            DataError: the labels of a shard are missing or of another run.
        """
        digest = hashlib.sha256()
        cuts = frames = 0
        for index in range(self.shards.count):
            record = self._record(index)
            cuts, frames = cuts + record["cuts"], frames + record["frames"]
            digest.update(record["files"]["labels"]["sha256"].encode())
        return {
            "audio": self.shards.identity,
            "shards": self.shards.count,
            "utterances": cuts,
            "frames": frames,
            "kmeans": self.kmeans,
            "sha256": digest.hexdigest(),
        }

    def verify(self, expected: dict[str, Any]) -> None:
        """Check counts, rates and checksums of every shard, and their sums.

        Args:
            expected: the entry of `labels.json`.

        Raises:
            DataProblems: anything is wrong.
        """
        problems = []
        for index in range(self.shards.count):
            try:
                self._check(index)
            except DataError as error:
                problems.append(str(error))
        if not problems and (found := self.entry()) != expected:
            wrong = ", ".join(k for k in found if found[k] != expected.get(k))
            problems.append(f"{self.folder}/labels.json: wrong {wrong}; {REMEDY}")
        raise_problems(self.folder, problems)

    def _check(self, index: int) -> None:
        record, audio = self._record(index), self.shards.record(index)
        where = record_file(self.folder, index)
        if record["cuts"] != audio["cuts"]:
            raise DataError(
                "wrong number of utterances",
                where=where,
                expected=audio["cuts"],
                found=record["cuts"],
                remedy=REMEDY,
            )
        missing = abs(record["frames"] / self.rate - audio["seconds"])
        if missing > TOLERANCE_SECONDS * audio["cuts"]:
            raise DataError(
                f"the labels do not fit the audio at {self.rate} Hz",
                where=where,
                expected=f"about {math.floor(audio['seconds'] * self.rate)} labels",
                found=record["frames"],
                remedy=REMEDY,
            )
        check_files(self.folder, index, record["files"], REMEDY)

    def _record(self, index: int) -> dict[str, Any]:
        record = read_record(self.folder, index, KEYS)
        if not self._is_ours(record, index):
            found = ", ".join(k for k, v in self._identity(index).items() if record[k] != v)
            raise DataError(
                f"the labels of shard {index} are of another run",
                where=record_file(self.folder, index),
                found=f"another {found}",
                remedy=REMEDY,
            )
        return record

    def _is_ours(self, record: dict[str, Any], index: int) -> bool:
        return all(record[key] == value for key, value in self._identity(index).items())

    def _identity(self, index: int) -> dict[str, Any]:
        audio = self.shards.record(index)["files"]["recording"]["sha256"]
        own = {"rate": self.rate, "clusters": self.clusters, "kmeans": self.kmeans}
        return {**own, "audio": audio}


def label_shards(
    folder: Path,
    shards: ShardFolder,
    extractor: Extractor,
    centroids: npt.NDArray[np.float32],
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, Any]:
    """Label the shards of this process; process 0 waits for the others.

    Args:
        folder: of the labels; `kmeans.npy` is there.
        shards: the audio.
        extractor: of the features.
        centroids: `(K, D)`.
        rank: of this process, which labels the shards with this remainder.
        world_size: number of processes.

    Returns:
        On process 0 the entry for `labels.json`, {} on others.

    Raises:
        DataError: a shard is damaged.
    """
    check_tar_path(folder)
    kmeans = sha256(folder / "kmeans.npy")
    labelled = LabelledShards(folder, shards, extractor.rate, len(centroids), kmeans)
    kept = 0
    for index in range(rank, shards.count, world_size):
        if labelled.is_done(index):
            kept += 1
        else:
            labelled.write(index, extractor, centroids)
            print(f"{folder}: shard {index} of {shards.count} labelled", flush=True)
    if kept:
        print(f"{folder}: kept {kept} shards that were labelled", flush=True)
    if rank:
        return {}
    for index in range(shards.count):
        while not labelled.is_done(index):
            time.sleep(POLL_SECONDS)
    # Nobody writes any more: what is unfinished is from a process that was killed.
    remove_unfinished(folder)
    remove_after(folder, ("labels",), shards.count)
    entry = labelled.entry()
    print(f"{folder}: {entry['utterances']} utterances, {entry['frames']} labels")
    return entry


def verify_labels(folder: Path, shards: ShardFolder) -> str:
    """Check the labels of all shards; one line on what was checked.

    Raises:
        DataError: there is no description, or it is of other shards.
        DataProblems: labels are missing, damaged or of another run.
    """
    labels = ShardLabels(folder, shards)
    entry = labels.description["shards"]
    kmeans = sha256(folder / "kmeans.npy") if (folder / "kmeans.npy").is_file() else ""
    labelled = LabelledShards(folder, shards, labels.rate, labels.clusters, kmeans)
    labelled.verify(entry)
    return (
        f"{folder}: {entry['shards']} shards, {entry['utterances']} utterances,"
        f" {entry['frames']} labels at {labels.rate} Hz: counts, rates and checksums are right"
    )


class ShardLabels:
    """Labels that come with the cuts of shards.

    Nothing is held but the labels of the cuts in hand, see `hold`.

    Args:
        folder: folder written by `label --shards`.
        shards: the audio.

    Raises:
        DataError: the labels are unfinished, of other shards, or a file is missing.
    """

    def __init__(self, folder: str | Path, shards: ShardFolder) -> None:
        self.folder = Path(folder)
        self.description = read_description(self.folder)
        self.rate = int(self.description["rate"])
        self.clusters = int(self.description["clusters"])
        entry = self.description.get("shards")
        if not entry or entry.get("audio") != shards.identity:
            raise DataError(
                "the labels are not of these shards",
                where=self.folder / "labels.json",
                expected=f"labels of {shards.path}",
                found="labels of other shards" if entry else "none of shards",
                remedy="run `python -m unispeech label --shards` for this folder",
            )
        check_names(self.folder, "labels", shards.count, REMEDY)
        self._kmeans = entry["kmeans"]
        self._held: dict[str, TemporalArray] = {}

    def file(self, index: int) -> Path:
        """The labels of one shard.

        Raises:
            DataError: the file is truncated or of another run.
        """
        record = read_record(self.folder, index, KEYS)
        file = shard_file(self.folder, "labels", index)
        check_size(file, record["files"]["labels"]["bytes"], REMEDY)
        expected = (self.rate, self.clusters, self._kmeans)
        if (record["rate"], record["clusters"], record["kmeans"]) != expected:
            raise DataError(
                f"the labels of shard {index} are of another run", where=file, remedy=REMEDY
            )
        return file

    def hold(self, cuts: Iterable[MonoCut]) -> None:
        """Make the labels of these cuts, and no others, those that `get` gives."""
        self._held = {cut.id: cut.custom["labels"] for cut in cuts}

    def get(self, utterance: str) -> Labels:
        """Labels `(T,)` uint16 of a cut in hand.

        Raises:
            DataError: it has none.
        """
        if utterance not in self._held:
            raise DataError(
                f"utterance {utterance} has no labels", where=self.folder, remedy=REMEDY
            )
        return np.asarray(self._held[utterance].array.load(), dtype=np.uint16)

    def check(self, utterance: str, seconds: float) -> None:
        """Raise a DataError when the number of labels does not fit the duration."""
        check_length(self, utterance, seconds)


def open_shards(
    train: Sequence[str], labels: Sequence[str]
) -> tuple[ShardFolder, ShardLabels | None] | None:
    """The shards of a training configuration and their labels, None where it names manifests.

    Args:
        train: `data.train`; one folder of shards, or manifests.
        labels: `data.labels`; at most one folder for shards.

    Raises:
        DataError: shards and something else are named, or they or their labels are unfinished.
    """
    if not any(map(is_shards, train)):
        return None
    if len(train) > 1:
        raise DataError(
            "training reads one folder of shards, or manifests",
            found=", ".join(train),
            remedy="mix the sources with local/mix.py and write the mix as shards",
        )
    if len(labels) > 1:
        raise DataError("shards have one set of labels", found=", ".join(labels))
    shards = ShardFolder(train[0])
    return shards, ShardLabels(labels[0], shards) if labels else None
