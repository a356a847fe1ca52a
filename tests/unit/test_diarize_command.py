"""The command `diarize` on conversations of two tones, with a network that was trained on them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import Recording

from unispeech.__main__ import main
from unispeech.data.manifests import write_cuts
from unispeech.data.rttm import Segment, read_rttm, write_rttm
from unispeech.diarize.words import Passage, passages, speakers_of_words, to_stm
from unispeech.models.config import ConvLayer, CtcConfig, EncoderConfig
from unispeech.models.ctc import CtcModel
from unispeech.models.diarization import EendModel, EendTraining
from unispeech.models.diarization_config import EendConfig
from unispeech.score.diarization import score
from unispeech.score.diarization_summary import total

SMALL = EendConfig(
    features="fbank", layers=1, dim=16, heads=2, ffn_dim=24, vector_dim=8, slots=2, dropout=0.0
)
HERTZ = {"low": 400, "high": 1500}


def conversation(
    rng: np.random.Generator, seconds: int, absent: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of two tones that come and go every half a second, and who is there `(T, 2)`."""
    gate = rng.random((2 * seconds, 2)) < 0.55
    if absent is not None:
        gate[:, absent] = False
    time = np.arange(seconds * 16000) / 16000
    tones = np.stack([np.sin(2 * math.pi * hertz * time) for hertz in HERTZ.values()], 1)
    audio = (0.1 * tones * gate.repeat(8000, 0)).sum(1)
    return audio + 0.001 * rng.standard_normal(len(time)), gate.repeat(5, 0)


def segments_of(active: np.ndarray) -> list[Segment]:
    """The segments of decisions every tenth of a second."""
    found = []
    for name, column in zip(HERTZ, active.T, strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], column, [0]]).astype(int)))
        for first, last in edges.reshape(-1, 2):
            found.append(Segment(first / 10, (last - first) / 10, name))
    return sorted(found)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as trainings write it; seconds of training tell the tones apart."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    training = EendTraining(EendModel(SMALL, None), 2, speaker_weight=0.2)
    optimizer = torch.optim.Adam(training.parameters(), 5e-3)
    for _ in range(150):
        chunks = [conversation(rng, 4, absent) for absent in (None, None, 0, 1)]
        wavs = torch.tensor(np.stack([audio for audio, _ in chunks])).float()
        activity = torch.tensor(np.stack([active for _, active in chunks])).float()
        losses = training(wavs, None, activity, torch.tensor([[0, 1]] * 4))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.activity.item() / 4 < 0.15
    state = {"kind": "diarization", "encoder": None, "eend": SMALL.model_dump(mode="json")}
    path = tmp_path_factory.mktemp("model") / "model.pt"
    torch.save({**state, "speakers": list(HERTZ), "model": training.state_dict()}, path)
    return path


class Meetings:
    """Two recordings with what is said in them."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(7)
        self.folder, truth, cuts = folder, {}, []
        for name, seconds in (("one", 13), ("two", 9)):
            audio, active = conversation(rng, seconds)
            soundfile.write(folder / f"{name}.wav", audio, 16000)
            cuts.append(Recording.from_file(folder / f"{name}.wav", recording_id=name).to_cut())
            cuts[-1].id = name
            truth[name] = segments_of(active)
        write_cuts(cuts, folder / "test.jsonl.gz")
        write_rttm(folder / "test.rttm", truth)
        self.truth = truth
        self.cuts, self.rttm = folder / "test.jsonl.gz", folder / "test.rttm"

    def error(self, path: Path) -> float:
        """DER without collar."""
        sides = [
            {name: [(s.start, s.end, s.speaker) for s in own] for name, own in one.items()}
            for one in (self.truth, read_rttm(path))
        ]
        return total(score(*sides, collar=0.0).recordings.values()).rate


@pytest.fixture(scope="module")
def meetings(tmp_path_factory: pytest.TempPathFactory) -> Meetings:
    return Meetings(tmp_path_factory.mktemp("meetings"))


def diarize(model: Path, *more: object) -> int:
    options = ["--chunk", "4", "--median", "0", "--device", "cpu"]
    return main(["diarize", "--model", str(model), *map(str, more), *options])


def test_two_speakers_are_found_and_written(model, meetings, tmp_path, capsys) -> None:
    options = ["--wavs", meetings.cuts, "--output", tmp_path]
    assert diarize(model, *options) == 0
    assert meetings.error(tmp_path / "hyp.rttm") < 0.1
    assert capsys.readouterr().out.count("2 speakers") == 2
    one = json.loads((tmp_path / "one.json").read_text())
    assert sorted(one["speakers"]) == ["speaker1", "speaker2"]
    assert one["seconds"] == 13.0
    said = sum(s.duration for s in meetings.truth["one"])
    assert sum(one["speakers"].values()) == pytest.approx(said, rel=0.1)
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"
    whole = read_rttm(tmp_path / "hyp.rttm")
    assert read_rttm(tmp_path / "two.rttm") == {"two": whole["two"]}
    assert not list(tmp_path.glob(".tmp*"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert diarize(model, *options) == 0
    assert capsys.readouterr().out.count("already diarized, skipped") == 2
    same = [path for path in before if path.name != "hyp.rttm"]
    assert all(path.stat().st_mtime_ns == before[path] for path in same)
    # Chunks at once and chunks that overlap give about the same.
    for more in (["--batch", 3], ["--overlap", 1]):
        assert diarize(model, *options[:2], "--output", tmp_path / str(more[0]), *more) == 0
        assert meetings.error(tmp_path / str(more[0]) / "hyp.rttm") < 0.1
    assert (tmp_path / "--batch" / "hyp.rttm").read_text() == (tmp_path / "hyp.rttm").read_text()


def test_one_file_without_options(model, meetings, tmp_path, monkeypatch) -> None:
    """RTTM and picture lie here, under a name that RTTM can hold."""
    (tmp_path / "my meeting.wav").write_bytes((meetings.folder / "one.wav").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["diarize", "--model", str(model), "my meeting.wav"]) == 0
    assert set(read_rttm("my meeting.rttm")) == {"my_meeting"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "my meeting.json", "my meeting.png", "my meeting.rttm", "my meeting.wav"
    ]  # fmt: skip


def test_number_of_speakers_is_given_or_taken_from_a_reference(model, meetings, tmp_path) -> None:
    options = ["--wavs", meetings.cuts, "--no-picture"]
    assert diarize(model, *options, "--output", tmp_path / "1", "--speakers", 1) == 0
    assert {s.speaker for own in read_rttm(tmp_path / "1/hyp.rttm").values() for s in own} == {
        "speaker1"
    }
    # Nothing would be joined at a distance of 0; the reference says two, and one for the other.
    reference = {"one": meetings.truth["one"], "two": [Segment(0.0, 1.0, "x")]}
    write_rttm(tmp_path / "ref.rttm", reference)
    more = ["--oracle", tmp_path / "ref.rttm", "--distance", 0]
    assert diarize(model, *options, "--output", tmp_path / "o", *more) == 0
    found = read_rttm(tmp_path / "o/hyp.rttm")
    assert [len({s.speaker for s in found[name]}) for name in ("one", "two")] == [2, 1]
    assert not (tmp_path / "o/one.png").exists()
    # Nobody speaks in a recording that the reference does not have.
    write_rttm(tmp_path / "ref.rttm", {"one": meetings.truth["one"]})
    assert diarize(model, *options, "--output", tmp_path / "o", *more) == 0
    assert set(read_rttm(tmp_path / "o/hyp.rttm")) == {"one"}


def test_settings_are_chosen_where_the_truth_is_known(model, meetings, tmp_path, capsys) -> None:
    options = ["--wavs", meetings.cuts, "--no-picture", "--output", tmp_path, "--collar", 0]
    assert diarize(model, *options, "--tune", meetings.rttm) == 0
    found = json.loads((tmp_path / "tuned.json").read_text())
    rates = {tuple(row[n] for n in ("distance", "threshold", "median")): row["der"]
             for row in found["grid"]}  # fmt: skip
    assert len(rates) == 80
    chosen = tuple(found[name] for name in ("distance", "threshold", "median"))
    assert rates[chosen] == min(rates.values()) == found["der"]
    # What was chosen is what the hypotheses were made with.
    assert meetings.error(tmp_path / "hyp.rttm") == pytest.approx(found["der"], abs=1e-9)
    capsys.readouterr()
    assert diarize(model, *options, "--tune", meetings.rttm) == 0
    assert "already tuned" in capsys.readouterr().out
    (tmp_path / "chunks.yaml").write_text("chunk: 4.0\nmedian: 9.0\n")
    own = ["--wavs", meetings.cuts, "--no-picture", "--output", tmp_path / "own"]
    own += ["--config", tmp_path / "chunks.yaml"]
    command = ["diarize", "--model", str(model), *map(str, own)]
    assert main([*command, "--tuned", str(tmp_path / "tuned.json")]) == 0
    assert (tmp_path / "own/hyp.rttm").read_text() == (tmp_path / "hyp.rttm").read_text()


def test_silence_is_an_empty_result_and_one_voice_is_one_speaker(model, tmp_path, capsys) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(160000), 16000)
    time = np.arange(160000) / 16000
    one = 0.1 * np.sin(2 * math.pi * 400 * time) * (time % 2 < 1.2)
    noise = 0.001 * np.random.default_rng(0).standard_normal(len(time))
    soundfile.write(tmp_path / "one.wav", one + noise, 16000)
    assert diarize(model, "--output", tmp_path / "out", tmp_path / "silent.wav") == 0
    assert read_rttm(tmp_path / "out/hyp.rttm") == {}
    assert json.loads((tmp_path / "out/silent.json").read_text())["speakers"] == {}
    assert (tmp_path / "out/silent.png").stat().st_size > 1000
    assert diarize(model, "--output", tmp_path / "out", tmp_path / "one.wav") == 0
    assert {s.speaker for s in read_rttm(tmp_path / "out/hyp.rttm")["one"]} == {"speaker1"}
    assert "0 speakers in 10.0 s" in capsys.readouterr().out


def test_who_said_what(model, meetings, tmp_path) -> None:
    encoder = EncoderConfig(
        conv_layers=(ConvLayer(channels=8, kernel=400, stride=320),), extractor_norm="layer",
        layers=1, dim=8, ffn_dim=8, heads=1, pos_conv_kernel=8, pos_conv_groups=2,
    )  # fmt: skip
    torch.manual_seed(5)
    recogniser = CtcModel(encoder, CtcConfig(), 3).eval()
    recogniser.proj.weight.data.mul_(4)
    state = {"encoder": encoder.model_dump(mode="json"), "ctc": CtcConfig().model_dump(mode="json")}
    state |= {"tokens": ["<blk>", "|", "A"], "model": recogniser.state_dict()}
    torch.save(state, tmp_path / "ctc.pt")
    more = ["--recogniser", tmp_path / "ctc.pt", "--output", tmp_path]
    assert diarize(model, meetings.folder / "two.wav", *more) == 0
    words = json.loads((tmp_path / "two.json").read_text())["words"]
    assert words
    rows = [line.split() for line in (tmp_path / "two.stm").read_text().splitlines()]
    assert {row[0] for row in rows} == {"two"}
    assert {row[2] for row in rows} <= {"speaker1", "speaker2"}
    assert sum(len(row) - 5 for row in rows) == len(words)


def test_words_belong_to_whom_speaks_most_of_them() -> None:
    segments = [(0.0, 2.0, "b"), (1.5, 4.0, "a"), (6.0, 7.0, "b")]
    words = [(0.1, 0.4), (1.4, 1.8), (1.9, 2.6), (4.4, 4.8), (5.6, 5.9)]
    assert speakers_of_words(words, segments) == ["b", "b", "a", "a", "b"]
    assert speakers_of_words(words[:1], []) == [""]
    said = [("HI", 0.1, 0.4, "b"), ("YOU", 0.5, 0.8, "b"), ("NO", 0.9, 1.0, "a")]
    said += [("NO", 2.5, 2.7, "a")]
    found = passages(said)
    assert found == [
        Passage(0.1, 0.8, "b", "HI YOU"), Passage(0.9, 1.0, "a", "NO"),
        Passage(2.5, 2.7, "a", "NO"),
    ]  # fmt: skip
    assert to_stm(found[:1], "m") == "m 1 b 0.100 0.800 HI YOU\n"


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        ([], 2, "no audio is given"),
        (["{folder}/one.wav", "{folder}"], 65, "2 recordings have the same name"),
        (["{folder}/one.wav", "--speakers", "0"], 2, "--speakers must be positive"),
        (["{folder}/one.wav", "--oracle", "{folder}/no.rttm"], 65, "no.rttm"),
        (["{folder}/two.wav", "--oracle", "{other}"], 65, "none of the recordings.*found x"),
        (["{folder}/one.wav", "--tune", "{folder}/test.rttm"], 2, "--output"),
        (["{folder}/one.wav", "--tuned", "{folder}/test.rttm"], 65, "not a tuned.json"),
        (["{folder}/one.wav", "--overlap", "3"], 78, "at most half"),
        (["{folder}/one.wav", "--config", "{folder}/no.yaml"], 78, "no.yaml"),
        (["{folder}/one.wav", "--recogniser", "{model}"], 65, "not a recogniser"),
        (["{short}"], 65, "too short.*1600 samples"),
        (["{slow}"], 65, "wrong sampling rate.*--resample"),
        (["{folder}/one.wav", "--model", "{folder}/one.wav"], 65, "one.wav"),
    ],
)
def test_wrong_input_is_one_line(
    model, meetings, tmp_path, monkeypatch, capsys, more, code, message
) -> None:
    places = {"folder": meetings.folder, "model": model}
    for name, samples, rate in (("short", 1599, 16000), ("slow", 16000, 8000)):
        places[name] = tmp_path / f"{name}.wav"
        soundfile.write(places[name], 0.1 * np.ones(samples), rate)
    places["other"] = tmp_path / "other.rttm"
    write_rttm(places["other"], {"x": [Segment(0.0, 1.0, "y")]})
    monkeypatch.chdir(tmp_path)
    assert diarize(model, *[text.format(**places) for text in more]) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, line), line
    assert not list(tmp_path.glob("*.json"))


def test_other_rates_and_channels_on_request(model, meetings, tmp_path) -> None:
    audio, _ = soundfile.read(meetings.folder / "one.wav")
    stereo = np.stack([audio, audio], 1).repeat(2, 0)
    soundfile.write(tmp_path / "one.wav", stereo, 32000)
    more = ["--resample", "--mono", "--output", tmp_path / "out", "--no-picture"]
    assert diarize(model, tmp_path / "one.wav", *more) == 0
    assert len({s.speaker for s in read_rttm(tmp_path / "out/hyp.rttm")["one"]}) == 2
