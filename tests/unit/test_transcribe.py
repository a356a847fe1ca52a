"""Transcripts of recordings: windows, resampling, formats, bad input, memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from lhotse import SupervisionSegment

from unispeech.__main__ import main
from unispeech.data.manifests import write_cuts
from unispeech.data.recordings import SampleReader, find_recordings
from unispeech.decode.emissions import EmissionReader
from unispeech.decode.engine import SearchConfig, open_decoder
from unispeech.decode.graph import build_graph, read_language
from unispeech.decode.greedy import greedy
from unispeech.decode.long import graph_words, split, stream_emissions
from unispeech.decode.transcripts import TimedWord, to_ctm, to_srt
from unispeech.models.config import ConvLayer, CtcConfig, EncoderConfig
from unispeech.models.ctc import CtcModel
from unispeech.models.pretrained import load_recogniser

TOKENS = ["<blk>", "|", "A", "B"]
ARPA = """\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-99 <s> -0.3
-0.6 </s>
-0.6 A -0.3
-0.6 AB -0.3
-0.6 BA -0.3

\\2-grams:
-0.3 <s> AB
-0.3 AB BA

\\end\\
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random recogniser with the frames of the real ones: 20 ms, 25 ms wide."""
    encoder = EncoderConfig(
        conv_layers=(ConvLayer(channels=8, kernel=400, stride=320),),
        extractor_norm="layer",
        norm_first=True,
        normalize=True,
        layers=1,
        dim=8,
        ffn_dim=8,
        heads=1,
        pos_conv_kernel=8,
        pos_conv_groups=2,
    )
    torch.manual_seed(5)
    model = CtcModel(encoder, CtcConfig(), len(TOKENS)).eval()
    model.proj.weight.data.mul_(4)
    path = tmp_path_factory.mktemp("model") / "model.pt"
    state = {"encoder": encoder.model_dump(mode="json"), "ctc": CtcConfig().model_dump(mode="json")}
    torch.save({**state, "tokens": TOKENS, "model": model.state_dict()}, path)
    return path


def noise(seconds: float, seed: int = 0, rate: int = 16000) -> np.ndarray:
    """Coloured noise whose level comes and goes, so that the tokens change."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * rate)
    level = 1.1 + np.sin(np.arange(samples) / rate * 9)
    return (0.05 * level * rng.standard_normal(samples)).astype(np.float32)


def write(path: Path, audio: np.ndarray, rate: int = 16000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype=None if path.suffix == ".flac" else "FLOAT")
    return path


def transcribe(checkpoint: Path, output: Path, *more: object) -> int:
    argv = ["transcribe", "--model", checkpoint, "--output", output, *more]
    return main([str(part) for part in argv])


def test_windows_give_the_emissions_of_the_whole(checkpoint) -> None:
    model = load_recogniser(checkpoint).model
    audio = torch.from_numpy(noise(15))
    with torch.no_grad():
        scaled = (audio - audio.mean()) / (audio.var(correction=0) + 1e-5).sqrt()
        whole = model(scaled[None], None)[0][0].numpy()

    def emissions(*lengths: float) -> list[np.ndarray]:
        return list(stream_emissions(model, lambda a, b: audio[a:b], len(audio), *lengths))

    (single,) = emissions(20.0, 2.0)
    np.testing.assert_allclose(single, whole, atol=1e-4)
    pieces = emissions(3.0, 2.0)
    assert [len(piece) for piece in pieces] == [150, 150, 150, 150, 149]
    joined = np.concatenate(pieces)
    spread = whole.std()
    # Attention reaches beyond the context; without any context the seams are worse.
    assert np.abs(joined - whole).max() < 0.25 * spread
    bare = np.concatenate(emissions(3.0, 0.0))
    assert bare.shape == whole.shape
    seams = np.concatenate([np.arange(150 * k - 2, 150 * k + 2) for k in range(1, 5)])
    error = [np.abs(x - whole)[seams].mean() for x in (joined, bare)]
    assert error[0] < 0.5 * error[1]


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_resampling_in_blocks_has_no_seams(tmp_path, rate: int) -> None:
    audio = np.stack([noise(1.7, 1, rate), noise(1.7, 2, rate)], 1)
    (cut,) = find_recordings(write(tmp_path / "a.wav", audio, rate))
    reader = SampleReader(cut, resample=True, mix_channels=True)
    divisor = np.gcd(rate, 16000)
    expected = scipy.signal.resample_poly(audio.mean(1), 16000 // divisor, rate // divisor)
    assert reader.samples == len(expected)
    borders = [0, 1, 777, 5000, 5001, 20000, reader.samples]
    blocks = [reader.read(a, b) for a, b in zip(borders, borders[1:], strict=False)]
    assert [len(block) for block in blocks] == list(np.diff(borders))
    np.testing.assert_allclose(np.concatenate(blocks), expected, atol=1e-6)


def test_weights_that_are_not_numbers(checkpoint, tmp_path, capsys) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state["model"]["proj.bias"][1] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    path = write(tmp_path / "a.wav", noise(1))
    assert transcribe(tmp_path / "nan.pt", tmp_path / "o", "--wavs", path) == 70
    assert "a.wav, window from frame 0" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def check_srt(text: str, words: list[dict]) -> None:
    """What SubRip players expect, and the words in order."""
    spoken: list[str] = []
    previous = -1
    for number, block in enumerate(filter(None, text.split("\n\n")), start=1):
        head, clock, *lines = block.split("\n")
        assert int(head) == number
        times = re.fullmatch(
            r"(\d\d):(\d\d):(\d\d),(\d{3}) --> (\d\d):(\d\d):(\d\d),(\d{3})", clock
        )
        assert times is not None
        fields = [int(field) for field in times.groups()]
        start, end = (
            ((h * 60 + m) * 60 + s) * 1000 + ms for h, m, s, ms in (fields[:4], fields[4:])
        )
        assert previous <= start < end
        assert start == round(1000 * words[len(spoken)]["start"])
        previous = end
        spoken += " ".join(lines).split()
        assert end == round(1000 * words[len(spoken) - 1]["end"])
    assert spoken == [word["word"] for word in words]


def test_files_of_a_folder(checkpoint, tmp_path, capsys) -> None:
    write(tmp_path / "wavs" / "a b.wav", noise(12))
    write(tmp_path / "wavs" / "s" / "c.flac", noise(2.5, 1))
    lengths = ["--window", 4, "--context", 1, "--pause", 5]
    assert transcribe(checkpoint, tmp_path / "out", "--wavs", tmp_path / "wavs", *lengths) == 0
    for name, seconds in (("a b", 12.0), ("s/c", 2.5)):
        found = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        words = found["words"]
        assert len(words) > 3
        assert found["text"] == " ".join(word["word"] for word in words)
        assert found["seconds"] == seconds
        times = [time for word in words for time in (word["start"], word["end"])]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= seconds
        assert all(word["start"] < word["end"] for word in words)
        assert all(0.25 <= word["confidence"] <= 1 for word in words)
        rows = [row.split() for row in (tmp_path / "out" / f"{name}.ctm").read_text().splitlines()]
        assert [row[4] for row in rows] == [word["word"] for word in words]
        assert {(row[0], row[1]) for row in rows} == {(name.replace(" ", "_"), "1")}
        ends = [float(row[2]) + float(row[3]) for row in rows]
        assert ends == pytest.approx([word["end"] for word in words], abs=2e-3)
        check_srt((tmp_path / "out" / f"{name}.srt").read_text(), words)
    capsys.readouterr()
    assert transcribe(checkpoint, tmp_path / "out", "--wavs", tmp_path / "wavs", *lengths) == 0
    assert capsys.readouterr().out.count("skipped") == 2
    (tmp_path / "out" / "s" / "c.srt").unlink()
    write(tmp_path / "wavs" / "a b.wav", noise(3))
    assert transcribe(checkpoint, tmp_path / "out", "--wavs", tmp_path / "wavs", *lengths) == 0
    assert "skipped" not in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "a b.json").read_text())["seconds"] == 3.0


def test_a_short_recording_says_what_decode_says(checkpoint, tmp_path) -> None:
    path = write(tmp_path / "a.wav", noise(4))
    assert transcribe(checkpoint, tmp_path / "out", "--wavs", path, "--pause", 10) == 0
    (cut,) = find_recordings(path)
    write_cuts([cut], tmp_path / "a.jsonl.gz")
    argv = ["emit", "--model", str(checkpoint), "--output", str(tmp_path / "e")]
    assert main([*argv, str(tmp_path / "a.jsonl.gz")]) == 0
    expected = greedy(EmissionReader(tmp_path / "e")["a"], TOKENS)
    assert json.loads((tmp_path / "out" / "a.json").read_text())["text"] == expected


def test_emissions_of_pieces_and_in_windows(checkpoint, tmp_path) -> None:
    audio = noise(6)
    (cut,) = find_recordings(write(tmp_path / "a.wav", audio))
    spans = {"late": (3.0, 5.0), "early": (0.5, 1.5), "tick": (5.5, 5.55)}
    cut.supervisions = [SupervisionSegment(n, "a", a, b - a) for n, (a, b) in spans.items()]
    write_cuts([cut], tmp_path / "a.jsonl.gz")

    def emissions(manifest: str, name: str, *more: object) -> EmissionReader:
        argv = ["emit", "--model", checkpoint, "--output", tmp_path / name, "--device", "cpu"]
        assert main([str(part) for part in (*argv, *more, tmp_path / manifest)]) == 0
        return EmissionReader(tmp_path / name)

    for name in ("early", "late"):
        first, last = (round(16000 * seconds) for seconds in spans[name])
        write(tmp_path / "parts" / f"{name}.wav", audio[first:last])
    write_cuts(find_recordings(tmp_path / "parts"), tmp_path / "parts.jsonl.gz")
    parts, found = emissions("parts.jsonl.gz", "p"), emissions("a.jsonl.gz", "e", "--pieces")
    assert found.utt_ids == ["early", "late"]
    for name, values in found:
        np.testing.assert_array_equal(values, parts[name])
    whole = emissions("a.jsonl.gz", "e")["a"]
    np.testing.assert_allclose(emissions("a.jsonl.gz", "w", "--window", 20)["a"], whole, atol=0.01)
    windows = emissions("a.jsonl.gz", "w", "--window", 1)["a"]
    assert windows.shape == whole.shape
    # The model sees two seconds beyond a window, less than the whole.
    assert 0 < np.abs(windows - whole).max() < 0.25 * whole.std()


BAD = ["missing.wav", "empty.wav", "cut.flac", "nan.wav", "short.wav", "stereo.wav", "slow.wav"]


@pytest.mark.parametrize("name", BAD)
def test_bad_recordings(checkpoint, tmp_path, capsys, name: str) -> None:
    path = tmp_path / name
    audio = {
        "empty.wav": np.zeros(0, np.float32),
        "cut.flac": noise(4),
        "nan.wav": np.full(16000, np.nan, np.float32),
        "short.wav": noise(399 / 16000),
        "stereo.wav": np.stack([noise(1)] * 2, 1),
        "slow.wav": noise(1, rate=8000),
    }
    if name in audio:
        write(path, audio[name], 8000 if name == "slow.wav" else 16000)
    if name == "cut.flac":
        path.write_bytes(path.read_bytes()[:20000])
    good = write(tmp_path / "good.wav", noise(1))
    files = ["--wavs", good, path, "--window", 1]
    assert transcribe(checkpoint, tmp_path / "o", *files) == 65
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert name in lines[0]
    assert not [p for p in (tmp_path / "o").rglob("*") if not p.name.startswith("good.")]
    if name in ("stereo.wav", "slow.wav"):
        assert transcribe(checkpoint, tmp_path / "o", *files, "--mono", "--resample") == 0


def test_wrong_options(checkpoint, tmp_path, capsys) -> None:
    path = write(tmp_path / "a.wav", noise(1))
    for more in (["--lm-scale", 1], ["--pause", 0], ["--window", 0]):
        assert transcribe(checkpoint, tmp_path / "o", "--wavs", path, *more) == 2
    assert transcribe(checkpoint, tmp_path / "o", "--wavs", path, path) == 65
    assert "same name" in capsys.readouterr().err
    assert transcribe(path, tmp_path / "o", "--wavs", path) == 65
    assert not (tmp_path / "o").exists()


@pytest.fixture(scope="module")
def lang(tmp_path_factory) -> Path:
    pytest.importorskip("kaldifst", reason="graphs are built with kaldifst")
    pytest.importorskip("kaldi_decoder", reason="the back-end kaldi needs kaldi-decoder")
    folder = tmp_path_factory.mktemp("lang")
    words = ["<eps>", "A", "AB", "BA", "#0", "<s>", "</s>"]
    for name, symbols in (("tokens", TOKENS), ("words", words)):
        rows = [f"{symbol} {number}\n" for number, symbol in enumerate(symbols)]
        (folder / f"{name}.txt").write_text("".join(rows))
    (folder / "lexicon.txt").write_text("A A |\nAB A B |\nBA B A |\n")
    (folder / "lm.arpa").write_text(ARPA)
    return folder


def test_words_of_a_graph_have_the_frames_of_their_letters(lang) -> None:
    # AB, BA without a boundary at the end, a pause, then A.
    path = [0, 2, 2, 0, 3, 1, 3, 0, 2, 0, 0, 0, 0, 0, 0, 2, 1, 0]
    scores = np.full((len(path), 4), 0.02, np.float32)
    scores[np.arange(len(path)), path] = 0.94
    build_graph(lang)
    decoder = open_decoder("kaldi", lang, len(TOKENS), SearchConfig())
    segments = list(split([np.log(scores)], 4, 100))
    assert [segment.first for segment in segments] == [0, 13]
    words = list(graph_words(segments, decoder, read_language(lang)))
    expected = [("AB", 1, 4), ("BA", 6, 8), ("A", 15, 15)]
    assert [(w.text, w.first, w.last) for w in words] == expected
    assert [w.confidence for w in words] == pytest.approx([0.94] * 3)


def test_transcribing_with_a_graph(checkpoint, lang, tmp_path, capsys) -> None:
    path = write(tmp_path / "a.wav", noise(3))
    options = ["--wavs", path, "--lang", lang, "--backend", "kaldi"]
    assert transcribe(checkpoint, tmp_path / "o", *options, "--lm-scale", 0.5) == 0
    found = json.loads((tmp_path / "o" / "a.json").read_text())
    assert {word["word"] for word in found["words"]} <= {"A", "AB", "BA"}
    assert found["settings"]["lm_scale"] == 0.5
    assert transcribe(checkpoint, tmp_path / "o", *options) == 0
    assert "skipped" not in capsys.readouterr().out
    tuned = tmp_path / "tune.json"
    tuned.write_text('{"lm_scale": 0.5, "word_insertion": -1.0}')
    assert transcribe(checkpoint, tmp_path / "o", *options, "--tuned", tuned) == 0
    other = tmp_path / "other"
    other.mkdir()
    for name in ("words.txt", "lm.arpa", "lexicon.txt"):
        (other / name).write_text((lang / name).read_text())
    (other / "tokens.txt").write_text("<blk> 0\n| 1\nB 2\nA 3\n")
    assert transcribe(checkpoint, tmp_path / "p", "--wavs", path, "--lang", other) == 65
    assert "different tokens" in capsys.readouterr().err


def test_formats() -> None:
    words = [TimedWord("IT", 0.5, 0.7, 0.91), TimedWord("IS", 0.8, 1.0, 0.5)]
    words += [TimedWord("SO", 3661.5, 3661.9995, 1.0)]
    assert to_ctm(words[:1], "x") == "x 1 0.500 0.200 IT 0.9100\n"
    assert to_srt(words) == (
        "1\n00:00:00,500 --> 00:00:01,000\nIT IS\n\n2\n01:01:01,500 --> 01:01:02,000\nSO\n\n"
    )
    assert to_srt([]) == to_ctm([], "x") == ""
    assert to_srt(words, letters=4).count("-->") == 3
    assert to_srt(words, seconds=0.4).count("-->") == 3


MEASURE = """
import resource, sys
from unispeech.__main__ import main

peaks = []
for name in ("short", "hour"):
    folder, model = sys.argv[1:]
    argv = ["transcribe", "--model", model, "--wavs", f"{folder}/{name}.wav", "--resample"]
    assert main([*argv, "--output", f"{folder}/out"]) == 0
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0])
"""


def test_an_hour_takes_no_more_memory_than_a_minute(checkpoint, tmp_path, repo) -> None:
    """Held whole, an hour at 16 kHz would be 230 MB."""
    minute = noise(60, rate=8000)
    for name, minutes in (("short", 1), ("hour", 60)):
        with soundfile.SoundFile(tmp_path / f"{name}.wav", "w", 8000, 1) as file:
            for _ in range(minutes):
                file.write(minute)
    command = [sys.executable, "-c", MEASURE, str(tmp_path), str(checkpoint)]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "s of audio" in done.stdout
    assert int(done.stdout.splitlines()[-1]) < 40_000
    found = json.loads((tmp_path / "out" / "hour.json").read_text())
    assert found["seconds"] == 3600.0
    assert 3500 < found["words"][-1]["end"] <= 3600
