"""Make a small corpus in Common Voice's native layout, in four languages, with espeak-ng.

It exercises a recipe in minutes and says nothing about real speech. Each speaker is another voice
variant with a pitch, rate and range of its own; the speakers of train, dev and test are disjoint;
no sentence is in two of them. A few clips of each language are damaged in the ways of a real
release, listed in damaged.tsv, and have to be dropped. Equal settings give equal sounds, whatever
the number of jobs.

OUTPUT/cv-corpus-synthetic/LANGUAGE/clips/*.mp3     32 kHz mono
OUTPUT/cv-corpus-synthetic/LANGUAGE/{train,dev,test,validated,invalidated,other}.tsv
OUTPUT/cv-corpus-synthetic/{damaged.tsv,README.TXT,synthesis.json}
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import multiprocessing
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
from corpus_maker import corpus_parser, make_corpus, write_notice
from espeak import Espeak, Voice
from sentences import ENGLISH, Grammar, Rules
from sentences_romance import ROMANCE
from voices import FEMALE, MALE, record

from unispeech.__main__ import guard
from unispeech.errors import UsageError

VERSION = 1
# Recent releases are MP3 at 32 kHz.
SAMPLING_RATE = 32000
RULES: dict[str, Rules] = {"en": ENGLISH, **ROMANCE}
VOICES = {"en": "en-us", "es": "es", "fr": "fr", "it": "it"}
# Minutes and speakers of train, dev and test: much of a source, enough of a target, some of others.
PARTS = ("train", "dev", "test")
PLAN = {
    "en": ((12.0, 14), (1.0, 2), (1.0, 2)),
    "es": ((18.0, 14), (1.5, 3), (2.5, 4)),
    "fr": ((4.0, 6), (0.5, 2), (0.5, 2)),
    "it": ((4.0, 6), (0.5, 2), (0.5, 2)),
}
HEADER = (
    "client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent",
    "locale", "segment",
)  # fmt: skip
# How the first clips of a training set are damaged.
DAMAGES = ("missing", "empty", "truncated", "not audio", "too short", "no text", "foreign text")


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A voice, the part it belongs to, the seconds it has to fill and what it may say."""

    number: int
    language: str
    part: str
    sex: str
    voice: Voice
    seconds: float
    seed: int
    texts: tuple[str, ...] = ()

    @property
    def client_id(self) -> str:
        """128 hexadecimal digits, as Common Voice has them."""
        return hashlib.sha512(f"{self.language} {self.number} {self.seed}".encode()).hexdigest()


def make_speakers(scale: float, seed: int) -> list[Speaker]:
    """All speakers; in a language, no voice variant is used twice."""
    generator = random.Random(seed)
    speakers = []
    numbers = itertools.count(1)
    for language, plan in PLAN.items():
        pools = {"F": FEMALE.split(), "M": MALE.split()}
        for pool in pools.values():
            generator.shuffle(pool)
        for part, (minutes, count) in zip(PARTS, plan, strict=True):
            women = round(count * 0.35)
            for index in range(count):
                sex = "F" if index < women else "M"
                voice = Voice(
                    f"{VOICES[language]}+{pools[sex].pop()}",
                    rate=generator.randint(135, 175),
                    pitch=generator.randint(35, 65),
                    pitch_range=generator.randint(35, 70),
                )
                seconds = 60 * minutes * scale / count
                number = next(numbers)
                speakers.append(Speaker(number, language, part, sex, voice, seconds, seed))
    return speakers


def deal(speakers: Sequence[Speaker], seed: int) -> list[Speaker]:
    """Give every speaker sentences that no other of the language says."""
    streams: dict[str, Iterator[str]] = {
        language: Grammar(seed, rules).sentences() for language, rules in RULES.items()
    }
    # The shortest sentences last about 1.5 s.
    return [
        dataclasses.replace(
            s, texts=tuple(itertools.islice(streams[s.language], 4 + int(s.seconds / 1.5)))
        )
        for s in speakers
    ]


def speak(task: tuple[Speaker, Path]) -> list[tuple[str, str]]:
    """Write the clips of one speaker and return their names and sentences."""
    speaker, folder = task
    generator = np.random.default_rng([speaker.seed, speaker.number])
    espeak = Espeak()
    rows = []
    seconds = 0.0
    for number, text in enumerate(speaker.texts):
        if seconds >= speaker.seconds:
            break
        rate = round(speaker.voice.rate * generator.uniform(0.93, 1.07))
        speech, _ = espeak.speak(text + ".", speaker.voice._replace(rate=rate), seed=number + 1)
        audio, _ = record(speech, espeak.sampling_rate, generator, SAMPLING_RATE)
        name = f"common_voice_{speaker.language}_{1000 * speaker.number + number}.mp3"
        soundfile.write(folder / speaker.language / "clips" / name, audio, SAMPLING_RATE)
        rows.append((name, text[0].upper() + text[1:] + "."))
        seconds += len(audio) / SAMPLING_RATE
    return rows


def damage(clips: Path, rows: list[list[str]]) -> list[tuple[str, str]]:
    """Damage the first rows and their clips, each in another way; returns names and ways."""
    done = []
    for row, way in zip(rows, DAMAGES, strict=False):
        file = clips / row[1]
        if way == "missing":
            file.unlink()
        elif way == "empty":
            file.write_bytes(b"")
        elif way == "truncated":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif way == "not audio":
            file.write_text("<html><body>404 Not Found</body></html>\n", encoding="utf-8")
        elif way == "too short":
            audio, rate = soundfile.read(file)
            soundfile.write(file, audio[: rate // 5], rate)
        elif way == "no text":
            row[2] = "..."
        else:
            row[2] = "Доброе утро."
        done.append((file.stem, way))
    return done


def build(folder: Path, scale: float, seed: int, jobs: int) -> dict[str, dict[str, int]]:
    """Write the whole corpus into `folder`; returns the clips of every table."""
    for language in PLAN:
        (folder / language / "clips").mkdir(parents=True)
    speakers = deal(make_speakers(scale, seed), seed)
    # espeak-ng keeps state between calls: a process per speaker makes the result independent
    # of `jobs`.
    context = multiprocessing.get_context("fork")
    with context.Pool(jobs, maxtasksperchild=1) as pool:
        said = pool.map(speak, [(s, folder) for s in speakers], chunksize=1)
    counts: dict[str, dict[str, int]] = {}
    lines = ["language\tclip\tdamage\n"]
    for language in PLAN:
        tables: dict[str, list[list[str]]] = {part: [] for part in PARTS}
        for speaker, clips in zip(speakers, said, strict=True):
            if speaker.language == language:
                tables[speaker.part] += [_row(speaker, *clip) for clip in clips]
        wrong = damage(folder / language / "clips", tables["train"])
        lines += [f"{language}\t{name}\t{way}\n" for name, way in wrong]
        tables["validated"] = [row for part in PARTS for row in tables[part]]
        tables |= {"invalidated": [], "other": []}
        for name, rows in tables.items():
            text = "".join("\t".join(row) + "\n" for row in [HEADER, *rows])
            (folder / language / f"{name}.tsv").write_text(text, encoding="utf-8")
        counts[language] = {name: len(rows) for name, rows in tables.items()}
    (folder / "damaged.tsv").write_text("".join(lines), encoding="utf-8")
    write_notice(folder, "Common Voice", "synthesise_commonvoice.py", "real speech")
    return counts


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and make the corpus, unless it is there already."""
    parser = corpus_parser("synthesise_commonvoice.py", __doc__ or "", "folder for the release")
    parser.add_argument("--scale", type=float, default=1.0, help="times the planned minutes")
    args = parser.parse_args(argv)
    if args.scale <= 0 or args.jobs < 1:
        raise UsageError("--scale must be positive and --jobs at least 1")
    folder = args.output / "cv-corpus-synthetic"
    settings = {"version": VERSION, "scale": args.scale, "seed": args.seed}
    counts = make_corpus(
        folder, settings, lambda place: build(place, args.scale, args.seed, args.jobs), "clips"
    )
    for language, tables in (counts or {}).items():
        print(f"{language}: " + ", ".join(f"{n} {name}" for name, n in tables.items() if n))


def _row(speaker: Speaker, path: str, sentence: str) -> list[str]:
    gender = "female" if speaker.sex == "F" else "male"
    return [speaker.client_id, path, sentence, "2", "0", "", gender, "", speaker.language, ""]


if __name__ == "__main__":
    sys.exit(guard(main))
