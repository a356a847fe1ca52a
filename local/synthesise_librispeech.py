"""Make a small corpus in LibriSpeech's native layout with espeak-ng.

It exercises a recipe in minutes and says nothing about real speech. Each speaker is another voice
variant with a pitch, rate and range of its own; the speakers of train, dev and test are disjoint;
the sentences come from a small grammar, no sentence is in two sets, and every word of dev and
test is also in train. Equal settings give equal samples, whatever the number of jobs.

OUTPUT/LibriSpeech/{train-clean-100,dev-clean,test-clean}/SPEAKER/CHAPTER/*.flac, *.trans.txt
OUTPUT/LibriSpeech/{SPEAKERS.TXT,CHAPTERS.TXT,README.TXT,synthesis.json}
OUTPUT/LibriSpeech/alignments/phones.ctm     "utterance 1 start duration PHONE", seconds, IPA
OUTPUT/LibriSpeech/librispeech-lm-norm.txt.gz     text for a language model, without dev and test
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import multiprocessing
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile
from corpus_maker import corpus_parser, make_corpus
from espeak import Espeak, Phone, Voice
from sentences import Grammar
from voices import FEMALE, MALE, SAMPLING_RATE, record

from unispeech.__main__ import guard
from unispeech.errors import UsageError

VERSION = 1
LM_SENTENCES = 20000
# Part, number of speakers, share of the training minutes.
PARTS = {"train-clean-100": (32, 1.0), "dev-clean": (6, 1 / 22), "test-clean": (6, 2 / 22)}


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A voice, the seconds it has to fill and the sentences it may say."""

    id: int
    sex: str
    part: str
    voice: Voice
    seconds: float
    seed: int
    texts: tuple[str, ...] = ()

    @property
    def chapter(self) -> int:
        """The number of the speaker's only chapter."""
        return 100000 + self.id


@dataclasses.dataclass
class Chapter:
    """What a speaker said: texts, seconds and CTM lines."""

    speaker: Speaker
    texts: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    phones: list[str] = dataclasses.field(default_factory=list)


def make_speakers(minutes: float, seed: int) -> list[Speaker]:
    """All speakers; every part has women and men, no variant is used twice."""
    generator = random.Random(seed)
    pools = {"F": FEMALE.split(), "M": MALE.split()}
    for pool in pools.values():
        generator.shuffle(pool)
    speakers = []
    numbers = itertools.count(1001)
    for part, (count, share) in PARTS.items():
        women = round(count * 0.35)
        for index in range(count):
            sex = "F" if index < women else "M"
            voice = Voice(
                f"en-us+{pools[sex].pop()}",
                rate=generator.randint(135, 175),
                pitch=generator.randint(35, 65),
                pitch_range=generator.randint(35, 70),
            )
            seconds = minutes * 60 * share / count
            speakers.append(Speaker(next(numbers), sex, part, voice, seconds, seed))
    return speakers


def synthesise(
    speakers: Iterable[Speaker], sentences: Iterable[str], folder: Path, jobs: int
) -> list[Chapter]:
    """Deal sentences to the speakers and let each fill its time, one fresh process each."""
    stream = iter(sentences)
    # The shortest sentences last about 1.5 s.
    ready = [
        dataclasses.replace(s, texts=tuple(itertools.islice(stream, 4 + int(s.seconds / 1.5))))
        for s in speakers
    ]
    # espeak-ng keeps state between calls: a process per speaker makes the result independent
    # of `jobs`.
    context = multiprocessing.get_context("fork")
    with context.Pool(jobs, maxtasksperchild=1) as pool:
        return pool.starmap(speak_chapter, [(s, folder) for s in ready], chunksize=1)


def speak_chapter(speaker: Speaker, folder: Path) -> Chapter:
    """Write the FLAC files and the transcripts of one speaker."""
    generator = np.random.default_rng([speaker.seed, speaker.id])
    espeak = Espeak()
    chapter = Chapter(speaker)
    place = folder / speaker.part / str(speaker.id) / str(speaker.chapter)
    place.mkdir(parents=True)
    lines = []
    for number, text in enumerate(speaker.texts):
        if chapter.seconds >= speaker.seconds:
            break
        utterance = f"{speaker.id}-{speaker.chapter}-{number:04d}"
        rate = round(speaker.voice.rate * generator.uniform(0.93, 1.07))
        voice = speaker.voice._replace(rate=rate)
        speech, phones = espeak.speak(text + ".", voice, seed=number + 1)
        audio, start = record(speech, espeak.sampling_rate, generator)
        soundfile.write(place / f"{utterance}.flac", audio, SAMPLING_RATE, subtype="PCM_16")
        lines.append(f"{utterance} {text.upper()}\n")
        chapter.texts.append(text)
        chapter.seconds += len(audio) / SAMPLING_RATE
        chapter.phones += ctm(utterance, phones, start)
    trans = place / f"{speaker.id}-{speaker.chapter}.trans.txt"
    trans.write_text("".join(lines), encoding="utf-8")
    return chapter


def ctm(utterance: str, phones: Sequence[Phone], start: float) -> list[str]:
    """CTM lines, times in seconds from the beginning of the file."""
    return [f"{utterance} 1 {start + p.start:.3f} {p.duration:.3f} {p.symbol}\n" for p in phones]


def build(folder: Path, minutes: float, seed: int, jobs: int) -> list[Chapter]:
    """Write the whole corpus into `folder` and return its chapters."""
    speakers = make_speakers(minutes, seed)
    grammar = Grammar(seed)
    train = [s for s in speakers if s.part == "train-clean-100"]
    chapters = synthesise(train, grammar.sentences(), folder, jobs)
    texts = {text for chapter in chapters for text in chapter.texts}
    words = {word for text in texts for word in text.split()}
    others = [s for s in speakers if s.part != "train-clean-100"]
    chapters += synthesise(others, grammar.sentences(texts, words), folder, jobs)
    held_out = {text for c in chapters[len(train) :] for text in c.texts}
    extra = itertools.islice(grammar.sentences(held_out | texts), LM_SENTENCES)
    lines = "".join(f"{text.upper()}\n" for text in [*sorted(texts), *extra])
    (folder / "librispeech-lm-norm.txt.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    alignments = folder / "alignments" / "phones.ctm"
    alignments.parent.mkdir()
    alignments.write_text("".join(line for c in chapters for line in c.phones), encoding="utf-8")
    describe(folder, chapters)
    return chapters


def describe(folder: Path, chapters: Sequence[Chapter]) -> None:
    """Write SPEAKERS.TXT, CHAPTERS.TXT and README.TXT."""
    people = [";ID  |SEX| SUBSET           |MINUTES| NAME\n"]
    books = [
        ";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE\n"
    ]
    for chapter in chapters:
        s, minutes = chapter.speaker, f"{chapter.seconds / 60:.2f}"
        people.append(
            f"{s.id} | {s.sex} | {s.part:<16} | {minutes:<5} | {' '.join(map(str, s.voice))}\n"
        )
        books.append(
            f"{s.chapter} | {s.id} | {minutes:<5} | {s.part:<16} | 0 | 0 | made up | grammar\n"
        )
    (folder / "SPEAKERS.TXT").write_text("".join(people), encoding="utf-8")
    (folder / "CHAPTERS.TXT").write_text("".join(books), encoding="utf-8")
    command = "python local/synthesise_librispeech.py"
    (folder / "README.TXT").write_text(
        f"Not LibriSpeech: synthesised speech in its layout, made by `{command}`\n"
        "with espeak-ng; settings in synthesis.json. The names in SPEAKERS.TXT are the voice,\n"
        "words per minute, pitch and pitch range. Results on it say nothing about real speech.\n",
        encoding="utf-8",
    )


def summary(chapters: Sequence[Chapter]) -> dict[str, dict[str, float]]:
    """Speakers, utterances, minutes and different words of each part."""
    rows: dict[str, dict[str, float]] = {}
    for part in PARTS:
        own = [c for c in chapters if c.speaker.part == part]
        texts = [text for c in own for text in c.texts]
        rows[part] = {
            "speakers": len(own),
            "utterances": len(texts),
            "minutes": round(sum(c.seconds for c in own) / 60, 2),
            "vocabulary": len({word for text in texts for word in text.split()}),
        }
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and make the corpus, unless it is there already."""
    parser = corpus_parser("synthesise_librispeech.py", __doc__ or "", "folder for LibriSpeech/")
    parser.add_argument("--minutes", type=float, default=66.0, help="minutes of training speech")
    args = parser.parse_args(argv)
    if args.minutes <= 0 or args.jobs < 1:
        raise UsageError("--minutes must be positive and --jobs at least 1")
    folder = args.output / "LibriSpeech"
    settings = {"version": VERSION, "minutes": args.minutes, "seed": args.seed}
    rows = make_corpus(
        folder,
        settings,
        lambda place: summary(build(place, args.minutes, args.seed, args.jobs)),
        "parts",
    )
    for part, row in (rows or {}).items():
        print(f"{part}: " + ", ".join(f"{value:g} {name}" for name, value in row.items()))


if __name__ == "__main__":
    sys.exit(guard(main))
