"""One self-contained HTML page of an experiment: no script, style or image from anywhere else."""

from __future__ import annotations

import base64
import dataclasses
import io
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from unispeech.report import figures
from unispeech.report.experiment import Experiment, Scored
from unispeech.report.figures import FloatArray, Picture
from unispeech.report.record import Result
from unispeech.report.results import comparisons, decoding_settings, metrics, unit

SAMPLE_RATE = 16000

Pair = tuple[str | None, str | None]
# speaker -> (errors, words)
SpeakerCounts = Mapping[str, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One system's words for an utterance, aligned: `(reference word, hypothesis word)` pairs.

    None stands for the missing side of an insertion or a deletion.
    """

    name: str
    pairs: list[Pair]

    @property
    def errors(self) -> int:
        """Number of substitutions, deletions and insertions."""
        return sum(reference != hypothesis for reference, hypothesis in self.pairs)

    @property
    def words(self) -> int:
        """Number of reference words."""
        return sum(reference is not None for reference, _ in self.pairs)

    @property
    def marked(self) -> list[tuple[str, str, str]]:
        """`(kind, reference, hypothesis)` with kind `ok`, `sub`, `del` or `ins`."""
        rows = []
        for reference, hypothesis in self.pairs:
            kind = "ok" if reference == hypothesis else "sub"
            kind = "ins" if reference is None else "del" if hypothesis is None else kind
            rows.append((kind, reference or "∅", hypothesis or "∅"))
        return rows


@dataclasses.dataclass(frozen=True)
class Utterance:
    """A decoded utterance to look at and to listen to."""

    title: str
    utterance_id: str
    speaker: str
    seconds: float
    hypotheses: list[Hypothesis]
    audio: str | None = None
    picture: Picture | None = None


def choose(rates: Mapping[str, tuple[int, int]]) -> list[tuple[str, str]]:
    """The best, median and worst utterance: `(title, utterance id)`, each utterance once.

    Among equal rates the longer reference counts as the better one when it is right and as the
    worse one when it is not, then the id decides, so that the choice is the same every time.

    Args:
        rates: utterance id -> (errors, reference words).
    """

    def order(name: str) -> tuple[float, int, str]:
        errors, words = rates[name]
        return errors / max(words, 1), words if errors else -words, name

    ranked = sorted(rates, key=order)
    if not ranked:
        return []
    chosen = (("Best", ranked[0]), ("Median", ranked[len(ranked) // 2]), ("Worst", ranked[-1]))
    titles: dict[str, str] = {}
    for title, name in chosen:
        titles.setdefault(name, title)
    return [(title, name) for name, title in titles.items()]


def wav_uri(samples: FloatArray) -> str:
    """A waveform `(samples,)` in [-1, 1] at 16 kHz as a 16-bit WAV data URI."""
    scaled = np.clip(np.round(np.asarray(samples, dtype=np.float64) * 32767), -32768, 32767)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(scaled.astype("<i2").tobytes())
    return f"data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def with_signal(utterance: Utterance, samples: FloatArray, picture: Picture) -> Utterance:
    """The utterance with its waveform `(samples,)` to listen to and a picture of it."""
    return dataclasses.replace(utterance, audio=wav_uri(samples), picture=picture)


def page(
    experiment: Experiment,
    results: Sequence[Result],
    utterances: Sequence[Utterance] = (),
    speakers: Mapping[Path, SpeakerCounts] | None = None,
) -> str:
    """The whole page as text; everything that users or data wrote is escaped.

    Args:
        experiment: what the folder holds.
        results: one record per `experiment.scored`, in the same order.
        utterances: decoded utterances to show.
        speakers: folder of a scored output -> counts by speaker.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    first = results[0] if results else None
    return environment.get_template("page.html.j2").render(
        recipe=first.recipe if first else experiment.root.name,
        command=first.command if first else "",
        missing=experiment.missing,
        rows=[
            _row(one, result, unit(result, results))
            for one, result in zip(experiment.scored, results, strict=True)
        ],
        has_paper=any(result.paper is not None for result in results),
        metric=" or ".join(metrics(results)) or "WER",
        counted=experiment.scored[0].counted if experiment.scored else "words",
        comparisons=[*comparisons(results), *_paired(experiment.scored)],
        intervals=_intervals(experiment.scored, results),
        trainings=[_training(name, experiment) for name in experiment.trainings],
        speakers=_speakers(experiment.scored, speakers or {}),
        utterances=utterances,
        tuning={name: _columns(rows) for name, rows in experiment.tuning.items()},
        labels=experiment.labels,
        environment=_environment(experiment),
        commands=experiment.commands,
    )


def _row(one: Scored, result: Result, unit: str) -> dict[str, Any]:
    settings = decoding_settings(one.decode)
    return {
        "result": result,
        "method": one.method + unit,
        "counts": [one.wer.get(k, "–") for k in ("substitutions", "deletions", "insertions")],
        "counted": one.wer.get(one.counted, "–"),
        "utterances": one.wer.get("utterances", "–"),
        "settings": ", ".join(f"{name} {_show(value)}" for name, value in settings.items()),
        "rtf": _show(one.decode.get("rtf", "–")),
    }


def _intervals(scored: Sequence[Scored], results: Sequence[Result]) -> Picture | None:
    if not results:
        return None
    return figures.interval_plot(
        [
            (f"{one.set}, {one.method}, {one.system}", one.system, r.value, r.low, r.high, r.paper)
            for one, r in zip(scored, results, strict=True)
        ],
        " or ".join(metrics(results)),
    )


def _training(name: str, experiment: Experiment) -> dict[str, Any]:
    training = experiment.trainings[name]
    done = training.done
    names = ("step", "parameters", "minutes", "best")
    facts = {key: _show(done[key]) for key in names if key in done}
    if "seed" in done:
        facts["seed"] = str(done["seed"])
    if "sha256" in done:
        facts["checkpoint sha256"] = str(done["sha256"])[:12]
    speeds = [
        row["audio_seconds_per_second"]
        for row in training.metrics
        if isinstance(row.get("audio_seconds_per_second"), (int, float))
    ]
    if speeds:
        facts["audio seconds per second"] = _show(float(np.median(speeds)))
    return {
        "name": name,
        "facts": facts,
        "curves": figures.learning_curves(training.metrics) if training.metrics else None,
        "config": training.config,
        "command": training.command,
    }


def _paired(scored: Sequence[Scored]) -> list[str]:
    lines = []
    for one in scored:
        try:
            other = Path(one.comparison["with"]).parts[-3]
            numbers = [100.0 * one.comparison["probability_of_improvement"]]
            numbers += [one.comparison[name] for name in ("difference", "low", "high")]
            better, difference, low, high = numbers
        except (KeyError, IndexError, TypeError):
            continue
        lines.append(
            f"{one.set}, {one.method} decoding, {one.system} minus {other} on the same utterances: "
            f"{difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}; "
            f"better in {better:.1f} % of the bootstrap draws."
        )
    return lines


def _speakers(
    scored: Sequence[Scored], speakers: Mapping[Path, SpeakerCounts]
) -> list[tuple[str, Picture]]:
    groups: dict[str, dict[str, SpeakerCounts]] = {}
    rates: dict[str, str] = {}
    for one in scored:
        if speakers.get(one.folder):
            title = f"{one.set}, {one.method} decoding"
            groups.setdefault(title, {})[one.system] = speakers[one.folder]
            rates[title] = one.metric
    return [(title, figures.speaker_bars(own, rates[title])) for title, own in groups.items()]


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = list(dict.fromkeys(key for row in rows for key in row))
    fewest = min((row["errors"] for row in rows if "errors" in row), default=None)
    return {
        "names": names,
        "rows": [
            {
                "cells": [_show(row.get(name)) for name in names],
                "best": fewest is not None and row.get("errors") == fewest,
            }
            for row in rows
        ],
    }


def _environment(experiment: Experiment) -> list[tuple[str, str]]:
    """Facts of the last training's `env.json`; packages become one entry each."""
    env = next((t.env for t in reversed(list(experiment.trainings.values())) if t.env), {})
    facts: list[tuple[str, str]] = []
    for name, value in env.items():
        if isinstance(value, Mapping):
            facts += [(str(key), _show(inner)) for key, inner in value.items() if key not in env]
        else:
            facts.append((name, _show(value)))
    return facts


def _show(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
