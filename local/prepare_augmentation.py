"""Turn MUSAN and RIRS_NOISES into manifests for the augmentation of training speech.

MUSAN has folders noise, speech and music; a folder of another layout may be given in its place as
long as its sub-folders are called so. RIRS is RIRS_NOISES, whose simulated responses are taken (and
the measured ones with --rir-parts sim_rir real_rir), or any folder of impulse responses. Files are
16 kHz wav or FLAC. Writes OUTPUT/noise.jsonl.gz, whose cuts have their kind in the field `kind`,
and OUTPUT/rir.jsonl.gz.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")

from lhotse import MonoCut, Recording
from lhotse.recipes.musan import prepare_musan
from lhotse.recipes.rir_noise import prepare_rir_noise
from sets import fingerprint, finished, write_sets

from unispeech.__main__ import Parser, guard
from unispeech.data.augmentation import KINDS
from unispeech.data.manifests import SAMPLING_RATE, conversion
from unispeech.errors import DataError, UsageError

SUFFIXES = (".wav", ".flac")
RIR_PARTS = {"sim_rir": "simulated_rirs", "real_rir": "real_rirs_isotropic_noises"}


def read_noises(musan: Path) -> list[MonoCut]:
    """The noises of MUSAN's folders, with their kind.

    Raises:
        DataError: there are none, or a file is not audio or of another rate.
    """
    kinds = [kind for kind in KINDS if (musan / kind).is_dir()]
    if not kinds:
        raise DataError(
            "no MUSAN here",
            where=musan,
            expected=f"folders {', '.join(KINDS)}",
            remedy="unpack musan.tar.gz of http://www.openslr.org/17 and give its folder",
        )
    cuts = []
    for kind in kinds:
        found = list(_recordings(musan / kind, (".flac",)))
        # lhotse reads the layout of the release, which is wav.
        if next((musan / kind).rglob("*.wav"), None):
            found += prepare_musan(musan, parts=kind)[kind]["recordings"]
        cuts += [_cut(r, f"{kind}/{r.id}", kind) for r in found]
    return cuts


def read_responses(rirs: Path, parts: Sequence[str]) -> list[MonoCut]:
    """The impulse responses of RIRS_NOISES, or of any folder.

    Raises:
        DataError: there are none, or a file is not audio or of another rate.
    """
    if (rirs / "simulated_rirs").is_dir():
        for part in parts:
            if not (rirs / RIR_PARTS[part]).is_dir():
                raise DataError("a part of RIRS_NOISES is missing", where=rirs / RIR_PARTS[part])
        manifests = prepare_rir_noise(rirs, parts=parts)
        return [
            _cut(recording, f"{part}/{recording.id}")
            for part in parts
            for recording in manifests[part]["recordings"]
        ]
    return [_cut(r, f"rir/{r.id}") for r in _recordings(rirs, SUFFIXES)]


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the manifests."""
    parser = Parser(
        "prepare_augmentation.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--musan", type=Path, required=True)
    parser.add_argument("--rirs", type=Path, required=True)
    parser.add_argument("--rir-parts", nargs="+", default=["sim_rir"], choices=RIR_PARTS)
    parser.add_argument("--output", type=Path, required=True, help="folder of the manifests")
    parser.add_argument("--check", action="store_true", help="only look for the folders")
    args = parser.parse_args(argv)
    musan, rirs = args.musan.absolute(), args.rirs.absolute()
    for option, folder in (("--musan", musan), ("--rirs", rirs)):
        if not folder.is_dir():
            raise UsageError(
                f"{option}: no such folder",
                found=folder,
                remedy="unpack http://www.openslr.org/17 and http://www.openslr.org/28, or give "
                "the recipe --augment false",
            )
    if args.check:
        print(f"{musan} and {rirs} are there")
        return
    inputs = fingerprint(args.rir_parts, [musan, rirs])
    if finished(args.output, inputs):
        print(f"{args.output}: manifests of the same inputs are there, skipped")
        return
    responses = read_responses(rirs, args.rir_parts)
    write_sets(args.output, {"noise": read_noises(musan), "rir": responses}, inputs)


def _recordings(folder: Path, suffixes: Iterable[str]) -> Iterator[Recording]:
    for path in sorted(p for p in folder.rglob("*") if p.suffix in suffixes):
        try:
            yield Recording.from_file(path, recording_id=path.stem)
        except Exception as error:  # the libraries behind raise many kinds
            raise DataError(
                "cannot read the audio", where=path, found=str(error)[:200], remedy="remove it"
            ) from None


def _cut(recording: Recording, name: str, kind: str | None = None) -> MonoCut:
    path = Path(recording.sources[0].source)
    if recording.sampling_rate != SAMPLING_RATE:
        raise DataError(
            "wrong sampling rate",
            where=path,
            expected=f"{SAMPLING_RATE} Hz",
            found=f"{recording.sampling_rate} Hz",
            remedy=conversion(path),
        )
    if recording.num_samples == 0:
        raise DataError("empty audio", where=path, remedy="remove the file")
    custom = {"kind": kind} if kind else None
    return MonoCut(name, 0.0, recording.duration, 0, recording=recording, custom=custom)


if __name__ == "__main__":
    sys.exit(guard(main))
