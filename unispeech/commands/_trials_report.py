"""The report of scored trials, for `report_trials` and for `report` of a recipe's experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from unispeech.data.embeddings import read_embeddings
from unispeech.errors import DataError
from unispeech.report import paper, results, verification, verification_paper
from unispeech.report import verification_figures as figures
from unispeech.report.figures import FloatArray, Picture
from unispeech.report.verification_paper import VerificationRow
from unispeech.storage import write_text

SYSTEMS = ("fbank", "frozen", "joint", "large_margin")
"""Systems of the recipe in the order of training; others follow."""
SCORINGS = ("cosine", "asnorm", "calibrated")

TITLES = {
    "det": "Detection error tradeoff",
    "histogram": "Scores",
    "layers": "Weights of the hidden states",
    "embeddings": "Embeddings",
}


def write_experiment(exp: Path, recipe: str, command: str, publish: Path | None) -> None:
    """Report `EXP/scores/<system>/<list>/<scoring>`, with the models `EXP/<system>`.

    The list `calibration` is left out: its calibration was trained on it.

    Raises:
        DataError: nothing was scored.
    """

    def order(folder: Path) -> tuple[Any, ...]:
        system, listed, scoring = folder.relative_to(exp / "scores").parts
        places = [
            names.index(name) if name in names else len(names)
            for names, name in ((SYSTEMS, system), (SCORINGS, scoring))
        ]
        return listed, *places, system, scoring

    found = [path.parent for path in (exp / "scores").glob("*/*/*/metrics.json")]
    folders = sorted((one for one in found if one.parent.name != "calibration"), key=order)
    if not folders:
        raise DataError("no list was scored", where=exp / "scores", remedy="run the score stage")
    systems = list(dict.fromkeys(folder.parts[-3] for folder in folders))
    embeddings = exp / "embeddings" / systems[-1] / "eval"
    write(
        exp / "report",
        folders,
        recipe=recipe,
        command=command,
        published=verification_paper.rows_of_recipe(_encoder(exp)),
        models=[exp / system for system in systems if (exp / system / "done.json").is_file()],
        embeddings=embeddings if embeddings.is_dir() else None,
        publish=publish,
    )


def _encoder(exp: Path) -> str | None:
    """The published name of the encoder of the recipe's systems."""
    try:
        config = yaml.safe_load((exp / "frozen" / "config.yaml").read_text(encoding="utf-8"))
        return paper.named(str(config["model"]["encoder"]))
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None


def write(
    output: Path,
    folders: Sequence[Path],
    *,
    recipe: str,
    command: str,
    published: Mapping[str, VerificationRow],
    models: Sequence[str | Path],
    embeddings: Path | None,
    publish: Path | None,
) -> None:
    """Read, draw, write and print.

    Args:
        output: where results, figures and the page go.
        folders: of `trials`.
        recipe: folder name under `egs/`.
        command: what gives these numbers again.
        published: system, or system and scoring, to the row it is compared with.
        models: speaker models whose layer weights are drawn.
        embeddings: folder whose embeddings are drawn.
        publish: recipe folder to update.

    Raises:
        DataError: a folder holds no scored trials, or two the same list, system and scoring.
    """
    scored = [verification.read(folder) for folder in folders]
    verification.refuse_repeated(scored)
    rows = verification.records(scored, recipe=recipe, command=command, published=published)
    pictures = {
        "det": figures.det(verification.curves(scored)),
        "histogram": figures.score_histograms(
            {f"{one.condition}: {one.title}": one.histogram for one in scored}
        ),
    }
    if weights := _layer_weights(models):
        pictures["layers"] = figures.layer_weights(weights)
    if embeddings:
        pictures["embeddings"] = _map(embeddings)
    for name, picture in pictures.items():
        figures.write_png(output / f"{name}.png", picture)
    write_text(output / "det.tsv", verification.format_points(scored))
    results.write(output / "results.json", rows)
    shown = {TITLES[name]: picture for name, picture in pictures.items()}
    write_text(output / "index.html", verification.page(rows, shown))
    print(verification.console(rows))
    if any(row.paper is not None for row in rows):
        print(verification.paper_table(rows))
    if publish:
        results.publish(publish, rows)
        print(f"published: {publish / 'RESULTS.md'}")
    print(f"page: {output / 'index.html'}")


def _layer_weights(models: Sequence[str | Path]) -> dict[str, FloatArray]:
    """Weights by model; one of filter banks has none."""
    if not models:
        return {}
    import torch

    from unispeech.hub.speaker import load_speaker_model

    found = {}
    for path in models:
        layers = load_speaker_model(path).layer_sum
        if layers is not None:
            shares = torch.softmax(layers.weight.detach().float(), dim=0)
            found[Path(path).absolute().name] = shares.cpu().numpy()
    return found


def _map(folder: Path) -> Picture:
    found = read_embeddings(folder)
    if len(set(filter(None, found.speakers))) < 2:
        raise DataError("embeddings of fewer than two known speakers", where=folder)
    return figures.embedding_map(found.values, found.speakers)
