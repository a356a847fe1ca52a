"""Make a small corpus in LibriCSS's native layout, and one in LibriSpeech's, with espeak-ng.

It exercises a recipe in minutes and says nothing about real speech. The test speakers of the
synthesised LibriSpeech talk to each other in rooms of the image method, which a circular array of
seven microphones records with diffuse noise. Equal settings give equal samples, whatever the number
of jobs.

OUTPUT/LibriSpeech/...                     as local/synthesise_librispeech.py makes it
OUTPUT/for_release/CONDITION/overlap_ratio_*/{record,clean,transcription}/, all_res.json
OUTPUT/{README.TXT,synthesis.json}
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import numpy.typing as npt
import soundfile
import synthesise_librispeech
from corpus_maker import corpus_parser, make_corpus, write_notice
from lhotse import MonoCut
from libricss import CHANNELS, COLUMNS, CONDITIONS, INFO, RECORDING, SEGMENTS
from prepare_librispeech import read_part
from sessions import dry_lines, order_turns, overlapped_share, plan_starts, render

from unispeech.__main__ import guard
from unispeech.data.config import RoomConfig
from unispeech.data.manifests import SAMPLING_RATE, read_audio, speaker, transcript
from unispeech.data.rooms import diffuse_noise, draw_room
from unispeech.data.sampling import stable_seed
from unispeech.errors import UsageError
from unispeech.storage import write_json

VERSION = 1
SPEAKERS, UTTERANCES = 3, 12
"""Of each session; the released ones have eight speakers and last ten minutes."""
SEGMENT = 12.0
"""Least seconds of a segment, which ends in a pause."""
ROOMS = RoomConfig(width=(4.0, 6.0), depth=(4.0, 6.0), t60=(0.1, 0.25), distance=(0.7, 1.5))
SNR, LEVEL, RATIO = 25.0, -26.0, (-2.5, 2.5)

FloatArray = npt.NDArray[np.float32]


class Task(NamedTuple):
    """One session: its condition and number, its utterances, the seed of everything else."""

    condition: str
    number: int
    cuts: list[MonoCut]
    seed: int


def make_session(task: Task, release: Path) -> tuple[str, list[tuple[int, int]], float]:
    """Write one session; returns its name, the bounds of its segments and its seconds."""
    rng = np.random.default_rng(stable_seed(task.seed, task.condition, task.number))
    condition = CONDITIONS[task.condition]
    turns = order_turns(task.cuts, rng)
    audio = [read_audio(cut) for cut in turns]
    people = [speaker(cut) for cut in turns]
    lengths = [len(samples) for samples in audio]
    starts = plan_starts(lengths, people, condition, rng)
    lines = dry_lines(audio, people, starts)
    room = draw_room(ROOMS, len(lines), CHANNELS, rng)
    noise = diffuse_noise(room.microphones, len(next(iter(lines.values()))), rng)
    ratios = {name: float(rng.uniform(*RATIO)) for name in lines}
    responses = dict(zip(lines, room.responses(), strict=True))
    sound = render(lines, responses, ratios, noise, SNR, LEVEL)
    low, high = condition.pause
    name = (
        f"overlap_ratio_{100 * condition.overlap:.1f}_sil{low}_{high}_session{task.number}"
        f"_actual{100 * overlapped_share(starts, lengths):.1f}"
    )
    place = release / task.condition / name
    _write(place / RECORDING, sound.mixture)
    clean = np.stack(list(lines.values()))
    _write(place / "clean/each_spk.wav", clean)
    _write(place / "clean/mix.wav", np.clip(clean.sum(axis=0), -1.0, 1.0))
    said = ["\t".join(COLUMNS) + "\n"]
    heard = []
    for index, (cut, start, length) in enumerate(zip(turns, starts, lengths, strict=True)):
        times = [f"{t / SAMPLING_RATE:.6f}" for t in (start, start + length)]
        said.append("\t".join([*times, speaker(cut), cut.id, transcript(cut)]) + "\n")
        heard.append(f"utterance_{index}.wav\t{transcript(cut)}\n")
    info = place / INFO
    info.parent.mkdir(parents=True)
    info.write_text("".join(said), encoding="utf-8")
    (info.parent / "utterance_transcription.txt").write_text("".join(heard), encoding="utf-8")
    return name, segments(starts, lengths), sound.mixture.shape[1] / SAMPLING_RATE


def segments(starts: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int]]:
    """First and last samples of pieces of a session that begin and end in pauses."""
    least = SEGMENT * SAMPLING_RATE
    found = []
    begin, end = starts[0], starts[0] + lengths[0]
    for start, length in zip(starts[1:], lengths[1:], strict=True):
        if start > end and end - begin >= least:
            found.append((begin, end))
            begin = start
        end = max(end, start + length)
    return [*found, (begin, end)]


def deal(cuts: Sequence[MonoCut], sessions: int, seed: int) -> list[Task]:
    """Utterances for every session of every condition; those of one condition share none."""
    own: dict[str, list[MonoCut]] = {}
    for cut in sorted(cuts, key=lambda cut: cut.id):
        own.setdefault(speaker(cut), []).append(cut)
    tasks = []
    for condition in CONDITIONS:
        rng = np.random.default_rng(stable_seed(seed, condition, "deal"))
        left = {name: list(turns) for name, turns in own.items()}
        for number in range(sessions):
            names = sorted(left, key=lambda name: (-len(left[name]), rng.random()))[:SPEAKERS]
            share = UTTERANCES // SPEAKERS
            chosen = [cut for name in names for cut in left[name][:share]]
            for name in names:
                del left[name][:share]
            if len(chosen) < 2:
                raise UsageError(
                    "too little test speech for the sessions", remedy="raise --minutes"
                )
            tasks.append(Task(condition, number, chosen, seed))
    return tasks


def build(folder: Path, minutes: float, sessions: int, seed: int, jobs: int) -> dict[str, float]:
    """Write both corpora into `folder`; returns the minutes of each condition."""
    speech = folder / "LibriSpeech"
    synthesise_librispeech.build(speech, minutes, seed, jobs)
    cuts = read_part(speech / "test-clean", True, jobs)
    release = folder / "for_release"
    tasks = deal(cuts, sessions, seed)
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        made = pool.map(functools.partial(make_session, release=release), tasks, chunksize=1)
    write_json(release / SEGMENTS, {name: bounds for name, bounds, _ in made})
    write_notice(folder, "LibriCSS", "synthesise_libricss.py", "real speech in real rooms")
    total = dict.fromkeys(CONDITIONS, 0.0)
    for task, (_, _, seconds) in zip(tasks, made, strict=True):
        total[task.condition] += seconds / 60
    return {name: round(value, 2) for name, value in total.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and make the corpora, unless they are there already."""
    parser = corpus_parser("synthesise_libricss.py", __doc__ or "", "folder for the corpora")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training speech (30)")
    parser.add_argument("--sessions", type=int, default=2, help="of each condition (2)")
    args = parser.parse_args(argv)
    if args.sessions < 1 or args.jobs < 1 or not args.minutes > 0:
        raise UsageError("--sessions and --jobs must be at least 1, --minutes positive")
    settings = {"version": [VERSION, synthesise_librispeech.VERSION], "minutes": args.minutes,
                "sessions": args.sessions, "seed": args.seed}  # fmt: skip
    minutes = make_corpus(
        args.output,
        settings,
        lambda folder: build(folder, args.minutes, args.sessions, args.seed, args.jobs),
        "minutes",
    )
    if minutes:
        print(", ".join(f"{name}: {value} min" for name, value in minutes.items()))


def _write(path: Path, audio: FloatArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.T, SAMPLING_RATE, subtype="PCM_16")


if __name__ == "__main__":
    sys.exit(guard(main))
