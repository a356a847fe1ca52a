"""The page of scored diarization, and what its figures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from unispeech.report import diarization
from unispeech.report import diarization_figures as figures
from unispeech.report.diarization_paper import CALLHOME, SPEAKERS
from unispeech.report.figures import Picture
from unispeech.report.record import PAPER_ROW, Result

MOST_TIMELINES = 6
"""Recordings that are drawn, of each number of speakers the one in the middle."""


def points(rows: Sequence[Result]) -> dict[str, dict[str, dict[str, figures.Point]]]:
    """Rates by data, by system, and by number of speakers."""
    found: dict[str, dict[str, dict[str, figures.Point]]] = {}
    for line in diarization.lines(rows):
        systems = found.setdefault(line.data, {})
        systems[f"{line.system}, {line.method} number"] = {
            name: figures.Point(row.value, row.low, row.high, row.paper)
            for name, row in line.parts.items()
        }
    return found


def timelines(scored: Sequence[diarization.ScoredSet]) -> dict[str, Picture]:
    """Recordings in the middle of their number of speakers, of each set by the last system."""
    chosen: dict[str, diarization.ScoredSet] = {}
    for one in scored:
        if one.metrics["method"] == "estimated" or one.metrics["condition"] not in chosen:
            chosen[one.metrics["condition"]] = one
    pictures = {}
    for one in chosen.values():
        for title, row in _middle(one.recordings):
            sides = [
                [(a, b, who) for a, b, who in row[s] or ()] for s in ("reference", "hypothesis")
            ]
            name = f"{row['recording']}: {one.title}, {title}"
            shown = f"{one.metrics['condition']}_{row['recording']}"
            pictures[shown] = figures.comparison(name, sides[0], sides[1], row["mapping"])
    return pictures


def _middle(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["der"] is not None:
            groups.setdefault(row["speakers"], []).append(row)
    found = []
    for _, group in sorted(groups.items())[:MOST_TIMELINES]:
        group.sort(key=lambda row: (row["der"], row["recording"]))
        row = group[len(group) // 2]
        found.append((f"DER {row['der']:.1f} %", row))
    return found


def page(
    results: Sequence[Result],
    scored: Sequence[diarization.ScoredSet],
    pictures: Mapping[str, Picture],
    timelines: Mapping[str, Picture],
) -> str:
    """One self-contained HTML page.

    Args:
        results: our rows.
        scored: the sets, for their tables of numbers of speakers.
        pictures: title -> figure, in the order in which they are shown.
        timelines: title -> reference over hypothesis of a recording.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = diarization.lines(results)
    ours = {(r.conditions.get(PAPER_ROW), r.conditions["speakers"]): r for r in results}
    return environment.get_template("diarization.html.j2").render(
        recipe=results[0].recipe,
        command=results[0].command,
        lines=found,
        columns=diarization.numbers(found),
        parts=list(diarization.PARTS.values()),
        counts={one.title: _count_rows(one.metrics["counts"]) for one in scored},
        pictures=pictures,
        timelines=timelines,
        published=[(row, [ours.get((row.label, name)) for name in SPEAKERS]) for row in CALLHOME],
        speakers=SPEAKERS,
    )


def _count_rows(counts: Mapping[str, Mapping[str, int]]) -> tuple[list[str], list[Any]]:
    """Numbers that were found, and for each true number how often each was."""
    columns = sorted({found for row in counts.values() for found in row}, key=int)
    rows = [
        (true, [(found == true, row.get(found, 0), sum(row.values())) for found in columns])
        for true, row in counts.items()
    ]
    return columns, rows
