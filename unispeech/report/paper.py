"""The papers' error rates, as data to compare with and never to type again.

Sources: WavLM (arXiv:2110.13900) and ILS-SSL (arXiv:2112.08778), the LibriSpeech tables of their
READMEs, where a cell is `test-clean/test-other`; UniSpeech (arXiv:2101.07597), table 1, the phone
error rates on Common Voice of its README. All in percent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from unispeech.config import Config
from unispeech.errors import UsageError, nearest

TestSet = Literal["test-clean", "test-other"]
LanguageModel = Literal["none", "4-gram", "Transformer"]

TEST_SETS: tuple[TestSet, TestSet] = ("test-clean", "test-other")

_WAVLM_SOURCE = "WavLM (arXiv:2110.13900), LibriSpeech table of the README"
_ILS_SOURCE = "ILS-SSL (arXiv:2112.08778), LibriSpeech table of the README"
_UNISPEECH_SOURCE = "UniSpeech (arXiv:2101.07597), table 1, one-to-one, in the README"
_WAVLM_960_SOURCE = "WavLM (arXiv:2110.13900), recalled and not checked against the paper"

# system | size (empty where the table states none) | language model | 1 h | 10 h | 100 h
_WAVLM_TABLE = """
wav2vec 2.0  | Base  | none        | 24.5/29.7 | 11.1/17.6 | 6.1/13.3
WavLM        | Base  | none        | 24.5/29.2 | 9.8/16.0  | 5.7/12.0
WavLM        | Base+ | none        | 22.8/26.7 | 9.0/14.7  | 4.6/10.1
DeCoAR 2.0   |       | 4-gram      | 13.8/29.1 | 5.4/13.3  | 5.0/12.1
DiscreteBERT |       | 4-gram      | 9.0/17.6  | 5.9/14.1  | 4.5/12.1
wav2vec 2.0  | Base  | 4-gram      | 5.5/11.3  | 4.3/9.5   | 3.4/8.0
HuBERT       | Base  | 4-gram      | 6.1/11.3  | 4.3/9.4   | 3.4/8.1
WavLM        | Base  | 4-gram      | 5.7/10.8  | 4.3/9.2   | 3.4/7.7
WavLM        | Base+ | 4-gram      | 5.4/9.8   | 4.2/8.8   | 2.9/6.8
wav2vec 2.0  | Large | 4-gram      | 3.8/7.1   | 3.0/5.8   | 2.3/4.6
WavLM        | Large | 4-gram      | 3.8/6.6   | 2.9/5.5   | 2.3/4.6
wav2vec 2.0  | Large | Transformer | 2.9/5.8   | 2.6/4.9   | 2.0/4.0
HuBERT       | Large | Transformer | 2.9/5.4   | 2.4/4.6   | 2.1/3.9
WavLM        | Large | Transformer | 2.9/5.1   | 2.4/4.6   | 2.1/4.0
"""

# size | labelled hours | language model | wav2vec 2.0 | HuBERT | ILS-SSL
_ILS_TABLE = """
Base  | 1   | none        | 24.5/29.7 | 20.9/27.5 | 17.9/23.1
Base  | 1   | 4-gram      | 5.5/11.3  | 6.1/11.3  | 5.4/10.2
Base  | 10  | none        | 11.1/17.6 | 10.1/16.8 | 8.3/13.6
Base  | 10  | 4-gram      | 4.3/9.5   | 4.3/9.4   | 3.8/8.1
Base  | 100 | none        | 6.1/13.3  | 6.3/13.2  | 4.7/10.1
Base  | 100 | 4-gram      | 3.4/8.0   | 3.4/8.1   | 3.0/6.9
Large | 1   | none        | 17.2/20.3 | 17.4/20.3 | 14.3/16.9
Large | 1   | Transformer | 2.9/5.8   | 2.9/5.4   | 2.8/5.3
Large | 10  | none        | 6.3/10.0  | 6.2/9.6   | 6.1/9.1
Large | 10  | Transformer | 2.6/4.9   | 2.4/4.6   | 2.5/4.5
Large | 100 | none        | 3.1/6.3   | 2.9/6.0   | 2.9/5.8
Large | 100 | Transformer | 2.0/4.0   | 2.1/3.9   | 2.0/4.0
Large | 960 | none        | 2.2/4.5   | 2.1/4.3   | 1.9/3.8
Large | 960 | Transformer | 1.8/3.3   | 1.9/3.3   | 1.8/3.2
"""

LANGUAGES = ("es", "fr", "it", "ky", "nl", "ru", "sv", "tt")

# system ("-L": Large; "+": also untranscribed speech of the target) | phone error rate by language
# | average as printed. Transcribed speech of the source is Common Voice English, 1350 h; of the
# target, one hour.
_UNISPEECH_TABLE = """
m-CPC LS-100    | 38.7 | 49.3 | 42.1 | 40.7 | 44.4 | 45.2 | 48.8 | 44.0   | 44.2
m-CPC LS-360    | 38.0 | 47.1 | 40.5 | 41.2 | 42.5 | 43.7 | 47.5 | 42.0   | 42.8
XLSR-English    | 13.7 | 20.0 | 19.1 | 13.2 | 19.4 | 18.6 | 21.1 | 11.5   | 17.1
XLSR-Mono+      | 6.8  | 10.4 | 10.9 | 29.6 | 37.4 | 11.6 | 63.6 | 21.4   | 24.0
CTC-Transfer    | 12.6 | 16.7 | 16.4 | 12.9 | 17.5 | 17.5 | 20.7 | 11.2   | 15.7
XLSR (re-impl.) | 12.4 | 16.9 | 17.2 | 13.7 | 18.2 | 19.0 | 22.4 | 11.4   | 16.4
XLSR+           | 6.5  | 9.0  | 9.3  | 8.2  | 9.8  | 10.1 | 20.5 | 7.4    | 10.1
XLSR-L          | 11.0 | 14.8 | 15.6 | 11.3 | 16.2 | 17.0 | 19.6 | 10.7   | 14.7
XLSR-L+         | 5.9  | 7.9  | 8.5  | 7.9  | 9.4  | 9.6  | 20.2 | 7.0    | 9.6
UniSpeech       | 10.9 | 14.8 | 15.2 | 11.4 | 16.2 | 16.1 | 19.3 | 9.6    | 14.2
UniSpeech r=0   | 12.1 | 16.5 | 16.3 | 12.3 | 17.2 | 16.8 | 20.5 | 10.9   | 15.3
UniSpeech+      | 5.7  | 7.9  | 8.1  | 6.8  | 9.3  | 8.6  | 17.7 | 6.0    | 8.8
UniSpeech-L     | 10.2 | 13.3 | 14.6 | 10.8 | 15.3 | 16.0 | 19.3 | 9.6    | 13.6
UniSpeech-L+    | 4.7  | 6.2  | 6.8  | 6.1  | 6.8  | 8.3  | 17.1 | 5.5    | 7.7
"""


SETTINGS = ("one-to-one", "many-to-one", "one-to-many", "many-to-many")
"""UniSpeech's settings: languages of the transcribed pre-training, languages recognised. Only the
first one's table is known here; the paper has more, which none of our sources shows."""

# Folders of conf/ and released names that have a row, and those that the tables leave out.
_FOLDERS = {
    "wav2vec2_base": "wav2vec 2.0 Base",
    "wav2vec2_large": "wav2vec 2.0 Large",
    "hubert_base": "HuBERT Base",
    "hubert_large": "HuBERT Large",
    "wavlm_base": "WavLM Base",
    "wavlm_base_plus": "WavLM Base+",
    "wavlm_large": "WavLM Large",
    "ils_base": "ILS-SSL Base",
    "ils_large": "ILS-SSL Large",
}


class PaperRow(Config):
    """One published number.

    `hours` are labelled hours; `test_set` is a part of LibriSpeech or `<language> test`; `value` is
    in percent; `recalled` marks a number that was written down from memory and not checked against
    its source.
    """

    paper: Literal["WavLM", "ILS-SSL", "UniSpeech"]
    system: str
    size: str
    hours: int
    lm: LanguageModel
    test_set: str
    metric: Literal["WER", "PER"] = "WER"
    value: float
    source: str
    recalled: bool = False

    @property
    def model(self) -> str:
        """System and size, such as `WavLM Base+`."""
        return f"{self.system} {self.size}".strip()

    @property
    def label(self) -> str:
        """What identifies the number in a results file."""
        return f"{self.model}, {self.hours} h, {self.lm}, {self.test_set}"


def _lines(table: str) -> Iterator[list[str]]:
    for line in table.strip().splitlines():
        yield [cell.strip() for cell in line.split("|")]


def _cells(base: dict[str, object], cell: str) -> Iterator[PaperRow]:
    for test_set, value in zip(TEST_SETS, cell.split("/"), strict=True):
        yield PaperRow.model_validate({**base, "test_set": test_set, "value": float(value)})


def _rows() -> Iterator[PaperRow]:
    wavlm: dict[str, object] = {"paper": "WavLM", "source": _WAVLM_SOURCE}
    for system, size, lm, *cells in _lines(_WAVLM_TABLE):
        for hours, cell in zip((1, 10, 100), cells, strict=True):
            base = {**wavlm, "system": system, "size": size, "hours": hours, "lm": lm}
            yield from _cells(base, cell)
    large: dict[str, object] = {"system": "WavLM", "size": "Large", "lm": "Transformer"}
    recalled: dict[str, object] = {"hours": 960, "source": _WAVLM_960_SOURCE, "recalled": True}
    yield from _cells({**wavlm, **large, **recalled}, "1.8/3.2")
    for size, labelled, lm, *cells in _lines(_ILS_TABLE):
        for system, cell in zip(("wav2vec 2.0", "HuBERT", "ILS-SSL"), cells, strict=True):
            base = {"paper": "ILS-SSL", "source": _ILS_SOURCE, "system": system}
            yield from _cells({**base, "size": size, "hours": int(labelled), "lm": lm}, cell)


LIBRISPEECH: tuple[PaperRow, ...] = tuple(_rows())

COMMON_VOICE: tuple[PaperRow, ...] = tuple(
    PaperRow(
        paper="UniSpeech",
        system=system,
        size="",
        hours=1,
        lm="none",
        test_set=f"{language} test",
        metric="PER",
        value=float(value),
        source=_UNISPEECH_SOURCE,
    )
    for system, *values, _ in _lines(_UNISPEECH_TABLE)
    for language, value in zip(LANGUAGES, values, strict=True)
)

AVERAGES: dict[str, float] = {
    system: float(average) for system, *_, average in _lines(_UNISPEECH_TABLE)
}
"""Phone error rate by system, averaged over the languages, as the paper prints it."""

TABLES: dict[str, tuple[PaperRow, ...]] = {
    "librispeech": LIBRISPEECH,
    "commonvoice": COMMON_VOICE,
}
CORPORA = {"librispeech": "LibriSpeech", "commonvoice": "Common Voice"}
"""What the tables are about."""


def named(folder: str) -> str | None:
    """The published model that a folder of conf/, a released name or a path stands for, or None."""
    return _FOLDERS.get(Path(folder).name.removesuffix("_it1").removesuffix("_it2"))


def check_model(recipe: str, model: str | None) -> None:
    """Raise a UsageError that lists the published models when there is none of that name."""
    known = {row.model: row.model.casefold() for row in TABLES.get(recipe, ())}
    if model is not None and model.casefold() not in known.values():
        raise UsageError(
            f"no published model '{model}'{nearest(model, known)}",
            where="--paper-model",
            expected=f"one of {', '.join(sorted(known))}" if known else f"none for {recipe}",
        )


def lookup(
    model: str, hours: int, lm: str, data: str, *, recipe: str = "librispeech"
) -> PaperRow | None:
    """The published number of a model, or None; checked numbers come before recalled ones.

    Args:
        model: system and size, such as `WavLM Base+`; letter case does not matter.
        hours: labelled hours of the fine-tuning subset.
        lm: `none`, `4-gram` or `Transformer`.
        data: what was tested on; its last words are the test set, as in `LibriSpeech test-clean`
            or `Common Voice es test`.
        recipe: whose table to search; a recipe without one has no numbers.
    """
    found = [
        row
        for row in TABLES.get(recipe, ())
        if row.model.casefold() == model.strip().casefold()
        and (row.hours, row.lm) == (hours, lm)
        and f" {data}".endswith(f" {row.test_set}")
    ]
    return min(found, key=lambda row: row.recalled, default=None)
