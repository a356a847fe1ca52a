"""A Common Voice release in its native layout: languages, tables, clips, lists of clips."""

from __future__ import annotations

import csv
import math
import multiprocessing
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.signal import resample_poly

from unispeech.data.manifests import SAMPLING_RATE
from unispeech.errors import DataError, StorageError, UsageError, nearest
from unispeech.storage import atomic_path

TABLES = ("train", "dev", "test", "validated")
COLUMNS = ("client_id", "path", "sentence")
AUDIO_SUFFIXES = (".mp3", ".wav", ".flac", ".opus")
# A client id has 128 hexadecimal digits; so many tell all speakers of a release apart.
SPEAKER_DIGITS = 16


class Language(NamedTuple):
    """A language of the paper: the voice of espeak-ng and the script of its sentences."""

    name: str
    voice: str
    script: str


LANGUAGES = {
    "en": Language("English", "en-us", "LATIN"),
    "es": Language("Spanish", "es", "LATIN"),
    "fr": Language("French", "fr-fr", "LATIN"),
    "it": Language("Italian", "it", "LATIN"),
    "ky": Language("Kyrgyz", "ky", "CYRILLIC"),
    "nl": Language("Dutch", "nl", "LATIN"),
    "ru": Language("Russian", "ru", "CYRILLIC"),
    "sv": Language("Swedish", "sv", "LATIN"),
    "tt": Language("Tatar", "tt", "CYRILLIC"),
}


class Clip(NamedTuple):
    """A row of a table: file name without suffix, speaker, sentence, and the file."""

    name: str
    speaker: str
    text: str
    path: Path


def check_language(code: str) -> str:
    """The code, when the paper has the language.

    Raises:
        UsageError: it does not.
    """
    if code not in LANGUAGES:
        raise UsageError(
            f"no language '{code}'{nearest(code, LANGUAGES)}", expected=", ".join(LANGUAGES)
        )
    return code


def target_prefix(code: str, targets: Sequence[str]) -> str:
    """What the names of a target language's sets begin with: nothing where it is the only one."""
    return f"{code}_" if len(targets) > 1 else ""


def find_language(corpora: Path, code: str) -> Path:
    """The folder of a language, `CORPORA/<code>` or `CORPORA/cv-corpus-*/<code>`.

    Common Voice calls Swedish `sv-SE`: a region after the code is accepted.

    Raises:
        DataError: there is none, it lacks tables or clips, or several releases have it.
    """
    roots = [corpora, *sorted(p for p in corpora.glob("cv-corpus-*") if p.is_dir())]
    found = [p for root in roots for p in (root / code, *sorted(root.glob(f"{code}-*")))]
    found = [p for p in found if p.is_dir()]
    remedy = (
        "download the language from https://commonvoice.mozilla.org/datasets, unpack it there "
        "and give the folder to --corpora"
    )
    if not found:
        raise DataError(
            f"no Common Voice release of '{code}' here",
            where=corpora,
            expected=f"cv-corpus-*/{code}/train.tsv and clips/*.mp3",
            found=", ".join(sorted(p.name for p in corpora.glob("*"))[:8]) or "nothing",
            remedy=remedy,
        )
    if len(found) > 1:
        raise DataError(
            f"'{code}' is here more than once",
            where=corpora,
            found=", ".join(str(p.relative_to(corpora)) for p in found),
            remedy="give the folder of one release to --corpora",
        )
    folder = found[0].resolve()
    names = [f"{name}.tsv" for name in ("train", "dev", "test")] + ["clips"]
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise DataError(
            "not a whole release", where=folder, found=f"no {', '.join(missing)}", remedy=remedy
        )
    return folder


def read_table(folder: Path, name: str) -> list[Clip]:
    """The rows of `<name>.tsv`; no rows when only `validated.tsv` is missing.

    Raises:
        DataError: the table is not UTF-8, lacks a column or a field, or lists a clip twice.
    """
    file = folder / f"{name}.tsv"
    if name == "validated" and not file.is_file():
        return []
    clips: dict[str, Clip] = {}
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            # Quotation marks are part of the sentences.
            rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            _check_columns(file, list(rows.fieldnames or []))
            for row in rows:
                clip = _clip(folder, row, f"{file}:{rows.line_num}")
                if clip.name in clips:
                    raise DataError(
                        f"clip {clip.name} is there twice",
                        where=f"{file}:{rows.line_num}",
                        remedy="unpack the release again, or remove one of the rows",
                    )
                clips[clip.name] = clip
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            "cannot read the table", where=file, found=error, remedy="unpack the release again"
        ) from None
    return list(clips.values())


def find_lists(splits: Path, code: str) -> dict[str, Path]:
    """The files that list the clips of `train`, `dev` and `test` of a language.

    Names begin with train, val or dev, and test, as `trainSeqs_1.0_uniform_new_version.tsv` of
    the lists that CPC_audio and UniSpeech published.

    Raises:
        DataError: one is missing.
    """
    files = sorted(p for p in (splits / code).glob("*") if p.suffix in (".tsv", ".txt", ".id"))
    # The same list is published several times over: the plainest name is the original.
    files.sort(key=lambda p: (p.suffix == ".id", len(p.name)))
    found = {}
    for name, starts in (("train", "train"), ("dev", ("val", "dev")), ("test", "test")):
        own = [p for p in files if p.name.startswith(starts)]
        if not own:
            raise DataError(
                f"no list of the {name} clips of '{code}'",
                where=splits / code,
                expected=f"{name}*.tsv or {name}*.txt",
                found=", ".join(p.name for p in files[:6]) or "no list",
                remedy="copy the published lists there, or leave --splits out",
            )
        found[name] = own[0]
    return found


def read_list(file: Path) -> list[str]:
    """Names of clips, without suffix, from a list: one a line, or the first field of each line.

    A first line that is a folder (the root line of fairseq's manifests) is skipped.

    Raises:
        DataError: the file cannot be read, or lists a clip twice or none.
    """
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("cannot read the list", where=file, found=error) from None
    paths = [line[0] for line in lines if line]
    if paths and "/" in paths[0] and not paths[0].endswith(AUDIO_SUFFIXES):
        del paths[0]
    names = [_stem(path) for path in paths]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        raise DataError(
            f"clip {twice[0]} is there twice" if twice else "the list is empty",
            where=file,
            remedy="copy the published list again",
        )
    return names


def wrong_text(text: str, code: str) -> str:
    """Why a sentence cannot be said in the language, "" when it can."""
    # Modifier letters (Lm) are apostrophes; º and ª belong to no script.
    letters = [c for c in text if unicodedata.category(c) in ("Lu", "Ll", "Lt", "Lo")]
    if not letters:
        return "no text"
    script = LANGUAGES[code].script
    known = (script, "MASCULINE ORDINAL", "FEMININE ORDINAL")
    foreign = sorted({c for c in letters if not unicodedata.name(c, "").startswith(known)})
    return f"letters that are not {script.capitalize()}: {' '.join(foreign)}" if foreign else ""


def decode_clips(
    clips: Sequence[Clip], folder: Path, limits: tuple[float, float], jobs: int
) -> dict[str, tuple[int, str]]:
    """Decode clips to `folder/<name>.flac`, 16 kHz mono, in `jobs` processes.

    What an earlier call decoded is kept, unless the clip is newer.

    Args:
        clips: what to decode.
        folder: of the FLAC files.
        limits: least and greatest duration in seconds.
        jobs: processes.

    Returns:
        Samples and, where the clip is of no use, the reason, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [(clip, folder / f"{clip.name}.flac", limits) for clip in clips]
    context = multiprocessing.get_context("fork")
    with context.Pool(jobs, initializer=_be_quiet) as pool:
        results = pool.imap(_decode, tasks, chunksize=16)
        return {clip.name: result for clip, result in zip(clips, results, strict=True)}


def _decode(task: tuple[Clip, Path, tuple[float, float]]) -> tuple[int, str]:
    clip, flac, (least, greatest) = task
    if not clip.path.is_file():
        return 0, "no such clip"
    status = clip.path.stat()
    if status.st_size == 0:
        return 0, "an empty file"
    samples = _samples(flac) if flac.is_file() else 0
    if not samples or flac.stat().st_mtime_ns < status.st_mtime_ns:
        try:
            audio, rate, announced = _read(clip.path)
        except (soundfile.SoundFileError, OSError):
            return 0, "not audio that libsndfile reads"
        # Two MPEG frames: encoders do not all count their delay in the header.
        if len(audio) + 2304 < announced:
            there = f"{len(audio) / rate:.2f} s of {announced / rate:.2f} s"
            return 0, f"truncated: {there} can be decoded"
        if not np.isfinite(audio).all() or not audio.any():
            return 0, "silent, or samples that are not finite"
        divisor = math.gcd(rate, SAMPLING_RATE)
        audio = resample_poly(audio, SAMPLING_RATE // divisor, rate // divisor)
        _write(flac, np.clip(audio, -1, 1))
        samples = len(audio)
    seconds = samples / SAMPLING_RATE
    if seconds < least:
        return samples, f"shorter than {least:g} s"
    return samples, f"longer than {greatest:g} s" if seconds > greatest else ""


def _samples(flac: Path) -> int:
    """How many samples an earlier call decoded, 0 when the file was damaged since."""
    try:
        return int(soundfile.info(flac).frames)
    except soundfile.SoundFileError:
        return 0


def _write(flac: Path, audio: np.ndarray) -> None:
    try:
        with atomic_path(flac) as temporary:
            soundfile.write(temporary, audio, SAMPLING_RATE, "PCM_16")
    except soundfile.SoundFileError as error:
        remedy = "free some space and run the same command again"
        raise StorageError("cannot write", where=flac, found=error, remedy=remedy) from None


def _read(path: Path) -> tuple[np.ndarray, int, int]:
    """Mono samples, their rate, and how many the header promises."""
    with soundfile.SoundFile(path) as file:
        audio = file.read(dtype="float32", always_2d=True).mean(axis=1)
        return audio, int(file.samplerate), int(file.frames)


def _be_quiet() -> None:
    # The MP3 decoder writes its own remarks on every damaged clip to the standard error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _check_columns(file: Path, names: Iterable[str]) -> None:
    found = list(names)
    for column in COLUMNS:
        if column not in found:
            raise DataError(
                f"no column '{column}'{nearest(column, found)}",
                where=file,
                found=", ".join(found) or "an empty file",
                remedy="unpack the release again",
            )


def _clip(folder: Path, row: dict[str, str], where: str) -> Clip:
    speaker, path, text = (row[column] for column in COLUMNS)
    if not speaker or not path or text is None:
        raise DataError("a field is missing", where=where, remedy="unpack the release again")
    name = _stem(path)
    if name.split() != [name]:
        raise DataError("a clip's name holds a blank", where=where, found=path)
    file = folder / "clips" / Path(path).name
    # Some tables name the clips without suffix.
    file = file if file.suffix else file.with_suffix(".mp3")
    return Clip(name, speaker[:SPEAKER_DIGITS], " ".join(text.split()), file)


def _stem(path: str) -> str:
    name = Path(path).name
    return next((name.removesuffix(s) for s in AUDIO_SUFFIXES if name.endswith(s)), name)
