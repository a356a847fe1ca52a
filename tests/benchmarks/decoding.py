r"""The decoding back-ends on stored emissions: speed, memory, agreement, word error rate.

    python tests/benchmarks/decoding.py [--emissions DIR] [--lang DIR] [--reference CUTS] \
        [--backends kaldi flashlight k2] [--utterances 200] [--json FILE] [key=value ...]

Without paths they are those of `bash egs/librispeech/run.sh --tiny true`.
Each back-end runs in a process of its own on one thread. Start is what passes before the first
utterance is decoded, the import of the package included; the real-time factor is that of the
search alone. Words are compared with those of the first back-end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from unispeech.config import load
from unispeech.decode import engine, graph
from unispeech.decode.emissions import EmissionReader
from unispeech.decode.tune import spread
from unispeech.errors import DependencyError
from unispeech.storage import write_json

BACKENDS = ["kaldi", "flashlight", "k2"]
TINY = Path(__file__).resolve().parents[2] / "egs/librispeech/exp/tiny"
COLUMNS = {
    "back-end": "s", "utterances": "d", "start s": ".2f", "RTF": ".4f", "MB": ".0f",
    "same words %": ".1f", "WER %": ".2f",
}  # fmt: skip


def measure(args: argparse.Namespace) -> None:
    """Body of a process that decodes with one back-end and writes what it found."""
    reader = EmissionReader(args.emissions)
    graph.build_graph(args.lang)
    language = graph.read_language(args.lang)
    engine.check_tokens(reader, language)
    search = load(engine.SearchConfig, [], args.overrides)
    decoder = engine.open_decoder(args.measure, args.lang, len(reader.tokens), search)
    began = time.time()
    chosen = spread(reader.utt_ids, args.utterances)
    decoded = engine.decode_set(decoder, ((name, reader[name]) for name in chosen), language.words)
    seconds = sum(len(reader[name]) for name in chosen) * reader.frame_shift
    found = {
        "backend": args.measure,
        "utterances": len(chosen),
        "began": began,
        "rtf": decoded.seconds / seconds,
        "megabytes": peak_megabytes(),
        "text": decoded.text,
    }
    write_json(args.output, found)


def peak_megabytes() -> float:
    """Peak memory of this process and of those that it has started and that still run."""
    tasks = Path("/proc/self/task").glob("*/children")
    started = [pid for task in tasks for pid in task.read_text(encoding="utf-8").split()]
    return sum(_peak_kilobytes(pid) for pid in ["self", *started]) / 1024


def _peak_kilobytes(pid: str) -> int:
    rows = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmHWM"))


def run(args: argparse.Namespace, backend: str) -> dict[str, Any]:
    """Measure a back-end in its own process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        command = [sys.executable, __file__, "--measure", backend, "--output", str(output)]
        command += ["--emissions", args.emissions, "--lang", args.lang]
        command += ["--utterances", str(args.utterances), *args.overrides]
        began = time.time()
        subprocess.run(command, env=environment, check=True)
        found: dict[str, Any] = json.loads(output.read_text())
    found["start"] = found.pop("began") - began
    return found


def compare(args: argparse.Namespace) -> None:
    """Measure all back-ends and print their rows."""
    # The processes that are measured start without these.
    from common import Table, save

    from unispeech.data.manifests import load_cuts, transcript
    from unispeech.score.wer import wer

    graph.build_graph(args.lang)
    words = {cut.id: transcript(cut) for cut in load_cuts(args.reference)}
    first: dict[str, str] = {}
    table = Table(COLUMNS)
    for backend in args.backends:
        try:
            engine.choose_backend(backend)
            found = run(args, backend)
        except DependencyError as error:
            print(f"{backend}: {error}")
            continue
        text = found["text"]
        first = first or text
        same = 100 * sum(text[name] == first[name] for name in text) / len(text)
        rate = wer({name: words[name] for name in text}, text, resamples=0).rate
        numbers = (found[name] for name in ("utterances", "start", "rtf", "megabytes"))
        table.add(backend, *numbers, same, rate)
    save(args.json, [table])


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emissions", default=str(TINY / "infer/pretrained/test-clean"))
    parser.add_argument("--lang", default=str(TINY / "lang"))
    parser.add_argument("--reference", default=str(TINY / "data/test-clean.jsonl.gz"))
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    if args.measure:
        measure(args)
        return
    if not Path(args.emissions).is_dir():
        raise SystemExit(f"{args.emissions}: no emissions; run the recipe or give --emissions")
    compare(args)


if __name__ == "__main__":
    main()
