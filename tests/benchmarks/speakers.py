"""Speaker verification with averaged features: which layers of which models tell speakers apart.

    python tests/benchmarks/speakers.py --data FOLDER MODEL [MODEL ...]

FOLDER is speechocean_mini: `trials.txt` with lines `1|0 path path`, and `transcripts.tsv` with the
splits. Every layer is averaged over time, the mean over the dev split is taken off, and trials are
scored by cosine. The layer is chosen on the dev trials; the EER with a 95 % bootstrap interval over
the speakers is that of the test trials.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch

import unispeech

Trial = tuple[bool, str, str]


def equal_error_rate(scores: npt.NDArray[np.float64], is_target: npt.NDArray[np.bool_]) -> float:
    """Error rate at the threshold where misses and false alarms are alike, in per cent."""
    order = np.argsort(scores)
    targets = is_target[order]
    misses = np.cumsum(targets) / targets.sum()
    alarms = 1 - np.cumsum(~targets) / (~targets).sum()
    best = int(np.argmin(np.abs(misses - alarms)))
    return float(50 * (misses[best] + alarms[best]))


def means(model: torch.nn.Module, paths: list[Path]) -> npt.NDArray[np.float32]:
    """Averages over time `(files, layers, D)`."""
    rows = []
    for path in paths:
        audio, _ = soundfile.read(path, dtype="float32")
        with torch.inference_mode():
            layers = model(torch.from_numpy(audio)[None]).layers
        rows.append(torch.stack([layer[0].mean(0) for layer in layers]).numpy())
    return np.stack(rows)


def scores(vectors: dict[str, npt.NDArray[np.float32]], trials: list[Trial]) -> npt.NDArray:
    """Cosines of the trials."""
    unit = {name: vector / np.linalg.norm(vector) for name, vector in vectors.items()}
    return np.array([float(unit[a] @ unit[b]) for _, a, b in trials])


def interval(trials: list[Trial], values: npt.NDArray, speaker: dict[str, str]) -> tuple:
    """95 % of the EER over draws of the speakers with replacement."""
    rng = np.random.default_rng(0)
    names = sorted({speaker[path] for _, *pair in trials for path in pair})
    sides = np.array([[names.index(speaker[a]), names.index(speaker[b])] for _, a, b in trials])
    is_target = np.array([target for target, *_ in trials])
    drawn = []
    for _ in range(500):
        counts = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        both = counts[sides[:, 0]] * counts[sides[:, 1]]
        weights = np.where(is_target, counts[sides[:, 0]], both)
        again = np.repeat(np.arange(len(trials)), weights)
        if is_target[again].any() and not is_target[again].all():
            drawn.append(equal_error_rate(values[again], is_target[again]))
    return tuple(np.percentile(drawn, [2.5, 97.5]))


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    with (args.data / "transcripts.tsv").open(encoding="utf-8") as file:
        rows = {r["path"]: r for r in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    speaker = {path: row["speaker"] for path, row in rows.items()}
    lines = [line.split() for line in (args.data / "trials.txt").read_text().splitlines()]
    trials = {
        split: [
            (target == "1", a, b)
            for target, a, b in lines
            if rows[a]["split"] == rows[b]["split"] == split
        ]
        for split in ("dev", "test")
    }
    paths = sorted({path for _, *pair in sum(trials.values(), []) for path in pair})
    print("| model | layer | EER dev | EER test | 95 % |\n|---|---:|---:|---:|---|")
    for name in args.models:
        vectors = means(unispeech.load_model(name), [args.data / path for path in paths])
        centre = vectors[[rows[path]["split"] == "dev" for path in paths]].mean(0)
        by_layer = []
        for layer in range(vectors.shape[1]):
            own = dict(zip(paths, vectors[:, layer] - centre[layer], strict=True))
            values = {split: scores(own, trials[split]) for split in trials}
            labels = {s: np.array([target for target, *_ in trials[s]]) for s in trials}
            by_layer.append(({s: equal_error_rate(values[s], labels[s]) for s in trials}, values))
        layer = min(range(len(by_layer)), key=lambda i: by_layer[i][0]["dev"])
        rates, values = by_layer[layer]
        low, high = interval(trials["test"], values["test"], speaker)
        rows_of = f"{rates['dev']:.1f} | {rates['test']:.1f} | {low:.1f}-{high:.1f}"
        print(f"| {name} | {layer} | {rows_of} |")


if __name__ == "__main__":
    main()
