"""Figures of speaker verification: DET curves, scores, layer weights, a map of embeddings."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri

from unispeech.report.figures import (
    BLUE,
    GREEN,
    INK,
    PURPLE,
    SKY,
    STYLE,
    VERMILION,
    FloatArray,
    Picture,
    encode,
)
from unispeech.storage import atomic_path

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, SKY, INK, "#E69F00")
TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6)
"""Error rates at which the axes of a DET curve are labelled."""

MOST_SPEAKERS, MOST_UTTERANCES = 20, 30
"""What a map of embeddings shows: of more, the first."""

Points = tuple[FloatArray, FloatArray]
"""False alarms and misses of one system."""


def write_png(path: Path, picture: Picture) -> None:
    """Write a PNG picture to a file."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(base64.b64decode(picture.uri.partition(",")[2]))


def det(conditions: Mapping[str, Mapping[str, Points]]) -> Picture:
    """DET curves: one panel for each list of trials, all its systems in it.

    Both axes are scaled by the inverse normal distribution, on which normal scores give straight
    lines; the dot is where false alarms and misses are equally frequent.

    Args:
        conditions: list -> system -> false alarms and misses, in [0, 1], from few false alarms to
            many.
    """
    count = len(conditions)
    systems = list(dict.fromkeys(name for own in conditions.values() for name in own))
    with mpl.rc_context(STYLE):
        size = (max(6.0, 5.0 * count), 5.4 + 0.22 * len(systems))
        figure = Figure(figsize=size, layout="constrained")
        for place, (title, own) in enumerate(conditions.items()):
            axes = figure.add_subplot(1, count, place + 1)
            _det_panel(axes, own, systems)
            axes.set_title(_plain(title))
        handles, labels = figure.axes[0].get_legend_handles_labels()
        for axes in figure.axes[1:]:
            more = zip(*axes.get_legend_handles_labels(), strict=True)
            for handle, label in more:
                if label not in labels:
                    handles, labels = [*handles, handle], [*labels, label]
        figure.legend(handles, labels, loc="outside lower center")
        return Picture(encode(figure, "png"))


def _det_panel(axes: Axes, own: Mapping[str, Points], systems: Sequence[str]) -> None:
    lows, highs = [], []
    for name, (false_alarm, miss) in own.items():
        colour = COLOURS[systems.index(name) % len(COLOURS)]
        style = ("-", "--", ":")[systems.index(name) // len(COLOURS) % 3]
        inside = (false_alarm > 0) & (miss > 0) & (false_alarm < 1) & (miss < 1)
        if not inside.any():
            # No threshold errs on both sides: a corner, which these axes do not have.
            axes.plot([], [], color=colour, linestyle=style, label=_plain(f"{name}: no error"))
            continue
        x, y = ndtri(false_alarm[inside]), ndtri(miss[inside])
        axes.plot(x, y, color=colour, linestyle=style, linewidth=1.8, label=_plain(name))
        middle = int(np.argmin(np.abs(false_alarm[inside] - miss[inside])))
        axes.plot(x[middle], y[middle], "o", color=colour, markersize=5)
        lows.append(min(x.min(), y.min()))
        highs.append(min(max(x.max(), y.max()), float(ndtri(0.6))))
    low = max(min(lows, default=-3.0), float(ndtri(0.0005)))
    limits = (low - 0.1, max(highs, default=0.0) + 0.1)
    axes.plot(limits, limits, color="#8a8f98", linewidth=0.8, linestyle=(0, (2, 3)))
    shown = [tick for tick in TICKS if limits[0] <= ndtri(tick) <= limits[1]]
    places, names = [float(ndtri(tick)) for tick in shown], [f"{100 * tick:g}" for tick in shown]
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel("false alarms in percent")
    axes.set_ylabel("misses in percent")
    axes.grid(True)


def score_histograms(systems: Mapping[str, npt.NDArray[Any]]) -> Picture:
    """Shares of targets and of non-targets by score, one panel for each system.

    Args:
        systems: name -> rows of lower edge, upper edge, targets, non-targets `(bins, 4)`.
    """
    rows = -(-len(systems) // 2)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 2.6 * rows), layout="constrained")
        for place, (title, bins) in enumerate(systems.items()):
            axes = figure.add_subplot(rows, min(2, len(systems)), place + 1)
            edges = np.append(bins[:, 0], bins[-1, 1])
            kinds = (("two speakers", 3, VERMILION), ("one speaker", 2, BLUE))
            for name, column, colour in kinds:
                share = bins[:, column] / bins[:, column].sum()
                axes.stairs(share, edges, fill=True, alpha=0.35, color=colour)
                axes.stairs(share, edges, color=colour, label=name)
            axes.set_title(_plain(title))
            axes.set_yticks([])
            axes.set_xlabel("score")
        figure.axes[0].legend(loc="upper right")
        return Picture(encode(figure, "png"))


def layer_weights(models: Mapping[str, FloatArray]) -> Picture:
    """Bars of the weights with which hidden states are summed.

    Args:
        models: name -> weights `(layers + 1,)` that sum to 1; the first is of the encoder's input.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 3.2), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(models)
        for place, (name, weights) in enumerate(models.items()):
            middle = np.arange(len(weights)) + (place - (len(models) - 1) / 2) * width
            colour = COLOURS[place % len(COLOURS)]
            axes.bar(middle, weights, width * 0.92, color=colour, label=_plain(name))
        axes.set_xticks(range(max(len(weights) for weights in models.values())))
        axes.set_xlabel("hidden state (0: the encoder's input)")
        axes.set_ylabel("weight")
        axes.set_xlim(-0.6, None)
        axes.grid(True, axis="y")
        axes.legend(loc="upper left")
        return Picture(encode(figure, "png"))


def embedding_map(values: FloatArray, speakers: Sequence[str]) -> Picture:
    """A plane in which embeddings that are close stay close (t-SNE of the directions).

    Args:
        values: embeddings `(N, D)`.
        speakers: of each; of many, the first `MOST_SPEAKERS` are shown.
    """
    from sklearn.manifold import TSNE

    names = list(dict.fromkeys(name for name in speakers if name))[:MOST_SPEAKERS]
    rows = [
        row
        for name in names
        for row in [k for k, other in enumerate(speakers) if other == name][:MOST_UTTERANCES]
    ]
    chosen = np.asarray(values[rows], dtype=np.float64)
    chosen = chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)
    if len(rows) > 3:
        spread = min(30.0, (len(rows) - 1) / 3)
        places = TSNE(perplexity=spread, init="pca", random_state=0).fit_transform(chosen)
    else:
        places = chosen[:, :2]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 6.0), layout="constrained")
        axes = figure.add_subplot()
        for number, name in enumerate(names):
            own = np.array([speakers[row] == name for row in rows])
            colour, marker = COLOURS[number % len(COLOURS)], "os^"[number // len(COLOURS) % 3]
            x, y = places[own, 0], places[own, 1]
            axes.scatter(x, y, s=22, color=colour, marker=marker, label=_plain(name))
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{len(rows)} utterances of {len(names)} speakers, t-SNE")
        figure.legend(loc="outside right upper", fontsize=8)
        return Picture(encode(figure, "png"))


def _plain(text: str) -> str:
    # matplotlib reads what is between two dollar signs as a formula.
    return text.replace("$", r"\$")
