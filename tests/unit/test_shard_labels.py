"""Labels of shards: those of the manifest, resumable, spread over processes, verified."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet

from unispeech.__main__ import main
from unispeech.data.clustering import gather, nearest_centroid
from unispeech.data.labels import LabelStore
from unispeech.data.manifests import load_cuts, read_audio
from unispeech.data.mfcc import mfcc39
from unispeech.data.shard_labels import ShardLabels, sample_cuts
from unispeech.data.shards import ShardFolder, shard_file
from unispeech.errors import DataError

OVERRIDES = ["share=0.5", "kmeans.clusters=5", "kmeans.n_init=1"]


def arguments(shards: Path, output: Path, *more: str) -> list[str]:
    return ["label", "--shards", str(shards), "--output", str(output), *OVERRIDES, *more]


@pytest.fixture
def labelled(sharded_corpus, tmp_path) -> Path:
    """A copy of the labels that a test may damage."""
    return Path(shutil.copytree(sharded_corpus.labels, tmp_path / "labels"))


def shards_of(sharded_corpus) -> ShardFolder:
    return ShardFolder(sharded_corpus.shards)


def test_lhotse_reads_the_labels_of_the_manifest(sharded_corpus) -> None:
    folder = shards_of(sharded_corpus)
    files = {
        field: [shard_file(root, field, i) for i in range(folder.count)]
        for field, root in (
            ("cuts", folder.path), ("recording", folder.path), ("labels", sharded_corpus.labels),
        )
    }  # fmt: skip
    store = LabelStore(sharded_corpus.labels, ["train", "valid"])
    centroids = np.load(sharded_corpus.labels / "kmeans.npy")
    found = list(CutSet.from_shar(fields=files))
    assert len(found) == 16
    for cut in found:
        labels = cut.labels.array.load()
        assert labels.dtype == np.uint16
        np.testing.assert_array_equal(labels, store.get(cut.id))
        expected = nearest_centroid(mfcc39(read_audio(cut)), centroids)
        np.testing.assert_array_equal(labels, expected)


def test_description_and_verification(sharded_corpus, capsys) -> None:
    description = json.loads((sharded_corpus.labels / "labels.json").read_text())
    entry = description["shards"]
    frames = sum(
        (cut.num_samples - 400) // 160 + 1 for cut in load_cuts(sharded_corpus.train)
    )
    assert (entry["shards"], entry["utterances"], entry["frames"]) == (4, 16, frames)
    assert (description["rate"], description["clusters"]) == (100, 5)
    assert main(arguments(sharded_corpus.shards, sharded_corpus.labels, "--verify")) == 0
    assert "16 utterances" in capsys.readouterr().out


def test_share_is_whole_shards_in_random_order(sharded_corpus) -> None:
    folder = shards_of(sharded_corpus)
    ids = [cut.id for cut in sample_cuts(folder, 0.6, 0)]
    assert len(ids) == len(set(ids)) == round(0.6 * 16)
    shards = [[cut.id for cut in folder.read(index)] for index in range(folder.count)]
    assert any(ids[: len(shard)] == shard for shard in shards)
    assert ids == [cut.id for cut in sample_cuts(folder, 0.6, 0)]
    others = [[cut.id for cut in sample_cuts(folder, 0.6, seed)] for seed in range(1, 6)]
    assert any(other != ids for other in others)


def test_gather_is_concatenation() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((n, 3)).astype(np.float32) for n in (0, 4, 0, 1, 30, 2)]
    np.testing.assert_array_equal(gather(iter(parts)), np.concatenate(parts))
    assert gather(iter(parts)).flags.c_contiguous
    assert len(gather(iter([]))) == 0


def test_finished_shards_are_kept_and_lost_ones_redone(sharded_corpus, labelled, capsys) -> None:
    (labelled / "labels.json").unlink()
    lost = shard_file(labelled, "labels", 2)
    before, kept = lost.read_bytes(), shard_file(labelled, "labels", 1).stat().st_mtime_ns
    lost.unlink()
    (labelled / "shar" / ".tmp-left-labels.000002.tar").write_bytes(b"half")
    more = ["--manifests", str(sharded_corpus.valid), str(sharded_corpus.train)]
    assert main(arguments(sharded_corpus.shards, labelled, *more)) == 0
    out = capsys.readouterr().out
    assert "shard 2 of 4 labelled" in out
    assert "kept 3 shards" in out
    assert "clustering" not in out
    assert lost.read_bytes() == before
    assert shard_file(labelled, "labels", 1).stat().st_mtime_ns == kept
    assert not list((labelled / "shar").glob(".tmp-*"))
    assert main(arguments(sharded_corpus.shards, labelled, *more)) == 0
    assert "labels are there, skipped" in capsys.readouterr().out


def test_other_clusters_replace_all(sharded_corpus, labelled) -> None:
    assert main([*arguments(sharded_corpus.shards, labelled), "kmeans.clusters=3"]) == 0
    assert ShardLabels(labelled, shards_of(sharded_corpus)).clusters == 3
    assert main(arguments(sharded_corpus.shards, labelled, "--verify")) == 0


def test_two_processes_and_a_kill_give_the_same_labels(sharded_corpus, tmp_path) -> None:
    output = tmp_path / "spread"
    more = ["--manifests", str(sharded_corpus.valid), str(sharded_corpus.train)]
    command = [sys.executable, "-m", "unispeech"]
    command += arguments(sharded_corpus.shards, output, *more)

    def start(rank: int) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}
        return subprocess.Popen(command, env=environment)

    # The second process labels shards 1 and 3; killed after the first of them.
    first, second = start(0), start(1)
    while not (output / "records" / "000001.json").exists():
        assert second.poll() is None
        time.sleep(0.005)
    for process in (first, second):
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (output / "labels.json").exists()
    processes = [start(rank) for rank in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    for name in ("labels.json", "records/000003.json", "shar/labels.000003.tar", "train.npy"):
        assert (output / name).read_bytes() == (sharded_corpus.labels / name).read_bytes(), name


def test_launch_spreads_labelling(repo, sharded_corpus, tmp_path) -> None:
    command = ["bash", str(repo / "utils/launch.sh"), "--nproc", "2", "--threads", "1"]
    command += arguments(sharded_corpus.shards, tmp_path / "l")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        command, cwd=repo, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("labelled") == 4
    for index in range(4):
        found = shard_file(tmp_path / "l", "labels", index).read_bytes()
        assert found == shard_file(sharded_corpus.labels, "labels", index).read_bytes()


def change_record(labels: Path, index: int, **values: object) -> None:
    path = labels / "records" / f"{index:06d}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def flip_byte(labels: Path) -> None:
    path = shard_file(labels, "labels", 1)
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)


def replace_kmeans(labels: Path) -> None:
    np.save(labels / "kmeans.npy", np.zeros((5, 39), np.float32))


def other_totals(labels: Path) -> None:
    path = labels / "labels.json"
    description = json.loads(path.read_text())
    description["shards"]["frames"] += 1
    path.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("spoil", "pattern"),
    [
        (flip_byte, "labels.000001.tar: not the file that was written"),
        (lambda f: change_record(f, 1, rate=50), "shard 1 are of another run; found another rate"),
        (lambda f: change_record(f, 2, kmeans="0"), "of another run; found another kmeans"),
        (lambda f: change_record(f, 2, audio="0"), "of another run; found another audio"),
        (lambda f: change_record(f, 0, cuts=4), "wrong number of utterances; expected 5, found 4"),
        (lambda f: change_record(f, 0, frames=10), "the labels do not fit the audio at 100 Hz"),
        (replace_kmeans, "found another kmeans"),
        (other_totals, "labels.json: wrong frames"),
        (lambda f: shard_file(f, "labels", 3).unlink(), "1 of 4 shards are missing"),
        (lambda f: (f / "records/000003.json").write_text("{"), "no valid record of shard 3"),
    ],
)
def test_verify_finds(spoil, pattern, sharded_corpus, labelled, capsys) -> None:
    spoil(labelled)
    assert main(arguments(sharded_corpus.shards, labelled, "--verify")) == 65
    assert pattern in capsys.readouterr().err


def test_labels_of_other_shards(sharded_corpus, labelled, tmp_path, capsys) -> None:
    options = ["--manifest", str(sharded_corpus.valid), "--output", str(tmp_path / "other")]
    assert main(["shards", *options, "--jobs", "1"]) == 0
    with pytest.raises(DataError, match="the labels are not of these shards"):
        ShardLabels(labelled, ShardFolder(tmp_path / "other"))
    description = json.loads((labelled / "labels.json").read_text())
    del description["shards"]
    (labelled / "labels.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="found none of shards"):
        ShardLabels(labelled, shards_of(sharded_corpus))


def test_damaged_label_files_are_errors_when_read(sharded_corpus, labelled) -> None:
    folder = shards_of(sharded_corpus)
    labels = ShardLabels(labelled, folder)
    path = shard_file(labelled, "labels", 0)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="truncated or changed"):
        labels.file(0)
    with pytest.raises(DataError, match="damaged shard|incomplete"):
        list(folder.read(0, path))
    shutil.copy(shard_file(labelled, "labels", 1), path)
    with pytest.raises(DataError, match="Mismatched IDs"):
        list(folder.read(0, path))
    change_record(labelled, 1, kmeans="0")
    with pytest.raises(DataError, match="shard 1 are of another run"):
        labels.file(1)


def test_options(sharded_corpus, tmp_path, capsys) -> None:
    assert main(["label", "--output", str(tmp_path)]) == 2
    assert main(["label", "--output", str(tmp_path), "--verify"]) == 2
    assert main(arguments(tmp_path, tmp_path / "l")) == 65
    assert "not a finished folder of shards" in capsys.readouterr().err
