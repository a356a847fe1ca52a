"""Make a small corpus in CALLHOME's native layout, and calls to train on, with espeak-ng.

It exercises a recipe in minutes and says nothing about real conversations. A speaker is a voice
variant with a pitch, a rate and a vocal tract of its own; variants of the conversations are in no
training speaker. Two to six speakers take turns over a telephone: 8 kHz, mu-law. Equal settings
give equal sounds, whatever the number of jobs.

OUTPUT/LDC2001S97/data/*.sph, parts/part1.txt, parts/part2.txt     conversations and their two parts
OUTPUT/sre2000-key/fullref.rttm                                    who speaks when
OUTPUT/LDC2001S13/*.sph, doc/swb_callstats.tbl                     calls, one speaker a channel
OUTPUT/LDC2006S44/data/*.sph, OUTPUT/speaker_list                  calls, as those of SRE 2004
OUTPUT/musan/..., OUTPUT/RIRS_NOISES/...                           noises and rooms
OUTPUT/{README.TXT,synthesis.json}
"""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from corpus_maker import corpus_parser, make_corpus, write_notice
from espeak import Espeak, Voice
from lhotse import MonoCut
from scipy.signal import resample_poly
from sentences import Grammar
from sets import make_cut, make_recording
from synthesis import Session, write_noises
from voices import FEMALE, LEVEL, MALE, PEAK, SAMPLING_RATE

from unispeech.__main__ import guard
from unispeech.data.conversation_config import SimulationConfig
from unispeech.data.rttm import Segment, write_rttm
from unispeech.data.simulation import TELEPHONE_RATE, Conversation, Simulator, Utterances
from unispeech.errors import UsageError

VERSION = 1
HELD_OUT = 24
"""Speakers of the conversations, each a voice variant of its own; half of them in each part."""
TRAIN = 40
"""Training speakers; two of them make a call."""
CALLS = ("LDC2001S13", "LDC2006S44")
# Numbers of speakers of the conversations of each part.
PARTS = {"part1": (2, 2, 2, 3, 3, 4, 5, 6), "part2": (2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6)}

FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A voice, how much longer its vocal tract is, and what it says."""

    id: str
    sex: str
    voice: Voice
    tract: float
    seed: int
    texts: tuple[str, ...] = ()


def make_speakers(utterances: int, seed: int) -> list[Speaker]:
    """Speakers of the conversations, then those to train on, and their sentences."""
    generator = random.Random(seed)
    pool = [(name, "F") for name in FEMALE.split()] + [(name, "M") for name in MALE.split()]
    generator.shuffle(pool)
    voices = itertools.chain(pool[:HELD_OUT], itertools.cycle(pool[HELD_OUT:]))
    sentences = Grammar(seed).sentences()
    speakers = []
    for number in range(HELD_OUT + TRAIN):
        name, sex = next(voices)
        voice = Voice(
            f"en-us+{name}",
            rate=generator.randint(125, 185),
            pitch=generator.randint(25, 75),
            pitch_range=generator.randint(30, 75),
        )
        texts = tuple(itertools.islice(sentences, utterances))
        tract = generator.uniform(0.88, 1.12)
        speakers.append(Speaker(f"{5001 + number}", sex, voice, tract, seed, texts))
    return speakers


def speak(task: tuple[Speaker, Path]) -> None:
    """Write the utterances of one speaker, without silence around them, on one telephone."""
    speaker, folder = task
    generator = np.random.default_rng([speaker.seed, int(speaker.id)])
    espeak = Espeak()
    line = Session(generator, espeak.sampling_rate)
    level = generator.uniform(*LEVEL)
    for number, text in enumerate(speaker.texts):
        rate = round(speaker.voice.rate * generator.uniform(0.93, 1.07))
        speech, _ = espeak.speak(text + ".", speaker.voice._replace(rate=rate), seed=number + 1)
        loud = np.flatnonzero(np.abs(speech) > 1e-3)
        speech = speech[loud[0] : loud[-1] + 1]
        # A longer tract lowers all resonances: the samples are played slower.
        speech = resample_poly(speech, round(100 * speaker.tract), 100).astype(np.float32)
        heard = resample_poly(line(speech), SAMPLING_RATE, espeak.sampling_rate)
        gain = 10 ** (level / 20) / np.sqrt(np.mean(heard**2))
        heard = heard * min(gain, PEAK / np.abs(heard).max())
        path = folder / speaker.id / f"{number:03d}.flac"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, heard.astype(np.float32), SAMPLING_RATE, subtype="PCM_16")


def read_back(speaker: Speaker, folder: Path) -> list[MonoCut]:
    """The utterances of a speaker as cuts."""
    cuts = []
    for path in sorted((folder / speaker.id).glob("*.flac")):
        name = f"{speaker.id}-{path.stem}"
        cuts.append(make_cut(make_recording(name, path), name, speaker=speaker.id, text=""))
    return cuts


def write_conversations(
    folder: Path, speakers: Sequence[Speaker], spoken: Path, seed: int, utterances: int
) -> int:
    """CALLHOME's recordings, key and lists; returns the number of recordings."""
    corpus = folder / "LDC2001S97"
    (corpus / "parts").mkdir(parents=True)
    (corpus / "data").mkdir()
    half = HELD_OUT // 2
    key: dict[str, list[Segment]] = {}
    for index, (part, counts) in enumerate(PARTS.items()):
        own = speakers[index * half : (index + 1) * half]
        cuts = [cut for speaker in own for cut in read_back(speaker, spoken)]
        lines = []
        for number, count in enumerate(counts):
            name = f"i{'ab'[index]}{'abcdefghijklmnopqrstuvwxyz'[number]}a"
            simulator = _simulator(cuts, count, max(2, utterances // 2))
            rng = np.random.default_rng([seed, index, number])
            conversation = simulator.plan(rng)
            audio = simulator.render(conversation)
            _write(corpus / "data" / f"{name}.sph", _with_hum(audio, rng)[:, None])
            people = sorted({turn.speaker for turn in conversation.turns})
            letters = {person: letter for person, letter in zip(people, "ABCDEF", strict=False)}
            key[name] = [
                Segment(t.start / SAMPLING_RATE, t.samples / SAMPLING_RATE, letters[t.speaker])
                for t in conversation.turns
            ]
            lines.append(f"{name} {count}\n")
        (corpus / "parts" / f"{part}.txt").write_text("".join(lines), encoding="utf-8")
    write_rttm(folder / "sre2000-key/fullref.rttm", key)
    return len(key)


def write_calls(folder: Path, speakers: Sequence[Speaker], spoken: Path, seed: int) -> int:
    """Calls of two speakers with a channel each, and the tables that name them."""
    tables: dict[str, list[str]] = {corpus: [] for corpus in CALLS}
    pairs = list(zip(speakers[::2], speakers[1::2], strict=True))
    for number, pair in enumerate(pairs):
        cuts = [cut for speaker in pair for cut in read_back(speaker, spoken)]
        simulator = _simulator(cuts, 2, len(cuts) // 2)
        rng = np.random.default_rng([seed, 2, number])
        conversation = simulator.plan(rng)
        channels = [_channel(simulator, conversation, person, rng) for person in range(2)]
        call = 40101 + number
        one, other = (next(s for s in pair if s.id == n) for n in simulator.utterances.names)
        if number % 4 < 3:
            _write(folder / f"LDC2001S13/sw_{call}.sph", np.stack(channels, axis=1))
            tables["LDC2001S13"].append(f"{call},{one.id},{other.id},{one.sex},{other.sex}\n")
        else:
            _write(folder / f"LDC2006S44/data/t{call}.sph", np.stack(channels, axis=1))
            tables["LDC2006S44"] += [
                f"{speaker.id} {speaker.sex.lower()} sre2004 t{call} {side}\n"
                for speaker, side in ((one, "A"), (other, "B"))
            ]
    (folder / "LDC2001S13/doc").mkdir()
    callstats = folder / "LDC2001S13/doc/swb_callstats.tbl"
    callstats.write_text("".join(tables["LDC2001S13"]), encoding="utf-8")
    (folder / "speaker_list").write_text("".join(tables["LDC2006S44"]), encoding="utf-8")
    return len(pairs)


def build(folder: Path, utterances: int, seed: int, jobs: int) -> dict[str, int]:
    """Write the whole corpus; returns the numbers of conversations and of calls."""
    speakers = make_speakers(utterances, seed)
    with tempfile.TemporaryDirectory() as place:
        spoken = Path(place)
        # espeak-ng keeps state between calls: a process per speaker makes the result independent
        # of `jobs`.
        with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
            pool.map(speak, [(speaker, spoken) for speaker in speakers], chunksize=1)
            pool.apply(write_noises, (folder, seed))
        held_out, train = speakers[:HELD_OUT], speakers[HELD_OUT:]
        counts = {
            "conversations": write_conversations(folder, held_out, spoken, seed, utterances),
            "calls": write_calls(folder, train, spoken, seed),
        }
    write_notice(folder, "CALLHOME", "synthesise_callhome.py", "real conversations")
    return counts


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and make the corpus, unless it is there already."""
    parser = corpus_parser("synthesise_callhome.py", __doc__ or "", "folder for the corpora")
    parser.add_argument("--utterances", type=int, default=10, help="of each speaker (10)")
    args = parser.parse_args(argv)
    if args.utterances < 2 or args.jobs < 1:
        raise UsageError("--utterances must be at least 2 and --jobs at least 1")
    settings = {"version": VERSION, "utterances": args.utterances, "seed": args.seed}
    counts = make_corpus(
        args.output,
        settings,
        lambda folder: build(folder, args.utterances, args.seed, args.jobs),
        "files",
    )
    if counts:
        print(", ".join(f"{count} {kind}" for kind, count in counts.items()))


def _simulator(cuts: Sequence[MonoCut], speakers: int, utterances: int) -> Simulator:
    """Speakers who take turns; how they do is ours."""
    config = SimulationConfig.model_validate(
        {"style": "turns", "speakers": speakers, "utterances": (max(1, utterances - 2), utterances)}
    )
    return Simulator(Utterances(cuts, "synthesised speech"), config)


def _channel(
    simulator: Simulator, conversation: Conversation, person: int, rng: np.random.Generator
) -> FloatArray:
    """The channel of one speaker of a call."""
    own = tuple(turn for turn in conversation.turns if turn.speaker == person)
    return _with_hum(simulator.render(conversation._replace(turns=own)), rng)


def _with_hum(audio: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The noise of a line, so that nothing is silent altogether."""
    return audio + 10 ** (-60 / 20) * rng.standard_normal(len(audio)).astype(np.float32)


def _write(path: Path, channels: FloatArray) -> None:
    """Write (samples, channels) at 16 kHz as a telephone's SPHERE file: 8 kHz, mu-law."""
    path.parent.mkdir(parents=True, exist_ok=True)
    narrow = np.clip(resample_poly(channels, TELEPHONE_RATE, SAMPLING_RATE, axis=0), -1.0, 1.0)
    soundfile.write(path, narrow, TELEPHONE_RATE, subtype="ULAW", format="NIST")


if __name__ == "__main__":
    sys.exit(guard(main))
