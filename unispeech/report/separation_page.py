"""One self-contained HTML page of separated sets: rates, masks, audio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from unispeech.report.figures import Picture
from unispeech.report.record import PAPER_ROW, Result
from unispeech.report.separation import OVERLAP, columns, comparisons, lines
from unispeech.report.separation_paper import CONDITIONS, LIBRICSS


class Example(NamedTuple):
    """A separated recording to look at and to listen to.

    Attributes:
        title: what it is.
        picture: spectrograms and masks.
        players: what is heard, and the audio as a data URI.
        texts: whose words, and the words.
    """

    title: str
    picture: Picture
    players: list[tuple[str, str]]
    texts: list[tuple[str, str]]


def page(
    results: Sequence[Result], pictures: Mapping[str, Picture], examples: Sequence[Example]
) -> str:
    """One self-contained HTML page.

    Args:
        results: our rows.
        pictures: title -> figure, in the order in which they are shown.
        examples: recordings with audio.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    labels = {
        (r.conditions.get(PAPER_ROW), r.conditions.get(OVERLAP)): r
        for r in results
        if PAPER_ROW in r.conditions
    }
    return environment.get_template("separation.html.j2").render(
        recipe=results[0].recipe,
        command=results[0].command,
        lines=lines(results),
        names=columns(results),
        pictures=pictures,
        examples=examples,
        comparisons=comparisons(results),
        published=[
            (row, [labels.get((row.label, name)) for name in CONDITIONS]) for row in LIBRICSS
        ],
        conditions=CONDITIONS,
    )
