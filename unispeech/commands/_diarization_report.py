"""The report of scored diarization, for `report` of a recipe's experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from unispeech.errors import DataError
from unispeech.report import diarization, diarization_page, paper, results
from unispeech.report import diarization_figures as figures
from unispeech.report.diarization import ScoredSet
from unispeech.report.diarization_paper import COLLAR, CORPUS, SET, DiarizationRow, rows_of_recipe
from unispeech.report.verification_figures import write_png
from unispeech.storage import write_text


def write_experiment(
    exp: Path, recipe: str, data_name: str, command: str, publish: Path | None
) -> None:
    """Report `EXP/der/<system>/<set>/<method>`, with the models `EXP/diarization_<system>`.

    Args:
        exp: the experiment.
        recipe: folder name under `egs/`.
        data_name: the corpus; published numbers are of `CALLHOME`.
        command: what gives these numbers again.
        publish: recipe folder to update, or None.

    Raises:
        DataError: nothing was scored, or a folder is damaged.
    """
    found = [diarization.read(path.parent) for path in (exp / "der").glob("*/*/*/metrics.json")]
    if not found:
        raise DataError("nothing was scored", where=exp / "der", remedy="run the score stage")
    scored = sorted(found, key=_order)
    names = [one.title for one in scored]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(
            "two folders with the same set, system and method",
            where=twice,
            remedy="score one of them with another --system",
        )
    rows = diarization.records(
        scored,
        recipe=recipe,
        data_name=data_name,
        command=command,
        models={str(s.metrics["system"]): _model(exp, s) for s in scored},
        published=_published(exp, scored) if data_name == CORPUS else {},
    )
    output = exp / "report"
    pictures = {
        f"Error rates by number of speakers: {data}": figures.by_speakers(systems)
        for data, systems in diarization_page.points(rows).items()
    }
    timelines = diarization_page.timelines(scored)
    for title, picture in timelines.items():
        write_png(output / "timelines" / f"{Path(title).name}.png", picture)
    results.write(output / "results.json", rows)
    page = diarization_page.page(rows, scored, pictures, timelines)
    write_text(output / "index.html", page)
    print(diarization.console(rows))
    if any(row.paper is not None for row in rows):
        print(diarization.paper_table(rows))
    if publish:
        results.publish(publish, rows)
        print(f"published: {publish / 'RESULTS.md'}")
    print(f"page: {output / 'index.html'}")


def _order(one: ScoredSet) -> tuple[Any, ...]:
    name = str(one.metrics["condition"])
    return name != SET, name, *diarization.order(one.metrics["system"], one.metrics["method"])


def _model(exp: Path, one: ScoredSet) -> Path:
    return exp / f"diarization_{one.metrics['system']}"


def _published(exp: Path, scored: Sequence[ScoredSet]) -> dict[str, DiarizationRow]:
    """The published rows of the system that all training led to, by title of the scored set."""
    usual = [
        one
        for one in scored
        if one.metrics["condition"] == SET
        and one.metrics["collar"] == COLLAR
        and one.metrics["overlap"]
    ]
    if not usual:
        return {}
    last = str(usual[-1].metrics["system"])
    trained = list(dict.fromkeys(str(one.metrics["system"]) for one in scored))
    configs = [_config(exp / f"diarization_{name}") for name in reversed(trained)]
    encoders = [config["encoder"] for config in configs if config.get("encoder")]
    encoder = paper.named(str(encoders[0])) if encoders else None
    if encoders and encoder is None:
        return {}
    rows = rows_of_recipe(last, encoder)
    keys = {one.title: (str(one.metrics["system"]), str(one.metrics["method"])) for one in usual}
    return {title: rows[key] for title, key in keys.items() if key in rows}


def _config(model: Path) -> dict[str, Any]:
    """The part `model` of a training's configuration, empty where there is none."""
    try:
        config = yaml.safe_load((model / "config.yaml").read_text(encoding="utf-8"))
        return dict(config["model"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return {}
