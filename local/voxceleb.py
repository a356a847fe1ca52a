"""VoxCeleb's native layouts, and its AAC decoded once."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from unispeech.data.manifests import SAMPLING_RATE
from unispeech.errors import DataError, DependencyError, nearest
from unispeech.storage import atomic_path

PARTS = ("vox1-dev", "vox1-test", "vox2-dev", "vox2-test")
SUFFIXES = (".wav", ".m4a")
# Speakers of the test part of VoxCeleb1, for releases whose parts were unpacked into one folder.
FIRST_TEST, LAST_TEST = "id10270", "id10309"


class Utterance(NamedTuple):
    """One file: id10270/x6uYqmx31kE/00001 and where it is."""

    id: str
    speaker: str
    path: Path


def find_part(corpora: Path, part: str) -> Path:
    """The folder of speakers of a part.

    Raises:
        DataError: it is not there.
    """
    if part not in PARTS:
        raise DataError(f"no part '{part}'{nearest(part, PARTS)}", expected=", ".join(PARTS))
    corpus, side = part.split("-")
    names = (corpus, corpus.replace("vox", "voxceleb"))
    folders = sorted(f for f in _folders(corpora) if f.name.lower() in names)
    inside = [f"{side}/{audio}" for audio in ("wav", "aac")]
    # What the archives unpack to, when not into folders of their own.
    if part != "vox2-test":
        inside += ["wav", "aac"]
    for folder in folders:
        for name in inside:
            if (folder / name).is_dir() and any((folder / name).glob("id*")):
                return folder / name
    raise DataError(
        f"part {part} is missing",
        where=corpora,
        expected=f"VoxCeleb{corpus[-1]}/{side}/{'wav' if corpus[-1] == '1' else 'aac'}/id*/",
        found=", ".join(sorted(f.name for f in _folders(corpora))[:8]) or "nothing",
        remedy="unpack it there; the archives are listed on the pages of VoxCeleb",
    )


def utterances(corpora: Path, part: str) -> Iterator[Utterance]:
    """The files of a part, speaker by speaker, in the order of their names.

    Raises:
        DataError: the part is missing or has no audio.
    """
    folder = find_part(corpora, part)
    is_joint = folder.parent.name not in ("dev", "test")
    found = False
    for person in sorted(folder.glob("id*")):
        in_test = FIRST_TEST <= person.name <= LAST_TEST
        if part.startswith("vox1") and is_joint and in_test != part.endswith("test"):
            continue
        for path in sorted(p for p in person.glob("*/*") if p.suffix in SUFFIXES):
            found = True
            name = str(path.relative_to(folder).with_suffix(""))
            yield Utterance(name, person.name, path)
    if not found:
        raise DataError(
            f"no audio in part {part}",
            where=folder,
            expected="id*/<video>/*.wav or *.m4a",
            remedy="unpack the archive again",
        )


def decode_all(files: Iterable[tuple[Path, Path]], jobs: int) -> Iterator[tuple[Path, str]]:
    """Decode files to FLAC in `jobs` processes, those that are there already left alone.

    Args:
        files: source, and the FLAC file it becomes.
        jobs: processes.

    Yields:
        Source, and why it cannot be used, "" when it can.

    Raises:
        DependencyError: nothing here decodes AAC.
    """
    check_decoder()
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(_decode, files, chunksize=16)


def check_decoder() -> None:
    """Raise a DependencyError unless PyAV or ffmpeg is here: libsndfile does not read AAC."""
    if _pyav() is None and shutil.which("ffmpeg") is None:
        raise DependencyError(
            "decoding m4a needs PyAV or ffmpeg",
            remedy="pip install av, or install unispeech[voxceleb], or put ffmpeg on PATH",
        )


def read_aac(path: Path) -> npt.NDArray[np.float32]:
    """The waveform of an AAC file, float32 (samples,) in [-1, 1], mono at 16 kHz.

    Raises:
        DataError: the file is damaged or empty.
        DependencyError: nothing here decodes AAC.
    """
    check_decoder()
    try:
        audio = _read_with_pyav(path) if _pyav() is not None else _read_with_ffmpeg(path)
    # PyAV's errors are subclasses of the built-in ones, by the code of the library.
    except (OSError, ValueError, EOFError, IndexError) as error:
        raise DataError(
            "damaged audio file", where=path, found=error, remedy="unpack the archive again"
        ) from None
    if len(audio) == 0 or not np.isfinite(audio).all():
        raise DataError("no usable sound", where=path, remedy="unpack the archive again")
    return np.clip(audio, -1.0, 1.0)


def write_aac(path: Path, audio: npt.NDArray[np.float32], rate: int = SAMPLING_RATE) -> None:
    """Write float32 (samples,) as AAC in an MP4 container, as VoxCeleb2 has it.

    Raises:
        DependencyError: PyAV is missing.
    """
    av = _pyav()
    if av is None:
        raise DependencyError("writing m4a needs PyAV", remedy="pip install av")
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        stream.bit_rate = 64000
        frame = av.AudioFrame.from_ndarray(audio[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _decode(task: tuple[Path, Path]) -> tuple[Path, str]:
    source, flac = task
    if flac.is_file() and flac.stat().st_mtime_ns >= source.stat().st_mtime_ns:
        return source, ""
    try:
        audio = read_aac(source)
    except DataError as error:
        return source, str(error.what if error.found is None else f"{error.what}: {error.found}")
    with atomic_path(flac) as temporary:
        soundfile.write(temporary, audio, SAMPLING_RATE, "PCM_16")
    return source, ""


def _read_with_pyav(path: Path) -> npt.NDArray[np.float32]:
    av = _pyav()
    pieces = []
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLING_RATE)
        for frame in container.decode(audio=0):
            pieces += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        pieces += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate([*pieces, np.zeros(0, np.float32)]).astype(np.float32)


def _read_with_ffmpeg(path: Path) -> npt.NDArray[np.float32]:
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), "-f", "f32le"]
    command += ["-ac", "1", "-ar", str(SAMPLING_RATE), "-"]
    result = subprocess.run(command, capture_output=True, check=False)
    if result.returncode != 0:
        raise OSError(" ".join(result.stderr.decode(errors="replace").split())[-200:])
    return np.frombuffer(result.stdout, dtype="<f4").astype(np.float32)


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        return None
    return av


def _folders(corpora: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(corpora) if entry.is_dir()]
    except OSError as error:
        raise DataError(
            "cannot read the folder", where=corpora, found=error.strerror, remedy="see --corpora"
        ) from None
