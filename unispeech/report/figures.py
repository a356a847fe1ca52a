"""Figures as data URIs: matplotlib with the Agg and SVG back-ends only, no display needed.

Colours are those of Okabe and Ito, told apart under the common colour-vision deficiencies.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
INK, FAINT = "#1a1a1a", "#d5d8dc"

# Any: matplotlib 3.11 types the keys as literals, earlier releases as str.
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.hashsalt": "unispeech",
    "svg.fonttype": "path",
}

_COLOURS = {"pretrained": BLUE, "scratch": VERMILION}
_QUALITY = ("accuracy", "wer", "cer", "token_error_rate", "uer", "per")
_MAX_SPEAKERS = 40
_SAMPLE_RATE = 16000

FloatArray = npt.NDArray[np.floating[Any]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image as a data URI; `left` and `right` bound its time axis, as shares of the width."""

    uri: str
    left: float = 0.0
    right: float = 1.0
    inches: float = 9.0


def encode(figure: Figure, kind: Literal["svg", "png"]) -> str:
    """A drawn figure as a data URI; equal figures give equal texts."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # A date in the file would make two equal reports differ.
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=130, metadata=metadata)
    mime = "image/svg+xml" if kind == "svg" else "image/png"
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def learning_curves(metrics: Sequence[Mapping[str, Any]]) -> Picture:
    """Loss, a quality measure where one was logged, learning rate and gradient norm over steps.

    Args:
        metrics: the lines of a `metrics.jsonl`.
    """
    quality = next((name for name in _QUALITY if any(name in row for row in metrics)), None)
    panels = ["loss", *([quality] if quality else []), "lr", "grad_norm"]
    panels = [name for name in panels if any(name in row for row in metrics)]
    with mpl.rc_context(STYLE):
        rows = -(-len(panels) // 2)
        figure = Figure(figsize=(9.0, 2.5 * max(rows, 1)), layout="constrained")
        for index, name in enumerate(panels):
            axes = figure.add_subplot(rows, 2, index + 1)
            _curve(axes, metrics, name)
            if index >= len(panels) - 2:
                axes.set_xlabel("step")
        return Picture(encode(figure, "svg"))


def _curve(axes: Axes, metrics: Sequence[Mapping[str, Any]], name: str) -> None:
    titles = {"lr": "learning rate", "grad_norm": "gradient norm", "wer": "WER", "per": "PER"}
    for phase, colour in (("train", BLUE), ("valid", VERMILION)):
        points = [
            (row["step"], row[name])
            for row in metrics
            if row["phase"] == phase and isinstance(row.get(name), (int, float))
        ]
        if not points or (name == "lr" and phase == "valid"):
            continue
        steps, values = np.array(points, dtype=np.float64).T
        marker = "o" if len(points) < 40 and phase == "valid" else None
        many = len(points) > 100 and name != "lr"
        axes.plot(
            steps, values, color=colour, marker=marker, markersize=3.5,
            label=None if many else phase, linewidth=0.7 if many else 1.6,
            alpha=0.35 if many else 1.0,
        )  # fmt: skip
        if many:
            axes.plot(steps, _smooth(values), color=colour, linewidth=1.8, label=phase)
    axes.set_title(titles.get(name, name.replace("_", " ")))
    axes.grid(True)
    axes.margins(x=0.02)
    if name == "lr":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    elif name == "loss":
        axes.legend(loc="upper right")


def _smooth(values: FloatArray) -> FloatArray:
    width = max(3, len(values) // 30) | 1
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1.0 / width), mode="valid")


def interval_plot(
    rows: Sequence[tuple[str, str, float, float, float, float | None]], metric: str = "WER"
) -> Picture:
    """Rates with their intervals, one line per row.

    Args:
        rows: (label, system, value, low, high, paper value or None), in percent.
        metric: name of the rate.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 0.9 + 0.36 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        for y, (_, system, value, low, high, published) in enumerate(rows):
            colour = _COLOURS.get(system, GREEN)
            axes.plot([low, high], [y, y], color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot(value, y, "o", color=colour, markersize=7)
            axes.annotate(
                f"{value:.1f}", (value, y), xytext=(0, 7), textcoords="offset points",
                ha="center", fontsize=9,
            )  # fmt: skip
            if published is not None:
                axes.plot(published, y, "D", color=INK, markersize=5, fillstyle="none")
        axes.set_yticks(range(len(rows)), [_plain(row[0]) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.7)
        axes.set_xlim(left=0)
        diamond = (
            " (diamond: the paper's value)" if any(row[-1] is not None for row in rows) else ""
        )
        axes.set_xlabel(f"{metric} in percent, with 95 % interval{diamond}")
        axes.grid(True, axis="x")
        axes.tick_params(axis="y", length=0)
        return Picture(encode(figure, "svg"))


def speaker_bars(
    systems: Mapping[str, Mapping[str, tuple[int, int]]], metric: str = "WER"
) -> Picture:
    """Error rate of every speaker, as bars with their counts.

    Args:
        systems: system -> speaker -> (errors, words). Of many speakers, those with the highest
            rate of the first system are shown.
        metric: name of the rate, WER or PER.
    """
    first = next(iter(systems.values()))

    def rate(errors: int, words: int) -> float:
        return 100.0 * errors / max(words, 1)

    speakers = sorted(first, key=lambda name: (-rate(*first[name]), name))[:_MAX_SPEAKERS]
    height = 0.8 / len(systems)
    with mpl.rc_context(STYLE):
        inches = 0.9 + len(speakers) * (0.14 + 0.2 * len(systems))
        figure = Figure(figsize=(9.0, inches), layout="constrained")
        axes = figure.add_subplot()
        for index, (system, counts) in enumerate(systems.items()):
            colour = _COLOURS.get(system, GREEN)
            shown = [(y, *counts[name]) for y, name in enumerate(speakers) if name in counts]
            middle = [y + (index - (len(systems) - 1) / 2) * height for y, _, _ in shown]
            rates = [rate(errors, words) for _, errors, words in shown]
            bars = axes.barh(middle, rates, height * 0.92, color=colour, label=system)
            labels = [f"{errors} / {words}" for _, errors, words in shown]
            axes.bar_label(bars, labels, padding=3, fontsize=8)
        axes.set_yticks(range(len(speakers)), [_plain(name) for name in speakers])
        axes.set_ylim(len(speakers) - 0.45, -0.55)
        axes.margins(x=0.12)
        part = (
            f"; the {len(speakers)} highest of {len(first)}" if len(speakers) < len(first) else ""
        )
        counted = "phones" if metric == "PER" else "words"
        axes.set_xlabel(f"{metric} in percent (labels: errors / {counted}{part})")
        axes.grid(True, axis="x")
        axes.tick_params(axis="y", length=0)
        if len(systems) > 1:
            figure.legend(loc="outside upper right", ncols=len(systems))
        return Picture(encode(figure, "svg"))


def _plain(text: str) -> str:
    # matplotlib reads what is between two dollar signs as a formula.
    return text.replace("$", r"\$")


def log_mel(samples: FloatArray, bands: int = 80) -> FloatArray:
    """Log-mel spectrogram of 16 kHz samples, in dB below its maximum and at least -80.

    Returns `(bands, frames)`: 25 ms Hann windows centred every 10 ms, mel scale of HTK to 8 kHz.
    """
    window, hop, size = 400, 160, 1024
    padded = np.pad(samples.astype(np.float64), (window // 2, window))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[: len(samples) : hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), size)) ** 2
    bins = np.fft.rfftfreq(size, 1.0 / _SAMPLE_RATE)
    edges = _hertz(np.linspace(0.0, _mel(np.array(_SAMPLE_RATE / 2)), bands + 2))
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rise, fall = (bins - lower) / (centre - lower), (upper - bins) / (upper - centre)
    energy = np.maximum(np.minimum(rise, fall), 0.0) @ power.T
    decibel = 10.0 * np.log10(energy + 1e-10)
    return np.asarray(np.maximum(decibel - decibel.max(initial=-100.0), -80.0))


def _mel(hertz: FloatArray) -> FloatArray:
    return np.asarray(2595.0 * np.log10(1.0 + hertz / 700.0))


def _hertz(mel: FloatArray) -> FloatArray:
    return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))


def greedy_labels(log_probs: FloatArray, blank: int = 0) -> list[tuple[int, int]]:
    """`(frame, token)` of every greedy label: the most probable frame of each run of a token."""
    if not len(log_probs):
        return []
    best = log_probs.argmax(axis=1)
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    labels = []
    for start, end in zip(starts, [*starts[1:], len(best)], strict=True):
        token = int(best[start])
        if token != blank:
            labels.append((int(start + log_probs[start:end, token].argmax()), token))
    return labels


def posteriors(
    samples: FloatArray,
    log_probs: FloatArray,
    tokens: Sequence[str],
    frame_shift: float,
    blank: int = 0,
) -> Picture:
    """Log-mel spectrogram above the frame posteriors, with the greedy tokens at their frames.

    Args:
        samples: waveform `(samples,)`, in [-1, 1], at 16 kHz.
        log_probs: CTC log-probabilities `(frames, vocabulary)`.
        tokens: the symbol of every column of `log_probs`.
        frame_shift: seconds per frame of `log_probs`.
        blank: the column of the blank, drawn lightly at the bottom.
    """
    probs = np.exp(np.asarray(log_probs, dtype=np.float64))
    seconds = max(len(samples) / _SAMPLE_RATE, len(probs) * frame_shift)
    width = float(np.clip(1.5 + 1.6 * seconds, 9.0, 40.0))
    symbols = [k for k in range(len(tokens)) if k != blank and probs[:, k].max(initial=0) > 0.05]
    height = 2.4 + 0.17 * (len(symbols) + 2)
    left, right = 0.75 / width, 1.0 - 0.15 / width
    top, bottom = 1.0 - 0.1 / height, 0.5 / height
    split = bottom + (top - bottom) * 0.17 * (len(symbols) + 2) / (height - 0.6)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        above = split + 0.3 / height
        upper = figure.add_axes((left, above, right - left, top - above))
        lower = figure.add_axes((left, bottom, right - left, split - bottom))
        _draw_spectrogram(upper, log_mel(samples), len(samples) / _SAMPLE_RATE)
        _draw_posteriors(lower, probs, [*symbols, blank], tokens, frame_shift)
        for frame, token in greedy_labels(log_probs, blank):
            upper.text(
                (frame + 0.5) * frame_shift, -0.09, _symbol(tokens[token]), ha="center",
                va="center", fontsize=9, transform=upper.get_xaxis_transform(),
            )  # fmt: skip
        for axes in (upper, lower):
            axes.set_xlim(0.0, seconds)
        upper.tick_params(axis="x", labelbottom=False, length=0)
        lower.set_xlabel("seconds")
        return Picture(encode(figure, "png"), left, right, width)


def _symbol(token: str) -> str:
    return "␣" if token == "|" else _plain(token)


def _draw_spectrogram(axes: Axes, spectrogram: FloatArray, seconds: float) -> None:
    bands = len(spectrogram)
    axes.imshow(
        spectrogram, origin="lower", aspect="auto", cmap="magma_r", vmin=-80, vmax=0,
        extent=(0.0, seconds, 0.0, bands),
    )  # fmt: skip
    kilohertz = np.array([0.5, 1.0, 2.0, 4.0])
    places = _mel(kilohertz * 1000) / _mel(np.array(_SAMPLE_RATE / 2)) * bands
    axes.set_yticks(list(places), [f"{value:g}" for value in kilohertz])
    axes.set_ylabel("kHz")


def _draw_posteriors(
    axes: Axes, probs: FloatArray, columns: list[int], tokens: Sequence[str], frame_shift: float
) -> None:
    shades = LinearSegmentedColormap.from_list("tokens", ["#ffffff", SKY, BLUE, "#00263d"])
    pale = LinearSegmentedColormap.from_list("blank", ["#ffffff", FAINT])
    duration = len(probs) * frame_shift
    rows = len(columns)
    for cmap, first, last in ((shades, 0, rows - 1), (pale, rows - 1, rows)):
        if last > first and len(probs):
            axes.imshow(
                probs[:, columns[first:last]].T, aspect="auto", cmap=cmap, vmin=0, vmax=1,
                interpolation="nearest", extent=(0.0, duration, last - 0.5, first - 0.5),
            )  # fmt: skip
    axes.set_ylim(rows - 0.5, -0.5)
    names = [_symbol(tokens[k]) for k in columns[:-1]]
    axes.set_yticks(range(rows), [*names, "blank"], fontsize=8)
    axes.set_yticks(np.arange(rows - 1) + 0.5, minor=True)
    axes.grid(True, axis="y", which="minor", color="#eef0f2", linewidth=0.6)
    axes.tick_params(axis="y", which="both", length=0)
