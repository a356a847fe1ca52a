"""Figures of separation: error rates over the overlap, spectrograms and masks of streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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

COLOURS = (INK, SKY, GREEN, BLUE, VERMILION, PURPLE)

WINDOW, FFT, HOP, RATE = 400, 512, 160, 16000
"""Of the separation models, so that masks are seen at their own resolution."""

FLOOR = -70.0
"""Decibels below the mixture's maximum at which spectrograms end."""

Point = tuple[str, float, float, float]
"""Condition, rate, and its interval."""


def rates_by_overlap(
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    published: Mapping[str, Mapping[str, Sequence[tuple[str, float]]]] | None = None,
) -> Picture:
    """Word error rates with intervals over the overlap conditions, a panel for each evaluation.

    Args:
        panels: title -> system -> points, in the order of the conditions.
        published: title -> system -> condition and rate, drawn hollow in the system's colour.
    """
    names = list(dict.fromkeys(name for own in panels.values() for name in own))
    with mpl.rc_context(STYLE):
        size = (max(6.0, 4.8 * len(panels)), 4.2 + 0.22 * len(names))
        figure = Figure(figsize=size, layout="constrained")
        for place, (title, own) in enumerate(panels.items()):
            axes = figure.add_subplot(1, len(panels), place + 1)
            _panel(axes, own, names, (published or {}).get(title, {}))
            axes.set_title(_plain(title))
        found = [axes.get_legend_handles_labels() for axes in figure.axes]
        shown = {
            label: handle
            for handles, labels in found
            for handle, label in zip(handles, labels, strict=True)
        }
        ours = {_plain(name) for name in names}
        order = sorted(shown, key=lambda label: label not in ours)
        handles = [shown[label] for label in order]
        figure.legend(handles, order, loc="outside lower center", ncols=2)
        return Picture(encode(figure, "svg"))


def _panel(
    axes: Axes,
    own: Mapping[str, Sequence[Point]],
    names: Sequence[str],
    published: Mapping[str, Sequence[tuple[str, float]]],
) -> None:
    conditions = list(dict.fromkeys(point[0] for points in own.values() for point in points))
    for name, points in own.items():
        number = names.index(name)
        colour = COLOURS[number % len(COLOURS)]
        # Side by side, so that intervals can be told apart.
        shift = 0.12 * (number - (len(names) - 1) / 2)
        x = np.array([conditions.index(point[0]) for point in points]) + shift
        value, low, high = (np.array([point[k] for point in points]) for k in (1, 2, 3))
        spread = np.stack([value - low, high - value]).clip(0)
        axes.errorbar(
            x, value, spread, color=colour, marker="o", markersize=5, linewidth=1.6,
            elinewidth=1.0, capsize=2, label=_plain(name),
        )  # fmt: skip
        if name in published:
            places = [conditions.index(one) for one, _ in published[name] if one in conditions]
            rates = [rate for one, rate in published[name] if one in conditions]
            axes.plot(
                np.array(places) + shift, rates, color=colour, marker="D", fillstyle="none",
                linestyle=":", linewidth=1.0, label=_plain(f"{name}: published"),
            )  # fmt: skip
    axes.set_xticks(range(len(conditions)), [_plain(one) for one in conditions])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("word error rate in percent")
    axes.grid(True, axis="y")


def magnitudes(samples: FloatArray) -> FloatArray:
    """Magnitude spectrum `(bins, frames)` of samples `(N,)`: 25 ms Hann windows every 10 ms."""
    padded = np.pad(np.asarray(samples, dtype=np.float64), (0, max(0, WINDOW - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    return np.asarray(np.abs(np.fft.rfft(frames * np.hanning(WINDOW), FFT)).T)


def applied_mask(stream: FloatArray, mixture: FloatArray) -> FloatArray:
    """What of the mixture's magnitude a stream has, `(bins, frames)` in [0, 1].

    Args:
        stream: samples `(N,)`.
        mixture: samples `(N,)`.
    """
    whole = magnitudes(mixture)
    floor = 1e-5 * max(float(whole.max(initial=0.0)), 1e-12)
    return np.asarray(np.clip(magnitudes(stream) / np.maximum(whole, floor), 0.0, 1.0))


def spectrograms(mixture: FloatArray, streams: Mapping[str, FloatArray]) -> Picture:
    """The mixture above the streams, each with its mask beside it.

    Args:
        mixture: samples `(N,)` at 16 kHz.
        streams: name -> samples `(N,)`.
    """
    seconds = len(mixture) / RATE
    loudest = 20 * np.log10(max(float(magnitudes(mixture).max(initial=0.0)), 1e-9))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 1.9 * (len(streams) + 1)), layout="constrained")
        grid = figure.add_gridspec(len(streams) + 1, 2)
        axes = figure.add_subplot(grid[0, 0])
        _spectrogram(axes, mixture, loudest, seconds)
        axes.set_title("mixture")
        for row, (name, samples) in enumerate(streams.items(), start=1):
            axes = figure.add_subplot(grid[row, 0])
            _spectrogram(axes, samples, loudest, seconds)
            axes.set_title(_plain(name))
            axes = figure.add_subplot(grid[row, 1])
            image = axes.imshow(
                applied_mask(samples, mixture), origin="lower", aspect="auto", cmap="viridis",
                vmin=0, vmax=1, extent=(0.0, seconds, 0.0, RATE / 2000), interpolation="nearest",
            )  # fmt: skip
            axes.set_title("share of the mixture's magnitude")
            figure.colorbar(image, ax=axes, pad=0.01)
        figure.supxlabel("seconds", fontsize=10)
        return Picture(encode(figure, "png"))


def _spectrogram(axes: Axes, samples: FloatArray, loudest: float, seconds: float) -> None:
    decibel = 20 * np.log10(np.maximum(magnitudes(samples), 1e-9)) - loudest
    axes.imshow(
        decibel, origin="lower", aspect="auto", cmap="magma_r", vmin=FLOOR, vmax=0,
        extent=(0.0, seconds, 0.0, RATE / 2000), interpolation="nearest",
    )  # fmt: skip
    axes.set_ylabel("kHz")


def _plain(text: str) -> str:
    # matplotlib reads what is between two dollar signs as a formula.
    return text.replace("$", r"\$")
