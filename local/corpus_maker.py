"""The command line of synthesised corpora, and how they are written."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from espeak import find_library

from unispeech.__main__ import Parser
from unispeech.errors import UsageError
from unispeech.storage import atomic_folder, write_json

Counts = TypeVar("Counts")


def corpus_parser(script: str, description: str, output: str) -> Parser:
    """A parser with --output, --seed and --jobs.

    Args:
        script: its name.
        description: its docstring.
        output: what --output is, for --help.
    """
    parser = Parser(
        script,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=Path, required=True, help=output)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    return parser


def made_before(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a corpus was synthesised there with the same settings.

    Raises:
        UsageError: something else is there.
    """
    made = folder / "synthesis.json"
    if made.is_file():
        if json.loads(made.read_text(encoding="utf-8"))["settings"] == settings:
            print(f"{folder}: made before with the same settings, skipped")
            return True
    elif folder.exists():
        raise UsageError(
            "the folder exists and was not made by this script; nothing was changed",
            where=folder,
            remedy="choose another --output",
        )
    return False


def make_corpus(
    folder: Path, settings: dict[str, Any], build: Callable[[Path], Counts], counted: str
) -> Counts | None:
    """Write a corpus, whole or not at all.

    Args:
        folder: where it will be.
        settings: with what it is made; kept in synthesis.json.
        build: writes it into a folder, and returns what it counted.
        counted: the name of those counts in synthesis.json.

    Returns:
        The counts; None where the corpus was made before.

    Raises:
        UsageError: something else is there.
        DependencyError: there is no espeak-ng.
    """
    if made_before(folder, settings):
        return None
    find_library()
    begin = time.monotonic()
    with atomic_folder(folder) as temporary:
        counts = build(temporary)
        write_json(temporary / "synthesis.json", {"settings": settings, counted: counts})
    print(f"{folder}: made in {time.monotonic() - begin:.0f} s")
    return counts


def write_notice(folder: Path, corpus: str, script: str, real: str) -> None:
    """README.TXT, which says that this is not the corpus whose layout it has.

    Args:
        folder: of the corpus.
        corpus: that it looks like.
        script: that made it.
        real: of what its results say nothing.
    """
    (folder / "README.TXT").write_text(
        f"Not {corpus}: synthesised speech in its layout, made by\n"
        f"`python local/{script}` with espeak-ng; settings in synthesis.json.\n"
        f"Results on it say nothing about {real}.\n",
        encoding="utf-8",
    )
