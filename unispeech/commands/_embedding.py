"""Recordings to embeddings of speakers, for `embed` and `verify`."""

from __future__ import annotations

import argparse
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from unispeech.data.recordings import SampleReader
from unispeech.errors import DataError, UnispeechError

SHORTEST = 1600
"""Samples below which nothing can be told of a voice: a tenth of a second."""


def add_audio_options(parser: argparse.ArgumentParser) -> None:
    """How recordings are read and where the model runs."""
    parser.add_argument("--resample", action="store_true", help="convert other sampling rates")
    parser.add_argument("--mono", action="store_true", help="average several channels")
    parser.add_argument("--device", default="cpu")


def read_samples(cut: Any, args: argparse.Namespace) -> npt.NDArray[np.float32]:
    """The waveform of a cut, float32 `(samples,)` at 16 kHz.

    Raises:
        DataError: the audio is missing or damaged, too short, or silent.
    """
    reader = SampleReader(cut, args.resample, args.mono)
    reader.require(SHORTEST)
    audio = reader.read(0, reader.samples)
    if audio.min() == audio.max():
        raise DataError(
            "silence: every sample is the same", where=reader.where, remedy="remove the recording"
        )
    return audio


def embed_cuts(
    model: Any, cuts: Sequence[Any], args: argparse.Namespace, seconds: float = 60.0
) -> Iterator[tuple[list[int], npt.NDArray[np.float32]]]:
    """Numbers of cuts and their embeddings `(B, D)`, batch by batch, similar lengths together.

    Whole utterances are encoded. The next batches are read while the model works.

    Args:
        model: what `load_speaker_model` returned.
        cuts: recordings.
        args: with the options of `add_audio_options`.
        seconds: padded length of a batch; a longer utterance is a batch of its own.

    Raises:
        DataError: see `read_samples`; the model finds an utterance too short.
        NumericsError: an embedding is not finite.
    """
    import torch

    ahead: deque[tuple[list[int], list[Future[npt.NDArray[np.float32]]]]] = deque()
    batches = iter(_batches([float(cut.duration) for cut in cuts], seconds))
    with ThreadPoolExecutor(max_workers=2) as pool:
        try:
            while True:
                for rows in itertools.islice(batches, 3 - len(ahead)):
                    ahead.append((rows, [pool.submit(read_samples, cuts[k], args) for k in rows]))
                if not ahead:
                    return
                rows, waiting = ahead.popleft()
                waves = [torch.from_numpy(one.result()) for one in waiting]
                lengths = torch.tensor([len(wave) for wave in waves])
                wavs = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
                found = model.embed(wavs.to(args.device), lengths.to(args.device))
                yield rows, found.float().cpu().numpy()
        except UnispeechError as error:
            if error.where is None:
                error.where = f"among utterances {cuts[rows[0]].id} to {cuts[rows[-1]].id}"
            raise
        finally:
            for _, waiting in ahead:
                for one in waiting:
                    one.cancel()


def _batches(durations: Sequence[float], seconds: float) -> Iterator[list[int]]:
    """Numbers of utterances by descending length: what does not fit in memory fails at once."""
    rows: list[int] = []
    for row in sorted(range(len(durations)), key=lambda row: -durations[row]):
        if rows and (len(rows) + 1) * durations[rows[0]] > seconds:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows
