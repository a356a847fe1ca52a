"""Telephone speech in its native layouts: Switchboard and NIST SRE corpora, SPHERE files.

Which column of which table holds what is that of Kaldi's recipes callhome_diarization and sre16.
"""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
from scipy.signal import resample_poly

from unispeech.data.manifests import SAMPLING_RATE
from unispeech.data.sampling import stable_seed
from unispeech.errors import DataError
from unispeech.storage import atomic_path


class Side(NamedTuple):
    """One channel of a call; `channel` counts from 0."""

    id: str
    speaker: str
    path: Path
    channel: int


class Switchboard(NamedTuple):
    """Where a Switchboard corpus says who speaks: its table, and the columns of both speakers."""

    name: str
    table: str
    first: int
    second: int
    prefix: str
    bad: tuple[str, ...] = ()
    """Calls whose audio is damaged."""
    calls: str = ""
    """Table that names the calls, when the first does not: every second line is one."""


SWITCHBOARD = {
    "LDC98S75": Switchboard("swb2-1", "callstat.tbl", 2, 3, ""),
    "LDC99S79": Switchboard("swb2-2", "callstat.tbl", 2, 3, "", calls="callinfo.tbl"),
    "LDC2002S06": Switchboard("swb2-3", "callstat.tbl", 3, 4, "sw_"),
    "LDC2001S13": Switchboard(
        "swbc-1", "swb_callstats.tbl", 1, 2, "sw_", ("40019", "45024", "40022")
    ),
    "LDC2004S07": Switchboard("swbc-2", "swb_callstats.tbl", 1, 2, "sw_", ("45024", "40022")),
}
SRE = {
    "LDC2006S44": "sre2004",
    "LDC2011S01": "sre2005",
    "LDC2011S04": "sre2005",
    "LDC2011S09": "sre2006",
    "LDC2011S10": "sre2006",
    "LDC2012S01": "sre2006",
    "LDC2011S05": "sre2008",
    "LDC2011S08": "sre2008",
}
SPEAKER_LIST = "speaker_list"
SPEAKER_LIST_ARCHIVE = "http://www.openslr.org/resources/15/speaker_list.tgz"


def find_corpora(corpora: Path) -> dict[str, Path]:
    """The folders of the telephone corpora that are there, by their LDC numbers.

    Raises:
        DataError: none is there, or an SRE corpus is without the list of its speakers.
    """
    found = {name: corpora / name for name in (*SWITCHBOARD, *SRE) if (corpora / name).is_dir()}
    if not found:
        raise DataError(
            "no telephone speech to train on",
            where=corpora,
            expected=f"folders {', '.join((*SWITCHBOARD, *SRE))}, or some of them",
            remedy="copy them there, or take other speech with --layout folder",
        )
    if any(name in SRE for name in found) and not (corpora / SPEAKER_LIST).is_file():
        raise DataError(
            "the list of the speakers of NIST SRE is missing",
            where=corpora / SPEAKER_LIST,
            remedy=f"unpack {SPEAKER_LIST_ARCHIVE} there",
        )
    return found


def sides(corpora: Path) -> Iterator[Side]:
    """Every side of a call of every corpus that is there and whose file is.

    Raises:
        DataError: a corpus has no table, or a table cannot be read.
    """
    speakers = _sre_speakers(corpora / SPEAKER_LIST) if (corpora / SPEAKER_LIST).is_file() else []
    for number, folder in find_corpora(corpora).items():
        files = {path.stem: path for path in sorted(folder.rglob("*.sph"))}
        if number in SRE:
            for speaker, source, call, channel in speakers:
                if source == SRE[number] and call in files:
                    name = f"{source}/{call}-{channel}"
                    yield Side(name, speaker, files[call], "AB".index(channel))
        else:
            yield from _switchboard(SWITCHBOARD[number], folder, files)


def _switchboard(corpus: Switchboard, folder: Path, files: dict[str, Path]) -> Iterator[Side]:
    rows = _table(folder, corpus.table)
    calls = [row[0] for row in _table(folder, corpus.calls)[1::2]] if corpus.calls else []
    for number, row in enumerate(rows):
        if corpus.calls and number >= len(calls):
            break
        call = calls[number] if corpus.calls else row[0]
        name = corpus.prefix + call.split(".")[0]
        if call in corpus.bad or name not in files or len(row) <= corpus.second:
            continue
        for channel, column in enumerate((corpus.first, corpus.second)):
            # One speaker has one number in all phases.
            speaker = f"sw_{row[column]}"
            yield Side(f"{corpus.name}/{name}-{'AB'[channel]}", speaker, files[name], channel)


def _table(folder: Path, name: str) -> list[list[str]]:
    """The fields of a table with commas, wherever it lies in the corpus."""
    path = next(iter(sorted(folder.rglob(name))), None)
    if path is None:
        raise DataError(
            f"no {name} in the corpus", where=folder, remedy="copy its folder of documents too"
        )
    lines = path.read_text(encoding="latin-1").splitlines()
    return [[field.strip() for field in line.split(",")] for line in lines if line.strip()]


def _sre_speakers(path: Path) -> list[tuple[str, str, str, str]]:
    """Speaker, corpus, call and channel of every line of the list."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 5 or fields[4] not in ("A", "B"):
            raise DataError(
                "not a line of the list of speakers",
                where=f"{path}:{number}",
                expected="SPEAKER GENDER CORPUS CALL A|B",
                found=line[:80],
            )
        speaker, gender, source, call, channel = fields
        found.append((f"{speaker}-{gender}", source, call, channel))
    return found


def read_sphere(path: Path, channel: int) -> npt.NDArray[np.float32]:
    """A channel of a SPHERE file, float32 (samples,) at 16 kHz.

    libsndfile reads those that are not compressed, sph2pipe (where it is on PATH) all.

    Raises:
        DataError: neither reads it, or it has no such channel or no sound.
    """
    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        audio, rate = _with_sph2pipe(path, error)
    if len(audio) == 0 or channel >= audio.shape[1] or not np.isfinite(audio).all():
        raise DataError("no usable sound", where=path, expected=f"channel {channel}")
    wide = resample_poly(audio[:, channel], SAMPLING_RATE, rate)
    return np.clip(wide, -1.0, 1.0).astype(np.float32)


def _with_sph2pipe(path: Path, error: Exception) -> tuple[npt.NDArray[np.float32], int]:
    program = shutil.which("sph2pipe")
    if program is None:
        raise DataError(
            "cannot read the audio",
            where=path,
            found=error,
            remedy="compressed SPHERE files need the program sph2pipe on PATH",
        )
    result = subprocess.run([program, "-f", "wav", "-p", path], capture_output=True, check=False)
    try:
        audio, rate = soundfile.read(BytesIO(result.stdout), dtype="float32", always_2d=True)
    except soundfile.SoundFileError:
        found = " ".join(result.stderr.decode(errors="replace").split())[-200:]
        raise DataError("damaged audio file", where=path, found=found) from None
    return audio, int(rate)


def decode_all(files: Iterable[tuple[Path, int, Path]], jobs: int) -> Iterator[tuple[Path, str]]:
    """Write channels as 16 kHz FLAC in `jobs` processes; those that are there are left alone.

    Args:
        files: source, channel, and the FLAC file it becomes.
        jobs: processes.

    Yields:
        The FLAC file, and why it cannot be made, "" when it is there.
    """
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(_decode, files, chunksize=8)


def _decode(task: tuple[Path, int, Path]) -> tuple[Path, str]:
    source, channel, flac = task
    if flac.is_file() and flac.stat().st_mtime_ns >= source.stat().st_mtime_ns:
        return flac, ""
    try:
        audio = read_sphere(source, channel)
    except DataError as error:
        return flac, str(error)
    with atomic_path(flac) as temporary:
        soundfile.write(temporary, audio, SAMPLING_RATE, "PCM_16")
    return flac, ""


def in_share(share: float) -> Callable[[str], bool]:
    """Whether a name is in a share of all names; which ones does not depend on the others."""
    return lambda name: stable_seed(name) % 10_000 < round(share * 10_000)
