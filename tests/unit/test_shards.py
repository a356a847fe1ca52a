"""Shards: lossless, resumable, checked; lhotse's own reader is the reference."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet

from unispeech.__main__ import main
from unispeech.data.manifests import load_cuts, read_audio, speaker, write_cuts
from unispeech.data.partition import Partition
from unispeech.data.shards import ShardFolder, shard_file
from unispeech.errors import DataError, DataProblems


def export(manifest: Path, output: Path, size: int = 5, jobs: int = 1) -> int:
    options = ["--output", str(output), "--shard-size", str(size), "--jobs", str(jobs)]
    return main(["shards", "--manifest", str(manifest), *options])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def shards(corpus, tmp_path) -> Path:
    """The 16 training utterances of the corpus in four shards."""
    assert export(corpus.train, tmp_path / "shards") == 0
    return tmp_path / "shards"


@pytest.mark.parametrize("jobs", [1, 2])
def test_lhotse_reads_the_same_audio(jobs, corpus, tmp_path) -> None:
    assert export(corpus.train, tmp_path / "s", 5, jobs) == 0
    expected = load_cuts(corpus.train)
    found = list(CutSet.from_shar(in_dir=tmp_path / "s" / "shar"))
    assert [c.id for c in found] == [c.id for c in expected]
    for cut, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(cut.load_audio()[0], other.load_audio()[0])
        np.testing.assert_array_equal(read_audio(cut), read_audio(other))
        assert (speaker(cut), cut.duration) == (speaker(other), other.duration)


def test_pieces_of_recordings_become_recordings_of_their_own(corpus, tmp_path) -> None:
    whole = next(iter(load_cuts(corpus.train)))
    pieces = [whole.truncate(offset=0.25 * i, duration=0.25, preserve_id=False) for i in range(3)]
    for number, piece in enumerate(pieces):
        piece.id = f"dir/piece.{number}"
    write_cuts(pieces, tmp_path / "pieces.jsonl.gz")
    assert export(tmp_path / "pieces.jsonl.gz", tmp_path / "s", 2) == 0
    folder = ShardFolder(tmp_path / "s")
    found = [cut for index in range(folder.count) for cut in folder.read(index)]
    audio = read_audio(whole)
    for number, cut in enumerate(found):
        assert (cut.id, cut.start, cut.recording.num_samples) == (f"dir/piece.{number}", 0, 4000)
        np.testing.assert_array_equal(read_audio(cut), audio[4000 * number : 4000 * (number + 1)])


def test_finished_shards_are_kept_and_others_redone(corpus, shards, capsys) -> None:
    before = contents(shards)
    times = {p: p.stat().st_mtime_ns for p in shards.rglob("*") if p.is_file()}
    assert export(corpus.train, shards) == 0
    assert {p: p.stat().st_mtime_ns for p in shards.rglob("*") if p.is_file()} == times
    shard_file(shards, "recording", 1).unlink()
    (shards / "records" / "000002.json").unlink()
    assert export(corpus.train, shards) == 0
    assert contents(shards) == before
    assert "16 utterances" in capsys.readouterr().out
    cuts = list(load_cuts(corpus.train))
    write_cuts(cuts[:8], corpus.train)
    assert export(corpus.train, shards) == 0
    assert sorted(p.name for p in (shards / "records").iterdir()) == ["000000.json", "000001.json"]
    assert ShardFolder(shards).cuts == 8
    assert shard_file(shards, "cuts", 0).read_bytes() == before["shar/cuts.000000.jsonl.gz"]


def test_killed_export_continues(corpus, tmp_path) -> None:
    """SIGKILL after the first shard; the second run ends as an undisturbed one does."""
    cuts = list(load_cuts(corpus.train))
    many = []
    for number in range(120):
        cut = cuts[number % len(cuts)].truncate(duration=0.7, preserve_id=True)
        cut.id = f"{cut.id}-{number}"
        many.append(cut)
    write_cuts(many, tmp_path / "many.jsonl.gz")
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "unispeech", "shards", "--manifest"]
    command += [str(tmp_path / "many.jsonl.gz"), "--output", str(output)]
    command += ["--shard-size", "10", "--jobs", "2"]
    process = subprocess.Popen(command, start_new_session=True)
    while not list((output / "records").glob("0*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "shards.json").exists()
    with pytest.raises(DataError, match="not a finished folder of shards"):
        ShardFolder(output)
    deadline = time.monotonic() + 60
    while _group_lives(process.pid):
        assert time.monotonic() < deadline, "the jobs outlive the command that started them"
        time.sleep(0.1)
    assert subprocess.run(command, check=False).returncode == 0
    assert export(tmp_path / "many.jsonl.gz", tmp_path / "whole", 10) == 0
    assert contents(output) == contents(tmp_path / "whole")


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_recorded_size(shards: Path, index: int, field: str) -> None:
    """Let the record agree, as if the file had been written like that."""
    path = shards / "records" / f"{index:06d}.json"
    record = json.loads(path.read_text())
    record["files"][field]["bytes"] = shard_file(shards, field, index).stat().st_size
    path.write_text(json.dumps(record))


def test_truncated_tar(shards) -> None:
    truncate(shard_file(shards, "recording", 1))
    with pytest.raises(DataError, match=r"recording\.000001\.tar: truncated or changed"):
        list(ShardFolder(shards).read(1))
    with_recorded_size(shards, 1, "recording")
    with pytest.raises(DataError, match="damaged shard, after .* utterances"):
        list(ShardFolder(shards).read(1))


def test_tar_cut_between_two_utterances_is_not_read_as_whole(shards) -> None:
    import tarfile

    path = shard_file(shards, "recording", 0)
    with tarfile.open(path) as tar:
        end = tar.getmembers()[4].offset
    path.write_bytes(path.read_bytes()[:end])
    with_recorded_size(shards, 0, "recording")
    assert len(list(CutSet.from_shar(in_dir=shards / "shar"))) < 16
    with pytest.raises(DataError, match="the shard is incomplete; expected 5 utterances, found 2"):
        list(ShardFolder(shards).read(0))


def test_fields_of_different_shards(shards) -> None:
    shutil.copy(shard_file(shards, "recording", 1), shard_file(shards, "recording", 0))
    with_recorded_size(shards, 0, "recording")
    with pytest.raises(DataError, match="Mismatched IDs"):
        list(ShardFolder(shards).read(0))


def test_empty_shard(shards) -> None:
    for field in ("cuts", "recording"):
        shard_file(shards, field, 3).write_bytes(b"")
        with_recorded_size(shards, 3, field)
    with pytest.raises(DataError, match=r"incomplete.*found 0|damaged shard, after 0"):
        list(ShardFolder(shards).read(3))


def test_missing_shard_and_record(shards) -> None:
    (shards / "records" / "000001.json").unlink()
    with pytest.raises(DataError, match="no valid record of shard 1"):
        list(ShardFolder(shards).read(1))
    shard_file(shards, "cuts", 2).unlink()
    with pytest.raises(DataError, match=r"1 of 4 shards are missing; found no cuts\.000002"):
        ShardFolder(shards)


def test_verify_lists_every_problem(shards, capsys) -> None:
    assert main(["shards", "--output", str(shards), "--verify"]) == 0
    data = bytearray(shard_file(shards, "recording", 0).read_bytes())
    data[1000] ^= 1
    shard_file(shards, "recording", 0).write_bytes(data)
    truncate(shard_file(shards, "cuts", 3))
    with pytest.raises(DataProblems) as caught:
        ShardFolder(shards).verify()
    assert len(caught.value.problems) == 2
    assert main(["shards", "--output", str(shards), "--verify"]) == 65
    lines = capsys.readouterr().err.splitlines()
    assert "recording.000000.tar: not the file that was written" in lines[0]
    assert "cuts.000003.jsonl.gz: truncated or changed" in lines[1]


@pytest.mark.parametrize("distance", [1, 12])
def test_repeated_ids(distance, corpus, tmp_path, capsys) -> None:
    cuts = list(load_cuts(corpus.train))
    cuts[distance].id = cuts[0].id
    write_cuts(cuts, tmp_path / "twice.jsonl.gz")
    assert export(tmp_path / "twice.jsonl.gz", tmp_path / "s") == 65
    error = capsys.readouterr().err
    assert f"utterance {cuts[0].id} is there twice" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "s" / "shards.json").exists()


def test_bad_audio_leaves_no_shard(corpus, tmp_path, capsys) -> None:
    cut = list(load_cuts(corpus.train))[7]
    truncate(Path(cut.recording.sources[0].source))
    assert export(corpus.train, tmp_path / "s", 5, 2) == 65
    error = capsys.readouterr().err
    assert cut.id in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "s" / "shar" / "recording.000001.tar").exists()
    assert not (tmp_path / "s" / "shards.json").exists()


def test_options(corpus, tmp_path, capsys) -> None:
    assert main(["shards", "--output", str(tmp_path)]) == 2
    assert export(corpus.train, tmp_path, 0) == 2
    assert export(corpus.train, tmp_path / "100%") == 2
    assert "must not have '%'" in capsys.readouterr().err
    assert export(tmp_path / "none.jsonl.gz", tmp_path / "s") == 65
    (tmp_path / "empty.jsonl").write_text("")
    assert export(tmp_path / "empty.jsonl", tmp_path / "s") == 65


@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(st.tuples(st.text("ab/. é", min_size=1), st.text("xy\t ")), max_size=50),
    seed=st.integers(0, 3),
)
def test_partition_keeps_every_line_and_groups_equal_keys(tmp_path_factory, rows, seed) -> None:
    folder = tmp_path_factory.mktemp("partition")

    def order(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
        with Partition(folder, seed) as partition:
            for row in rows:
                partition.add(*row)
            return [row for group in partition.groups() for row in group]

    found = order(rows)
    assert sorted(found) == sorted(rows)
    keys = [key for key, _ in found]
    for key in keys:
        first, count = keys.index(key), keys.count(key)
        assert keys[first : first + count] == [key] * count
    assert order(rows[::-1]) == found
    assert list(folder.iterdir()) == []
