"""The synthesised corpus: layout, determinism, separation of sets, phone times."""

import gzip
import sys
from collections import defaultdict
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse.recipes.librispeech import prepare_librispeech

from unispeech.__main__ import guard
from unispeech.storage import sha256

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))

import sentences  # noqa: E402
import synthesise_librispeech as synthesis  # noqa: E402

MINUTES = "0.5"


def make(output, jobs, seed=3):
    arguments = ["--output", str(output), "--minutes", MINUTES, "--jobs", str(jobs)]
    return guard(lambda: synthesis.main([*arguments, "--seed", str(seed)]))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    pytest.importorskip("espeakng_loader")
    folder = tmp_path_factory.mktemp("corpus")
    assert make(folder, jobs=2) == 0
    return folder / "LibriSpeech"


@pytest.fixture(scope="module")
def parts(corpus):
    return prepare_librispeech(corpus)


def words(part):
    return {word for s in part["supervisions"] for word in s.text.split()}


def hashes(folder):
    return {str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file()}


def test_lhotse_reads_the_layout(corpus, parts):
    assert set(parts) == {"train-clean-100", "dev-clean", "test-clean"}
    files = sum(1 for _ in corpus.rglob("*.flac"))
    assert sum(len(p["supervisions"]) for p in parts.values()) == files
    for part in parts.values():
        for recording in part["recordings"]:
            assert (recording.sampling_rate, recording.num_channels) == (16000, 1)
            assert 1 < recording.duration < 8


def test_speakers_are_disjoint_and_many(corpus, parts):
    speakers = {n: {s.speaker for s in p["supervisions"]} for n, p in parts.items()}
    assert [len(s) for s in speakers.values()] == [
        {"train-clean-100": 32, "dev-clean": 6, "test-clean": 6}[n] for n in speakers
    ]
    assert len(set.union(*speakers.values())) == 44
    rows = [r.split("|") for r in (corpus / "SPEAKERS.TXT").read_text().splitlines()[1:]]
    voices = [row[4].split()[0] for row in rows]
    assert len(set(voices)) == 44
    for name, own in speakers.items():
        assert {row[0].strip() for row in rows if row[2].strip() == name} == own
        assert {row[1].strip() for row in rows if row[2].strip() == name} == {"F", "M"}


def test_sets_share_words_but_no_sentence(corpus, parts):
    texts = {n: [s.text for s in p["supervisions"]] for n, p in parts.items()}
    every = [text for own in texts.values() for text in own]
    assert len(set(every)) == len(every)
    train = words(parts["train-clean-100"])
    assert words(parts["dev-clean"]) <= train
    assert words(parts["test-clean"]) <= train
    with gzip.open(corpus / "librispeech-lm-norm.txt.gz", "rt") as file:
        lines = set(file.read().splitlines())
    assert set(texts["train-clean-100"]) <= lines
    assert not lines & {*texts["dev-clean"], *texts["test-clean"]}


def test_minutes_are_reached(parts):
    minutes = {n: sum(r.duration for r in p["recordings"]) / 60 for n, p in parts.items()}
    assert minutes["train-clean-100"] >= 0.5
    assert minutes["test-clean"] >= 0.5 * 2 / 22


def test_same_seed_gives_the_same_files_for_any_number_of_jobs(corpus, tmp_path):
    assert make(tmp_path, jobs=1) == 0
    assert hashes(tmp_path / "LibriSpeech") == hashes(corpus)


def test_skipped_when_it_is_there_and_other_folders_are_left_alone(corpus, tmp_path, capsys):
    before = hashes(corpus)
    assert make(corpus.parent, jobs=1) == 0
    assert "skipped" in capsys.readouterr().out
    assert hashes(corpus) == before
    (tmp_path / "LibriSpeech" / "dev-clean").mkdir(parents=True)
    assert make(tmp_path, jobs=1) == 2
    assert (tmp_path / "LibriSpeech" / "dev-clean").is_dir()


def test_levels_vary_and_nothing_clips(corpus):
    levels, peaks = [], []
    for file in corpus.rglob("*.flac"):
        audio, _ = soundfile.read(file)
        levels.append(10 * np.log10(np.mean(audio**2)))
        peaks.append(np.abs(audio).max())
    assert max(peaks) < 1.0
    assert max(levels) - min(levels) > 8


def test_phone_times_fit_the_energy(corpus):
    """Vowels are loud, closures of stops and the margins are not, in nearly every utterance."""
    phones = defaultdict(list)
    for line in (corpus / "alignments" / "phones.ctm").read_text(encoding="utf-8").splitlines():
        utterance, channel, start, duration, symbol = line.split()
        assert channel == "1"
        phones[utterance].append((float(start), float(duration), symbol))
    files = {file.stem: file for file in corpus.rglob("*.flac")}
    assert set(phones) == set(files)
    louder = []
    for utterance, own in phones.items():
        audio, _ = soundfile.read(files[utterance])

        def level(start, duration, audio=audio):
            piece = audio[int(start * 16000) : int((start + duration) * 16000)]
            return np.sqrt(np.mean(piece**2))

        assert all(a[0] + a[1] <= b[0] + 2e-3 for a, b in zip(own, own[1:], strict=False))
        assert own[-1][0] + own[-1][1] <= len(audio) / 16000
        vowels = [level(s, d) for s, d, p in own if p[0] in "aɑæɐɔɛɪʌʊ"]
        stops = [level(s, d) for s, d, p in own if p in ("t", "k", "p", "d", "f", "θ")]
        assert np.mean(vowels) > 3 * level(0, own[0][0])
        louder.append(np.median(vowels) > 2 * np.median(stops) if stops else True)
    assert np.mean(louder) > 0.9


def test_grammar():
    some = list(islice(sentences.Grammar(1).sentences(), 450))
    assert len(set(some)) == 450
    assert all(4 <= len(s.split()) <= 9 for s in some)
    assert len({w for s in some for w in s.split()}) >= 300
    assert {w for s in some for w in s.split()} <= sentences.vocabulary()
    assert some == list(islice(sentences.Grammar(1).sentences(), 450))
    assert some != list(islice(sentences.Grammar(2).sentences(), 450))
    assert not any(" a " + v in f" {s}" for s in some for v in "aeiou")
    known = {w for s in some[:100] for w in s.split()}
    fresh = list(islice(sentences.Grammar(1).sentences(some, known), 20))
    assert not set(fresh) & set(some)
    assert {w for s in fresh for w in s.split()} <= known


def test_missing_package(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert make(tmp_path, jobs=1) == 69
    assert "pip install espeakng-loader" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
