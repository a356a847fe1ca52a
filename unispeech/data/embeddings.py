"""Folders of speaker embeddings: one row for each utterance, computed once and scored often.

A folder holds `embeddings.npy` float32 `(N, D)`, `durations.npy` float64 `(N,)` in seconds,
`ids.txt`, `speakers.txt` (a line is empty where the speaker is unknown) and `embeddings.json`, with
checksums and what the embeddings were made of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unispeech.errors import DataError
from unispeech.storage import atomic_folder, sha256, write_json, write_text

VALUES, DURATIONS, IDS = "embeddings.npy", "durations.npy", "ids.txt"
SPEAKERS, ABOUT = "speakers.txt", "embeddings.json"
AGAIN = "run embed again"


class Embeddings(NamedTuple):
    """Embeddings of utterances.

    Attributes:
        ids: names of the utterances.
        speakers: of each utterance, "" where unknown.
        values: float32 `(N, D)`, mapped from the file where there is one folder.
        durations: seconds, float64 `(N,)`.
        model: SHA-256 of the model.
        digest: SHA-256 of the values, of several folders joined by blanks.
    """

    ids: list[str]
    speakers: list[str]
    values: npt.NDArray[np.float32]
    durations: npt.NDArray[np.float64]
    model: str
    digest: str

    def rows(self, ids: Sequence[str], where: object) -> npt.NDArray[np.int64]:
        """Rows of utterances, int64 `(len(ids),)`.

        Args:
            ids: names of utterances.
            where: what lists them, for the message.

        Raises:
            DataError: some have no embedding.
        """
        places = {name: row for row, name in enumerate(self.ids)}
        absent = [name for name in ids if name not in places]
        if absent:
            raise DataError(
                "utterances without embedding",
                where=where,
                found=f"{len(absent)} of {len(ids)}, the first {absent[0]}",
                remedy="run embed on a manifest or folder that has them",
            )
        return np.array([places[name] for name in ids], dtype=np.int64)


def write_embeddings(
    folder: Path,
    ids: Sequence[str],
    speakers: Sequence[str],
    durations: Sequence[float],
    batches: Iterable[tuple[Sequence[int], npt.NDArray[np.float32]]],
    about: Mapping[str, Any],
) -> None:
    """Write a folder as its embeddings come; an interrupted run leaves none.

    Args:
        folder: where to; replaced when it is there.
        ids: names of the utterances.
        speakers: of each utterance, "" where unknown.
        durations: seconds of each.
        batches: rows, in any order, and their embeddings `(rows, D)`.
        about: what the embeddings were made of, for `embeddings.json`.
    """
    with atomic_folder(folder) as temporary:
        values: np.memmap[Any, np.dtype[np.float32]] | None = None
        for rows, found in batches:
            if values is None:
                shape = (len(ids), found.shape[1])
                values = np.lib.format.open_memmap(temporary / VALUES, "w+", np.float32, shape)
            values[list(rows)] = found
        if values is None:
            raise DataError("nothing to embed", where=folder)
        dimension = values.shape[1]
        values.flush()
        del values
        np.save(temporary / DURATIONS, np.asarray(durations, dtype=np.float64))
        write_text(temporary / IDS, "".join(f"{name}\n" for name in ids))
        write_text(temporary / SPEAKERS, "".join(f"{name}\n" for name in speakers))
        files = {name: sha256(temporary / name) for name in (VALUES, DURATIONS, IDS, SPEAKERS)}
        facts = {"dim": dimension, "count": len(ids), "sha256": files}
        write_json(temporary / ABOUT, {**about, **facts})


def describe(folder: Path) -> dict[str, Any]:
    """What `embeddings.json` says.

    Raises:
        DataError: there are no embeddings.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise DataError("no embeddings here", where=folder, remedy="run embed with this --output")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError("damaged file", where=path, found=error, remedy=AGAIN) from None
    return dict(found)


def read_embeddings(folders: Path | Sequence[Path]) -> Embeddings:
    """The embeddings of one folder or of several.

    Raises:
        DataError: a folder has none or is damaged, two come from different models, or an utterance
            is in two of them.
    """
    places = [folders] if isinstance(folders, Path) else list(folders)
    parts = [_read(folder) for folder in places]
    first = parts[0]
    for folder, part in zip(places, parts, strict=True):
        if part.model != first.model or part.values.shape[1] != first.values.shape[1]:
            raise DataError(
                "embeddings of another model",
                where=folder,
                expected=f"{first.model[:12]}, {first.values.shape[1]} dimensions, of {places[0]}",
                found=f"{part.model[:12]}, {part.values.shape[1]} dimensions",
            )
    if len(parts) == 1:
        return first
    ids = [name for part in parts for name in part.ids]
    if len(set(ids)) < len(ids):
        twice = next(name for name in parts[-1].ids if ids.count(name) > 1)
        raise DataError("an utterance in two folders", where=twice, remedy="leave one of them out")
    return Embeddings(
        ids,
        [name for part in parts for name in part.speakers],
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.durations for part in parts]),
        first.model,
        " ".join(part.digest for part in parts),
    )


def _read(folder: Path) -> Embeddings:
    about = describe(folder)
    try:
        ids = (folder / IDS).read_text(encoding="utf-8").splitlines()
        values = np.load(folder / VALUES, mmap_mode="r")
        durations = np.load(folder / DURATIONS)
        own = folder / SPEAKERS
        speakers = own.read_text(encoding="utf-8").splitlines() if own.is_file() else []
        model, digest = str(about["model_sha256"]), str(about["sha256"][VALUES])
    except (OSError, ValueError, KeyError) as error:
        found = f"{type(error).__name__}: {error}"
        raise DataError("damaged embeddings", where=folder, found=found, remedy=AGAIN) from None
    speakers = speakers or [speaker_of(name) for name in ids]
    counts = {len(ids), len(values), len(durations), len(speakers)}
    if len(counts) > 1 or values.ndim != 2 or len(set(ids)) < len(ids):
        raise DataError(
            "damaged embeddings",
            where=folder,
            expected="one row, one duration and one name of its own for each utterance",
            found=f"{len(values)}, {len(durations)} and {len(set(ids))}",
            remedy=AGAIN,
        )
    return Embeddings(ids, speakers, values, durations, model, digest)


def speaker_of(utterance: str) -> str:
    """The speaker in an id that is a path, as VoxCeleb's are: its first folder, or "" without."""
    folder, slash, _ = utterance.partition("/")
    return folder if slash else ""
