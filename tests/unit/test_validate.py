"""`validate`: one broken corpus for each rule, several problems at once, nothing changed."""

import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from test_manifests import make_cut, rewrite

from unispeech.__main__ import main
from unispeech.data.manifests import read_manifest, write_cuts
from unispeech.storage import sha256


class Corpus:
    """A small corpus of noise in the folder `root`, which tests break."""

    def __init__(self, root):
        self.data = root / "data"
        self.labels = root / "labels"
        generator = np.random.default_rng(0)
        for name, count in {"train": 4, "dev": 2, "test": 2}.items():
            cuts = []
            for index in range(count):
                path = root / "audio" / f"{name}{index}.flac"
                path.parent.mkdir(exist_ok=True)
                soundfile.write(path, generator.uniform(-0.5, 0.5, 16000), 16000)
                cuts.append(make_cut(path, f"{name}{index}", "A CAT", f"{name}-s{index // 2}"))
            write_cuts(cuts, self.data / f"{name}.jsonl.gz")
        self.audio = root / "audio" / "train1.flac"
        (root / "tokens.txt").write_text("<blk> 0\n| 1\nA 2\nC 3\nT 4\n", encoding="utf-8")
        self.tokens = root / "tokens.txt"

    def edit(self, name, change):
        path = self.data / f"{name}.jsonl.gz"
        cuts = read_manifest(path)
        change(cuts)
        write_cuts(cuts, path)

    def write_labels(self, frames=50, largest=9):
        self.labels.mkdir()
        labels = np.zeros((4, frames), np.uint16)
        labels[1, 0] = largest
        np.save(self.labels / "train.npy", labels.ravel())
        rows = [f"train{i}\t{i * frames}\t{frames}\n" for i in range(4)]
        (self.labels / "train.tsv").write_text("".join(rows), encoding="utf-8")
        entry = {"sha256": sha256(self.labels / "train.npy"), "utterances": 4}
        facts = {"rate": 50, "clusters": 10, "origin": {}, "sets": {"train": entry}}
        (self.labels / "labels.json").write_text(json.dumps(facts), encoding="utf-8")

    def snapshot(self):
        files = sorted(p for p in self.data.parent.rglob("*") if p.is_file())
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path)


def options(corpus):
    return [
        *("--tokens", str(corpus.tokens), "--transcribed", "train,dev,test"),
        *("--min-duration", "0.5", "--max-duration", "2", "--jobs", "1"),
        *("--disjoint-speakers", "train,dev,test"),
        *(["--labels", str(corpus.labels)] if corpus.labels.exists() else []),
    ]


def validate(corpus, capsys, more=()):
    before = corpus.snapshot()
    code = main(["validate", str(corpus.data), *options(corpus), *more])
    assert corpus.snapshot() == before
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_good_corpus_passes_with_a_table(corpus, capsys):
    corpus.write_labels()
    code, out, err = validate(corpus, capsys)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}
    assert rows == {
        "train": ["4", "2", "0.001", "1.00", "1.00", "1.00", "8"],
        "dev": ["2", "1", "0.001", "1.00", "1.00", "1.00", "4"],
        "test": ["2", "1", "0.001", "1.00", "1.00", "1.00", "4"],
    }


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no such audio file"),
        ("truncated", "damaged audio file|shorter"),
        ("not audio", "damaged audio file"),
        ("rate", "16000 Hz, 1 channel, found 8000 Hz"),
        ("stereo", "found 16000 Hz, 2 channel"),
        ("short", "expected 16000 samples, found 4000"),
        ("empty", "empty audio"),
        ("nan", "NaN or infinite"),
        ("zero", "all samples are zero"),
    ],
)
def test_audio_rules(kind, reason, corpus, capsys):
    if kind == "zero":
        soundfile.write(corpus.audio, np.zeros(16000), 16000)
    else:
        rewrite(corpus.audio, kind)
    check_one(validate(corpus, capsys), f"utterance train1, .*{reason}")


def check_one(result, pattern):
    """One problem, on one line, with a remedy after its last semicolon; exit 65."""
    code, _, err = result
    lines = err.splitlines()
    assert code == 65
    assert len(lines) == 2, err
    assert lines[0].startswith("- ")
    assert ";" in lines[0]
    assert "1 problem in 3 set(s)" in lines[1]
    assert re.search(pattern, lines[0]), lines[0]


def change_text(value):
    def change(cuts):
        cuts[2].supervisions[0].text = value

    return change


def stretch_supervision(cuts):
    cuts[2].supervisions[0].duration = 1.5


def make_short(cuts):
    cuts[2].duration = cuts[2].supervisions[0].duration = 0.25


def repeat(cuts):
    cuts.append(cuts[2])


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (change_text(""), "set train, utterance train2: no transcript"),
        (change_text(None), "set train, utterance train2: no transcript"),
        (change_text("A BAT"), "set train, utterance train2: symbol 'B' is not in .*tokens.txt"),
        (stretch_supervision, "utterance train2: the supervision 0.000 to 1.500 s is outside"),
        (make_short, "utterance train2: 0.25 s is shorter than 0.5 s"),
        (repeat, "set train, utterance train2: there 2 times"),
    ],
)
def test_manifest_rules(change, pattern, corpus, capsys):
    corpus.edit("train", change)
    check_one(validate(corpus, capsys), pattern)


def test_too_long(corpus, capsys):
    soundfile.write(corpus.audio, np.random.default_rng(0).uniform(-0.5, 0.5, 40000), 16000)
    corpus.edit("train", lambda cuts: cuts.__setitem__(1, make_cut(corpus.audio, "train1", "A")))
    check_one(validate(corpus, capsys), r"utterance train1: 2\.50 s is longer than 2 s")


def test_sets_share_an_utterance(corpus, capsys):
    train = read_manifest(corpus.data / "train.jsonl.gz")
    train[0].supervisions[0].speaker = "somebody else"
    corpus.edit("test", lambda cuts: cuts.append(train[0]))
    check_one(validate(corpus, capsys), "sets train and test: both hold utterance train0")


def share_speaker(cuts):
    cuts[0].supervisions[0].speaker = "train-s1"


def test_shared_speaker_is_a_problem_only_when_asked(corpus, capsys):
    corpus.edit("dev", share_speaker)
    check_one(validate(corpus, capsys), r"sets train and dev: 1 shared speaker.*train-s1")
    assert main(["validate", str(corpus.data), "--jobs", "1"]) == 0
    assert "warning: sets train and dev: 1 shared speaker" in capsys.readouterr().err


def test_damaged_manifest(corpus, capsys):
    (corpus.data / "dev.jsonl.gz").write_bytes(b"no")
    check_one(validate(corpus, capsys), r"dev\.jsonl\.gz: damaged manifest")


@pytest.mark.parametrize(
    ("frames", "largest", "pattern"),
    [
        (50, 10, "utterance train1: label 10 of 10 clusters"),
        (44, 9, r"44 frames, expected about 50 \(1.00 s at 50 Hz\)"),
        (100, 9, "100 frames, expected about 50"),
    ],
)
def test_label_values_and_lengths(frames, largest, pattern, corpus, capsys):
    corpus.write_labels(frames, largest)
    code, _, err = validate(corpus, capsys)
    assert code == 65
    assert len(err.splitlines()) == (2 if frames == 50 else 5)
    assert re.search(pattern, err)


@pytest.mark.parametrize("frames", [45, 55])
def test_labels_may_differ_by_a_tenth_of_a_second(frames, corpus, capsys):
    corpus.write_labels(frames)
    assert validate(corpus, capsys)[0] == 0


def test_labels_of_an_utterance_are_missing(corpus, capsys):
    corpus.write_labels()
    table = corpus.labels / "train.tsv"
    table.write_text("".join(table.read_text().splitlines(True)[:3]), encoding="utf-8")
    check_one(validate(corpus, capsys), "set train, utterance train3: no labels")


def test_labels_are_cut_off(corpus, capsys):
    corpus.write_labels()
    labels = np.load(corpus.labels / "train.npy")
    np.save(corpus.labels / "train.npy", labels[:-10])
    code, _, err = validate(corpus, capsys)
    assert code == 65
    assert "not the file that labels.json describes" in err
    assert "utterance train3: frames 150 to 200 of 190" in err


def test_labels_without_description(corpus, capsys):
    corpus.labels.mkdir()
    check_one(validate(corpus, capsys), r"labels\.json: not a description of labels")


def test_all_problems_in_one_pass_by_the_program(corpus):
    rewrite(corpus.audio, "truncated")
    (corpus.audio.parent / "dev0.flac").unlink()
    corpus.edit("test", remove_first_text)
    before = corpus.snapshot()
    command = [sys.executable, "-m", "unispeech", "validate", str(corpus.data), *options(corpus)]
    done = subprocess.run([*command, "--jobs", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 65
    problems = [line for line in done.stderr.splitlines() if line.startswith("- ")]
    assert len(problems) == 3
    for utterance in ("train1", "dev0", "test0"):
        assert sum(utterance in line for line in problems) == 1
    assert done.stderr.splitlines()[-1] == "error: 3 problems in 3 set(s)"
    assert corpus.snapshot() == before


def remove_first_text(cuts):
    cuts[0].supervisions[0].text = ""


def test_headers_only(corpus, capsys):
    rewrite(corpus.audio, "truncated")
    assert validate(corpus, capsys, ["--read-audio", "false"])[0] == 0


def test_wrong_options(corpus, tmp_path, capsys):
    assert main(["validate", str(tmp_path / "audio")]) == 65
    assert "no *.jsonl.gz here" in capsys.readouterr().err
    assert main(["validate", str(corpus.data), "--transcribed", "trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


def test_real_corpora(real_data, tmp_path, capsys):
    """Kaldi's utt2dur of speechocean's test set is 160 utterances of 20 speakers."""
    table = real_data / "speechocean_mini"
    lines = (table / "test" / "utt2spk").read_text().split("\n")
    cuts = [
        make_cut(table / "WAVE" / f"SPEAKER{s}" / f"{u}.flac", u, "A", s)
        for u, s in (line.split() for line in lines if line)
    ]
    write_cuts(cuts, tmp_path / "test.jsonl.gz")
    assert main(["validate", str(tmp_path), "--jobs", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["test", "160", "20", "0.176"]
