"""Diarization errors by other programs: NIST's md-eval and pyannote.metrics.

    python tests/parity/der_peers.py

writes der_peers.json, random pairs of a reference and a hypothesis with what both measured, for
tests where they are not installed. md-eval is a Perl script (`md-eval.pl` of SCTK 2.4.12, a package
of Debian and Ubuntu, or `md-eval-22.pl` of dscore); it is run with more decimals than it prints.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

STORED = Path(__file__).with_suffix(".json")
CASES = 48

Segments = dict[str, list[tuple[float, float, str]]]
Parts = tuple[float, float, float, float]
"""Seconds scored, missed, of false alarms and of confusion."""


class Pair(NamedTuple):
    """A reference, a hypothesis and how they are scored; segments are (start, duration, name)."""

    reference: Segments
    hypothesis: Segments
    regions: dict[str, list[tuple[float, float]]]
    collar: float
    overlap: bool


def random_pair(seed: int, plain: bool) -> Pair:
    """One to three recordings of one to five speakers, times in milliseconds.

    Args:
        seed: of all draws.
        plain: no segment without length, none that overlaps another of its speaker.
    """
    rng = random.Random(seed)
    overlap = rng.random() < 0.6
    # Of overlaps that touch, md-eval scores what is before a region's end: see the worked case.
    least = 0 if overlap else 1
    reference: Segments = {}
    hypothesis: Segments = {}
    regions = {}
    for number in range(rng.randint(1, 3)):
        name = f"rec{number}"
        people = [f"s{k}" for k in range(rng.randint(1, 5))]
        reference[name] = _segments(rng, people, plain, least)
        # A recording that the hypothesis does not have is all missed.
        if rng.random() < 0.85:
            found = people[: rng.randint(1, 5)] + [f"s{k}" for k in range(5, 5 + rng.randint(0, 2))]
            moved = [_move(rng, segment, found) for segment in reference[name]]
            moved += _segments(rng, found, plain, 0)[: rng.randint(0, 4)]
            hypothesis[name] = _joined(moved) if plain else moved
        if rng.random() < 0.4:
            times = sorted(rng.sample(range(0, 60_000, 10), 2 * rng.randint(1, 3)))
            bounds = zip(times[::2], times[1::2], strict=True)
            regions[name] = [(start / 1000, end / 1000) for start, end in bounds]
    return Pair(reference, hypothesis, regions, rng.choice([0.0, 0.1, 0.25, 0.5]), overlap)


def _segments(rng: random.Random, people: Sequence[str], plain: bool, least: int) -> list:
    """Segments of each person in turn, `least` milliseconds apart or more."""
    found = []
    for person in people:
        now = rng.randint(0, 6000)
        for _ in range(rng.randint(1, 7)):
            length = rng.randint(60, 6000)
            if not plain and rng.random() < 0.08:
                length = 0
            found.append((now / 1000, length / 1000, person))
            # Now and then the next one touches this one, or overlaps it.
            step = rng.choice([least, rng.randint(1, 9000)])
            now += length + step
            if not plain and rng.random() < 0.1:
                now = max(0, now - length // 2)
    return found


def _move(rng: random.Random, segment: tuple, people: Sequence[str]) -> tuple:
    start, length, name = segment
    move = [rng.choice([0, rng.randint(-400, 400)]) for _ in range(2)]
    begin = max(0, round(1000 * start) + move[0])
    end = max(begin + 1, round(1000 * (start + length)) + move[1])
    other = rng.choice(people) if rng.random() < 0.2 else name
    return begin / 1000, (end - begin) / 1000, other


def _joined(segments: Sequence[tuple]) -> list:
    """The same speech without overlaps within a speaker."""
    found: list = []
    for start, length, name in sorted(segments, key=lambda one: (one[2], one[0])):
        if found and found[-1][2] == name and start <= found[-1][0] + found[-1][1]:
            end = max(found[-1][0] + found[-1][1], start + length)
            found[-1] = (found[-1][0], round(end - found[-1][0], 3), name)
        else:
            found.append((start, length, name))
    return found


def rttm(recordings: Segments) -> str:
    """Lines of RTTM."""
    return "".join(
        f"SPEAKER {recording} 1 {start:.3f} {length:.3f} <NA> <NA> {name} <NA> <NA>\n"
        for recording, segments in recordings.items()
        for start, length, name in segments
    )


def uem(regions: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines of UEM."""
    return "".join(
        f"{name} 1 {start:.3f} {end:.3f}\n" for name, own in regions.items() for start, end in own
    )


def exact_md_eval(folder: Path) -> Path | None:
    """A copy of md-eval, version 22, that prints ten decimals; None where there is none."""
    found = shutil.which("md-eval-22.pl") or shutil.which("md-eval.pl")
    if not found or not shutil.which("perl"):
        return None
    text = Path(found).read_text(encoding="utf-8", errors="replace")
    if 'my $version = "22"' not in text:
        return None
    script = folder / "md-eval-22.pl"
    lines = re.sub(r"(SPEAKER TIME =|SPEAKER ERROR TIME =)%10\.\df", r"\1%.10f", text)
    script.write_text(lines, encoding="utf-8")
    script.chmod(0o755)
    return script


def md_eval(script: Path, pair: Pair, folder: Path) -> dict[str, Parts]:
    """The parts of every recording; one of which nothing is scored is left out."""
    found = {}
    for name in pair.reference:
        files = {"-r": rttm({name: pair.reference[name]})}
        files["-s"] = rttm({name: pair.hypothesis.get(name, [])})
        if name in pair.regions:
            files["-u"] = uem({name: pair.regions[name]})
        words = ["perl", str(script), "-c", str(pair.collar), *([] if pair.overlap else ["-1"])]
        for option, text in files.items():
            (folder / f"pair{option}").write_text(text)
            words += [option, str(folder / f"pair{option}")]
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
        if "division by zero" not in ran.stderr:
            found[name] = tuple(_times(ran.stdout))
    return found  # type: ignore[return-value]


def _times(text: str) -> Iterator[float]:
    for title in ("SCORED SPEAKER", "MISSED SPEAKER", "FALARM SPEAKER", "SPEAKER ERROR"):
        yield float(re.findall(rf"{title} TIME =\s*([\d.]+) secs", text)[-1])


def pyannote(pair: Pair) -> dict[str, tuple[Parts, float]]:
    """The parts of every recording, and its Jaccard error; the collar there is the whole width."""
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate

    def annotation(segments: Sequence[tuple]) -> Annotation:
        found = Annotation()
        for number, (start, length, name) in enumerate(segments):
            found[Segment(start, start + length), number] = name
        return found

    results = {}
    for name, segments in pair.reference.items():
        sides = annotation(segments), annotation(pair.hypothesis.get(name, []))
        extent = sides[0].get_timeline().extent()
        own = pair.regions.get(name)
        where = Timeline([Segment(*one) for one in own] if own else [extent])
        rate = DiarizationErrorRate(collar=2 * pair.collar, skip_overlap=not pair.overlap)
        parts = rate(*sides, uem=where, detailed=True)
        names = ("total", "missed detection", "false alarm", "confusion")
        jaccard = JaccardErrorRate()(*sides, uem=where if own else None)
        results[name] = tuple(float(parts[one]) for one in names), float(jaccard)
    return results


def main() -> None:
    """Write the stored pairs."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = exact_md_eval(folder)
        if script is None:
            raise SystemExit("no md-eval.pl, version 22, on the PATH")
        cases = []
        for seed in range(CASES):
            plain = seed % 2 == 0
            pair = random_pair(seed, plain)
            case = {**pair._asdict(), "plain": plain, "md_eval": md_eval(script, pair, folder)}
            cases.append({**case, "pyannote": pyannote(pair) if plain else {}})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    STORED.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
