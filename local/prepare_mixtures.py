"""Simulate mixtures: rooms to train in, pairs of utterances, conversations to evaluate on.

  rooms           OUTPUT/rir.jsonl.gz: impulse responses of --count rooms by the image method, from
                  --positions places each, float wav; `data.rir` of a training takes them
  pairs           OUTPUT/pairs.jsonl.gz: a mixture for each utterance of --manifest, as training
                  makes them while reading, with its references; to validate on, or to train on
  conversations   OUTPUT/continuous.jsonl.gz: conversations in the conditions of LibriCSS, and
                  OUTPUT/utterance.jsonl.gz, their utterances as they are cut out

--config is a `mixtures.yaml` with sections rooms, pairs and conversations. Audio is FLAC of 24 bits
below OUTPUT, references are the speakers as heard at channel 0. Everything is a function of the
inputs and --seed, not of --jobs.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
from libricss import CONDITIONS
from mixture_config import SimulationConfig
from sessions import dry_lines, order_turns, overlapped_share, plan_starts, render
from sets import RECORD, fingerprint, finished, write_record

from unispeech.__main__ import Parser, guard
from unispeech.config import load
from unispeech.data.manifests import (
    SAMPLING_RATE,
    audio_file,
    load_cuts,
    read_audio,
    speaker,
    transcript,
    write_cuts,
)
from unispeech.data.mixtures import MixtureDataset
from unispeech.data.rooms import diffuse_noise, draw_room
from unispeech.data.sampling import stable_seed
from unispeech.errors import DataError, UnispeechError, UsageError
from unispeech.storage import atomic_folder, sha256

FloatArray = npt.NDArray[np.float32]
Sets = dict[str, list[MonoCut]]


class Writer:
    """Writes audio into a folder that gets its final name when all of it is there.

    Args:
        temporary: the folder as it is called now.
        final: as it will be called, which is what manifests say.
    """

    def __init__(self, temporary: Path, final: Path) -> None:
        self.temporary = temporary
        self.final = final

    def write(self, name: str, audio: FloatArray, subtype: str = "PCM_24") -> str:
        """Write audio (samples,) or (channels, samples); returns the file's final path."""
        path = self.temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, audio.T, SAMPLING_RATE, subtype=subtype)
        return str(self.final / name)

    def cut(
        self,
        name: str,
        file: str,
        audio: FloatArray,
        supervisions: Sequence[SupervisionSegment] = (),
        channel: int = 0,
        **custom: Any,
    ) -> MonoCut:
        """The cut of a file that holds this audio."""
        channels = list(range(len(audio))) if audio.ndim == 2 else [0]
        samples = audio.shape[-1]
        seconds = samples / SAMPLING_RATE
        source = AudioSource("file", channels, file)
        recording = Recording(name, [source], SAMPLING_RATE, samples, seconds, channels)
        return MonoCut(
            name, 0.0, seconds, channel, list(supervisions), recording=recording, custom=custom
        )


def make_room(
    number: int, writer: Writer, config: SimulationConfig, seed: int, places: int
) -> Sets:
    """One room: a file whose channels are the responses from its places."""
    rng = np.random.default_rng(stable_seed(seed, "room", number))
    room = draw_room(config.rooms, places, 1, rng)
    responses = room.responses()[:, 0]
    name = f"room{number:05d}"
    file = writer.write(f"rooms/{name}.wav", responses, "FLOAT")
    about = {"room": name, "t60": round(room.t60, 3)}
    return {
        "rir": [
            writer.cut(f"{name}-{place}", file, responses, channel=place, **about)
            for place in range(places)
        ]
    }


def make_pair(number: int, writer: Writer, dataset: MixtureDataset, copies: int) -> Sets:
    """The mixture of one utterance with another."""
    cut = dataset.cuts[number // copies]
    rng = np.random.default_rng(stable_seed(dataset.seed, "pair", number, cut.id))
    mixture, sources, _ = dataset.simulate(cut, rng)
    name = f"pair{number:06d}"
    references = [
        writer.write(f"pairs/{name}-{row + 1}.flac", source)
        for row, source in enumerate(sources)
        if source.any()
    ]
    file = writer.write(f"pairs/{name}.flac", mixture)
    told = SupervisionSegment(
        name, name, 0.0, len(mixture) / SAMPLING_RATE, 0, speaker=speaker(cut)
    )
    return {"pairs": [writer.cut(name, file, mixture, [told], references=references)]}


def deal(cuts: Sequence[MonoCut], config: SimulationConfig, seed: int) -> list[list[MonoCut]]:
    """The utterances of each conversation of a condition, everybody in one of them.

    Raises:
        DataError: there are fewer speakers than a conversation has.
    """
    settings = config.conversations
    own: dict[str, list[MonoCut]] = {}
    for cut in sorted(cuts, key=lambda cut: cut.id):
        own.setdefault(speaker(cut), []).append(cut)
    if len(own) < settings.speakers or "" in own:
        raise DataError(
            "too few speakers for a conversation",
            expected=f"{settings.speakers}, and one for every utterance",
            found=f"{len(own) - ('' in own)}",
            remedy="lower conversations.speakers, or give more speakers",
        )
    rng = np.random.default_rng(stable_seed(seed, "deal"))
    names = [sorted(own)[i] for i in rng.permutation(len(own))]
    groups = [names[i : i + settings.speakers] for i in range(0, len(names), settings.speakers)]
    # Those who are left over join others for their turn.
    if len(groups[-1]) < settings.speakers:
        groups[-1] += names[: settings.speakers - len(groups[-1])]
    share = -(-settings.utterances // settings.speakers)
    return [[cut for name in group for cut in own[name][:share]] for group in groups]


def make_conversation(
    task: tuple[str, int, list[MonoCut]], writer: Writer, config: SimulationConfig, seed: int
) -> Sets:
    """One conversation in one condition, and its utterances."""
    condition, number, cuts = task
    settings = config.conversations
    # Room, levels and order are the same in all conditions, so that these differ in overlap alone.
    rng = np.random.default_rng(stable_seed(seed, "conversation", number))
    turns = order_turns(cuts, rng)
    audio = [_speech(cut) for cut in turns]
    people = [speaker(cut) for cut in turns]
    lengths = [len(samples) for samples in audio]
    draws = np.random.default_rng(stable_seed(seed, condition, number))
    starts = plan_starts(lengths, people, CONDITIONS[condition], draws)
    lines = dry_lines(audio, people, starts)
    room = draw_room(config.rooms, len(lines), settings.channels, rng)
    samples = len(next(iter(lines.values())))
    half = [limit / 2.0 for limit in settings.energy_ratio]
    ratios = {name: float(rng.uniform(*half)) for name in lines}
    snr, level = float(rng.uniform(*settings.snr)), float(rng.uniform(*settings.level))
    noise = diffuse_noise(room.microphones, samples, draws)
    responses = dict(zip(lines, room.responses(), strict=True))
    sound = render(lines, responses, ratios, noise, snr, level)
    name = f"{condition}_session{number}"
    about = {"condition": condition, "t60": round(room.t60, 3)}
    told = [
        _told(f"{name}-{index}", name, cut, start / SAMPLING_RATE, length / SAMPLING_RATE)
        for index, (cut, start, length) in enumerate(zip(turns, starts, lengths, strict=True))
    ]
    share = round(overlapped_share(starts, lengths), 4)
    whole = _write(writer, name, sound.mixture, sound.references, told, overlap=share, **about)
    cut_out = []
    for index, (start, length, person) in enumerate(zip(starts, lengths, people, strict=True)):
        span = slice(start, start + length)
        own = f"{name}-{index}"
        one = [_told(own, own, turns[index], 0.0, length / SAMPLING_RATE)]
        heard = {person: sound.references[person][span]}
        cut_out.append(_write(writer, own, sound.mixture[:, span], heard, one, **about))
    return {"continuous": [whole], "utterance": cut_out}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, simulate and write."""
    args = _parser().parse_intermixed_args(argv)
    if min(args.count, args.positions, args.copies, args.jobs) < 1:
        raise UsageError("--count, --positions, --copies and --jobs must be at least 1")
    if (args.manifest is None) != (args.kind == "rooms"):
        raise UsageError(
            f"{args.kind}: --manifest is {'not for rooms' if args.manifest else 'missing'}"
        )
    config = load(SimulationConfig, args.config, args.overrides)
    more = [*config.pairs.rir, *config.pairs.noise] if args.kind == "pairs" else []
    files = [Path(file) for file in (args.manifest, *more) if file]
    cuts = load_cuts(args.manifest) if args.manifest else []
    load_cuts(more)  # says what is wrong before anything is made
    kept = {"rooms": ["rooms"], "pairs": ["pairs"], "conversations": ["rooms", "conversations"]}
    settings = [args.kind, args.count, args.positions, args.copies, args.seed,
                config.model_dump(mode="json", include=set(kept[args.kind]))]  # fmt: skip
    inputs = fingerprint(settings, [], files)
    if finished(args.output, inputs):
        print(f"{args.output}: the same mixtures are there, skipped")
        return
    _check_replaced(args.output)
    tasks: Sequence[Any]
    with atomic_folder(args.output) as temporary:
        writer = Writer(temporary, args.output.absolute())
        if args.kind == "rooms":
            tasks = range(args.count)
            make = functools.partial(
                make_room, writer=writer, config=config, seed=args.seed, places=args.positions
            )
        elif args.kind == "pairs":
            dataset = MixtureDataset(config.pairs, cuts, args.seed)
            tasks = range(len(dataset.cuts) * args.copies)
            make = functools.partial(make_pair, writer=writer, dataset=dataset, copies=args.copies)
        else:
            groups = list(enumerate(deal(list(cuts), config, args.seed)))
            tasks = [(c, n, group) for c in config.conversations.conditions for n, group in groups]
            make = functools.partial(
                make_conversation, writer=writer, config=config, seed=args.seed
            )
        _write_sets(temporary, _all(make, tasks, args.jobs), inputs, args.output)


def _parser() -> Parser:
    parser = Parser(
        "prepare_mixtures.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("kind", choices=["rooms", "pairs", "conversations"])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--config", type=Path, nargs="+", default=[], metavar="MIXTURES")
    parser.add_argument("--manifest", type=Path, help="utterances that are mixed")
    parser.add_argument("--output", type=Path, required=True, help="folder of its own")
    parser.add_argument("--count", type=int, default=2000, help="rooms (2000)")
    parser.add_argument("--positions", type=int, default=4, help="places in each room (4)")
    parser.add_argument("--copies", type=int, default=1, help="pairs of each utterance (1)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    return parser


def _all(make: Callable[[Any], Sets], tasks: Sequence[Any], jobs: int) -> Sets:
    """The sets of all tasks together, in their order."""
    sets: Sets = {}
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        guarded = functools.partial(_guarded, make)
        for made in pool.imap(guarded, tasks, chunksize=1):
            if isinstance(made, UnispeechError):
                raise made
            for name, cuts in made.items():
                sets.setdefault(name, []).extend(cuts)
    return sets


def _guarded(make: Callable[[Any], Sets], task: Any) -> Sets | UnispeechError:
    # Raised in a worker, an error would come back with the worker's traceback.
    try:
        return make(task)
    except UnispeechError as error:
        return error


def _write_sets(temporary: Path, sets: Mapping[str, list[MonoCut]], inputs: str, to: Path) -> None:
    hashes = {}
    for name, cuts in sets.items():
        path = temporary / f"{name}.jsonl.gz"
        write_cuts(cuts, path)
        hashes[path.name] = sha256(path)
        minutes = sum(cut.duration for cut in cuts) / 60
        print(f"{to / path.name}: {len(cuts)} cuts, {minutes:.1f} min")
    write_record(temporary, hashes, inputs)


def _check_replaced(output: Path) -> None:
    """Raise a UsageError rather than replace a folder that holds something else."""
    if output.exists() and any(output.iterdir()) and not (output / RECORD).is_file():
        raise UsageError(
            "the folder exists and was not made by this script; nothing was changed",
            where=output,
            remedy="choose another --output",
        )


def _write(
    writer: Writer,
    name: str,
    mixture: FloatArray,
    references: Mapping[str, FloatArray],
    told: Sequence[SupervisionSegment],
    **about: Any,
) -> MonoCut:
    files = [
        writer.write(f"audio/{name}/reference{number}.flac", heard)
        for number, heard in enumerate(references.values(), start=1)
    ]
    file = writer.write(f"audio/{name}/mixture.flac", mixture)
    known = {"references": files, "speakers": list(references)}
    return writer.cut(name, file, mixture, told, **about, **known)


def _told(
    name: str, recording: str, cut: MonoCut, start: float, duration: float
) -> SupervisionSegment:
    return SupervisionSegment(
        name, recording, start, duration, 0, transcript(cut), "English", speaker(cut)
    )


def _speech(cut: MonoCut) -> FloatArray:
    audio = read_audio(cut)
    if not audio.any():
        raise DataError(
            "all samples are zero",
            where=f"utterance {cut.id}, {audio_file(cut)}",
            remedy="replace the file or remove the utterance",
        )
    return audio


if __name__ == "__main__":
    sys.exit(guard(main))
