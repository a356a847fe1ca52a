"""Words of separated streams to error rates by condition, for `separated`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from unispeech.errors import DataError
from unispeech.score.multi_stream import Spoken, better_stream, by_condition, cp, orc
from unispeech.score.wer import Counts, WordErrors, pooled, wer

Texts = dict[str, list[str]]
"""The words of each stream by recording."""

Row = dict[str, Any]
"""One scored recording or utterance; `counts` are its errors."""


class Scored(NamedTuple):
    """What was counted: rows, and of the utterance-wise evaluation the alignments."""

    rows: list[Row]
    words: WordErrors | None


def condition_of(cut: Any) -> str:
    """The overlap condition that a cut names, `all` when it names none."""
    return str((cut.custom or {}).get("condition") or "all")


def utterance_wise(cuts: Sequence[Any], texts: Texts, args: argparse.Namespace) -> Scored:
    """Every reference utterance against the better stream of its recording.

    Raises:
        DataError: a recording has no transcript.
    """
    said: dict[str, str] = {}
    heard: dict[str, str] = {}
    speakers: dict[str, str] = {}
    rows: list[Row] = []
    for cut in cuts:
        segments = [segment for segment in cut.supervisions if segment.text]
        if not segments:
            raise _no_transcript(cut, "none")
        for segment in segments:
            name = cut.id if len(segments) == 1 else f"{cut.id}/{segment.id}"
            words = _folded(segment.text, args)
            streams = [_folded(text, args) for text in texts[cut.id]]
            stream = better_stream(words, streams)
            said[name], heard[name] = words, streams[stream]
            speakers[name] = segment.speaker or ""
            about = {"recording": cut.id, "condition": condition_of(cut)}
            rows.append({"utterance": name, **about, "stream": stream + 1})
    result = wer(said, heard, speakers if any(speakers.values()) else None, 0)
    for row in rows:
        row["counts"] = result.utterances[row["utterance"]]
    return Scored(rows, result)


def continuous(cuts: Sequence[Any], texts: Texts, args: argparse.Namespace) -> Scored:
    """Every recording as a whole: ORC-WER and cpWER.

    Raises:
        DataError: an utterance has no transcript or no speaker.
    """
    rows: list[Row] = []
    for cut in cuts:
        if not cut.supervisions:
            raise _no_transcript(cut, "no utterances")
        talk = []
        for segment in cut.supervisions:
            if segment.text is None or not segment.speaker:
                lacks = "speaker" if segment.text is not None else f"words of {segment.speaker}"
                raise _no_transcript(cut, f"utterance {segment.id} without {lacks}")
            talk.append(Spoken(segment.speaker, segment.start, _folded(segment.text, args)))
        streams = [_folded(text, args) for text in texts[cut.id]]
        found = orc(talk, streams)
        row = {"utterance": cut.id, "recording": cut.id, "condition": condition_of(cut)}
        row |= {"counts": found.counts, "cp": cp(talk, streams), "exact": found.is_exact}
        rows.append(row)
    return Scored(rows, None)


def _no_transcript(cut: Any, found: str) -> DataError:
    return DataError(
        "the transcript misses a speaker",
        where=f"recording {cut.id}",
        expected="the words and the speaker of every utterance",
        found=found,
        remedy="complete the transcripts, or leave the recording out",
    )


def _folded(text: str, args: argparse.Namespace) -> str:
    return text.upper() if args.fold_case else text


def summary(scored: Scored, measured: Sequence[Row], args: argparse.Namespace) -> dict[str, Any]:
    """Rates by condition and of all, as plain values for `metrics.json`; rates in per cent."""
    names = by_condition([row["condition"] for row in scored.rows])
    conditions = {
        name: _part(
            [row for row in scored.rows if row["condition"] == name],
            [row for row in measured if row["condition"] == name],
            args,
        )
        for name in names
    }
    total = _part(scored.rows, measured, args)
    is_continuous = scored.words is None
    total |= {"orc_wer": total["wer"] if is_continuous else None}
    return {"by_condition": conditions, **total}


def _part(rows: Sequence[Row], measured: Sequence[Row], args: argparse.Namespace) -> Row:
    counts: list[Counts] = [row["counts"] for row in rows]
    total, low, high = pooled(counts, args.resamples, args.seed)
    part: Row = {"wer": _number(total.rate), "low": _number(low), "high": _number(high)}
    part |= {**total._asdict(), "errors": total.errors, "utterances": len(rows)}
    speakers = [row["cp"] for row in rows if "cp" in row]
    part["cp_wer"] = _number(pooled(speakers, 0)[0].rate) if speakers else None
    for name in ("si_sdr", "si_sdr_improvement", "pesq", "stoi"):
        values = [row[name] for row in measured if row.get(name) is not None]
        part[name] = _number(float(np.mean(values))) if values else None
    return part


def _number(value: float) -> float | None:
    # JSON has neither NaN nor infinity.
    return round(value, 4) if np.isfinite(value) else None
