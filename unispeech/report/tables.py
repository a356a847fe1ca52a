"""The papers' tables with our values in the same layout, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from unispeech.report import paper
from unispeech.report.record import PAPER_ROW, Result

NOT_RUN = "not run"

Rows = Sequence[paper.PaperRow]


def paper_tables(results: Sequence[Result], recipe: str, model: str | None = None) -> str:
    """All published tables of a recipe, with a line of ours below every line that has been run.

    Args:
        results: our rows; those that are compared with a published number name it.
        recipe: the folder name under `egs/`; one without published numbers gives "".
        model: only the lines of this model, such as `WavLM Base+`.
    """
    rows = [
        row
        for row in paper.TABLES.get(recipe, ())
        if model is None or row.model.casefold() == model.casefold()
    ]
    if not rows:
        return ""
    ours = {
        str(result.conditions[PAPER_ROW]): result.value
        for result in results
        if result.conditions.get(PAPER_ROW)
    }
    parts = [_by_language(rows, ours) if recipe == "commonvoice" else _by_budget(rows, ours)]
    if not ours and model is None:
        parts.insert(0, f"Not run: they need the {paper.CORPORA[recipe]} corpus.")
    if recipe == "commonvoice":
        parts += _settings(results)
    elif any(row.recalled for row in rows):
        parts.append("Numbers with a star are recalled and not checked against their source.")
    parts.append("\n".join(f"- Source: {source}" for source in sorted({r.source for r in rows})))
    return "\n\n".join(parts)


def _by_budget(rows: Rows, ours: dict[str, float]) -> str:
    """WER of models and language models by labelled hours, a cell for both test sets."""
    hours = sorted({row.hours for row in rows})
    cells: dict[tuple[str, str, int], dict[str, paper.PaperRow]] = {}
    # Both papers list some numbers; a recalled one never replaces one that was checked.
    for row in sorted(rows, key=lambda row: not row.recalled):
        cells.setdefault((row.model, row.lm, row.hours), {})[row.test_set] = row
    lines: list[Sequence[str]] = []
    for name in dict.fromkeys((row.model, row.lm) for row in rows):
        found = [cells.get((*name, hour), {}) for hour in hours]
        run = any(row.label in ours for cell in found for row in cell.values())
        lines.append((*name, *map(_published, found), "paper" if run else NOT_RUN))
        if run:
            lines.append((*name, *(_measured(cell, ours) for cell in found), "**ours**"))
    head = ("model", "LM", *(f"{hour} h labelled" for hour in hours), "state")
    sets = " / ".join(dict.fromkeys(row.test_set for row in rows))
    return f"WER in percent on {sets}.\n\n{table(head, lines)}"


def _published(cell: dict[str, paper.PaperRow]) -> str:
    return " / ".join(f"{row.value:.1f}" + "\\*" * row.recalled for row in cell.values())


def _measured(cell: dict[str, paper.PaperRow], ours: dict[str, float]) -> str:
    if not any(row.label in ours for row in cell.values()):
        return NOT_RUN if cell else ""
    values = (ours.get(row.label) for row in cell.values())
    return " / ".join(NOT_RUN if value is None else f"{value:.1f}" for value in values)


def _by_language(rows: Rows, ours: dict[str, float]) -> str:
    """PER of models by language, with the average."""
    lines: list[Sequence[str]] = []
    for model in dict.fromkeys(row.model for row in rows):
        found = [row for row in rows if row.model == model]
        values = [ours.get(row.label) for row in found]
        run = any(value is not None for value in values)
        printed = [f"{row.value:.1f}" for row in found]
        average = f"{paper.AVERAGES[model]:.1f}"
        lines.append((model, *printed, average, "paper" if run else NOT_RUN))
        if run:
            lines.append((model, *map(_or_not_run, values), _average(values), "**ours**"))
    head = ("model", *paper.LANGUAGES, "avg", "state")
    about = "PER in percent on the test sets, one-to-one: English to one language, one hour."
    return f"{about}\n\n{table(head, lines)}"


def _settings(results: Iterable[Result]) -> list[str]:
    """Tables of our rows in the settings whose published numbers are not known here."""
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for result in results:
        place = re.fullmatch(r"(.*) ([a-z]{2}) test", result.dataset)
        setting = str(result.conditions.get("setting", paper.SETTINGS[0]))
        if place and setting != paper.SETTINGS[0]:
            vocabulary = str(result.conditions.get("vocabulary", ""))
            name = (setting, place[1], result.system, vocabulary)
            found.setdefault(name, {})[place[2]] = result.value
    parts = []
    for setting in paper.SETTINGS[1:]:
        own = {name[1:]: values for name, values in found.items() if name[0] == setting}
        if not own:
            parts.append(f"{setting}: {NOT_RUN}; the paper's numbers are not known here.")
            continue
        codes = list(dict.fromkeys(code for values in own.values() for code in values))
        lines = [
            (*name, *(_or_not_run(values.get(code)) for code in codes), _average(values.values()))
            for name, values in own.items()
        ]
        head = ("data", "system", "vocabulary", *codes, "avg")
        about = f"{setting}: PER in percent, ours; the paper's numbers are not known here."
        parts.append(f"{about}\n\n{table(head, lines)}")
    return parts


def _or_not_run(value: float | None) -> str:
    return NOT_RUN if value is None else f"{value:.1f}"


def _average(values: Iterable[float | None]) -> str:
    """The mean; of how many languages where some have not been run."""
    found = list(values)
    run = [value for value in found if value is not None]
    mean = f"{sum(run) / len(run):.1f}"
    return mean if len(run) == len(found) else f"{mean} of {len(run)}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
