"""Separated recordings to look at and to listen to, for the report of separation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unispeech.data.manifests import load_cuts
from unispeech.data.stream_pieces import read_file, read_span, read_streams, reference_files
from unispeech.errors import UnispeechError
from unispeech.report import separation_figures as figures
from unispeech.report import separation_paper
from unispeech.report.html import wav_uri
from unispeech.report.separation import ScoredSet
from unispeech.report.separation_page import Example

RATE, SECONDS, MOST = 16000, 8.0, 3
"""Of the audio of an example, and how many there are."""


def examples_of(scored: Sequence[ScoredSet]) -> tuple[list[Example], list[str]]:
    """Recordings of little, medium and much overlap, and what could not be shown."""
    separated = [one for one in scored if one.metrics.get("streams")]
    if not separated:
        return [], ["separated audio: no set with --streams was scored"]
    first = separated[0]
    alike = [one for one in separated if (one.set, one.evaluation) == (first.set, first.evaluation)]
    try:
        cuts = list(load_cuts(first.metrics["reference"]))
        streams = {one.system: read_streams(Path(one.metrics["streams"])) for one in alike}
    except UnispeechError as error:
        return [], [f"separated audio: {error}"]
    examples: list[Example] = []
    missing: list[str] = []
    for cut in _chosen(cuts):
        try:
            own = {name: known[cut.id] for name, known in streams.items() if cut.id in known}
            examples.append(_example(cut, own))
        except UnispeechError as error:
            missing.append(f"{cut.id}: {error}")
    return examples, missing


def _chosen(cuts: Sequence[Any]) -> list[Any]:
    """The first cut of the first, the middle and the last overlap condition."""
    by_name: dict[str, Any] = {}
    for cut in cuts:
        by_name.setdefault(str((cut.custom or {}).get("condition") or "all"), cut)
    known = [name for name in separation_paper.CONDITIONS if name in by_name]
    names = [*known, *(name for name in by_name if name not in known)]
    places = np.linspace(0, len(names) - 1, min(MOST, len(names))).round().astype(int)
    return [by_name[names[place]] for place in dict.fromkeys(places.tolist())]


def _example(cut: Any, streams: dict[str, list[Any]]) -> Example:
    start, samples = _span(cut)
    mixture = read_span(cut, start, samples)
    players = [("mixture", wav_uri(mixture))]
    shown: dict[str, Any] = {}
    for system, own in streams.items():
        names = [f"{system}, stream {number}" for number in range(1, len(own) + 1)]
        heard = {k: read_span(one, start, samples) for k, one in zip(names, own, strict=True)}
        players += [(name, wav_uri(audio)) for name, audio in heard.items()]
        shown = heard
    offset = round(cut.start * RATE) + start
    for name, path in reference_files(cut).items():
        players.append((f"reference, {name}", wav_uri(read_file(path, offset, samples))))
    condition = (cut.custom or {}).get("condition")
    title = f"{cut.id}{f', {condition}' if condition else ''}, from {start / RATE:.1f} s"
    said = [
        (f"{one.speaker or 'speaker'}, {one.start:.1f} s", one.text or "")
        for one in sorted(cut.supervisions, key=lambda one: one.start)
        if one.start * RATE < start + samples and one.end * RATE > start
    ]
    return Example(title, figures.spectrograms(mixture, shown), players, said)


def _span(cut: Any) -> tuple[int, int]:
    """First sample and samples of what is shown: from a second before the first overlap on."""
    spoken = sorted((one.start, one.end) for one in cut.supervisions)
    both = [b[0] for a, b in zip(spoken, spoken[1:], strict=False) if b[0] < a[1]]
    start = max(0.0, min(both[0] - 1.0 if both else 0.0, cut.duration - SECONDS))
    first = round(start * RATE)
    return first, min(round(SECONDS * RATE), cut.num_samples - first)
