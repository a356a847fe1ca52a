"""The report of separated and recognised sets, for `report` of a recipe's experiment."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from unispeech.commands._stream_examples import examples_of
from unispeech.errors import DataError
from unispeech.report import paper, results, separation, separation_paper
from unispeech.report import separation_figures as figures
from unispeech.report.separation import ALL, UNPROCESSED, ScoredSet
from unispeech.report.separation_page import page
from unispeech.score.wer import Comparison, Counts, paired
from unispeech.storage import write_text

SYSTEMS = ("unprocessed", "magnitude", "frozen", "joint")
"""Systems of the recipe in the order of the table; others follow."""


def write_experiment(
    exp: Path, recipe: str, data_name: str, command: str, publish: Path | None
) -> None:
    """Report `EXP/wer_streams/<system>/<set>/<evaluation>`, with the models `EXP/<system>`.

    Raises:
        DataError: nothing was scored.
    """

    def order(one: ScoredSet) -> tuple[Any, ...]:
        system = str(one.metrics["system"])
        place = SYSTEMS.index(system) if system in SYSTEMS else len(SYSTEMS)
        return one.set, one.evaluation != "utterance", place, one.system, one.folder

    found = [separation.read(p.parent) for p in (exp / "wer_streams").glob("**/metrics.json")]
    scored = sorted(found, key=order)
    if not scored:
        where = exp / "wer_streams"
        raise DataError("no separated set was scored", where=where, remedy="run the score stage")
    separation.refuse_repeated(scored)
    systems = [str(one.metrics["system"]) for one in scored]
    is_corpus = data_name == separation_paper.CORPUS
    rows = separation.records(
        scored,
        recipe=recipe,
        data_name=data_name,
        command=command,
        models={name: exp / name for name in systems},
        differences=_differences(scored),
        published=separation_paper.rows_of_recipe(_encoder(exp), systems) if is_corpus else None,
    )
    if not rows:
        raise DataError("no set has a reference word", where=exp / "wer_streams")
    pictures = {"Error rates over the overlap": figures.rates_by_overlap(*separation.points(rows))}
    examples, missing = examples_of(scored)
    folder = exp / "report"
    results.write(folder / "results.json", rows)
    write_text(folder / "index.html", page(rows, pictures, examples))
    print(separation.console(rows))
    if any(row.paper is not None for row in rows):
        print(separation.paper_table(rows))
    for item in missing:
        print(f"not here: {item}")
    if publish:
        results.publish(publish, rows)
        print(f"published: {publish / 'RESULTS.md'}")
    print(f"page: {folder / 'index.html'}")


def _encoder(exp: Path) -> str | None:
    """The published name of the encoder of the recipe's systems."""
    for system in ("joint", "frozen"):
        try:
            config = yaml.safe_load((exp / system / "config.yaml").read_text(encoding="utf-8"))
            return paper.named(str(config["model"]["encoder"]))
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            continue
    return None


def _differences(scored: Sequence[ScoredSet]) -> dict[Path, dict[str, Comparison]]:
    """Each separated set beside the same one unprocessed, by overlap condition.

    The same utterances, or recordings of continuous input, are drawn for both.
    """
    plain = {
        (one.set, one.evaluation, str(one.decoding)): one.folder
        for one in scored
        if one.system == UNPROCESSED
    }
    found = {}
    for one in scored:
        base = plain.get((one.set, one.evaluation, str(one.decoding)))
        if base is None or base == one.folder:
            continue
        first, other = _counts(base), _counts(one.folder)
        if {*first} != {*other}:
            raise DataError(
                "other utterances than those of the unprocessed set",
                where=one.folder,
                expected=f"the {len(first)} of {base}",
                found=len(other),
                remedy="score both again",
            )
        found[one.folder] = {
            name: paired([(first[key], other[key]) for key in first if name in (key[0], ALL)])
            for name in one.parts
        }
    return found


def _counts(folder: Path) -> dict[tuple[str, str], Counts]:
    """Errors by condition and utterance, or recording."""
    path = folder / "utterances.tsv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {
                (row["condition"], row["utterance"]): Counts(
                    *(int(row[name]) for name in Counts._fields)
                )
                for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "not what separated writes", where=path, found=error, remedy="run separated again"
        ) from None
