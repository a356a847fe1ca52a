"""Published diarization error rates on part 2 of CALLHOME by number of speakers, as data.

All with a collar of 0.25 s and overlaps scored, in percent. Sources: the table in the README of the
authors' repository, and the results in the repository of EEND with vector clustering, whose
threshold and median filter were chosen on the test set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from unispeech.config import Config

CORPUS, SET, COLLAR = "CALLHOME", "test", 0.25
"""Where these numbers hold: overlaps are scored."""

SPEAKERS = ("2", "3", "4", "5", "6", "all")
"""Columns of the table: how many speak in the reference."""

_SOURCES = {
    "README": "README of the authors' repository",
    "EEND-VC": "results of EEND-vector-clustering",
}

# system | number of speakers | 2 | 3 | 4 | 5 | 6 | all | source
_TABLE = """
EEND-EDA clustering     | estimated | 7.11 | 11.88 | 14.37 | 25.95 | 21.95 | 11.84 | README
EEND-VC, filter banks   | estimated | 7.96 | 11.93 | 16.38 | 21.21 | 23.10 | 12.49 | EEND-VC
EEND-VC, filter banks   | oracle    | 8.08 | 11.27 | 15.01 | 23.14 | 26.56 | 12.22 | EEND-VC
HuBERT Base             | estimated | 7.93 | 12.07 | 15.21 | 19.59 | 23.32 | 12.63 | README
HuBERT Large            | estimated | 7.39 | 11.97 | 15.76 | 19.82 | 22.10 | 12.40 | README
UniSpeech-SAT Large     | estimated | 5.93 | 10.66 | 12.90 | 16.48 | 23.25 | 10.92 | README
WavLM Base              | estimated | 6.99 | 11.12 | 15.20 | 16.48 | 21.61 | 11.75 | README
WavLM Large             | estimated | 6.46 | 10.69 | 11.84 | 12.89 | 20.70 | 10.35 | README
"""

FILTER_BANKS = "EEND-VC, filter banks"
"""The published system without encoder."""


class DiarizationRow(Config):
    """One published system.

    `method` is where the number of speakers is from, `estimated` or `oracle`; `values` are the
    rates for each of `SPEAKERS`.
    """

    system: str
    method: str
    values: tuple[float, ...]
    source: str

    @property
    def label(self) -> str:
        """What identifies the row: system, number of speakers and source."""
        return f"{self.system}, {self.method} number of speakers [{self.source}]"

    @property
    def origin(self) -> str:
        """The source in full."""
        return _SOURCES[self.source]

    def value(self, speakers: str) -> float | None:
        """The rate of recordings with so many speakers, or of `all`; None of any other."""
        return dict(zip(SPEAKERS, self.values, strict=True)).get(speakers)


def _rows() -> Iterator[DiarizationRow]:
    for line in _TABLE.strip().splitlines():
        system, method, *values, source = (cell.strip() for cell in line.split("|"))
        numbers = tuple(map(float, values))
        yield DiarizationRow(system=system, method=method, values=numbers, source=source)


CALLHOME: tuple[DiarizationRow, ...] = tuple(_rows())


def rows_of_recipe(system: str, encoder: str | None) -> Mapping[tuple[str, str], DiarizationRow]:
    """The published rows of a system of the recipe, by system and method.

    Args:
        system: the one that all training led to.
        encoder: published name of its encoder; None of filter banks.
    """
    wanted = FILTER_BANKS if encoder is None else encoder
    return {(system, row.method): row for row in CALLHOME if row.system == wanted}
