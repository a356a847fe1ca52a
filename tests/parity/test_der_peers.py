"""Diarization errors equal to md-eval's and pyannote.metrics': stored, and live where they are."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import der_peers
import pytest
from der_peers import Pair, Parts, random_pair
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unispeech.score.diarization import Scored, score

STORED = json.loads(der_peers.STORED.read_text(encoding="utf-8"))
live = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def scored(reference, hypothesis, regions, collar, overlap) -> Scored:
    sides = [
        {name: [(start, start + length, who) for start, length, who in own] for name, own in one}
        for one in (reference.items(), hypothesis.items())
    ]
    bounds = {name: [tuple(one) for one in own] for name, own in regions.items()}
    return score(*sides, bounds, collar, overlap)


def assert_md_eval(found: Scored, expected: dict[str, Parts]) -> None:
    for name, one in found.recordings.items():
        if name in expected:
            assert tuple(one.errors) == pytest.approx(expected[name], abs=1e-6), name
        else:
            # md-eval divides by the scored time.
            assert one.errors.scored == pytest.approx(0, abs=1e-6), name


def assert_pyannote(found: Scored, pair: Pair, expected: dict) -> None:
    for name, (parts, jaccard) in expected.items():
        one = found.recordings[name]
        assert one.errors[:3] == pytest.approx(parts[:3], abs=1e-6), name
        # It maps speakers where they are scored, md-eval where they are evaluated: only where
        # these differ may its confusion be less.
        assert parts[3] <= one.errors.confusion + 1e-6, name
        if pair.collar == 0 and pair.overlap:
            assert one.errors.confusion == pytest.approx(parts[3], abs=1e-6), name
        # It maps by common time, dscore by the Jaccard errors themselves.
        if one.jaccard:
            assert sum(one.jaccard) / len(one.jaccard) <= jaccard + 1e-6, name


@pytest.mark.parametrize("number", range(len(STORED)))
def test_stored_pairs(number) -> None:
    """Collars, regions, overlaps, empty segments, lost recordings, as the peers measured them."""
    case = STORED[number]
    pair = Pair(*(case[name] for name in Pair._fields))
    found = scored(*pair)
    assert_md_eval(found, case["md_eval"])
    assert_pyannote(found, pair, case["pyannote"])
    assert found.missing == sorted(pair.reference.keys() - pair.hypothesis.keys())


def test_jaccard_errors_are_mostly_those_of_pyannote() -> None:
    """The two ways to map agree unless a speaker is much confused."""
    same = []
    for case in STORED:
        found = scored(*(case[name] for name in Pair._fields))
        for name, (_, jaccard) in case["pyannote"].items():
            if own := found.recordings[name].jaccard:
                same.append(sum(own) / len(own) == pytest.approx(jaccard, abs=1e-6))
    assert sum(same) > 0.9 * len(same) > 30


def test_where_md_eval_scores_an_overlap_it_was_told_to_leave_out(tmp_path) -> None:
    """B stops where C starts while A speaks, and the region ends there: 2 to 2.5 s are excluded."""
    people = [(0.0, 4.0, "A"), (1.0, 1.0, "B"), (2.0, 1.0, "C")]
    pair = Pair({"r": people}, {"r": people}, {"r": [(0.0, 2.5)]}, 0.0, False)
    assert scored(*pair).recordings["r"].errors.scored == pytest.approx(1.0)
    script = der_peers.exact_md_eval(tmp_path)
    if script is not None:
        assert der_peers.md_eval(script, pair, tmp_path)["r"][0] == pytest.approx(2.0)


@live
@given(st.integers(0, 2**32), st.booleans())
def test_random_pairs_by_md_eval(tmp_path_factory, seed, plain) -> None:
    folder = tmp_path_factory.mktemp("md_eval")
    script = der_peers.exact_md_eval(folder)
    if script is None:
        pytest.skip("no md-eval.pl, version 22 (SCTK), or no perl")
    pair = random_pair(seed, plain)
    assert_md_eval(scored(*pair), der_peers.md_eval(script, pair, folder))


@live
@given(st.integers(0, 2**32))
def test_random_pairs_by_pyannote(seed) -> None:
    if importlib.util.find_spec("pyannote") is None:
        pytest.skip("pyannote.metrics is not installed")
    pair = random_pair(seed, True)
    assert_pyannote(scored(*pair), pair, der_peers.pyannote(pair))


def test_meeteval_gives_the_same(tmp_path: Path, monkeypatch) -> None:
    """md-eval through meeteval, recordings together; it drops those without hypothesis."""
    from meeteval.der import md_eval_22
    from meeteval.io import RTTM, UEM

    script = der_peers.exact_md_eval(tmp_path)
    if script is None:
        pytest.skip("no md-eval.pl, version 22 (SCTK), or no perl")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    compared = 0
    for case in STORED[:12]:
        pair = Pair(*(case[name] for name in Pair._fields))
        usable = {name for name, own in pair.hypothesis.items() if own and name in case["md_eval"]}
        # Of several regions of one recording it reads the first only.
        usable = {name for name in usable if len(pair.regions.get(name, [0])) == 1}
        sides = [{name: side[name] for name in sorted(usable)} for side in pair[:2]]
        regions = {name: own for name, own in pair.regions.items() if name in usable}
        if not usable:
            continue
        theirs = md_eval_22(
            *(RTTM.parse(der_peers.rttm(side)) for side in sides),
            collar=pair.collar,
            regions="all" if pair.overlap else "nooverlap",
            uem=UEM.parse(der_peers.uem(regions)) if regions else None,
        )
        ours = scored(*pair)
        for name, one in theirs.items():
            parts = (
                one.scored_speaker_time, one.missed_speaker_time, one.falarm_speaker_time,
                one.speaker_error_time,
            )  # fmt: skip
            assert tuple(ours.recordings[name].errors) == pytest.approx(
                [*map(float, parts)], abs=1e-6
            )
            compared += 1
    assert compared > 8
