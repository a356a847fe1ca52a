"""What a folder of `decode` holds, as `score` sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from unispeech.decode.results import read_json
from unispeech.errors import DataError


def units(folder: Path) -> Literal["letters", "phones"]:
    """Whether words or phones were decoded."""
    return "phones" if read_json(folder / "decode.json").get("units") == "phones" else "letters"


def result_file(folder: Path) -> Path:
    """Where the error rate goes: `wer.json`, or `per.json` of phones."""
    return folder / ("per.json" if units(folder) == "phones" else "wer.json")


def read_text(folder: Path) -> dict[str, str]:
    """Words by utterance.

    Raises:
        DataError: nothing was decoded here, or an utterance has no name or is there twice.
    """
    path = folder / "text"
    if not path.is_file():
        raise DataError("no decoded text", where=path, remedy="run decode with this --output")
    texts: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, words = line.partition(" ")
        if not name or name in texts:
            what = "the utterance is there twice" if name else "a line without utterance id"
            raise DataError(what, where=f"{path}:{number}", remedy="run decode again")
        texts[name] = words
    return texts


def title(folder: Path, parts: int = 2) -> str:
    """The set and the method of EXP/infer/<system>/<set>/<method>; with three parts, the system."""
    return " ".join(folder.absolute().parts[-parts:])


def stored_line(folder: Path, inputs: dict[str, object]) -> str | None:
    """The line that was printed when the same inputs were scored, or None."""
    if not (folder / "alignments.txt").is_file():
        return None
    try:
        done = json.loads(result_file(folder).read_text(encoding="utf-8"))
        return str(done["line"]) if all(done.get(k) == v for k, v in inputs.items()) else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None
