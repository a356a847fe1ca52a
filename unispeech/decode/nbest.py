"""n-best lists: hypotheses with their scores apart, how they are stored, and their oracle.

The total log score of a hypothesis is acoustic + lm_scale * lm + word_insertion * words. Needs
the standard library alone and runs under Python 3.9, like the decoders that make the lists.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unispeech.errors import DataError
from unispeech.storage import atomic_path, sha256, write_json

LISTS, ABOUT = "nbest.jsonl.gz", "nbest.json"
AGAIN = "run decode --nbest again"


class Hypothesis(NamedTuple):
    """One word sequence that a decoder found.

    Attributes:
        words: word ids of `words.txt`.
        acoustic: ln P(audio | tokens) of the best path with these words, unscaled.
        lm: ln P(words), the end of the sentence included, by the language model of the graph or,
            after lattice rescoring, by the one that replaced it; unscaled.
    """

    words: tuple[int, ...]
    acoustic: float
    lm: float


class Entry(NamedTuple):
    """One hypothesis of a stored list.

    Attributes:
        text: the words, with blanks between them.
        acoustic, lm: as in `Hypothesis`.
        scores: ln P(words) by further language models, by their names.
    """

    text: str
    acoustic: float
    lm: float
    scores: Mapping[str, float] = {}


class Oracle(NamedTuple):
    """Word errors of the best choices from n-best lists, and of their first entries.

    Attributes:
        errors: with the best hypothesis of every list.
        first: with the first hypothesis of every list.
        words: of the references.
    """

    errors: int
    first: int
    words: int


def name_words(hypotheses: Iterable[Hypothesis], symbols: Mapping[int, str]) -> list[Entry]:
    """The hypotheses with words instead of ids, which `symbols` turns into words."""
    return [
        Entry(" ".join(symbols[number] for number in one.words), one.acoustic, one.lm)
        for one in hypotheses
    ]


def write_nbest(
    folder: str | Path, lists: Mapping[str, Sequence[Entry]], about: Mapping[str, Any]
) -> None:
    """Write `nbest.jsonl.gz` with a line for each utterance, then `nbest.json` with `about`."""
    folder = Path(folder)
    # Without this the old description would stand beside the new lists for a moment.
    (folder / ABOUT).unlink(missing_ok=True)
    with (
        atomic_path(folder / LISTS) as temporary,
        temporary.open("wb") as raw,
        # No time and no name in the header: equal lists are equal files.
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file,
    ):
        for utt_id, entries in lists.items():
            row = {"utt_id": utt_id, "hypotheses": [_plain(entry) for entry in entries]}
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    sizes = [len(entries) for entries in lists.values()]
    written = {
        "utterances": len(sizes),
        "hypotheses": sum(sizes),
        "sha256": sha256(folder / LISTS),
    }
    write_json(folder / ABOUT, {**about, **written})


def read_about(folder: str | Path) -> dict[str, Any]:
    """What `nbest.json` of a folder says.

    Raises:
        DataError: there are no finished lists.
    """
    path = Path(folder) / ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(about["sha256"], str):
            raise ValueError("no sha256")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("no finished n-best lists", where=path, found=error, remedy=AGAIN) from None
    return dict(about)


def read_nbest(folder: str | Path) -> dict[str, list[Entry]]:
    """Read what `write_nbest` wrote: lists by utterance, best first, in the order of the set.

    Raises:
        DataError: the lists are not there, not finished, or damaged.
    """
    path = Path(folder) / LISTS
    about = read_about(folder)
    if not path.is_file() or sha256(path) != about["sha256"]:
        raise DataError("not the lists that nbest.json describes", where=path, remedy=AGAIN)
    lists = {}
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                lists[str(row["utt_id"])] = [
                    Entry(
                        str(one["text"]),
                        float(one["acoustic"]),
                        float(one["lm"]),
                        {str(name): float(score) for name, score in one.get("scores", {}).items()},
                    )
                    for one in row["hypotheses"]
                ]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError("not n-best lists", where=path, found=error, remedy=AGAIN) from None
    return lists


def oracle(
    lists: Mapping[str, Sequence[Entry]],
    references: Mapping[str, str],
    distance: Callable[[Sequence[str], Sequence[str]], int],
) -> Oracle:
    """Count the word errors that remain when every list could be chosen from by its reference.

    Args:
        lists: n-best lists by utterance; an empty one counts as no words.
        references: words by utterance.
        distance: edit distance of two word sequences, `score.wer.edit_distance`.

    Raises:
        DataError: an utterance has no reference.
    """
    best = first = words = 0
    for utt_id, entries in lists.items():
        if utt_id not in references:
            raise DataError("an n-best list without a reference", where=f"utterance {utt_id}")
        reference = references[utt_id].split()
        errors = [distance(reference, entry.text.split()) for entry in entries] or [len(reference)]
        best += min(errors)
        first += errors[0]
        words += len(reference)
    return Oracle(best, first, words)


def _plain(entry: Entry) -> dict[str, Any]:
    # 1e-4 is what single precision leaves of a sum over an utterance.
    row: dict[str, Any] = {
        "text": entry.text,
        "acoustic": round(entry.acoustic, 4),
        "lm": round(entry.lm, 4),
    }
    if entry.scores:
        row["scores"] = {name: round(score, 4) for name, score in entry.scores.items()}
    return row
