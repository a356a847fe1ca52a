"""Report scored trials of speaker verification: results, figures and one HTML page.

--scores are folders of `trials`; lists and systems are named as they say. Writes `results.json`,
`det.png` with all systems of a list on one plot and `det.tsv` with its points, `histogram.png`,
with --model `layers.png` of the layer weights, with --embeddings `embeddings.png`, and
`index.html`, where the published numbers stand beside ours. With --publish the rows are merged into
a recipe's results.json, and RESULTS.md beside it is rendered from that. `report` does the same for
the experiment folder of a recipe.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from unispeech.commands import _trials_report
from unispeech.errors import UsageError
from unispeech.report import verification_paper


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
    _trials_report.write(
        args.output,
        args.scores,
        recipe=args.recipe,
        command=args.command,
        published=_published(args.paper),
        models=args.model,
        embeddings=args.embeddings,
        publish=args.publish,
    )


def _published(texts: list[str]) -> dict[str, verification_paper.VerificationRow]:
    found = {}
    for text in texts:
        system, equals, row = text.partition("=")
        if not equals:
            raise UsageError("wrong --paper", expected="SYSTEM=ROW", found=text)
        found[system] = verification_paper.find(row.strip())
    return found
