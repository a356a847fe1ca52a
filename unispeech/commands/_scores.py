"""Files that `trials` writes, and the line that it prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unispeech.data.scores import write_scores
from unispeech.data.trials import Trials
from unispeech.score.trials import Curve, curve, visible_points
from unispeech.storage import sha256, write_json, write_text

FloatArray = npt.NDArray[np.float64]


def stored_line(folder: Path, inputs: Mapping[str, Any]) -> str | None:
    """The line that was printed when the same inputs were scored, or None."""
    try:
        found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(found["line"]) if found.get("inputs") == inputs else None


def write_results(
    folder: Path,
    trials: Trials,
    scores: FloatArray,
    metrics: Mapping[str, Any],
    about: Mapping[str, Any],
) -> str:
    """Write everything, `metrics.json` last, and return the line that says it."""
    write_scores(folder / "scores.tsv", trials, scores)
    digest = {"trials": len(scores), "sha256": sha256(folder / "scores.tsv")}
    write_json(folder / "scores.json", {**about, **digest})
    write_curve(folder / "det.tsv", curve(trials.labels, scores))
    write_histogram(folder / "histogram.tsv", trials.labels, scores)
    line = format_line(metrics, about)
    write_json(folder / "metrics.json", {**metrics, **about, "line": line})
    return line


def format_line(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """One line with the measures of a list."""
    parts = [
        f"EER {metrics['eer']:.3f}% [{metrics['eer_low']:.3f}, {metrics['eer_high']:.3f}]",
        f"minDCF {metrics['mindcf_0.01']:.4f} at 0.01, {metrics['mindcf_0.05']:.4f} at 0.05",
    ]
    if metrics["cllr"] is not None:
        parts.append(f"actDCF {metrics['actdcf_0.01']:.4f}, {metrics['actdcf_0.05']:.4f}")
        parts.append(f"Cllr {metrics['cllr']:.4f} (least {metrics['min_cllr']:.4f})")
        parts.append(f"EER {metrics['eer_before_calibration']:.3f}% before calibration")
    parts.append(f"{metrics['trials']} trials, {metrics['targets']} of one speaker")
    return f"{about['condition']}, {about['system']}, {about['method']}: {', '.join(parts)}"


def write_curve(path: Path, found: Curve) -> None:
    """Write the points of the DET curve that can be told apart on it: threshold, rates."""
    kept = visible_points(found)
    rows = zip(*(side[kept].tolist() for side in found), strict=True)
    lines = ["threshold\tfalse_alarm\tmiss\n"]
    lines += [f"{threshold:.9g}\t{alarm:.9g}\t{miss:.9g}\n" for threshold, alarm, miss in rows]
    write_text(path, "".join(lines))


def write_histogram(path: Path, labels: npt.NDArray[np.bool_], scores: FloatArray) -> None:
    """Write how many targets and non-targets have scores in each of 100 equal bins."""
    edges = np.histogram_bin_edges(scores, 100)
    targets, others = (np.histogram(scores[kind], edges)[0] for kind in (labels, ~labels))
    rows = zip(edges[:-1], edges[1:], targets, others, strict=True)
    lines = ["from\tto\ttargets\tnon_targets\n"]
    lines += [f"{low:.9g}\t{high:.9g}\t{t}\t{n}\n" for low, high, t, n in rows]
    write_text(path, "".join(lines))
