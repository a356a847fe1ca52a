"""A picture of who speaks when in one recording."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from unispeech.report.figures import INK, STYLE, Picture, encode
from unispeech.report.verification_figures import COLOURS

ROW_SECONDS = 120.0
"""Time in one row of the picture."""
MOST_ROWS = 12
"""Of longer recordings, a row shows more."""


def timeline(title: str, segments: Sequence[tuple[float, float, str]], seconds: float) -> Picture:
    """Bars of speech, one line for each speaker, as many rows as the recording needs.

    Args:
        title: name of the recording.
        segments: start and end in seconds, and the speaker.
        seconds: length of the recording.
    """
    names = list(dict.fromkeys(name for _, _, name in segments))
    rows = min(max(1, math.ceil(seconds / ROW_SECONDS)), MOST_ROWS)
    width = max(seconds / rows, 1e-3) if rows == MOST_ROWS else min(ROW_SECONDS, max(seconds, 1e-3))
    lines = max(1, len(names))
    with mpl.rc_context(STYLE):
        height = rows * (0.35 + 0.16 * lines) + 0.5
        figure = Figure(figsize=(9.0, height), layout="constrained")
        for row in range(rows):
            axes = figure.add_subplot(rows, 1, row + 1)
            begin, end = row * width, (row + 1) * width
            for place, name in enumerate(names):
                bars = [
                    (max(start, begin), min(stop, end) - max(start, begin))
                    for start, stop, speaker in segments
                    if speaker == name and start < end and stop > begin
                ]
                axes.broken_barh(bars, (place - 0.4, 0.8), color=COLOURS[place % len(COLOURS)])
            axes.set_xlim(begin, end)
            axes.set_ylim(lines - 0.5, -0.5)
            axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
            axes.xaxis.set_major_formatter(lambda value, _: clock(value))
            axes.grid(True, axis="x")
        what = title if names else f"{title}: nobody speaks"
        figure.axes[0].set_title(what.replace("$", r"\$"), color=INK)
        return Picture(encode(figure, "png"))


def clock(seconds: float) -> str:
    """Seconds as `m:ss`, or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
