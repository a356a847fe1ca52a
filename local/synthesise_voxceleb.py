"""Make a small corpus in VoxCeleb's native layout, with noises and rooms, with espeak-ng.

It exercises a recipe in minutes and says nothing about real speakers. A speaker is a voice variant
with a pitch, a rate and a vocal tract of its own; variants of held-out speakers are in no training
speaker. Each speaks in several sessions ("videos"), each with its own noise, room and microphone.
Equal settings give equal sounds, whatever the number of jobs.

OUTPUT/VoxCeleb1/{dev,test}/wav/SPEAKER/VIDEO/00001.wav, vox1_meta.csv, tiny_{o,e,h}.txt
OUTPUT/VoxCeleb2/{dev,test}/aac/SPEAKER/VIDEO/00001.m4a, vox2_meta.csv
OUTPUT/musan/{noise,music,speech}/synthetic/*.wav
OUTPUT/RIRS_NOISES/simulated_rirs/{small,medium,large}room/Room001/*.wav
OUTPUT/{README.TXT,synthesis.json}
"""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from corpus_maker import corpus_parser, make_corpus, write_notice
from espeak import Espeak, Voice
from scipy.signal import resample_poly
from sentences import Grammar
from synthesis import Session, write_noises
from voices import FEMALE, MALE, SAMPLING_RATE, record
from voxceleb import write_aac

from unispeech.__main__ import guard
from unispeech.data.trials import draw_trials
from unispeech.errors import UsageError

VERSION = 1
# Folder, first number of the speakers, speakers; test speakers of VoxCeleb1 are id10270 and on.
PARTS = (
    ("VoxCeleb1/test/wav", 10270, 16),
    ("VoxCeleb1/dev/wav", 10001, 8),
    ("VoxCeleb2/test/aac", 17, 8),
    ("VoxCeleb2/dev/aac", 1001, 60),
)
HELD_OUT = 32
"""Speakers of all parts but the training part: each has a voice variant of its own."""
SESSIONS = 3
TRIALS = 600
"""Of one speaker in each list; as many of two."""


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A voice, how much longer its vocal tract is, and what it says."""

    id: str
    part: str
    sex: str
    voice: Voice
    tract: float
    seed: int
    texts: tuple[str, ...] = ()


def make_speakers(per_session: int, seed: int) -> list[Speaker]:
    """All speakers and their sentences; two of a variant differ in pitch, rate and tract."""
    generator = random.Random(seed)
    pool = [(name, "F") for name in FEMALE.split()] + [(name, "M") for name in MALE.split()]
    generator.shuffle(pool)
    voices = itertools.chain(pool[:HELD_OUT], itertools.cycle(pool[HELD_OUT:]))
    sentences = Grammar(seed).sentences()
    speakers = []
    for part, first, count in PARTS:
        for number in range(first, first + count):
            name, sex = next(voices)
            voice = Voice(
                f"en-us+{name}",
                rate=generator.randint(125, 185),
                pitch=generator.randint(25, 75),
                pitch_range=generator.randint(30, 75),
            )
            texts = tuple(itertools.islice(sentences, 2 * SESSIONS * per_session))
            tract = generator.uniform(0.88, 1.12)
            speakers.append(Speaker(f"id{number:05d}", part, sex, voice, tract, seed, texts))
    return speakers


def speak(task: tuple[Speaker, Path, int]) -> list[str]:
    """Write the files of one speaker; returns their paths below the part."""
    speaker, folder, per_session = task
    generator = np.random.default_rng([speaker.seed, int(speaker.id[2:])])
    espeak = Espeak()
    texts = iter(speaker.texts)
    written = []
    for session in range(SESSIONS):
        change = Session(generator, espeak.sampling_rate)
        for number in range(per_session):
            rate = round(speaker.voice.rate * generator.uniform(0.93, 1.07))
            # One or two sentences, about 2 to 8 s.
            text = ". ".join(itertools.islice(texts, 1 + number % 2)) + "."
            speech, _ = espeak.speak(text, speaker.voice._replace(rate=rate), seed=number + 1)
            # A longer tract lowers all resonances: the samples are played slower.
            speech = resample_poly(speech, round(100 * speaker.tract), 100).astype(np.float32)
            audio, _ = record(change(speech), espeak.sampling_rate, generator)
            suffix = ".m4a" if speaker.part.endswith("aac") else ".wav"
            name = f"{speaker.id}/session{session + 1}/{number + 1:05d}{suffix}"
            path = folder / speaker.part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if suffix == ".m4a":
                write_aac(path, audio)
            else:
                soundfile.write(path, audio, SAMPLING_RATE, subtype="PCM_16")
            written.append(name)
    return written


def write_lists(folder: Path, speakers: Sequence[Speaker], files: Sequence[Sequence[str]]) -> None:
    """Trial lists in VoxCeleb's format: test speakers, all of VoxCeleb1, and of one sex only."""
    people = {s.id: s for s in speakers}
    one = [name for s, own in zip(speakers, files, strict=True) for name in own
           if s.part.startswith("VoxCeleb1")]  # fmt: skip
    test = [name for name in one if people[name.split("/")[0]].part == "VoxCeleb1/test/wav"]
    for seed, (name, paths) in enumerate({"o": test, "e": one, "h": one}.items()):
        owners = [path.split("/")[0] for path in paths]
        videos = [path.rpartition("/")[0] for path in paths]
        sexes = [people[owner].sex if name == "h" else "" for owner in owners]
        sides = [(sex, sex) for sex in sorted(set(sexes))]
        drawn = draw_trials(owners, TRIALS, seed, sexes, sides, videos)
        lines = [f"{int(label)} {paths[a]} {paths[b]}\n" for label, a, b in drawn]
        (folder / f"VoxCeleb1/tiny_{name}.txt").write_text("".join(lines), encoding="utf-8")


def build(folder: Path, per_session: int, seed: int, jobs: int) -> dict[str, int]:
    """Write the whole corpus; returns the number of files of each part."""
    speakers = make_speakers(per_session, seed)
    # espeak-ng keeps state between calls: a process per speaker makes the result independent
    # of `jobs`.
    context = multiprocessing.get_context("fork")
    tasks = [(speaker, folder, per_session) for speaker in speakers]
    with context.Pool(jobs, maxtasksperchild=1) as pool:
        files = pool.map(speak, tasks, chunksize=1)
        pool.apply(write_noises, (folder, seed))
    write_lists(folder, speakers, files)
    rows = {"1": ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"],
            "2": ["VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \n"]}  # fmt: skip
    for s in speakers:
        corpus, side = s.part[len("VoxCeleb")], s.part.split("/")[1]
        voice = s.voice.name.replace("+", "_")
        fields = [s.id, voice, s.sex.lower(), *(["none"] if corpus == "1" else []), side]
        rows[corpus].append(("\t" if corpus == "1" else " ,").join(fields) + "\n")
    for corpus, lines in rows.items():
        meta = folder / f"VoxCeleb{corpus}/vox{corpus}_meta.csv"
        meta.write_text("".join(lines), encoding="utf-8")
    write_notice(folder, "VoxCeleb", "synthesise_voxceleb.py", "real speakers")
    counts = {part: 0 for part, _, _ in PARTS}
    for s, own in zip(speakers, files, strict=True):
        counts[s.part] += len(own)
    return counts


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and make the corpus, unless it is there already."""
    parser = corpus_parser("synthesise_voxceleb.py", __doc__ or "", "folder for the corpora")
    parser.add_argument("--files", type=int, default=3, help="of each of three sessions (3)")
    args = parser.parse_args(argv)
    if args.files < 1 or args.jobs < 1:
        raise UsageError("--files and --jobs must be at least 1")
    settings = {"version": VERSION, "files": args.files, "seed": args.seed}
    counts = make_corpus(
        args.output,
        settings,
        lambda folder: build(folder, args.files, args.seed, args.jobs),
        "files",
    )
    if counts:
        print(", ".join(f"{part}: {count} files" for part, count in counts.items()))


if __name__ == "__main__":
    sys.exit(guard(main))
