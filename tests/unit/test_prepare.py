"""The scripts that turn corpora into manifests, against lhotse's own recipes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from lhotse import CutSet
from lhotse.kaldi import load_kaldi_data_dir
from lhotse.recipes.librispeech import prepare_librispeech as lhotse_librispeech

from unispeech.__main__ import guard, main
from unispeech.data.manifests import load_cuts, read_audio, speaker, transcript

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))

import prepare_folder  # noqa: E402
import prepare_librispeech  # noqa: E402


def write_noise(path, seconds=1.0, rate=16000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(len(str(path)))
    shape = (int(seconds * rate), channels)
    soundfile.write(path, generator.uniform(-0.5, 0.5, shape), rate)


@pytest.fixture
def librispeech(tmp_path):
    """Two parts with two speakers each, in the native layout."""
    for part, people in {"train-clean-100": ("19", "26"), "dev-clean": ("84", "174")}.items():
        for person in people:
            chapter = tmp_path / "corpora" / "LibriSpeech" / part / person / "198"
            lines = []
            for index in range(2):
                name = f"{person}-198-{index:04d}"
                write_noise(chapter / f"{name}.flac", 1 + index / 4)
                lines.append(f"{name} SOME WORDS OF {person}\n")
            (chapter / f"{person}-198.trans.txt").write_text("".join(lines), encoding="utf-8")
    return tmp_path / "corpora"


SETS = ["pretrain=train-clean-100+dev-clean", "train=train-clean-100", "dev=dev-clean"]


def librispeech_code(corpora, output, sets=SETS, more=()):
    arguments = ["--corpora", str(corpora), "--output", str(output), "--sets", *sets, *more]
    return guard(lambda: prepare_librispeech.main(arguments))


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("inner", [".", "LibriSpeech"])
def test_librispeech_equals_lhotse(inner, librispeech, tmp_path):
    assert librispeech_code(librispeech / inner, tmp_path / "data") == 0
    peer = lhotse_librispeech(librispeech / "LibriSpeech")
    for name, part in (("train", "train-clean-100"), ("dev", "dev-clean")):
        expected = {c.supervisions[0].id: c for c in CutSet.from_manifests(**peer[part]).to_eager()}
        cuts = load_cuts(tmp_path / "data" / f"{name}.jsonl.gz")
        assert [cut.id for cut in cuts] == sorted(expected)
        for cut in cuts:
            other = expected[cut.id]
            assert cut.supervisions == other.supervisions
            assert cut.duration == other.duration
            np.testing.assert_array_equal(read_audio(cut), other.load_audio()[0])
            assert Path(cut.recording.sources[0].source).is_absolute()
    assert len(load_cuts(tmp_path / "data" / "pretrain.jsonl.gz")) == 8


def test_librispeech_is_skipped_until_an_input_changes(librispeech, tmp_path, capsys):
    output = tmp_path / "data"
    assert librispeech_code(librispeech, output) == 0
    before = contents(output)
    capsys.readouterr()
    assert librispeech_code(librispeech, output) == 0
    assert "skipped" in capsys.readouterr().out
    assert contents(output) == before
    write_noise(librispeech / "LibriSpeech/train-clean-100/19/198/19-198-0000.flac", 3.0)
    assert librispeech_code(librispeech, output) == 0
    assert ", skipped" not in capsys.readouterr().out
    assert load_cuts(output / "train.jsonl.gz")["19-198-0000"].duration == 3.0


def test_damaged_output_is_written_again_and_dropped_sets_disappear(librispeech, tmp_path):
    output = tmp_path / "data"
    assert librispeech_code(librispeech, output) == 0
    before = contents(output)
    (output / "train.jsonl.gz").write_bytes(b"damaged")
    assert librispeech_code(librispeech, output) == 0
    assert contents(output) == before
    assert librispeech_code(librispeech, output, ["train=train-clean-100"]) == 0
    assert sorted(contents(output)) == ["prepared.json", "train.jsonl.gz"]


def test_part_without_transcripts(librispeech, tmp_path, capsys):
    for file in librispeech.rglob("train-clean-100/*/*/*.trans.txt"):
        file.unlink()
    assert librispeech_code(librispeech, tmp_path / "data") == 65
    error = capsys.readouterr().err
    assert "26-198.trans.txt: no transcripts of this chapter" in error
    assert "--untranscribed" in error
    assert not (tmp_path / "data").exists()
    sets = ["pretrain=train-clean-100", "dev=dev-clean"]
    more = ["--untranscribed", "pretrain"]
    assert librispeech_code(librispeech, tmp_path / "data", sets, more) == 0
    cuts = load_cuts(tmp_path / "data" / "pretrain.jsonl.gz")
    assert {transcript(cut) for cut in cuts} == {""}
    assert {speaker(cut) for cut in cuts} == {"19", "26"}


def remove_line(corpus):
    file = corpus / "dev-clean/84/198/84-198.trans.txt"
    file.write_text(file.read_text().splitlines(True)[0], encoding="utf-8")


def remove_audio(corpus):
    (corpus / "dev-clean/84/198/84-198-0001.flac").unlink()


def make_stereo(corpus):
    write_noise(corpus / "dev-clean/84/198/84-198-0001.flac", channels=2)


def make_narrow(corpus):
    write_noise(corpus / "dev-clean/84/198/84-198-0001.flac", rate=8000)


def remove_part(corpus):
    (corpus / "dev-clean").rename(corpus / "dev-dirty")


@pytest.mark.parametrize(
    ("spoil", "pattern"),
    [
        (remove_line, r"84-198\.trans\.txt: 84-198-0001\.flac has no text"),
        (remove_audio, r"84-198-0001\.flac is missing"),
        (make_stereo, r"expected 16000 Hz, 1 channel, found 16000 Hz, 2 channels; .*ffmpeg"),
        (make_narrow, r"found 8000 Hz, 1 channels; .*sox"),
        (remove_part, r"part dev-clean is missing.*download dev-clean\.tar\.gz.*openslr.org/12"),
    ],
)
def test_librispeech_errors(spoil, pattern, librispeech, tmp_path, capsys):
    spoil(librispeech / "LibriSpeech")
    assert librispeech_code(librispeech, tmp_path / "data") == 65
    assert re.search(pattern, capsys.readouterr().err)
    assert not (tmp_path / "data").exists()


def test_librispeech_options(librispeech, tmp_path, capsys):
    assert librispeech_code(tmp_path, tmp_path / "data") == 65
    assert "no part of LibriSpeech is here" in capsys.readouterr().err
    assert librispeech_code(librispeech, tmp_path / "data", ["train="]) == 2
    assert librispeech_code(librispeech, tmp_path / "data", ["train"]) == 65
    assert "LibriSpeech has no part of that name" in capsys.readouterr().err
    assert librispeech_code(librispeech, tmp_path / "data", ["train=train-clean-10"]) == 65
    assert "did you mean 'train-clean-100'?" in capsys.readouterr().err
    assert librispeech_code(librispeech, tmp_path / "d", SETS, ["--untranscribed", "dve"]) == 2
    assert "did you mean 'dev'?" in capsys.readouterr().err


@pytest.fixture
def own_data(tmp_path):
    """A table, and a Kaldi folder with segments whose paths start above it."""
    corpora = tmp_path / "corpora"
    rows = ["utt_id\tspeaker\ttext\tpath\tsplit"]
    for index, (split, seconds) in enumerate([("a", 1.0), ("a", 5.0), ("b", 1.5), ("b", 0.25)]):
        write_noise(corpora / "table" / "wav" / f"t{index}.flac", seconds)
        rows.append(f"t{index}\ts{index // 2}\tsome words {index}\twav/t{index}.flac\t{split}")
    (corpora / "table" / "all.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    write_noise(corpora / "kaldi" / "rec.flac", 4.0)
    files = {
        "wav.scp": f"rec {corpora}/kaldi/rec.flac\n",
        "segments": "k0 rec 0.5 1.75\nk1 rec 2.0 4.0\n",
        "text": "k0 hello\nk1 good  bye\n",
        "utt2spk": "k0 jo\nk1 jo\n",
    }
    (corpora / "kaldi" / "train").mkdir()
    for name, text in files.items():
        (corpora / "kaldi" / "train" / name).write_text(text, encoding="utf-8")
    return corpora


TABLE = {"table": "table/all.tsv"}
KALDI = {"kaldi": "kaldi/train"}


def folder_code(corpora, sets, normalize="keep"):
    tree = {"normalize_text": normalize, "sets": sets}
    file = corpora.parent / "sets.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    output = corpora.parent / "data"
    arguments = ["--sets", str(file), "--corpora", str(corpora), "--output", str(output)]
    return guard(lambda: prepare_folder.main(arguments))


def test_tables_where_prefix_text(own_data):
    sets = {
        "train": {"sources": [{**TABLE, "where": {"split": ["a"]}, "prefix": "x-"}]},
        "more": {
            "sources": [
                {**TABLE, "where": {"split": ["b"]}, "text": "none"},
                TABLE | {"prefix": "y-"},
            ]
        },
    }
    assert folder_code(own_data, sets, "upper") == 0
    train = load_cuts(own_data.parent / "data" / "train.jsonl.gz")
    found = [(c.id, speaker(c), transcript(c), c.duration) for c in train]
    assert found == [
        ("x-t0", "x-s0", "SOME WORDS 0", 1.0),
        ("x-t1", "x-s0", "SOME WORDS 1", 5.0),
    ]
    expected, _ = soundfile.read(own_data / "table/wav/t1.flac", dtype="float32")
    np.testing.assert_array_equal(read_audio(train["x-t1"]), expected)
    more = load_cuts(own_data.parent / "data" / "more.jsonl.gz")
    texts = {c.id: transcript(c) for c in more}
    assert texts == {"t2": "", "t3": ""} | {f"y-t{i}": f"SOME WORDS {i}" for i in range(4)}


def test_kaldi_folder_equals_lhotse(own_data):
    assert folder_code(own_data, {"train": {"sources": [KALDI]}}) == 0
    recordings, supervisions, _ = load_kaldi_data_dir(own_data / "kaldi" / "train", 16000)
    peer = CutSet.from_manifests(recordings, supervisions).trim_to_supervisions()
    expected = {c.supervisions[0].id: c for c in peer}
    cuts = load_cuts(own_data.parent / "data" / "train.jsonl.gz")
    assert [c.id for c in cuts] == sorted(expected) == ["k0", "k1"]
    for cut in cuts:
        other = expected[cut.id].supervisions[0]
        assert (speaker(cut), transcript(cut).split()) == (other.speaker, other.text.split())
        assert len(cut.supervisions) == 1
        assert cut.supervisions[0].duration == cut.duration
        np.testing.assert_array_equal(read_audio(cut), expected[cut.id].load_audio()[0])


def test_kaldi_paths_may_start_above_the_folder(own_data):
    file = own_data / "kaldi" / "train" / "wav.scp"
    file.write_text("rec rec.flac\n", encoding="utf-8")
    assert folder_code(own_data, {"train": {"sources": [KALDI]}}) == 0


def test_durations_outside_are_dropped_and_listed(own_data, capsys):
    group = {"sources": [TABLE], "min_duration": 0.5, "max_duration": 4}
    assert folder_code(own_data, {"train": group}) == 0
    rows = (own_data.parent / "data" / "dropped.tsv").read_text().splitlines()
    assert rows == [
        "set\tutt_id\tduration\treason",
        "train\tt1\t5.000\tlonger than max_duration 4",
        "train\tt3\t0.250\tshorter than min_duration 0.5",
    ]
    assert "dropped train t1 5.000" in capsys.readouterr().out
    assert {c.id for c in load_cuts(own_data.parent / "data" / "train.jsonl.gz")} == {"t0", "t2"}
    assert folder_code(own_data, {"train": group}) == 0
    assert "skipped" in capsys.readouterr().out


def test_folder_reports_all_problems_at_once(own_data, capsys):
    write_noise(own_data / "table/wav/t0.flac", rate=44100)
    write_noise(own_data / "table/wav/t1.flac", channels=2)
    (own_data / "table/wav/t2.flac").write_bytes(b"no")
    (own_data / "table/wav/t3.flac").unlink()
    assert folder_code(own_data, {"train": {"sources": [TABLE]}}) == 65
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert "all.tsv:2: " in lines[0]
    assert "found 44100 Hz" in lines[0]
    assert "ffmpeg -i t0.flac -ar 16000 -ac 1" in lines[0]
    assert "2 channels" in lines[1]
    assert "not an audio file" in lines[2]
    assert "no such audio file" in lines[3]
    assert not (own_data.parent / "data").exists()


def spoil_table(old, new):
    def spoil(corpora):
        file = corpora / "table" / "all.tsv"
        file.write_text(file.read_text().replace(old, new), encoding="utf-8")

    return spoil


def spoil_kaldi(name, text):
    def spoil(corpora):
        (corpora / "kaldi" / "train" / name).write_text(text, encoding="utf-8")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "pattern"),
    [
        (spoil_table("utt_id", "id"), r"all\.tsv: no column 'utt_id'"),
        (
            spoil_table("t2\ts1", "t2 s1"),
            r"all\.tsv:4: wrong number of fields; expected 5, found 4",
        ),
        (spoil_table("t2\t", "t1\t"), r"two utterances are called t1; .*prefix"),
        (spoil_table("t2\ts1", "t 2\ts1"), r"all\.tsv:4: wrong id"),
        (spoil_kaldi("wav.scp", "rec sox x -t wav - |\n"), r"wav\.scp:1: a command instead"),
        (spoil_kaldi("segments", "k0 rec 1 9\n"), "segments:1: the segment is not in its recor"),
        (spoil_kaldi("segments", "k0 cer 1 2\n"), "segments:1: not a segment of wav.scp"),
    ],
)
def test_folder_errors(spoil, pattern, own_data, capsys):
    spoil(own_data)
    assert folder_code(own_data, {"train": {"sources": [TABLE, KALDI]}}) == 65
    assert re.search(pattern, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("group", "pattern"),
    [
        ({"sources": [{**TABLE, **KALDI}]}, "give either 'table' or 'kaldi'"),
        ({"sources": [{**KALDI, "where": {"a": ["b"]}}]}, "a Kaldi folder has no columns"),
        ({"sources": []}, "at least 1 item"),
        ({"sources": [TABLE], "min_durations": 1}, "did you mean 'min_duration'"),
        ({"sources": [{"table": "none.tsv"}]}, "no such table or folder"),
    ],
)
def test_wrong_sets_file(group, pattern, own_data, capsys):
    assert folder_code(own_data, {"train": group}) == 78
    assert pattern in capsys.readouterr().err


def test_where_that_fits_nothing(own_data, capsys):
    source = {**TABLE, "where": {"split": ["c"]}}
    assert folder_code(own_data, {"train": {"sources": [source]}}) == 65
    assert "no utterance; correct `where`" in capsys.readouterr().err


def test_real_corpora_with_the_shipped_sets(real_data, tmp_path):
    """Counts from the corpora's READMEs; the speakers of dev and test are in no other set."""
    conf = ROOT / "egs" / "librispeech" / "conf" / "mini" / "sets.yaml"
    command = [sys.executable, str(ROOT / "local" / "prepare_folder.py"), "--sets", str(conf)]
    command += ["--corpora", str(real_data), "--output", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment())
    counts = {n: len(load_cuts(tmp_path / f"{n}.jsonl.gz")) for n in ("train", "dev", "test")}
    assert counts == {"train": 560 + 433, "dev": 80, "test": 160}
    assert len(load_cuts(tmp_path / "pretrain.jsonl.gz")) == 993 + 124 + 294 + 28
    checks = ["--read-audio", "false", "--transcribed", "train,dev,test"]
    for sets in ("train,dev,test", "pretrain,dev,test"):
        assert main(["validate", str(tmp_path), *checks, "--disjoint-speakers", sets]) == 0
    letters = {c for cut in load_cuts(tmp_path / "train.jsonl.gz") for c in transcript(cut)}
    assert letters <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}
