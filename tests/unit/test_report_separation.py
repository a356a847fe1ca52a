"""The report of separation: the published table beside ours, figures, audio, RESULTS.md."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tone_streams import HEARD, make_sets, tone

from unispeech.__main__ import main
from unispeech.report import results, separation, separation_paper
from unispeech.report import separation_figures as figures

COMMAND = "bash egs/libricss/run.sh --tiny true"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    """An experiment as the recipe leaves it: two systems, the second of which was separated."""
    exp = tmp_path_factory.mktemp("exp")
    make_sets(exp)
    words = exp / "text"
    separated = ["--streams", str(exp / "streams" / "joint" / "test")]
    for evaluation in ("utterance", "continuous"):
        score(exp, "joint", evaluation, *separated)
    whole = {"s1": "one two three", "s2": "one two four <b>"}
    words.write_text("".join(f"{name} {text}\n" for name, text in whole.items()))
    score(exp, "unprocessed", "utterance")
    words.write_text("".join(f"{name} {text}\n" for name, text in HEARD.items()))
    (exp / "joint").mkdir()
    (exp / "joint" / "config.yaml").write_text("model: {encoder: wavlm_large}\n")
    done = {"seed": 7, "minutes": 2.34, "checkpoint": "x.pt"}
    (exp / "joint" / "done.json").write_text(json.dumps(done))
    return exp


def score(exp: Path, system: str, evaluation: str, *more: str) -> None:
    output = exp / "wer_streams" / system / "test" / evaluation
    given = ["--reference", str(exp / "test.jsonl.gz"), "--hypothesis", str(exp)]
    given += ["--output", str(output), "--evaluation", evaluation, "--resamples", "20"]
    assert main(["separated", *given, *more]) == 0


def report(exp: Path, name: str, *more: str) -> int:
    given = ["--exp", str(exp), "--recipe", "libricss", "--data-name", name]
    return main(["report", *given, "--command", COMMAND, *more])


def test_one_command_writes_everything(experiment, tmp_path, capsys) -> None:
    assert report(experiment, "LibriCSS", "--publish", str(tmp_path / "egs")) == 0
    printed = capsys.readouterr().out
    assert "LibriCSS test" in printed
    rows = results.read(experiment / "report" / "results.json")
    found = {(r.system, r.metric, r.conditions["overlap"]): r for r in rows}
    assert len(found) == len(rows) == 3 * 3
    joint = found["joint", "WER", "OV40"]
    assert (joint.value, joint.paper) == (pytest.approx(40.0), 8.5)
    assert (joint.seed, joint.minutes) == (7, 2.3)
    assert joint.conditions["SI-SDR improvement dB"] == pytest.approx(20, abs=0.01)
    assert found["unprocessed", "WER", "0S"].paper == 11.5
    assert found["joint", "ORC-WER", "all"].paper is None
    assert "cpWER" in found["joint", "ORC-WER", "all"].conditions

    # Of 3 and of 5 words all are wrong unprocessed; of the others, 2 and 2.
    change = joint.conditions["less unprocessed"]
    assert change.startswith("-60.00 [")
    assert "joint less unprocessed, in points with 95 % intervals: 0S -33.33 [" in printed
    assert f"OV40 {change}, all -50.00 [" in printed

    markdown = (tmp_path / "egs" / "RESULTS.md").read_text()
    assert markdown == results.render(results.read(tmp_path / "egs" / "results.json"))
    ours = [line for line in markdown.splitlines() if line.endswith("| **ours** |")]
    assert len(ours) == 2
    assert any("**40.00**" in line for line in ours)
    assert all(line.count("not run") == 4 for line in ours)
    assert sum(line.endswith("| not run |") for line in markdown.splitlines()) == 8


def test_the_page_is_heard_and_seen(experiment) -> None:
    assert report(experiment, "tones") == 0
    page = (experiment / "report" / "index.html").read_text()
    assert 'src="http' not in page
    assert "<b>" not in page
    sounds = [
        soundfile.read(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r"data:audio/wav;base64,([^\"]+)", page)
    ]
    # Of both mixtures: itself, two streams, two references.
    assert len(sounds) == 10
    mixture, _ = soundfile.read(experiment / "mix" / "s1.wav")
    np.testing.assert_allclose(sounds[0][0], mixture, atol=1e-4)
    assert page.count("data:image/png") == 2
    assert page.count("data:image/svg") == 1
    rows = results.read(experiment / "report" / "results.json")
    # The published numbers are about LibriCSS.
    assert all(row.paper is None for row in rows)


def test_another_set_is_no_comparison(experiment, capsys) -> None:
    path = experiment / "wer_streams" / "joint" / "test" / "utterance" / "utterances.tsv"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    try:
        assert report(experiment, "tones") == 65
        assert "other utterances" in capsys.readouterr().err
    finally:
        path.write_text(whole)


def test_missing_audio_is_said(experiment, capsys) -> None:
    hidden = experiment / "streams" / "elsewhere"
    (experiment / "streams" / "joint").rename(hidden)
    try:
        assert report(experiment, "tones") == 0
        assert "not here: separated audio" in capsys.readouterr().out
    finally:
        hidden.rename(experiment / "streams" / "joint")


def test_published_values() -> None:
    """Cells of the READMEs' tables, written down apart from the data."""
    labels = [row.label for row in separation_paper.LIBRICSS]
    assert len(set(labels)) == len(labels) == 10
    assert all(len(row.values) == 6 for row in separation_paper.LIBRICSS)
    overlapped = {row.label: row.value("OV40") for row in separation_paper.LIBRICSS}
    assert sorted(overlapped.values()) == [8.5, 8.8, 10.5, 10.9, 12.3, 12.6, 21.6, 22.0, 40.4, 43.2]
    plain = next(row for row in separation_paper.LIBRICSS if row.system == "Conformer")
    large = next(row for row in separation_paper.LIBRICSS if row.system.endswith("WavLM Large"))
    # "Relative gain over the plain conformer at OV40: 32.5 %"
    assert 1 - large.values[5] / plain.values[5] == pytest.approx(0.325, abs=5e-4)
    assert large.value("all") is None
    rows = separation_paper.rows_of_recipe("WavLM Base+", ["unprocessed", "frozen"])
    assert rows["frozen", "utterance-wise"].values == (4.5, 4.4, 5.6, 7.5, 9.4, 10.9)
    assert rows["unprocessed", "continuous"].values == (15.4, 11.4, 21.7, 27.2, 34.3, 40.4)
    assert ("joint", "utterance-wise") not in rows


def test_masks_are_shares_of_the_mixture() -> None:
    low, high = tone(100, 1.0), tone(400, 1.0)
    mask = figures.applied_mask(0.25 * low, low + high)
    bins = [round(number / 1600 * figures.FFT) for number in (100, 400)]
    np.testing.assert_allclose(mask[bins[0]], 0.25, atol=1e-3)
    assert mask[bins[1]].max() < 0.01
    assert mask.shape == (257, 98)
    np.testing.assert_allclose(
        figures.magnitudes(tone(100, 0.01)).shape, (257, 1)
    )  # shorter than a window


def test_silence_has_a_picture() -> None:
    silence = np.zeros(16000, np.float32)
    assert figures.spectrograms(silence, {"one": silence}).uri.startswith("data:image/png")


def test_wrong_input_is_one_line(experiment, tmp_path, capsys) -> None:
    (tmp_path / "wer_streams").mkdir()
    assert report(tmp_path, "x") == 65
    assert "no separated set was scored" in capsys.readouterr().err
    source = experiment / "wer_streams" / "joint" / "test" / "utterance" / "metrics.json"
    for folder in ("a", "b"):
        (tmp_path / "wer_streams" / folder).mkdir()
        (tmp_path / "wer_streams" / folder / "metrics.json").write_bytes(source.read_bytes())
    assert report(tmp_path, "x") == 65
    message = capsys.readouterr().err
    assert "two folders with the same set" in message
    assert message.count("\n") == 1
    (tmp_path / "wer_streams" / "a" / "metrics.json").write_text('{"condition": "x"}')
    assert report(tmp_path, "x") == 65
    assert "not what separated writes" in capsys.readouterr().err


def test_systems_with_a_beamformer_have_it_in_the_name(experiment) -> None:
    one = separation.read(experiment / "wer_streams" / "joint" / "test" / "utterance")
    other = one._replace(metrics={**one.metrics, "method": "mvdr"})
    assert (one.system, other.system) == ("joint", "joint, mvdr")
    separation.refuse_repeated([one, other])
