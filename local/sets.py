"""What the scripts that prepare manifests share: cuts, fingerprints of inputs, finished outputs."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment

from unispeech.data.manifests import SAMPLING_RATE, conversion, write_cuts
from unispeech.data.rttm import Segment, joined, write_rttm
from unispeech.errors import DataError, UsageError
from unispeech.storage import sha256, write_json

RECORD = "prepared.json"
# Times of RTTM and of audio are rounded; what lies further beyond the end is an error.
BEYOND = 0.5


def check_given(corpora: Path) -> None:
    """Raise a UsageError when a recipe was started without `--corpora`."""
    if corpora == Path():
        raise UsageError(
            "--corpora is missing",
            expected="the folder of the corpora",
            remedy="give it, or --tiny true for a synthesised corpus",
        )


def make_recording(recording_id: str, path: Path) -> Recording:
    """The recording of a 16 kHz mono file, from its header.

    Raises:
        DataError: the file is missing, not audio, of another rate, or has several channels.
    """
    if not path.is_file():
        raise DataError(
            "no such audio file", where=path, remedy="restore the corpus or correct the path"
        )
    try:
        info = soundfile.info(path)
    except soundfile.SoundFileError as error:
        raise DataError(
            "not an audio file that libsndfile reads",
            where=path,
            found=error,
            remedy=f"copy the file again or {conversion(path)}",
        ) from None
    if info.samplerate != SAMPLING_RATE or info.channels != 1:
        raise DataError(
            "wrong audio format",
            where=path,
            expected=f"{SAMPLING_RATE} Hz, 1 channel",
            found=f"{info.samplerate} Hz, {info.channels} channels",
            remedy=conversion(path),
        )
    if info.frames == 0:
        raise DataError("empty audio", where=path, remedy="remove the utterance")
    source = AudioSource(type="file", channels=[0], source=str(path))
    duration = info.frames / SAMPLING_RATE
    return Recording(recording_id, [source], SAMPLING_RATE, info.frames, duration)


def make_cut(
    recording: Recording,
    utterance: str,
    *,
    speaker: str,
    text: str,
    language: str = "English",
    start: float = 0.0,
    duration: float | None = None,
) -> MonoCut:
    """A cut with one supervision that spans it, both named after the utterance."""
    length = recording.duration - start if duration is None else duration
    supervision = SupervisionSegment(
        id=utterance,
        recording_id=recording.id,
        start=0.0,
        duration=length,
        channel=0,
        text=text,
        language=language,
        speaker=speaker,
    )
    return MonoCut(
        id=utterance,
        start=start,
        duration=length,
        channel=0,
        recording=recording,
        supervisions=[supervision],
    )


def make_conversation(
    recording: Recording, segments: Sequence[Segment], where: object, prefix: str = ""
) -> MonoCut:
    """A cut of a whole recording with one supervision for each segment of speech.

    Segments without length are left out, one that ends a little after the recording is cut, and
    there is a warning when segments of one speaker overlap: who speaks twice counts once.

    Args:
        recording: the recording.
        segments: who speaks when in it; there may be none.
        where: the source of the segments, for messages.
        prefix: of the names of speakers.

    Raises:
        DataError: a segment lies beyond the end of the recording.
    """
    spoken = [segment for segment in segments if segment.duration > 0]
    repeated = sum(s.duration for s in spoken) - sum(s.duration for s in joined(spoken))
    if repeated > 0.001:
        print(
            f"warning: {where}: segments of one speaker of {recording.id} overlap"
            f" for {repeated:.3f} s, which count once",
            file=sys.stderr,
        )
    supervisions = []
    for number, segment in enumerate(spoken):
        if segment.start >= recording.duration or segment.end > recording.duration + BEYOND:
            raise DataError(
                f"a segment of {recording.id} lies beyond the end of the recording",
                where=where,
                expected=f"0 to {recording.duration:g} s",
                found=f"{segment.start:g} to {segment.end:g} s",
                remedy="correct its times, or copy the audio again",
            )
        length = min(segment.end, recording.duration) - segment.start
        supervisions.append(
            SupervisionSegment(
                f"{recording.id}-{number:04d}", recording.id, segment.start, length, 0,
                speaker=prefix + segment.speaker,
            )
        )  # fmt: skip
    return MonoCut(
        recording.id, 0.0, recording.duration, 0, supervisions=supervisions, recording=recording
    )


def fingerprint(settings: Any, folders: Iterable[Path], files: Iterable[Path] = ()) -> str:
    """A hash of settings and of the names, sizes and times of all input files."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    listed = sorted({f for folder in folders for f in _walk(folder)} | set(files))
    for file in listed:
        status = file.stat()
        digest.update(f"{file}\t{status.st_size}\t{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def finished(output: Path, inputs: str, name: str = RECORD) -> bool:
    """Whether `output` was written from the same inputs and is still as it was written."""
    record = output / name
    if not record.is_file():
        return False
    stored = json.loads(record.read_text(encoding="utf-8"))
    return stored["inputs"] == inputs and all(
        (output / name).is_file() and sha256(output / name) == value
        for name, value in stored["sha256"].items()
    )


def write_sets(
    output: Path,
    sets: Mapping[str, Sequence[MonoCut]],
    inputs: str,
    references: Mapping[str, Mapping[str, Sequence[Segment]]] | None = None,
) -> None:
    """Write `<set>.jsonl.gz` sorted by id, then the record that makes `finished` true.

    Sets of conversations also get `<set>.rttm`, their reference as it was published: joined or cut
    segments would be scored otherwise. Sets that an earlier call wrote and that are no
    longer asked for are removed.

    Args:
        output: folder of the manifests.
        sets: the cuts of each set.
        inputs: their fingerprint.
        references: the segments of every recording of a set of conversations.

    Raises:
        DataError: a set has no utterances.
    """
    for name, cuts in sets.items():
        if not cuts:
            raise DataError(
                "no utterance is left", where=f"set {name}", remedy="widen its conditions"
            )
    hashes = {}
    for name, cuts in sets.items():
        path = output / f"{name}.jsonl.gz"
        write_cuts(sorted(cuts, key=lambda cut: cut.id), path)
        hashes[path.name] = sha256(path)
        if references and name in references:
            rttm = output / f"{name}.rttm"
            write_rttm(rttm, references[name], keep_empty=True)
            hashes[rttm.name] = sha256(rttm)
        hours = sum(cut.duration for cut in cuts) / 3600
        people = len({s.speaker for cut in cuts for s in cut.supervisions} - {None})
        kind = "recordings" if references and name in references else "utterances"
        print(f"{path}: {len(cuts)} {kind}, {people} speakers, {hours:.3f} h")
    write_record(output, hashes, inputs)


def write_record(output: Path, hashes: Mapping[str, str], inputs: str, name: str = RECORD) -> None:
    """Write the record that makes `finished` true; remove files of an earlier one."""
    if (output / name).is_file():
        earlier = json.loads((output / name).read_text(encoding="utf-8"))
        for stale in set(earlier["sha256"]) - set(hashes):
            (output / stale).unlink(missing_ok=True)
    write_json(output / name, {"inputs": inputs, "sha256": dict(hashes)})


def write_long_set(output: Path, name: str, cuts: Iterable[MonoCut], inputs: str) -> None:
    """Write one set in the order its cuts come, none of them kept, then the record.

    Raises:
        DataError: there are no cuts.
    """
    path = output / f"{name}.jsonl.gz"
    count, seconds = 0, 0.0

    def counted() -> Iterator[MonoCut]:
        nonlocal count, seconds
        for cut in cuts:
            count, seconds = count + 1, seconds + cut.duration
            yield cut
        if count == 0:
            raise DataError(
                "no utterance is left", where=f"set {name}", remedy="lower --min-seconds"
            )

    write_cuts(counted(), path)
    write_record(output, {path.name: sha256(path)}, inputs)
    print(f"{path}: {count} utterances, {seconds / 3600:,.3f} h")


def add_long_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Options of the corpora whose recordings are cut into utterances."""
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of its own")
    parser.add_argument("--name", default=name, help=f"name of the set (default {name})")
    # Shorter ones are left out of pre-training anyway; longer ones are cropped to 15.6 s.
    parser.add_argument("--min-seconds", type=float, default=2.0, help="leave out shorter ones (2)")
    parser.add_argument("--max-seconds", type=float, default=30.0, help="cut longer ones (30)")


def check_lengths(args: argparse.Namespace) -> None:
    """Raise a UsageError when halves of long utterances would be too short."""
    if not 0 < 2 * args.min_seconds <= args.max_seconds:
        raise UsageError(
            "--max-seconds must be at least twice --min-seconds",
            found=f"{args.min_seconds:g} and {args.max_seconds:g}",
        )


def pieces(
    start: float, end: float, shortest: float, longest: float
) -> Iterator[tuple[float, float]]:
    """Start and duration of the fewest equal pieces of a stretch of a recording, in seconds.

    None is longer than `longest`, a stretch shorter than `shortest` gives none, and all begin and
    end at samples.
    """
    first, last = round(start * SAMPLING_RATE), round(end * SAMPLING_RATE)
    samples, most = last - first, math.floor(longest * SAMPLING_RATE)
    if samples < shortest * SAMPLING_RATE:
        return
    count = -(-samples // most)
    edges = [first + samples * number // count for number in range(count + 1)]
    for begin, stop in zip(edges, edges[1:], strict=False):
        yield begin / SAMPLING_RATE, (stop - begin) / SAMPLING_RATE


def join(
    stretches: Iterable[tuple[float, float]], longest: float, pause: float
) -> Iterator[tuple[float, float]]:
    """Neighbouring stretches of speech as one, with the pauses between them.

    Args:
        stretches: start and end in seconds, ascending.
        longest: length in seconds beyond which nothing is joined.
        pause: longest pause in seconds that is kept.
    """
    current: tuple[float, float] | None = None
    for start, end in stretches:
        if current and start - current[1] <= pause and end - current[0] <= longest:
            current = (current[0], end)
            continue
        if current:
            yield current
        current = (start, end)
    if current:
        yield current


def _walk(folder: Path) -> list[Path]:
    return [Path(root) / name for root, _, names in os.walk(folder) for name in names]
