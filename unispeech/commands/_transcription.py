"""Words with times of a recording of any length, for `transcribe` and `diarize`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unispeech.decode.transcripts import TimedWord

if TYPE_CHECKING:
    from unispeech.data.recordings import SampleReader
    from unispeech.decode.long import WordFinder
    from unispeech.models.pretrained import Recogniser

LONGEST = 30.0
"""Seconds of a segment that is decoded at once."""


def greedy_finder(recogniser: Recogniser, pause: float) -> WordFinder:
    """Words of the best token of every frame; `pause` seconds of silence end a word."""
    from unispeech.decode.long import greedy_words

    frames = round(pause * 16000 / recogniser.model.encoder.config.hop)
    return lambda parts: greedy_words(parts, recogniser.tokens, recogniser.units, frames)


def timed_words(
    recogniser: Recogniser,
    find: WordFinder,
    reader: SampleReader,
    window: float = 20.0,
    context: float = 2.0,
    pause: float = 0.5,
) -> list[TimedWord]:
    """The words of a recording.

    Args:
        recogniser: a fine-tuned model.
        find: words of segments of its emissions.
        reader: of the recording.
        window: seconds kept of each window of the encoder.
        context: seconds seen on each side of it.
        pause: seconds of silence that end a segment.
    """
    import torch

    from unispeech.decode.long import split, stream_emissions

    model = recogniser.model
    device = next(model.parameters()).device

    def read(start: int, stop: int) -> torch.Tensor:
        return torch.from_numpy(reader.read(start, stop)).to(device)

    shift = model.encoder.config.hop / 16000
    pieces = stream_emissions(model, read, reader.samples, window, context, reader.where)
    parts = split(pieces, round(pause / shift), round(LONGEST / shift))
    return [
        TimedWord(one.text, one.first * shift, (one.last + 1) * shift, one.confidence)
        for one in find(parts)
    ]
