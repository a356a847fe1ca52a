"""Manifests to shards: FLAC in lhotse's Shar format, whole shards or none."""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import itertools
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lhotse import AudioSource, MonoCut, Recording
from lhotse.shar import AudioTarWriter

from unispeech.data.manifests import (
    SAMPLING_RATE,
    manifest_lines,
    parse_cut,
    read_audio,
    write_cuts,
)
from unispeech.data.partition import Partition
from unispeech.data.shards import (
    DESCRIPTION,
    check_tar_path,
    file_facts,
    record_file,
    remove_after,
    remove_unfinished,
    shard_file,
)
from unispeech.errors import DataError
from unispeech.storage import atomic_path, write_json

FIELDS = ("cuts", "recording")
PARENT_POLL_SECONDS = 1.0


class _Task(NamedTuple):
    """One shard to write."""

    number: int
    lines: list[str]
    where: str
    output: Path


def export_shards(manifest: Path, output: Path, shard_size: int, jobs: int) -> dict[str, Any]:
    """Write the cuts of a manifest, in its order, as shards of `shard_size` cuts.

    Shards that are there, whole, and made from the same lines are kept. Every process holds the
    lines of a few shards and the audio of one cut, however long the manifest is.

    Args:
        manifest: `.jsonl` or `.jsonl.gz`; its order is the order in the shards, so mix it first.
        output: folder of the shards.
        shard_size: cuts in each shard but the last.
        jobs: processes that read and write audio.

    Returns:
        What `shards.json` holds.

    Raises:
        DataError: the manifest or an audio file is damaged, or two cuts have the same id.
    """
    check_tar_path(output)
    description = output / DESCRIPTION
    output.mkdir(parents=True, exist_ok=True)
    remove_unfinished(output)
    digest = hashlib.sha256()
    shards = cuts = 0
    seconds = 0.0
    with Partition(output) as ids:
        tasks = _tasks(manifest, output, shard_size, ids)
        for record in _map_bounded(_finish_shard, tasks, jobs):
            shards, cuts = shards + 1, cuts + record["cuts"]
            seconds += record["seconds"]
            digest.update("".join(record["files"][field]["sha256"] for field in FIELDS).encode())
            if shards % 100 == 0:
                print(f"{output}: {shards} shards, {seconds / 3600:,.1f} h", flush=True)
        for group in ids.groups():
            _check_unique((name for name, _ in group), manifest)
    remove_after(output, FIELDS, shards)
    facts = {
        "shards": shards,
        "shard_size": shard_size,
        "cuts": cuts,
        "seconds": seconds,
        "sha256": digest.hexdigest(),
    }
    if not description.is_file() or json.loads(description.read_text()) != facts:
        write_json(description, facts)
    return facts


def _tasks(manifest: Path, output: Path, shard_size: int, ids: Partition) -> Iterator[_Task]:
    lines = manifest_lines(manifest)
    for index in itertools.count():
        chunk = list(itertools.islice(lines, shard_size))
        if not chunk:
            return
        where = f"{manifest}:{index * shard_size + 1}"
        for line in chunk:
            ids.add(_line_id(line, where), "")
        yield _Task(index, chunk, where, output)


def _line_id(line: str, where: str) -> str:
    try:
        return str(json.loads(line)["id"])
    except (ValueError, KeyError, TypeError):
        return str(parse_cut(line, where).id)


def _check_unique(names: Iterable[str], manifest: Path) -> None:
    repeated = [name for name, count in collections.Counter(names).items() if count > 1]
    if repeated:
        raise DataError(
            f"utterance {repeated[0]} is there twice",
            where=manifest,
            remedy="utterance ids must be unique; prepare the manifests again",
        )


def _finish_shard(task: _Task) -> dict[str, Any]:
    """The record of a shard, which is written unless it is there."""
    source = hashlib.sha256("".join(task.lines).encode()).hexdigest()
    path = record_file(task.output, task.number)
    if path.is_file():
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files = {field: shard_file(task.output, field, task.number) for field in FIELDS}
        if record["source"] == source and all(
            file.is_file() and file.stat().st_size == record["files"][field]["bytes"]
            for field, file in files.items()
        ):
            return record
        # Without its record, a shard that is being replaced is an unfinished one.
        path.unlink()
    (task.output / DESCRIPTION).unlink(missing_ok=True)
    cuts = [parse_cut(line, f"{task.where} and following lines") for line in task.lines]
    _check_unique((cut.id for cut in cuts), Path(task.where))
    _write_audio(cuts, shard_file(task.output, "recording", task.number))
    write_cuts(map(_placed, cuts), shard_file(task.output, "cuts", task.number))
    record = {
        "cuts": len(cuts),
        "seconds": sum(cut.num_samples for cut in cuts) / SAMPLING_RATE,
        "source": source,
        "files": {f: file_facts(shard_file(task.output, f, task.number)) for f in FIELDS},
    }
    write_json(path, record)
    return record


def _write_audio(cuts: Sequence[MonoCut], path: Path) -> None:
    with (
        atomic_path(path) as temporary,
        AudioTarWriter(str(temporary), shard_size=None, format="flac") as writer,
    ):
        for cut in cuts:
            # Checked as in training, so that what is wrong shows now.
            writer.write(cut.id, read_audio(cut)[None], SAMPLING_RATE, _recording(cut))


def _recording(cut: MonoCut) -> Recording:
    samples = cut.num_samples
    source = AudioSource(type="shar", channels=[0], source="")
    return Recording(cut.id, [source], SAMPLING_RATE, samples, samples / SAMPLING_RATE)


def _placed(cut: MonoCut) -> MonoCut:
    """The cut as the whole of a recording of its own."""
    recording = _recording(cut)
    for supervision in cut.supervisions:
        supervision.recording_id, supervision.channel = recording.id, 0
    return MonoCut(
        cut.id, 0.0, recording.duration, 0, cut.supervisions, recording=recording, custom=cut.custom
    )


def _map_bounded(function: Any, tasks: Iterable[_Task], jobs: int) -> Iterator[dict[str, Any]]:
    """Results in order, with few tasks waiting: executors otherwise take all tasks at once."""
    if jobs == 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_end_with, initargs=(os.getpid(),)
    ) as pool:
        waiting: collections.deque[Any] = collections.deque()
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) >= 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _end_with(parent: int) -> None:
    """End this process when the one that started it is killed; it would wait for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
