"""Report scored trials of speaker verification: results, figures and one HTML page.

--scores are folders of `trials`; lists and systems are named as they say. Writes `results.json`,
`det.png` with all systems of a list on one plot and `det.tsv` with its points, `histogram.png`,
with --model `layers.png` of the layer weights, with --embeddings `embeddings.png`, and
`index.html`, where the published numbers stand beside ours. With --publish the rows are merged into
a recipe's results.json, and RESULTS.md beside it is rendered from that.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from unispeech.data.embeddings import read_embeddings
from unispeech.errors import DataError, UsageError
from unispeech.report import results, verification, verification_paper
from unispeech.report import verification_figures as figures
from unispeech.report.figures import FloatArray, Picture
from unispeech.storage import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--scores", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--recipe", default="voxceleb", help="folder name under egs/ (voxceleb)")
    parser.add_argument("--command", required=True, help="what gives these numbers again")
    parser.add_argument(
        "--paper", action="append", default=[], metavar="SYSTEM=ROW",
        help="compare a system with a published one, e.g. 'joint=WavLM Large, trained, plain'",
    )  # fmt: skip
    parser.add_argument(
        "--model", nargs="+", default=[], help="speaker models of the layer weights"
    )
    parser.add_argument("--embeddings", type=Path, metavar="DIR", help="to draw a map of")
    parser.add_argument("--publish", type=Path, metavar="DIR", help="recipe folder to update")


def run(args: argparse.Namespace) -> None:
    """Read, draw, write and print.

    Raises:
        UsageError: --paper names no published system.
        DataError: a folder holds no scored trials, or two the same list, system and scoring.
    """
    scored = [verification.read(folder) for folder in args.scores]
    _refuse_repeated(scored)
    rows = verification.records(
        scored, recipe=args.recipe, command=args.command, published=_published(args.paper)
    )
    pictures = {
        "det": figures.det(_curves(scored)),
        "histogram": figures.score_histograms(
            {f"{one.condition}: {one.title}": one.histogram for one in scored}
        ),
    }
    weights = _layer_weights(args.model)
    if weights:
        pictures["layers"] = figures.layer_weights(weights)
    if args.embeddings:
        pictures["embeddings"] = _map(args.embeddings)
    for name, picture in pictures.items():
        figures.write_png(args.output / f"{name}.png", picture)
    write_text(args.output / "det.tsv", _points(scored))
    results.write(args.output / "results.json", rows)
    titles = {
        "det": "Detection error tradeoff",
        "histogram": "Scores",
        "layers": "Weights of the hidden states",
        "embeddings": "Embeddings",
    }
    shown = {titles[name]: picture for name, picture in pictures.items()}
    write_text(args.output / "index.html", verification.page(rows, shown))
    print(verification.console(rows))
    if any(row.paper is not None for row in rows):
        print(verification.paper_table(rows))
    if args.publish:
        results.publish(args.publish, rows)
        print(f"published: {args.publish / 'RESULTS.md'}")
    print(f"page: {args.output / 'index.html'}")


def _published(texts: list[str]) -> dict[str, verification_paper.VerificationRow]:
    found = {}
    for text in texts:
        system, equals, row = text.partition("=")
        if not equals:
            raise UsageError("wrong --paper", expected="SYSTEM=ROW", found=text)
        found[system] = verification_paper.find(row.strip())
    return found


def _refuse_repeated(scored: list[verification.ScoredList]) -> None:
    names = [f"{one.condition}: {one.title}" for one in scored]
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                "two folders with the same list, system and scoring",
                where=name,
                remedy="score one of them with another --system",
            )


def _curves(scored: list[verification.ScoredList]) -> dict[str, dict[str, figures.Points]]:
    found: dict[str, dict[str, figures.Points]] = {}
    for one in scored:
        points = one.curve[:, 1], one.curve[:, 2]
        found.setdefault(one.condition, {})[f"{one.title}: {one.metrics['eer']:.2f} %"] = points
    return found


def _points(scored: list[verification.ScoredList]) -> str:
    lines = ["trials\tsystem\tthreshold\tfalse_alarm\tmiss\n"]
    for one in scored:
        lines += [
            f"{one.condition}\t{one.title}\t{threshold:.9g}\t{alarm:.9g}\t{miss:.9g}\n"
            for threshold, alarm, miss in one.curve
        ]
    return "".join(lines)


def _layer_weights(models: list[str]) -> dict[str, FloatArray]:
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
