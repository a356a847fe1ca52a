"""embed, trials and verify on a small model of sums whose embeddings can be written out."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.metrics.pairwise import cosine_similarity

from unispeech.__main__ import main
from unispeech.data.embeddings import read_embeddings
from unispeech.errors import DataError

VOICES, SESSIONS = 6, 4


class Spectrum(torch.nn.Module):
    """Mean power of eight bands of the valid samples: pitch tells the voices apart."""

    sample_rate = 16000
    calls: list[tuple[int, ...]] = []

    def embed(self, wavs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        self.calls.append(tuple(wavs.shape))
        rows = []
        for wave, length in zip(wavs, lengths, strict=True):
            power = torch.fft.rfft(wave[: int(length)]).abs().square()
            bands = power[: len(power) // 8].chunk(8)
            rows.append(torch.stack([band.mean() for band in bands]).sqrt() / length.sqrt())
        return torch.stack(rows)


def voice(number: int, session: int, seconds: float) -> np.ndarray:
    rng = np.random.default_rng(100 * number + session)
    time_axis = np.arange(round(seconds * 16000)) / 16000
    tone = np.sin(2 * np.pi * (100 + 120 * number) * time_axis)
    return (0.1 * tone + 0.03 * rng.standard_normal(len(time_axis))).astype(np.float32)


@pytest.fixture(autouse=True)
def model(monkeypatch, tmp_path) -> Path:
    """A file for a model, and a loader that gives `Spectrum` for it."""
    module = types.ModuleType("unispeech.hub.speaker")
    module.load_speaker_model = lambda path, device: Spectrum().eval().to(device)
    monkeypatch.setitem(sys.modules, "unispeech.hub.speaker", module)
    monkeypatch.setattr(Spectrum, "calls", [])
    path = tmp_path / "spectrum.pt"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def corpus(tmp_path) -> Path:
    folder = tmp_path / "wav"
    for number in range(VOICES):
        for session in range(SESSIONS):
            path = folder / f"id{number}" / f"s{session}" / "00001.wav"
            path.parent.mkdir(parents=True)
            soundfile.write(path, voice(number, session, 0.5 + 0.3 * session), 16000, "FLOAT")
    return folder


def embed(model: Path, source: Path, output: Path, *more: str) -> int:
    paths = ["--model", str(model), "--wavs", str(source), "--output", str(output)]
    return main(["embed", *paths, *more])


@pytest.fixture
def embedded(model, corpus, tmp_path) -> Path:
    assert embed(model, corpus, tmp_path / "emb") == 0
    return tmp_path / "emb"


def write_list(path: Path, rows: list[tuple[int, str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{label}\t{e}\t{t}\n" for label, e, t in rows))
    return path


def name(number: int, session: int) -> str:
    return f"id{number}/s{session}/00001"


@pytest.fixture
def listed(tmp_path) -> Path:
    every = [(n, s) for n in range(VOICES) for s in range(SESSIONS)]
    rows = [(int(a[0] == b[0]), name(*a), name(*b)) for a in every for b in every if a < b]
    return write_list(tmp_path / "all" / "trials.tsv", rows)


def score(embedded: Path, listed: Path, output: Path, *more: str) -> int:
    paths = ["--trials", str(listed), "--output", str(output), "--resamples", "20"]
    return main(["trials", "--embeddings", str(embedded), *paths, *more])


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def scores(folder: Path) -> dict[tuple[str, str], float]:
    lines = (folder / "scores.tsv").read_text().splitlines()
    return {(e, t): float(s) for e, t, s in (line.split("\t") for line in lines)}


def test_embeddings_are_the_models_whatever_the_batch(model, corpus, embedded, tmp_path) -> None:
    found = read_embeddings(embedded)
    assert found.ids[:2] == [name(0, 0), name(0, 1)]
    assert found.speakers == [one.split("/")[0] for one in found.ids]
    assert len(Spectrum.calls) > 0
    assert max(calls[0] for calls in Spectrum.calls) > 1
    for row, one in enumerate(found.ids):
        wave, _ = soundfile.read(corpus / f"{one}.wav", dtype="float32")
        own = Spectrum().embed(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
        np.testing.assert_allclose(found.values[row], own[0], rtol=1e-5)
        assert found.durations[row] == pytest.approx(len(wave) / 16000)
    assert embed(model, corpus, tmp_path / "one", "--batch-seconds", "0.1") == 0
    np.testing.assert_allclose(read_embeddings(tmp_path / "one").values, found.values, rtol=1e-5)


def test_what_is_embedded_is_not_embedded_again(model, corpus, embedded, capsys) -> None:
    Spectrum.calls.clear()
    assert embed(model, corpus, embedded) == 0
    assert Spectrum.calls == []
    assert "skipped" in capsys.readouterr().out
    soundfile.write(corpus / f"{name(0, 0)}.wav", voice(0, 9, 0.7), 16000, "FLOAT")
    assert embed(model, corpus, embedded) == 0
    assert Spectrum.calls
    Spectrum.calls.clear()
    model.write_bytes(b"other weights")
    assert embed(model, corpus, embedded) == 0
    assert Spectrum.calls


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (np.zeros(16000), "silence"),
        (np.full(16000, 0.25), "silence"),
        (voice(0, 0, 0.05), "too short"),
        (np.zeros(0), "empty audio"),
        (np.full(16000, np.nan), "NaN"),
    ],
)
def test_bad_audio_is_one_line_and_leaves_nothing(
    model, corpus, tmp_path, capsys, audio: np.ndarray, words: str
) -> None:
    soundfile.write(corpus / "id3" / "s1" / "00001.wav", audio, 16000, "FLOAT")
    assert embed(model, corpus, tmp_path / "emb") == 65
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert words in message
    assert "id3/s1/00001" in message
    assert not (tmp_path / "emb").exists()


def test_cosines_and_measures(embedded, listed, tmp_path, capsys) -> None:
    assert score(embedded, listed, tmp_path / "out", "--system", "spectrum") == 0
    line = capsys.readouterr().out
    assert line.startswith("all, spectrum, cosine: EER ")
    found = read_embeddings(embedded)
    similar = cosine_similarity(found.values.astype(np.float64))
    places = {one: row for row, one in enumerate(found.ids)}
    for (e, t), value in scores(tmp_path / "out").items():
        assert value == pytest.approx(similar[places[e], places[t]], abs=1e-12)
    result = metrics(tmp_path / "out")
    assert 0 <= result["eer_low"] <= result["eer"] <= result["eer_high"] <= 100
    assert (result["trials"], result["targets"]) == (276, 36)
    assert result["condition"] == "all"
    assert result["cllr"] is None
    assert result["speaker_pairs"] == 6 + 15
    histogram = np.loadtxt(tmp_path / "out" / "histogram.tsv", skiprows=1)
    assert histogram[:, 2:].sum(0).tolist() == [36, 240]
    points = np.loadtxt(tmp_path / "out" / "det.tsv", skiprows=1)
    assert points[0].tolist() == [np.inf, 0, 1]
    assert points[-1, 1:].tolist() == [1, 0]
    assert score(embedded, listed, tmp_path / "out", "--system", "spectrum") == 0
    assert "skipped" in capsys.readouterr().out


def test_cohort_and_calibration(model, corpus, embedded, listed, tmp_path, capsys) -> None:
    backend = ["--mean", str(embedded), "--cohort", str(embedded), "--top", "3"]
    on = ["--calibrate-on", str(listed)]
    assert score(embedded, listed, tmp_path / "out", *backend, *on) == 0
    assert "AS-norm, calibrated" in capsys.readouterr().out
    result = metrics(tmp_path / "out")
    assert result["min_cllr"] <= result["cllr"] + 1e-9
    assert result["actdcf_0.05"] >= result["mindcf_0.05"] - 1e-9
    assert result["eer_before_calibration"] >= 0
    file = tmp_path / "out" / "calibration.json"
    assert len(json.loads(file.read_text())["weights"]) == 12

    same = ["--calibration", str(file)]
    assert score(embedded, listed, tmp_path / "again", *backend, *same) == 0
    assert scores(tmp_path / "again") == pytest.approx(scores(tmp_path / "out"))
    capsys.readouterr()
    assert score(embedded, listed, tmp_path / "other", "--mean", str(embedded), *same) == 65
    assert "made otherwise" in capsys.readouterr().err

    pair = [str(corpus / f"{name(2, k)}.wav") for k in (0, 1)]
    assert main(["verify", *pair, "--model", str(model), *backend, *same, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = scores(tmp_path / "out")[name(2, 0), name(2, 1)]
    assert found["log_likelihood_ratio"] == pytest.approx(expected, abs=1e-3)
    assert found["probability"] == pytest.approx(1 / (1 + np.exp(-expected)), abs=1e-3)
    assert found["threshold"] == 0
    assert found["same_speaker"] == (expected >= 0)


def test_verify_says_what_it_used(model, corpus, capsys) -> None:
    pair = [str(corpus / f"{name(0, 0)}.wav"), str(corpus / f"{name(4, 1)}.wav")]
    assert main(["verify", *pair, "--model", str(model)]) == 0
    assert "no decision: give --calibration or --threshold" in capsys.readouterr().out
    assert main(["verify", *pair, "--model", str(model), "--threshold", "0.99"]) == 0
    assert "different speakers: threshold of the score +0.9900" in capsys.readouterr().out
    assert main(["verify", pair[0], pair[0], "--model", str(model)]) == 65
    assert "the same recording on both sides" in capsys.readouterr().err
    assert main(["verify", *pair, "--model", str(model), "--prior", "1"]) == 2


def test_scores_of_another_program(listed, embedded, tmp_path, capsys) -> None:
    assert score(embedded, listed, tmp_path / "out") == 0
    lines = (tmp_path / "out" / "scores.tsv").read_text().splitlines()
    own = tmp_path / "theirs.txt"

    def measure() -> int:
        paths = ["--scores", str(own), "--trials", str(listed)]
        return main(["trials", *paths, "--output", str(tmp_path / "theirs"), "--resamples", "5"])

    own.write_text("\n".join(line.replace("\t", " ") for line in reversed(lines)))
    assert measure() == 0
    assert metrics(tmp_path / "theirs")["eer"] == metrics(tmp_path / "out")["eer"]
    # The same trial again, with the same score and with another one.
    own.write_text("\n".join([*lines, lines[3]]))
    assert measure() == 0
    capsys.readouterr()
    first, second, _ = lines[3].split("\t")
    for text, words in (
        ([*lines, f"{first}\t{second}\t0.123"], "a trial with different scores"),
        (lines[1:], "trials without a score; found 1 of 276"),
        ([*lines, "a\tb\t0.5"], "scores without a trial; found 1, the first a b"),
        ([*lines, f"{second}\t{first}\t0.5"], "scores without a trial; found 1"),
        ([f"{first}\t{second}\tnan", *lines[4:], *lines[:3]], "not finite"),
        ([*lines, "a\tb"], "wrong number of columns"),
        ([*lines, "a\tb\tc"], "not a score"),
    ):
        own.write_text("\n".join(text))
        assert measure() == 65, words
        message = capsys.readouterr().err
        assert words in message
        assert message.count("\n") == 1
        assert not (tmp_path / "theirs" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(1, name(0, 0), "id9/s0/00001"), (0, name(0, 0), name(1, 0))], "1 of 3, the first id9"),
        ([(1, name(0, 0), name(0, 1))], "all of one kind"),
        ([(1, name(0, 0), name(0, 0))], "the same utterance on both sides"),
    ],
)
def test_bad_lists_are_one_line(embedded, tmp_path, capsys, rows, words: str) -> None:
    listed = write_list(tmp_path / "bad" / "trials.tsv", rows)
    capsys.readouterr()
    assert score(embedded, listed, tmp_path / "out") == 65
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_embeddings_that_do_not_belong_together(model, corpus, embedded, tmp_path, capsys) -> None:
    with pytest.raises(DataError, match="an utterance in two folders"):
        read_embeddings([embedded, embedded])
    model.write_bytes(b"other weights")
    assert embed(model, corpus, tmp_path / "other") == 0
    with pytest.raises(DataError, match="of another model"):
        read_embeddings([embedded, tmp_path / "other"])
    with pytest.raises(DataError, match="no embeddings here"):
        read_embeddings(tmp_path)
    (embedded / "ids.txt").write_text("one\n")
    with pytest.raises(DataError, match="damaged embeddings"):
        read_embeddings(embedded)


def test_options_that_exclude_each_other(embedded, listed, tmp_path, capsys) -> None:
    for more in (
        ["--scores", "x"],
        ["--calibration", "a", "--calibrate-on", "b"],
        ["--quality", "norm"],
        ["--resamples", "0"],
        ["--quality", "cohort", "--calibrate-on", str(listed)],
    ):
        assert score(embedded, listed, tmp_path / "out", *more) == 2, more


def test_many_trials_do_not_take_their_product_of_memory(tmp_path, capsys) -> None:
    """Every trial of a list uses embeddings that are read once; nothing is trials times width."""
    import tracemalloc

    from unispeech.score.normalisation import cosine_scores

    rng = np.random.default_rng(0)
    values = rng.standard_normal((500, 64)).astype(np.float32)
    left, right = rng.integers(0, 500, (2, 200_000))
    tracemalloc.start()
    cosine_scores(values, left, right)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000 * 64 * 8 / 2
