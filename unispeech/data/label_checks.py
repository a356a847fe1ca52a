"""What can be wrong with a folder of frame labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from lhotse import MonoCut

from unispeech.storage import sha256

REMEDY = "make the labels again: python -m unispeech label"
# Feature extractors drop or add a few frames at the end of an utterance.
TOLERANCE_SECONDS = 0.1


def check_labels(sets: Mapping[str, Sequence[MonoCut]], folder: Path) -> list[str]:
    """Problems of the labels in `folder` for the manifests, one line each.

    `labels.json` holds `rate` (Hz), `clusters` and the sha256 of each of `sets`; `<set>.tsv` has
    lines of utterance, offset and frames; `<set>.npy` holds the labels of all utterances in a row.
    """
    file = folder / "labels.json"
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        rate, clusters = float(facts["rate"]), int(facts["clusters"])
        hashes = {name: str(entry["sha256"]) for name, entry in facts["sets"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{file}: not a description of labels, {type(error).__name__} {error}; {REMEDY}"]
    problems = []
    for name, expected in hashes.items():
        if name not in sets:
            continue
        labels = folder / f"{name}.npy"
        if labels.is_file() and sha256(labels) != expected:
            problems.append(f"{labels}: not the file that labels.json describes; {REMEDY}")
        problems += _check_set(sets[name], name, folder, rate, clusters)
    return problems


def _check_set(
    cuts: Sequence[MonoCut], name: str, folder: Path, rate: float, clusters: int
) -> list[str]:
    table, file = folder / f"{name}.tsv", folder / f"{name}.npy"
    try:
        labels = np.load(file, mmap_mode="r", allow_pickle=False)
        rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
        index = {row[0]: (int(row[1]), int(row[2])) for row in rows}
    except (OSError, ValueError, IndexError, EOFError) as error:
        return [f"{folder}, set {name}: cannot read the labels, {error}; {REMEDY}"]
    problems = []
    for cut in cuts:
        where = f"{folder}, set {name}, utterance {cut.id}"
        if cut.id not in index:
            problems.append(f"{where}: no labels; {REMEDY}")
            continue
        offset, frames = index[cut.id]
        expected = cut.duration * rate
        if abs(frames - expected) > TOLERANCE_SECONDS * rate:
            problems.append(
                f"{where}: {frames} frames, expected about {expected:.0f} "
                f"({cut.duration:.2f} s at {rate:g} Hz); {REMEDY}"
            )
        if offset < 0 or offset + frames > len(labels):
            problems.append(
                f"{where}: frames {offset} to {offset + frames} of {len(labels)}; {REMEDY}"
            )
        elif frames and (largest := int(labels[offset : offset + frames].max())) >= clusters:
            problems.append(f"{where}: label {largest} of {clusters} clusters; {REMEDY}")
    return problems
