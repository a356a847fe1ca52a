"""Broken input in training: one clear line, the right exit code, and the data as they were."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from unispeech.__main__ import main
from unispeech.data.manifests import write_cuts


def fingerprint(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def pretrain(corpus, *more: str) -> int:
    options = ["--config", str(corpus.pretrain), "--output", str(corpus.folder.parent / "run")]
    return main(["pretrain", *options, *corpus.overrides(), "train.updates=1", *more])


@pytest.fixture(scope="module")
def init(shared_corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("init") / "run"
    options = ["--config", str(shared_corpus.pretrain), "--output", str(folder)]
    overrides = [*shared_corpus.overrides(), "train.updates=1"]
    assert main(["pretrain", *options, *overrides]) == 0
    return folder


def finetune(corpus, init: Path, *more: str) -> int:
    options = ["--config", str(corpus.finetune), "--output", str(corpus.folder.parent / "ft")]
    return main(["finetune", *options, *corpus.ctc_overrides(init), "train.updates=1", *more])


def check(corpus, capsys, action: Callable[[], int], code: int, *words: str) -> None:
    before = fingerprint(corpus.folder)
    capsys.readouterr()
    assert action() == code
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    assert "Traceback" not in error
    for word in words:
        assert word in error, error
    assert fingerprint(corpus.folder) == before
    assert not list(corpus.folder.parent.glob("**/.tmp-*"))


def rewrite(path: Path, change: Callable[[list], list]) -> None:
    write_cuts(change(list(CutSet.from_file(path))), path)


AUDIO = {
    "empty": (lambda path: path.write_bytes(b""), "damaged audio file"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:2000]), "damaged audio file"),
    "missing": (lambda path: path.unlink(), "no such audio file"),
    "8 kHz": (lambda path: soundfile.write(path, np.zeros(32000), 8000), "8000"),
    "stereo": (lambda path: soundfile.write(path, np.zeros((32000, 2)), 16000), "2 channels"),
}


@pytest.mark.parametrize("kind", AUDIO)
@pytest.mark.parametrize("workers", [0, 1])
def test_broken_audio(corpus, capsys, kind, workers) -> None:
    damage, word = AUDIO[kind]
    for number in range(16):
        damage(corpus.folder / f"u{number:02d}.flac")
    option = f"data.batching.workers={workers}"
    check(corpus, capsys, lambda: pretrain(corpus, option), 65, word, "utterance u")


def test_nan_samples(corpus, capsys) -> None:
    def as_wav(cuts: list) -> list:
        for cut in cuts:
            path = corpus.folder / f"{cut.id}.wav"
            samples = np.zeros(cut.num_samples, dtype=np.float32)
            samples[100] = np.nan
            soundfile.write(path, samples, 16000, subtype="FLOAT")
            cut.recording.sources[0].source = str(path)
        return cuts

    rewrite(corpus.train, as_wav)
    check(corpus, capsys, lambda: pretrain(corpus), 65, "NaN")


def test_too_long_for_finetuning_is_an_error_or_dropped(corpus, capsys, init) -> None:
    limit = "data.max_seconds=1.9"
    check(corpus, capsys, lambda: finetune(corpus, init, limit), 65, "at most 1.9 s", "drop_long")
    assert finetune(corpus, init, limit, "data.drop_long=true") == 0


def test_too_long_for_pretraining_is_cropped(corpus) -> None:
    assert pretrain(corpus, "data.crop.max_seconds=0.6") == 0


def test_duplicate_ids(corpus, capsys) -> None:
    rewrite(corpus.train, lambda cuts: [*cuts, cuts[0]])
    check(corpus, capsys, lambda: pretrain(corpus), 65, "u00", "twice")


def test_unknown_symbols(corpus, capsys, init) -> None:
    def spoil(cuts: list) -> list:
        cuts[3].supervisions[0].text = "A Ü"
        return cuts

    rewrite(corpus.train, spoil)
    check(corpus, capsys, lambda: finetune(corpus, init), 65, "u03", "'Ü'")


def test_missing_transcript(corpus, capsys, init) -> None:
    def spoil(cuts: list) -> list:
        cuts[2].supervisions[0].text = None
        return cuts

    rewrite(corpus.train, spoil)
    check(corpus, capsys, lambda: finetune(corpus, init), 65, "u02", "no transcript")


@pytest.mark.parametrize("rate", [50, 200])
def test_labels_of_the_wrong_rate(corpus, capsys, rate) -> None:
    path = corpus.labels / "labels.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, "rate": rate}))
    check(corpus, capsys, lambda: pretrain(corpus), 65, "do not fit", f"{rate} Hz")


def test_rate_that_is_no_multiple_of_the_frames(corpus, capsys) -> None:
    path = corpus.labels / "labels.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rate": 75}))
    check(corpus, capsys, lambda: pretrain(corpus), 65, "multiple of 50 Hz", "75 Hz")


def test_unfinished_labels(corpus, capsys) -> None:
    (corpus.labels / "labels.json").unlink()
    check(corpus, capsys, lambda: pretrain(corpus), 65, "labels.json")


def test_utterance_without_labels(corpus, capsys) -> None:
    path = corpus.labels / "train.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    check(corpus, capsys, lambda: pretrain(corpus), 65, "u00", "no labels")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.warm=3", ("command line", "did you mean 'warmup'?")),
        ("optim.lr=-1", ("optim.lr", "greater than 0", "-1")),
        ("train.precision=fp8", ("train.precision", "'fp32'", "'bf16'")),
        ("model.heads=3", ("multiple of heads",)),
        ("nonsense", ("expected key=value", "'nonsense'")),
    ],
)
def test_config_mistakes(corpus, capsys, override, words) -> None:
    check(corpus, capsys, lambda: pretrain(corpus, override), 78, *words)


def test_config_file_typo_names_the_file(corpus, capsys) -> None:
    corpus.pretrain.write_text("trian: {updates: 3}\n")
    check(corpus, capsys, lambda: pretrain(corpus), 78, "pretrain.yaml", "did you mean 'train'?")


def test_no_manifest_given(corpus, capsys) -> None:
    check(corpus, capsys, lambda: pretrain(corpus, "data.train=[]"), 65, "no manifest given")


def test_nothing_long_enough(corpus, capsys) -> None:
    action = lambda: pretrain(corpus, "data.crop.min_seconds=60")  # noqa: E731
    check(corpus, capsys, action, 65, "no utterance is long enough")
