"""What `diarize` does: chunks through the model, and tuning."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from unispeech.commands._diarization_files import oracle_counts
from unispeech.decode.results import fingerprint, read_json
from unispeech.diarize.config import DiarizeConfig
from unispeech.diarize.recording import LocalDiarization, Segment
from unispeech.diarize.tuning import tuned
from unispeech.errors import DataError
from unispeech.storage import sha256, write_json

if TYPE_CHECKING:
    from unispeech.data.recordings import SampleReader
    from unispeech.models.diarization import EendModel

IN_MEMORY = 1 << 18
"""Bytes of activities that need no file: an hour of three slots at 25 frames a second."""
TUNED = ("distance", "threshold", "median")
"""What tuned.json has."""


@contextlib.contextmanager
def local_diarization(
    model: EendModel, reader: SampleReader, config: DiarizeConfig, folder: Path, batch: int = 1
) -> Iterator[LocalDiarization]:
    """Diarize the chunks of a recording.

    Args:
        model: in evaluation mode.
        reader: of the recording.
        config: length and overlap of chunks.
        folder: of the file with the activities of a long one, deleted behind the block.
        batch: chunks that the model sees at once.

    Raises:
        DataError: the audio cannot be read.
        NumericsError: an activity is not finite.
    """
    import torch

    device = next(model.parameters()).device
    hop = model.config.hop

    def read(start: int, stop: int) -> Any:
        return reader.read(start * hop, stop * hop)

    def diarize(audio: Any) -> tuple[Any, Any]:
        output = model.diarize(torch.from_numpy(audio).to(device))
        return output.activity.cpu().numpy(), output.vectors.cpu().numpy()

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(folder), prefix=".tmp-activity-") as file:
        kept = cast(BinaryIO, file)
        local = LocalDiarization(kept, model.config.slots, model.config.seconds_per_frame)
        local.fill(model.config.frames(reader.samples), config, read, diarize, batch)
        yield local


def _tune(
    path: Path,
    collar: float,
    recordings: Mapping[str, LocalDiarization],
    counts: Mapping[str, int | None],
    config: DiarizeConfig,
) -> tuple[DiarizeConfig, dict[str, Any]]:
    """The settings with the lowest DER, overlaps scored, and what tuned.json says."""
    from unispeech.data.rttm import read_rttm
    from unispeech.score.diarization import score
    from unispeech.score.diarization_summary import total

    truth = read_rttm(path)
    wanted = {n: [(s.start, s.end, s.speaker) for s in truth.get(n, ())] for n in recordings}

    def error_rate(found: dict[str, list[Segment]]) -> float:
        errors = total(score(wanted, found, collar=collar).recordings.values())
        return errors.rate or 0.0

    best, rows = tuned(recordings, counts, error_rate, config)
    chosen = {name: getattr(best, name) for name in TUNED}
    rate = min(row["der"] for row in rows)
    return best, {**chosen, "der": rate, "collar": collar, "grid": rows}


def tuned_config(
    args: argparse.Namespace,
    model: EendModel,
    readers: dict[str, SampleReader],
    counts: dict[str, int | None],
    config: DiarizeConfig,
    settings: dict[str, Any],
) -> DiarizeConfig:
    """`config` with the settings that `--tune` chooses; writes tuned.json, once.

    Args:
        args: options of the command.
        model: in evaluation mode.
        readers: of the recordings, by name.
        counts: their numbers of speakers; None where it is to be estimated.
        config: everything else.
        settings: what else the result depends on.

    Raises:
        DataError: the reference is damaged, has none of the recordings, or nobody speaks in it.
    """
    if not any(oracle_counts(args.tune, list(readers)).values()):
        raise DataError("nobody speaks in the reference", where=args.tune, remedy="give another")
    audio = [[sha256(reader.path), reader.samples] for reader in readers.values()]
    about = {**settings, **config.model_dump(), "counts": counts, "audio": audio}
    inputs = fingerprint({**about, "reference": sha256(args.tune), "collar": args.collar})
    path = args.output / "tuned.json"
    done = read_json(path)
    if done.get("inputs") == inputs:
        print(f"{path}: already tuned, skipped")
        return config.model_copy(update={name: done[name] for name in TUNED})
    with contextlib.ExitStack() as stack:
        diarized = {
            name: stack.enter_context(
                local_diarization(model, reader, config, args.output, args.batch)
            )
            for name, reader in readers.items()
        }
        best, found = _tune(args.tune, args.collar, diarized, counts, config)
    write_json(path, {**found, "inputs": inputs})
    chosen = ", ".join(f"{name} {found[name]:g}" for name in TUNED)
    print(f"tuned on {len(readers)} recordings: {chosen}; DER {100 * found['der']:.2f} %")
    return best
