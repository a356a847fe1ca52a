"""Published word error rates on LibriCSS by overlap condition, as data.

Sources: the README of LibriCSS (hybrid recogniser; tables 1 to 3 of Chen et al. 2020,
arXiv:2001.11482) and the README of WavLM (arXiv:2110.13900), where recogniser, channels and
evaluation are not stated: that these numbers are utterance-wise, of one channel and of an
end-to-end recogniser is recalled. All in percent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unispeech.config import Config

CONDITIONS = ("0S", "0L", "OV10", "OV20", "OV30", "OV40")
"""Columns of the table: no overlap with short and long pauses, then the percentage of overlap."""

CORPUS = "LibriCSS"
"""What the numbers are about."""

_SOURCES = {
    "LibriCSS": "README of LibriCSS, hybrid recogniser",
    "WavLM": "README of WavLM, LibriCSS table",
}

# system | channels | evaluation ("*": recalled, channels too) | 0S | 0L | OV10 ... OV40 | source
_TABLE = """
no separation                  | 1 | continuous      | 15.4 | 11.4 | 21.7 | 27.2 | 34.3 | 40.4 | LibriCSS
BLSTM masks, beamformer        | 7 | continuous      | 11.9 | 9.7  | 13.4 | 15.1 | 19.7 | 22.0 | LibriCSS
no separation                  | 1 | utterance-wise  | 11.5 | 11.3 | 18.3 | 26.4 | 34.6 | 43.2 | LibriCSS
BLSTM masks, beamformer        | 7 | utterance-wise  | 8.3  | 8.4  | 11.6 | 16.0 | 18.4 | 21.6 | LibriCSS
Conformer                      | 1 | utterance-wise* | 4.5  | 4.4  | 6.2  | 8.5  | 11.0 | 12.6 | WavLM
Conformer, HuBERT Base         | 1 | utterance-wise* | 4.7  | 4.6  | 6.1  | 7.9  | 10.6 | 12.3 | WavLM
Conformer, UniSpeech-SAT Base  | 1 | utterance-wise* | 4.4  | 4.4  | 5.4  | 7.2  | 9.2  | 10.5 | WavLM
Conformer, UniSpeech-SAT Large | 1 | utterance-wise* | 4.3  | 4.2  | 5.0  | 6.3  | 8.2  | 8.8  | WavLM
Conformer, WavLM Base+         | 1 | utterance-wise* | 4.5  | 4.4  | 5.6  | 7.5  | 9.4  | 10.9 | WavLM
Conformer, WavLM Large         | 1 | utterance-wise* | 4.2  | 4.1  | 4.8  | 5.8  | 7.4  | 8.5  | WavLM
"""  # noqa: E501


class SeparationRow(Config):
    """One published system.

    `values` are the word error rates of `CONDITIONS`; `recalled` says that channels and evaluation
    were written down from memory, not the rates.
    """

    system: str
    channels: int
    evaluation: str
    values: tuple[float, ...]
    source: str
    recalled: bool = False

    @property
    def label(self) -> str:
        """What identifies the row: system, channels, evaluation and source."""
        return f"{self.system}, {self.channels} ch, {self.evaluation} [{self.source}]"

    @property
    def origin(self) -> str:
        """The source in full."""
        return _SOURCES[self.source]

    @property
    def printed_evaluation(self) -> str:
        """The evaluation, with a star where it is recalled."""
        return self.evaluation + "*" * self.recalled

    def value(self, condition: str) -> float | None:
        """The rate of an overlap condition, or None of any other."""
        return dict(zip(CONDITIONS, self.values, strict=True)).get(condition)


def _rows() -> Iterator[SeparationRow]:
    for line in _TABLE.strip().splitlines():
        system, channels, evaluation, *values, source = (cell.strip() for cell in line.split("|"))
        yield SeparationRow(
            system=system,
            channels=int(channels),
            evaluation=evaluation.removesuffix("*"),
            values=tuple(map(float, values)),
            source=source,
            recalled=evaluation.endswith("*"),
        )


LIBRICSS: tuple[SeparationRow, ...] = tuple(_rows())


def rows_of_recipe(
    encoder: str | None, systems: Sequence[str]
) -> dict[tuple[str, str], SeparationRow]:
    """The rows that the recipe's systems correspond to, by system and evaluation.

    Args:
        encoder: published name of the encoder; None has no row.
        systems: names of our systems. Whether the published encoders were trained along is not
            known; they stand beside `joint` where there is one, else beside `frozen`.
    """
    alike = {"unprocessed": "no separation", "magnitude": "Conformer"}
    ours = next((name for name in ("joint", "frozen") if name in systems), None)
    if encoder and ours:
        alike[ours] = f"Conformer, {encoder}"
    return {
        (name, row.evaluation): row
        for name, system in alike.items()
        for row in LIBRICSS
        if row.system == system and row.channels == 1
    }
