"""Turn a subset of GigaSpeech into one manifest of 2 to 30 s.

CORPORA is the folder that holds `GigaSpeech.json` and `audio/`, as https://github.com/SpeechColab/
GigaSpeech delivers it. Utterances are the segments of the subset (XS, S, M, L, XL, DEV or TEST)
that hold speech: those whose text is <SIL>, <MUSIC>, <NOISE> or <OTHER> are left out.

Segments come from lhotse's recipe. The recipe as a whole reads the gigabytes of GigaSpeech.json
into memory through a package of its own; here one audio file of it is read at a time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lhotse import MonoCut
from lhotse.recipes.gigaspeech import GIGASPEECH_PARTS, parse_utterance
from sets import (
    add_long_options,
    check_given,
    check_lengths,
    fingerprint,
    finished,
    make_cut,
    make_recording,
    pieces,
    write_long_set,
)

from unispeech.__main__ import Parser, guard
from unispeech.errors import DataError, DependencyError

# GigaSpeech's "garbage utterance tags".
NO_SPEECH = ("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>")


def read_audios(file: Path) -> Iterator[dict[str, Any]]:
    """The entries of `audios` of GigaSpeech.json, one at a time.

    Raises:
        DataError: the file is damaged.
        DependencyError: ijson is not installed.
    """
    try:
        import ijson
    except ModuleNotFoundError:
        raise DependencyError(
            "ijson is not installed", remedy="pip install ijson, or install unispeech[gigaspeech]"
        ) from None
    try:
        with file.open("rb") as stream:
            yield from ijson.items(stream, "audios.item", use_float=True)
    except ijson.JSONError as error:
        raise DataError(
            "damaged metadata", where=file, found=error, remedy="download it again"
        ) from None


def read_audio_file(
    entry: dict[str, Any], corpus: Path, subset: str, shortest: float, longest: float
) -> Iterator[MonoCut]:
    """The utterances of one audio file; lengths in seconds.

    Raises:
        DataError: the entry is damaged, or its audio missing or of another format.
    """
    label = f"{{{subset}}}"
    try:
        recording_id = str(entry["aid"])
        # A file of a subset also has segments that are not of it.
        own = {s["sid"] for s in entry["segments"] if label in s["subsets"]}
        recording, segments = parse_utterance(entry, corpus)
        path = Path(recording.sources[0].source)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            "not an entry of GigaSpeech",
            where=f"{corpus / 'GigaSpeech.json'}, {entry.get('aid', 'no aid')}",
            found=f"{type(error).__name__} {error}",
            remedy="download it again",
        ) from None
    if not own:
        return
    recording = make_recording(recording_id, path)
    for segment in segments:
        if segment.id not in own or segment.text.strip() in NO_SPEECH:
            continue
        end = min(segment.end, recording.duration)
        parts = list(pieces(segment.start, end, shortest, longest))
        for number, (begin, duration) in enumerate(parts):
            yield make_cut(
                recording,
                segment.id if len(parts) == 1 else f"{segment.id}-{number}",
                speaker=segment.speaker,
                # The words of a part of a segment are not known.
                text=segment.text if len(parts) == 1 else "",
                start=begin,
                duration=duration,
            )


def read_subset(corpus: Path, subset: str, shortest: float, longest: float) -> Iterator[MonoCut]:
    """The utterances of a subset; lengths in seconds."""
    for entry in read_audios(corpus / "GigaSpeech.json"):
        if f"{{{subset}}}" in entry.get("subsets", ()):
            yield from read_audio_file(entry, corpus, subset, shortest, longest)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the manifest."""
    parser = Parser(
        "prepare_gigaspeech.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_long_options(parser, "gigaspeech")
    parser.add_argument("--subset", choices=GIGASPEECH_PARTS, default="XL", help="default XL")
    args = parser.parse_args(argv)
    check_given(args.corpora)
    check_lengths(args)
    corpus = args.corpora.resolve()
    metadata = corpus / "GigaSpeech.json"
    if not metadata.is_file():
        raise DataError(
            "GigaSpeech is not here",
            where=corpus,
            expected="GigaSpeech.json and audio/",
            remedy="get it as https://github.com/SpeechColab/GigaSpeech describes",
        )
    lengths = (args.min_seconds, args.max_seconds)
    settings = {"name": args.name, "subset": args.subset, "lengths": lengths}
    inputs = fingerprint(settings, [corpus / "audio"], [metadata])
    if finished(args.output, inputs):
        print(f"{args.output}: a manifest of the same inputs is there, skipped")
        return
    cuts = read_subset(corpus, args.subset, *lengths)
    write_long_set(args.output, args.name, cuts, inputs)


if __name__ == "__main__":
    sys.exit(guard(main))
