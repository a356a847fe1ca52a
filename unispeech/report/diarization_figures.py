"""Figures of scored diarization: rates by number of speakers, a reference over its hypothesis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unispeech.report.figures import FAINT, INK, STYLE, Picture, encode
from unispeech.report.timeline import clock
from unispeech.report.verification_figures import COLOURS

ROW_SECONDS, MOST_ROWS = 120.0, 4
"""Time in one row of a timeline, and rows; of longer recordings, the beginning is shown."""

ERRORS = {"miss": INK, "false alarm": "#9aa0a6", "confusion": "#b00020"}
"""Colours of the strip between reference and hypothesis, others than those of speakers."""

PEOPLE = tuple(colour for colour in COLOURS if colour != INK)
"""Colours of speakers."""

Segment = tuple[float, float, str]


class Point(NamedTuple):
    """A rate in per cent with its interval, and the published one or None."""

    value: float
    low: float
    high: float
    paper: float | None


def by_speakers(systems: Mapping[str, Mapping[str, Point]]) -> Picture:
    """Rates of each system over the number of speakers, with intervals; diamonds are published.

    Args:
        systems: name -> number of speakers, or `all` -> rate.
    """
    names = {name for points in systems.values() for name in points}
    columns = sorted(names, key=lambda name: (not name.isdigit(), name.zfill(3)))
    with mpl.rc_context(STYLE):
        height = 3.4 + 0.2 * len(systems)
        figure = Figure(figsize=(9.0, height), layout="constrained")
        axes = figure.add_subplot()
        width = 0.7 / max(len(systems), 1)
        for place, (title, points) in enumerate(systems.items()):
            colour = COLOURS[place % len(COLOURS)]
            shown = [(columns.index(name), point) for name, point in points.items()]
            middle = [x + (place - (len(systems) - 1) / 2) * width for x, _ in shown]
            values = [point.value for _, point in shown]
            lengths = [(p.value - p.low, p.high - p.value) for _, p in shown]
            bars = np.maximum(np.array(lengths).T, 0.0)
            axes.errorbar(
                middle, values, yerr=bars, fmt="o", color=colour, linewidth=2.5, markersize=6,
                label=title.replace("$", r"\$"),
            )  # fmt: skip
            for x, (_, point) in zip(middle, shown, strict=True):
                if point.paper is not None:
                    axes.plot(x, point.paper, "D", color=INK, markersize=5, fillstyle="none")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("speakers in the reference")
        published = any(p.paper is not None for own in systems.values() for p in own.values())
        axes.set_ylabel("DER in percent" + " (diamond: published)" * published)
        axes.grid(True, axis="y")
        figure.legend(loc="outside lower center", ncols=2)
        return Picture(encode(figure, "png"))


def comparison(
    title: str,
    reference: Sequence[Segment],
    hypothesis: Sequence[Segment],
    mapping: Mapping[str, str],
) -> Picture:
    """A reference over a hypothesis, errors between them, mapped speakers in one colour.

    The strip shows all errors, those in collars too.

    Args:
        title: name of the recording, and its rate.
        reference: start and end in seconds, and the speaker.
        hypothesis: the same.
        mapping: speaker of the reference to speaker of the hypothesis.
    """
    seconds = max((end for _, end, _ in (*reference, *hypothesis)), default=1.0)
    rows = min(max(1, math.ceil(seconds / ROW_SECONDS)), MOST_ROWS)
    width = ROW_SECONDS if rows > 1 else max(min(seconds, ROW_SECONDS), 1e-3)
    names = list(dict.fromkeys(name for _, _, name in reference))
    mapped = [mapping[name] for name in names if name in mapping]
    others = [name for name in dict.fromkeys(n for _, _, n in hypothesis) if name not in mapped]
    places = {("r", name): place for place, name in enumerate(names)}
    places |= {("h", name): len(names) + 1 + k for k, name in enumerate([*mapped, *others])}
    colours = {("r", name): PEOPLE[k % len(PEOPLE)] for k, name in enumerate(names)}
    colours |= {("h", own): colours["r", name] for name, own in mapping.items() if name in names}
    drawn = [("r", *segment) for segment in reference] + [("h", *segment) for segment in hypothesis]
    wrong = errors(reference, hypothesis, mapping)
    last = len(names) + len(mapped) + len(others) + 1
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, rows * (0.4 + 0.17 * last) + 0.8), layout="constrained")
        for row in range(rows):
            axes = figure.add_subplot(rows, 1, row + 1)
            for side, start, end, name in drawn:
                colour = colours.get((side, name), FAINT)
                axes.broken_barh(
                    [(start, end - start)], (places[side, name] - 0.4, 0.8), color=colour
                )
            for kind, start, end in wrong:
                axes.broken_barh(
                    [(start, end - start)], (len(names) - 0.25, 0.5), color=ERRORS[kind]
                )
            _finish(axes, places, len(names), last, (row * width, (row + 1) * width))
        cut = f", the first {clock(rows * width)}" if seconds > rows * width + 1 else ""
        figure.axes[0].set_title(f"{title}{cut}".replace("$", r"\$"), color=INK)
        handles = [mpl.patches.Patch(color=colour, label=kind) for kind, colour in ERRORS.items()]
        figure.legend(handles=handles, loc="outside lower right", ncols=len(ERRORS), fontsize=8)
        return Picture(encode(figure, "png"))


def _finish(
    axes: Axes,
    places: Mapping[tuple[str, str], int],
    strip: int,
    last: int,
    limits: tuple[float, float],
) -> None:
    axes.set_xlim(*limits)
    axes.set_ylim(last - 0.5, -0.5)
    titles = {"r": "reference", "h": "found"}
    labels = [f"{titles[side]} {name}".replace("$", r"\$") for side, name in places]
    axes.set_yticks([*places.values(), strip], [*labels, "errors"], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: clock(value))
    axes.grid(True, axis="x")


def errors(
    reference: Sequence[Segment], hypothesis: Sequence[Segment], mapping: Mapping[str, str]
) -> list[tuple[str, float, float]]:
    """Where a hypothesis errs: kind, start and end; of several kinds at once, the first.

    Args:
        reference: start and end in seconds, and the speaker.
        hypothesis: the same.
        mapping: speaker of the reference to speaker of the hypothesis.
    """
    events = [(time, 0, step, name) for s, e, name in reference for time, step in ((s, 1), (e, -1))]
    events += [
        (time, 1, step, name) for s, e, name in hypothesis for time, step in ((s, 1), (e, -1))
    ]
    active: tuple[dict[str, int], dict[str, int]] = ({}, {})
    found: list[tuple[str, float, float]] = []
    before = -math.inf
    for time, side, step, name in sorted(events):
        kind = _kind(active, mapping)
        if kind and time > before:
            if found and found[-1][0] == kind and found[-1][2] == before:
                found[-1] = (kind, found[-1][1], time)
            else:
                found.append((kind, before, time))
        before = time
        active[side][name] = active[side].get(name, 0) + step
        if not active[side][name]:
            del active[side][name]
    return found


def _kind(active: tuple[dict[str, int], dict[str, int]], mapping: Mapping[str, str]) -> str | None:
    speaking, claimed = active
    if len(speaking) > len(claimed):
        return "miss"
    if len(claimed) > len(speaking):
        return "false alarm"
    right = sum(mapping.get(name) in claimed for name in speaking)
    return "confusion" if right < len(speaking) else None
