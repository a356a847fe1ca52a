"""Signals of separated streams against their references, for `separated`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unispeech.commands._stream_scores import Row, condition_of
from unispeech.data.manifests import SAMPLING_RATE
from unispeech.data.stream_pieces import read_file, read_span, read_streams_span, reference_files
from unispeech.errors import UnispeechError
from unispeech.score import separation


def signals(
    cuts: Sequence[Any], streams: Mapping[str, Sequence[Any]] | None, quality: bool
) -> list[Row]:
    """SI-SDR of each utterance in the better stream and in the mixture, where references exist.

    Args:
        cuts: the mixtures.
        streams: cuts of their streams; None measures the mixtures themselves.
        quality: also PESQ and STOI, which take longer than separation itself.

    Raises:
        DataError: references and speakers do not fit, or audio cannot be read.
        DependencyError: a library of PESQ or STOI is missing.
    """
    rows: list[Row] = []
    for cut in cuts:
        files = reference_files(cut)
        for segment in cut.supervisions if files else ():
            start = max(0, round(segment.start * SAMPLING_RATE))
            stop = min(cut.num_samples, round(segment.end * SAMPLING_RATE))
            offset = round(cut.start * SAMPLING_RATE)
            reference = read_file(files[segment.speaker], offset + start, stop - start)
            mixture = read_span(cut, start, stop - start)
            found = mixture[None]
            if streams is not None:
                found = read_streams_span(streams[cut.id], start, stop - start)
            try:
                before = float(separation.si_sdr(mixture, reference))
                number, after = separation.best_stream(found, reference)
            except UnispeechError as error:
                error.where = f"recording {cut.id}, utterance {segment.id}"
                raise
            row: Row = {"recording": cut.id, "condition": condition_of(cut)}
            row |= {"utterance": segment.id, "stream": number + 1}
            row |= {"si_sdr": after, "si_sdr_improvement": after - before}
            if quality:
                row["pesq"] = separation.pesq(found[number], reference)
                row["stoi"] = separation.stoi(found[number], reference)
            rows.append(row)
    return rows
