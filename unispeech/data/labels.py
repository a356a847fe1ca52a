"""Frame labels: storage beside the manifests, quality."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from unispeech.errors import DataError
from unispeech.storage import atomic_path, sha256, write_json, write_text

Labels = npt.NDArray[np.uint16]

TOLERANCE_SECONDS = 0.1


class FrameLabels(Protocol):
    """Labels of utterances, wherever they are kept."""

    folder: Path
    rate: int
    """Labels per second."""
    clusters: int

    def get(self, utterance: str) -> Labels:
        """Labels `(T,)` uint16 of one utterance; a DataError when it has none."""
        ...

    def check(self, utterance: str, seconds: float) -> None:
        """Raise a DataError when the number of labels does not fit the duration."""
        ...


def manifest_name(path: str | Path) -> str:
    """`train` for `.../train.jsonl.gz`: the name under which labels of a manifest are kept."""
    return Path(path).name.removesuffix(".gz").removesuffix(".jsonl")


class LabelWriter:
    """Writes the labels of one manifest as `<set>.npy` and `<set>.tsv`.

    Args:
        folder: folder of this label set.
        name: name of the manifest.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self._parts: list[Labels] = []
        self._rows: list[str] = []
        self._frames = 0

    def add(self, utterance: str, labels: Labels) -> None:
        """Append the labels `(T,)` of one utterance."""
        self._rows.append(f"{utterance}\t{self._frames}\t{len(labels)}\n")
        self._parts.append(labels)
        self._frames += len(labels)

    def close(self) -> dict[str, Any]:
        """Write both files and return the entry for `labels.json`."""
        flat = np.concatenate(self._parts) if self._parts else np.zeros(0, np.uint16)
        path = self.folder / f"{self.name}.npy"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, flat)
        write_text(self.folder / f"{self.name}.tsv", "".join(self._rows))
        return {"sha256": sha256(path), "utterances": len(self._rows), "frames": self._frames}


def write_description(
    folder: Path,
    rate: int,
    clusters: int,
    origin: Mapping[str, Any],
    sets: Mapping[str, Any],
    quality: Mapping[str, Any] | None = None,
    shards: Mapping[str, Any] | None = None,
) -> None:
    """Write `labels.json`, last of all: a folder without it is unfinished."""
    description = {"rate": rate, "clusters": clusters, "origin": dict(origin), "sets": dict(sets)}
    if shards:
        description["shards"] = dict(shards)
    if quality:
        description["quality"] = dict(quality)
    write_json(folder / "labels.json", description)


class LabelStore:
    """Reads the labels of several manifests.

    Args:
        folder: folder written by the `label` command.
        names: manifests whose labels are wanted.

    Raises:
        DataError: the folder is unfinished, damaged or lacks a manifest.
    """

    def __init__(self, folder: str | Path, names: Sequence[str]) -> None:
        self.folder = Path(folder)
        description = read_description(self.folder)
        self.rate = int(description["rate"])
        self.clusters = int(description["clusters"])
        self.description = description
        self._where: dict[str, tuple[int, int, int]] = {}
        self._arrays: list[Labels] = []
        for name in names:
            self._open(name)

    def _open(self, name: str) -> None:
        remedy = "label this manifest again"
        if name not in self.description["sets"]:
            found = ", ".join(self.description["sets"])
            raise DataError(
                f"no labels for '{name}'", where=self.folder, found=found, remedy=remedy
            )
        path = self.folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            rows = path.with_suffix(".tsv").read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise DataError(
                "damaged labels", where=path, found=error, remedy=remedy
            ) from None
        if len(array) != self.description["sets"][name]["frames"]:
            raise DataError("damaged labels", where=path, found=len(array), remedy=remedy)
        for row in rows:
            utterance, offset, frames = row.split("\t")
            self._where[utterance] = (len(self._arrays), int(offset), int(frames))
        self._arrays.append(array)

    def get(self, utterance: str) -> Labels:
        """Labels `(T,)` uint16 of one utterance.

        Raises:
            DataError: it has none.
        """
        if utterance not in self._where:
            raise DataError(
                f"utterance {utterance} has no labels",
                where=self.folder,
                remedy="label the manifest again",
            )
        index, offset, frames = self._where[utterance]
        return np.asarray(self._arrays[index][offset : offset + frames])

    def check(self, utterance: str, seconds: float) -> None:
        """Raise a DataError when the number of labels does not fit the duration."""
        check_length(self, utterance, seconds)


def check_length(labels: FrameLabels, utterance: str, seconds: float) -> None:
    """Raise a DataError when the number of labels of an utterance does not fit `seconds`."""
    frames = len(labels.get(utterance))
    if abs(frames / labels.rate - seconds) > TOLERANCE_SECONDS:
        raise DataError(
            f"the labels of utterance {utterance} do not fit its audio at {labels.rate} Hz",
            where=labels.folder,
            expected=f"about {round(seconds * labels.rate)} labels",
            found=frames,
            remedy="the rate in labels.json is wrong or the audio changed: label again",
        )


def read_description(folder: Path) -> dict[str, Any]:
    """What `labels.json` says of a folder of labels.

    Raises:
        DataError: the folder is unfinished or the file damaged.
    """
    path = folder / "labels.json"
    remedy = "run the stage that makes the targets"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("cannot read the labels", where=path, found=error, remedy=remedy) from None
    missing = {"rate", "clusters", "sets"} - set(description)
    if missing:
        raise DataError(
            "incomplete description", where=path, found=f"no {', '.join(missing)}", remedy=remedy
        )
    return dict(description)


def label_quality(pairs: Iterable[tuple[Labels, Sequence[int]]]) -> dict[str, float]:
    """Phone purity, cluster purity and PNMI (HuBERT, section IV-D).

    Args:
        pairs: for each utterance the labels and the phone of the same frames, -1 where unknown.

    Returns:
        `phone_purity`, `cluster_purity`, `pnmi` in [0, 1], `phones` and `frames`; empty when
        nothing is aligned.
    """
    labels, phones = [], []
    for utterance_labels, utterance_phones in pairs:
        known = np.asarray(utterance_phones) >= 0
        labels.append(np.asarray(utterance_labels)[known])
        phones.append(np.asarray(utterance_phones)[known])
    if not labels or sum(map(len, labels)) == 0:
        return {}
    label, phone = np.concatenate(labels).astype(np.int64), np.concatenate(phones)
    counts = np.zeros((phone.max() + 1, label.max() + 1))
    np.add.at(counts, (phone, label), 1)
    joint = counts / counts.sum()
    p_phone, p_label = joint.sum(1), joint.sum(0)
    outer = np.outer(p_phone, p_label)
    seen = joint > 0
    information = float((joint[seen] * np.log(joint[seen] / outer[seen])).sum())
    entropy = -float((p_phone[p_phone > 0] * np.log(p_phone[p_phone > 0])).sum())
    return {
        "phone_purity": float(joint.max(0).sum()),
        "cluster_purity": float(joint.max(1).sum()),
        "pnmi": information / entropy if entropy > 0 else 0.0,
        "phones": int((p_phone > 0).sum()),
        "frames": int(counts.sum()),
    }
