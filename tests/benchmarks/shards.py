"""Resident memory of every process that handles a large corpus, over the number of utterances.

    python tests/benchmarks/shards.py [--cuts 10000 100000 1000000] [--folder DIR]
        [--json FILE]

The corpus is synthetic: utterances of 2 to 5 s with ids of their own and the same silence, in
shards of 1000, with labels; from the 201st shard on, shards are links to the first 200. Each cell
of the table is the peak of a process of its own in MiB, less what it holds after its imports.

- mix: `local/mix.py` over the whole manifest.
- export: the process that plans shards and checks ids, over the whole manifest; no audio is read.
- label: one process that labels a hundredth of the shards with MFCC.
- loader: the training process that takes the batches of one epoch from one worker.
- worker: that worker. It reads every utterance and its labels, fills its buffer and draws batches;
  every hundredth batch is made into tensors.
- in memory: what the manifest costs where it is not read as shards.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
from lhotse.array import Array, TemporalArray
from lhotse.shar import ArrayTarWriter, TarWriter

from unispeech.data import shard_export
from unispeech.data.config import BatchingConfig, CropConfig, MixingConfig
from unispeech.data.datasets import PretrainDataset
from unispeech.data.loading import batches
from unispeech.data.manifests import load_cuts, write_cuts
from unispeech.data.mfcc import mfcc39
from unispeech.data.shard_labels import LabelledShards, ShardLabels
from unispeech.data.shard_stream import ShardStream
from unispeech.data.shards import RECORDS, SHAR, ShardFolder, record_file, shard_file
from unispeech.storage import write_json

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "local"))

SIZE = 1000
RATE = 100
DISTINCT = 200
KINDS = ("loader, worker", "mix", "export", "label", "in memory")


class Mfcc:
    """MFCC at 100 Hz."""

    rate = RATE

    def features(self, waveform: Any) -> Any:
        """`(N,)` to `(T, 39)`."""
        return mfcc39(waveform)


def megabytes(field: str) -> float:
    """A field of `/proc/self/status` in MiB."""
    rows = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith(field)) / 1024


def make_cut(number: int, source: AudioSource) -> MonoCut:
    """Utterance `number` with a name of its own and one of four durations."""
    samples = 16000 * (2 + number % 4)
    name = f"corpus-{number % 977:04d}/chapter-{number:09d}"
    recording = Recording(name, [source], 16000, samples, samples / 16000)
    words = SupervisionSegment(name, name, 0.0, recording.duration, speaker=name[:11])
    return MonoCut(name, 0.0, recording.duration, 0, [words], recording=recording)


def flac(seconds: int) -> bytes:
    """Silence as a FLAC file."""
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(16000 * seconds), 16000, format="FLAC")
    return stream.getvalue()


def link_shard(audio: Path, labels: Path, shard: int) -> None:
    """Let a shard be one of the first again."""
    first = shard % DISTINCT
    for root, field in ((audio, "cuts"), (audio, "recording"), (labels, "labels")):
        shard_file(root, field, shard).hardlink_to(shard_file(root, field, first))
    for root in (audio, labels):
        record_file(root, shard).hardlink_to(record_file(root, first))


def make_shards(folder: Path, count: int) -> None:
    """Shards and labels of `count` utterances."""
    audio, labels = folder / "shards", folder / "labels"
    for root in (audio, labels):
        (root / SHAR).mkdir(parents=True)
        (root / RECORDS).mkdir()
    silence = [flac(2 + number) for number in range(4)]
    for shard in range(count // SIZE):
        if shard >= DISTINCT:
            link_shard(audio, labels, shard)
            continue
        cuts = [
            make_cut(number, AudioSource("shar", [0], ""))
            for number in range(shard * SIZE, (shard + 1) * SIZE)
        ]
        write_cuts(cuts, shard_file(audio, "cuts", shard))
        with (
            TarWriter(str(shard_file(audio, "recording", shard)), None) as recordings,
            ArrayTarWriter(str(shard_file(labels, "labels", shard)), None) as arrays,
        ):
            for number, cut in enumerate(cuts):
                recordings.write(f"{cut.id}.flac", io.BytesIO(silence[number % 4]))
                text = json.dumps(cut.recording.to_dict()).encode()
                recordings.write(f"{cut.id}.json", io.BytesIO(text), count=False)
                values = np.zeros(round(cut.duration * RATE) - 2, np.uint16)
                array = TemporalArray(Array("shar", "", "", [len(values)]), 0, 1 / RATE, 0)
                arrays.write(cut.id, values, array)
        sizes = {
            field: {"bytes": shard_file(root, field, shard).stat().st_size, "sha256": ""}
            for field, root in (("cuts", audio), ("recording", audio), ("labels", labels))
        }
        common = {"cuts": SIZE, "frames": 0, "rate": RATE, "clusters": 2, "kmeans": ""}
        write_json(record_file(audio, shard), {**common, "seconds": 3.5 * SIZE, "files": sizes})
        write_json(record_file(labels, shard), {**common, "audio": "", "files": sizes})


def describe(folder: Path, count: int) -> tuple[ShardFolder, ShardLabels]:
    """Open the first `count` utterances as if there were no more."""
    audio, labels = folder / "shards", folder / "labels"
    facts = {"shards": count // SIZE, "cuts": count, "seconds": 3.5 * count, "sha256": "x"}
    write_json(audio / "shards.json", facts)
    entry = {"audio": "x", "kmeans": ""}
    write_json(labels / "labels.json", {"rate": RATE, "clusters": 2, "sets": {}, "shards": entry})
    shards = ShardFolder(audio)
    return shards, ShardLabels(labels, shards)


def make_manifest(folder: Path, count: int) -> Path:
    """The manifest of `count` utterances of one file."""
    path = folder / f"{count}.jsonl.gz"
    source = AudioSource("file", [0], str(folder / "silence.flac"))
    write_cuts((make_cut(number, source) for number in range(count)), path)
    return path


class Measured(PretrainDataset):
    """Counts utterances and reports the memory of the process that reads them."""

    resting = 0.0
    number = 0

    def usable_cut(self, cut: MonoCut) -> MonoCut | None:
        """As in training, noting what the worker held before its first cut."""
        if not self.resting:
            self.resting = megabytes("VmRSS")
        return super().usable_cut(cut)

    def __getitem__(self, spec: Any) -> Any:
        """Epoch, utterances and MiB above rest; tensors of every hundredth batch."""
        self.number += 1
        if self.number % 100 == 1:
            super().__getitem__(spec)
        return spec.position.epoch, len(spec.cuts), megabytes("VmHWM") - self.resting


def read_epoch(folder: Path, count: int) -> Iterator[tuple[int, float]]:
    """Utterances and memory of the worker, batch by batch, for one epoch."""
    shards, labels = describe(folder, count)
    batching = BatchingConfig()
    stream = ShardStream(shards, labels, batching, CropConfig(), 0)
    dataset = Measured([labels], CropConfig(), MixingConfig(), 0, 320, False)
    for epoch, cuts, memory in batches(dataset, stream, 1):  # type: ignore[attr-defined]
        if epoch > 0:
            return
        yield cuts, memory


def work(kind: str, folder: Path, count: int) -> list[float]:
    """Do one thing; returns the MiB of the processes that it started."""
    manifest = folder / f"{count}.jsonl.gz"
    with tempfile.TemporaryDirectory(dir=folder) as name:
        if kind == "mix":
            import mix

            mix.main(["--sources", f"a={manifest}", "--output", name])
        elif kind == "export":
            facts = {"bytes": 0, "sha256": ""}
            record = {"cuts": SIZE, "seconds": 0.0, "files": {"cuts": facts, "recording": facts}}
            shard_export._finish_shard = lambda task: record
            shard_export.export_shards(manifest, Path(name), SIZE, 1)
        elif kind == "label":
            shards, _ = describe(folder, count)
            centroids = np.zeros((2, 39), np.float32)
            labelled = LabelledShards(Path(name), shards, RATE, 2, "")
            for shard in range(max(1, shards.count // 100)):
                labelled.write(shard, Mfcc(), centroids)
        elif kind == "in memory":
            cuts = {cut.id: cut for cut in load_cuts(manifest)}
            assert len(cuts) == count
        else:
            total, peak = 0, 0.0
            for cuts_read, memory in read_epoch(folder, count):
                total, peak = total + cuts_read, max(peak, memory)
            # What is left in the buffer belongs to the next epoch.
            assert total >= 0.7 * count, total
            return [peak]
    return []


def measure(kind: str, folder: Path, count: int) -> str:
    """MiB of one kind of work, in a process of its own, and of those that it starts."""
    command = [sys.executable, __file__, "--folder", str(folder), "--work", kind, str(count)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stderr)
    return result.stdout.splitlines()[-1]


def main() -> None:
    """Parse the options, make the corpus where it is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="keep the corpus here")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        # Linux forgets the peak of the imports when it is asked to.
        Path("/proc/self/clear_refs").write_text("5")
        before = megabytes("VmRSS")
        others = work(args.work[0], args.folder, int(args.work[1]))
        print(", ".join(f"{own:.0f}" for own in [megabytes("VmHWM") - before, *others]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        if not (folder / "shards").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            make_shards(folder, max(args.cuts))
        for count in args.cuts:
            if not (folder / f"{count}.jsonl.gz").is_file():
                make_manifest(folder, count)
        # The processes that are measured start without these.
        from common import Table, save

        table = Table({"process": "s"} | {f"{count:,} utterances": "s" for count in args.cuts})
        for kind in args.kinds:
            table.add(kind, *(measure(kind, folder, count) for count in args.cuts))
        save(args.json, [table])


if __name__ == "__main__":
    main()
