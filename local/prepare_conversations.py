"""Make conversations from utterances of single speakers, and mixtures from published lists.

CONFIG is a YAML file:

  sets:
    test:
      speech: test              # SPEECH/test.jsonl.gz, of segment_speech.py
      conversations: 40         # in all; each number of speakers is equally often
      simulation: {style: turns, speakers: [2, 3], utterances: [5, 10]}
    mixed:
      mixtures: mixlists/mix2_test.csv    # a LibriMix list below CORPORA
      sources: speechocean_mini/          # only mixtures of these sources
      conversations: 50                   # the first of them

Conversation number n of a set is the same whatever the number of jobs, and differs from that of
another set or seed. Writes OUTPUT/<set>.jsonl.gz, OUTPUT/<set>.rttm and AUDIO/<set>/*.flac.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import soundfile
from lhotse import MonoCut
from mixlists import Mixture, read_mixlist, render
from sets import fingerprint, finished, make_conversation, make_recording, write_record

from unispeech.__main__ import Parser, guard
from unispeech.config import Config, load
from unispeech.data.conversation_config import SimulationConfig
from unispeech.data.manifests import SAMPLING_RATE, write_cuts
from unispeech.data.rttm import Segment, cut_segments, rttm_lines
from unispeech.data.sampling import stable_seed
from unispeech.data.simulation import Simulator
from unispeech.errors import UsageError
from unispeech.storage import atomic_path, sha256

RECORD = "conversations.json"


class ConversationSet(Config):
    """One set: how many conversations, of which speech or of which list."""

    speech: str = ""
    mixtures: str = ""
    sources: str = ""
    """What the paths of all sources of a mixture begin with."""
    conversations: int = pydantic.Field(ge=1)
    simulation: SimulationConfig = SimulationConfig()

    @pydantic.model_validator(mode="after")
    def _one_kind(self) -> ConversationSet:
        if bool(self.speech) == bool(self.mixtures):
            raise ValueError("give either 'speech' or 'mixtures'")
        return self


class Settings(Config):
    """All sets."""

    sets: dict[str, ConversationSet] = pydantic.Field(min_length=1)


class Maker:
    """Writes the conversations of a set.

    Args:
        name: of the set.
        settings: of the set.
        args: options of the script.
    """

    def __init__(self, name: str, settings: ConversationSet, args: argparse.Namespace) -> None:
        self.name = name
        self.settings = settings
        self.folder = args.audio / name
        self.seed = args.seed
        self.corpora = args.corpora
        config = settings.simulation
        self.simulators: list[Simulator] = []
        self.mixtures: list[Mixture] = []
        if settings.mixtures:
            self.mixtures = read_mixlist(self.corpora / settings.mixtures, settings.sources)
            return
        speech = [str(args.speech / f"{settings.speech}.jsonl.gz")]
        places = ([str(p) for p in args.noise], [str(p) for p in args.rir])
        # One for each number of speakers, so that every number is there equally often.
        for index, count in enumerate(config.speakers):
            silence = config.silence[index if len(config.silence) > 1 else 0]
            one = config.model_copy(update={"speakers": (count,), "silence": (silence,)})
            self.simulators.append(Simulator.of_manifests(speech, one, *places))

    def __len__(self) -> int:
        wanted = self.settings.conversations
        return min(wanted, len(self.mixtures)) if self.mixtures else wanted

    def make(self, number: int) -> MonoCut:
        """Write conversation number `number`; returns its cut."""
        audio, segments, name = self._mixture(number) if self.mixtures else self._talk(number)
        path = self.folder / f"{name}.flac"
        with atomic_path(path) as temporary:
            soundfile.write(temporary, audio, SAMPLING_RATE, "PCM_16")
        return make_conversation(make_recording(name, path), segments, path)

    def _talk(self, number: int) -> tuple[Any, list[Segment], str]:
        simulator = self.simulators[number % len(self.simulators)]
        rng = np.random.default_rng(stable_seed(self.seed, self.name, number))
        conversation = simulator.plan(rng)
        name = f"{self.name}-{number:06d}-{simulator.config.speakers[0]}spk"
        return simulator.render(conversation), simulator.segments(conversation), name

    def _mixture(self, number: int) -> tuple[Any, list[Segment], str]:
        mixture = self.mixtures[number]
        audio, segments = render(mixture, self.corpora)
        return audio, segments, f"{self.name}-{mixture.id}"


def write_set(output: Path, name: str, cuts: Iterable[MonoCut]) -> dict[str, str]:
    """Write manifest and RTTM as the conversations come; none is kept, since there may be many.

    Returns:
        The hash of each file.
    """
    manifest, rttm = output / f"{name}.jsonl.gz", output / f"{name}.rttm"
    count, seconds = 0, 0.0
    with atomic_path(rttm) as temporary, temporary.open("w", encoding="utf-8") as file:

        def written() -> Iterator[MonoCut]:
            nonlocal count, seconds
            for cut in cuts:
                file.writelines(rttm_lines(cut.id, cut_segments(cut)))
                count, seconds = count + 1, seconds + cut.duration
                yield cut

        write_cuts(written(), manifest)
    print(f"{manifest}: {count} recordings, {seconds / 3600:,.3f} h")
    return {path.name: sha256(path) for path in (manifest, rttm)}


_maker: Maker


def _make(number: int) -> MonoCut:
    return _maker.make(number)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and write the sets."""
    parser = Parser(
        "prepare_conversations.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=Path, required=True, action="append", help="repeat to merge left to right"
    )
    parser.add_argument("--speech", type=Path, required=True, help="folder of the utterances")
    parser.add_argument("--corpora", type=Path, default=Path(), help="folder of the lists")
    parser.add_argument("--noise", type=Path, nargs="*", default=[], help="manifests of noises")
    parser.add_argument("--rir", type=Path, nargs="*", default=[], help="manifests of responses")
    parser.add_argument("--audio", type=Path, required=True, help="folder of the sound")
    parser.add_argument("--output", type=Path, required=True, help="folder of the manifests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        raise UsageError("--jobs must be at least 1", found=args.jobs)
    args.audio, args.corpora = args.audio.absolute(), args.corpora.absolute()
    settings = load(Settings, args.config)
    groups = settings.sets.values()
    files = [args.speech / f"{group.speech}.jsonl.gz" for group in groups if group.speech]
    files += [args.corpora / group.mixtures for group in groups if group.mixtures]
    files += [*args.noise, *args.rir, *(Path(g.simulation.turns.like) for g in groups)]
    values = [settings.model_dump(mode="json"), args.seed, str(args.audio)]
    inputs = fingerprint(values, [], [file for file in files if file.is_file()])
    if args.audio.is_dir() and finished(args.output, inputs, RECORD):
        print(f"{args.output}: conversations of the same inputs are there, skipped")
        return
    # What is wrong with one set shows before another is made.
    makers = [Maker(name, group, args) for name, group in settings.sets.items()]
    hashes: dict[str, str] = {}
    global _maker
    for maker in makers:
        # Processes share what is read here.
        _maker = maker
        with multiprocessing.get_context("fork").Pool(args.jobs) as pool:
            hashes |= write_set(args.output, maker.name, pool.imap(_make, range(len(maker))))
    write_record(args.output, hashes, inputs, RECORD)


if __name__ == "__main__":
    sys.exit(guard(main))
