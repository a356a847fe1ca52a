"""Word error rates of several output streams against overlapping speakers.

Two evaluations: pre-segmented utterances, where each takes the better one of the streams, and
continuous input, where meeteval assigns whole references to streams: by utterance (ORC-WER), which
asks for no more than that nothing is lost, doubled or torn apart; or by speaker (cpWER), which also
asks that a stream is one speaker.

Sources: Chen et al. 2020, "Continuous speech separation: dataset and analysis" (the better stream);
Sklyar et al. 2022, "Multi-turn RNN-T for streaming recognition of multi-party speech" (ORC-WER);
Watanabe et al. 2020, "CHiME-6 challenge" (cpWER).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from unispeech.errors import DataError, DependencyError
from unispeech.score.wer import Counts, edit_distance

CONDITIONS = ("0S", "0L", "OV10", "OV20", "OV30", "OV40")
"""LibriCSS: no overlap with short and with long pauses, then the percentage of overlap."""

EVALUATIONS = {"utterance": "utterance-wise", "continuous": "continuous"}
"""Names of the two evaluations, and what they are called."""

EXACT_CELLS = 5_000_000_000
"""Sessions whose exact ORC-WER takes more steps than this, minutes of them, are assigned greedily:
that rate is never below the exact one. LibriCSS's sessions of ten minutes take a tenth of it."""


class Spoken(NamedTuple):
    """One reference utterance.

    Attributes:
        speaker: who.
        start: when, in seconds of its session.
        words: what, separated by blanks.
    """

    speaker: str
    start: float
    words: str


class Orc(NamedTuple):
    """The ORC-WER of one session.

    Attributes:
        counts: errors and words.
        streams: number of the stream of each utterance, in the order in which they were given.
        is_exact: False for the greedy assignment.
    """

    counts: Counts
    streams: tuple[int, ...]
    is_exact: bool


def by_condition(names: Sequence[str]) -> list[str]:
    """Different conditions, those of LibriCSS first and in their order."""
    known = {name: place for place, name in enumerate(CONDITIONS)}
    return sorted(set(names), key=lambda name: (known.get(name, len(known)), name))


def better_stream(words: str, streams: Sequence[str]) -> int:
    """Number of the stream of least edit distance to a reference; the first of equal ones.

    Args:
        words: the reference.
        streams: at least one hypothesis.
    """
    reference = words.split()
    errors = [edit_distance(reference, text.split()) for text in streams]
    return errors.index(min(errors))


def orc(utterances: Sequence[Spoken], streams: Sequence[str]) -> Orc:
    """Optimal reference combination WER of a session, by meeteval.

    Every utterance goes to one stream, whole, and stays in the order of its start there; of all
    such assignments the one of fewest errors counts.

    Args:
        utterances: in any order.
        streams: the words of each stream, in the order of time.

    Raises:
        DataError: there is no stream.
        DependencyError: meeteval is missing.
    """
    if not streams:
        raise DataError("a session without streams", remedy="run separate on it")
    order = sorted(range(len(utterances)), key=lambda k: utterances[k].start)
    words = [utterances[k].words for k in order]
    cells = sum(len(text.split()) for text in words)
    for text in streams:
        cells *= len(text.split()) + 1
    is_exact = cells <= EXACT_CELLS
    name = "orc_word_error_rate" if is_exact else "greedy_orc_word_error_rate"
    found = _measure(name, words, list(streams))
    assigned = dict(zip(order, found.assignment, strict=True)) if found.assignment else {}
    return Orc(_counts(found), tuple(int(assigned.get(k, 0)) for k in range(len(order))), is_exact)


def cp(utterances: Sequence[Spoken], streams: Sequence[str]) -> Counts:
    """Concatenated minimum-permutation WER of a session, by meeteval.

    All words of a speaker, in the order of their utterances' starts, stand against one stream.

    Args:
        utterances: in any order.
        streams: the words of each stream, in the order of time.

    Raises:
        DataError: there is no stream, or an utterance has no speaker.
        DependencyError: meeteval is missing.
    """
    if not streams:
        raise DataError("a session without streams", remedy="run separate on it")
    speakers: dict[str, list[str]] = {}
    for one in sorted(utterances, key=lambda one: one.start):
        if not one.speaker:
            raise DataError(
                "an utterance without speaker", found=one.words[:60], remedy="cpWER needs them all"
            )
        speakers.setdefault(one.speaker, []).append(one.words)
    said = {name: " ".join(words) for name, words in speakers.items()}
    heard = {str(number): text for number, text in enumerate(streams)}
    return _counts(_measure("cp_word_error_rate", said, heard))


def format_line(metrics: Mapping[str, Any]) -> str:
    """One line with the rates of all conditions.

    Args:
        metrics: what `separated` writes into `metrics.json`.
    """
    title = f"{metrics['condition']}, {metrics['system']}, {metrics['method']}"
    rate = "WER" if metrics["evaluation"] == "utterance" else "ORC-WER"

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    low, high = shown(metrics["low"]), shown(metrics["high"])
    parts = [f"{rate} {shown(metrics['wer'])}% [{low}, {high}] of {metrics['words']} words"]
    parts += [f"{name} {shown(part['wer'])}" for name, part in metrics["by_condition"].items()]
    if metrics["cp_wer"] is not None:
        parts.append(f"cpWER {shown(metrics['cp_wer'])}%")
    if metrics["si_sdr"] is not None:
        parts.append(f"SI-SDR {metrics['si_sdr']:.2f} dB ({metrics['si_sdr_improvement']:+.2f})")
    parts += [f"{key.upper()} {metrics[key]:.3f}" for key in ("pesq", "stoi") if metrics[key]]
    if not metrics["exact"]:
        parts.append("greedy assignment in long recordings")
    return f"{title}, {EVALUATIONS[metrics['evaluation']]}: {', '.join(parts)}"


def _measure(
    name: str,
    reference: Sequence[str] | Mapping[str, str],
    hypothesis: Sequence[str] | Mapping[str, str],
) -> Any:
    # Both are in the order of time already.
    sort = {"reference_sort": False, "hypothesis_sort": False}
    return getattr(_meeteval(), name)(reference, hypothesis, **sort)


def _counts(found: Any) -> Counts:
    return Counts(
        int(found.insertions), int(found.deletions), int(found.substitutions), int(found.length)
    )


def _meeteval() -> ModuleType:
    try:
        return importlib.import_module("meeteval.wer")
    except ImportError as error:
        raise DependencyError(
            "the package meeteval is needed to score continuous input",
            found=error,
            remedy="pip install meeteval, or give --evaluation utterance",
        ) from None
