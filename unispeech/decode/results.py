"""The folder of a decoded set: `text` and `decode.json`."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unispeech.decode.engine import Decoded, Listed
from unispeech.decode.nbest import ABOUT, LISTS, oracle, write_nbest
from unispeech.errors import DataError
from unispeech.storage import sha256, write_json, write_text

Distance = Callable[[Sequence[str], Sequence[str]], int]


def write_decoded(
    output: str | Path, about: dict[str, Any], decoded: Decoded, audio_seconds: float
) -> None:
    """Write `text`, then `decode.json` with `about` and what was measured; print one line."""
    output = Path(output)
    (output / "decode.json").unlink(missing_ok=True)
    rows = [f"{name} {words}".rstrip() + "\n" for name, words in decoded.text.items()]
    write_text(output / "text", "".join(rows))
    rtf = round(decoded.seconds / audio_seconds, 6) if audio_seconds else None
    measured = {
        "utterances": len(decoded.text),
        "seconds": round(decoded.seconds, 3),
        "audio_seconds": round(audio_seconds, 3),
        "rtf": rtf,
        "not_final": len(decoded.not_final),
        "text_sha256": sha256(output / "text"),
    }
    write_json(output / "decode.json", {**about, **measured})
    if decoded.not_final:
        names = ", ".join(decoded.not_final[:3])
        print(
            f"warning: {output}: {len(decoded.not_final)} of {len(decoded.text)} utterances do not"
            f" end with a whole word or sentence: {names}",
            file=sys.stderr,
        )
    print(f"{output}: {len(decoded.text)} utterances in {decoded.seconds:.2f} s, RTF {rtf}")


def write_lists(
    output: str | Path,
    about: dict[str, Any],
    listed: Listed,
    references: dict[str, str] | None,
    distance: Distance,
) -> None:
    """Write n-best lists with `about` and, given references, their oracle; print one line."""
    found: dict[str, Any] = {"seconds": round(listed.seconds, 3)}
    line = f"{output}: n-best lists of {len(listed.lists)} utterances in {listed.seconds:.2f} s"
    if references is not None:
        best = oracle(listed.lists, references, distance)
        found["oracle"] = best._asdict()
        line += f", {best.first} of {best.words} words wrong in the first, {best.errors} at best"
    write_nbest(output, listed.lists, {**about, **found})
    print(line)


def is_listed(output: str | Path, inputs: str) -> bool:
    """Whether the folder holds whole n-best lists of the same inputs."""
    output = Path(output)
    done, lists = read_json(output / ABOUT), output / LISTS
    return done.get("inputs") == inputs and lists.is_file() and sha256(lists) == done.get("sha256")


def read_tuned(path: str | Path) -> dict[str, Any]:
    """What a `tune.json` holds.

    Raises:
        DataError: it is not one.
    """
    found = read_json(path)
    if "word_insertion" not in found or "inputs" not in found:
        raise DataError("not a tune.json", where=path, remedy="tune on the development set first")
    return found


def is_decoded(output: str | Path, inputs: str) -> bool:
    """Whether the folder holds the whole result of the same inputs."""
    output = Path(output)
    done = read_json(output / "decode.json")
    return (
        done.get("inputs") == inputs
        and (output / "text").is_file()
        and sha256(output / "text") == done.get("text_sha256")
    )


def fingerprint(value: Any) -> str:
    """SHA-256 of a value's JSON, equal for equal settings."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(path: str | Path) -> dict[str, Any]:
    """The mapping in a JSON file, empty when there is no such file or no mapping in it."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
