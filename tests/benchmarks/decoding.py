r"""The decoding back-ends on stored emissions: speed, memory, agreement, word error rate.

    python tests/benchmarks/decoding.py --emissions DIR --lang DIR [--reference CUTS] \
        [--backends kaldi flashlight k2] [--utterances 200] [--json FILE] [key=value ...]

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


def references(manifest: str) -> dict[str, str]:
    """Words by utterance."""
    from unispeech.data.manifests import load_cuts, transcript

    return {cut.id: transcript(cut) for cut in load_cuts(manifest)}


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emissions", required=True)
    parser.add_argument("--lang", required=True)
    parser.add_argument("--reference")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--json", help="write the table there too")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    if args.measure:
        measure(args)
        return
    graph.build_graph(args.lang)
    words = references(args.reference) if args.reference else {}
    rows: list[dict[str, Any]] = []
    first: dict[str, str] = {}
    print("| back-end | utterances | start s | RTF | peak MB | same words % | WER % |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for backend in args.backends:
        try:
            engine.choose_backend(backend)
            found = run(args, backend)
        except DependencyError as error:
            print(f"| {backend} | {error} |")
            continue
        text = found.pop("text")
        first = first or text
        found["same"] = 100 * sum(text[name] == first[name] for name in text) / len(text)
        found["wer"] = None
        if words:
            from unispeech.score.wer import wer

            found["wer"] = wer({name: words[name] for name in text}, text, resamples=0).rate
        rows.append(found)
        rate = "-" if found["wer"] is None else f"{found['wer']:.2f}"
        print(
            f"| {backend} | {found['utterances']} | {found['start']:.2f} | {found['rtf']:.4f} |"
            f" {found['megabytes']:.0f} | {found['same']:.1f} | {rate} |",
            flush=True,
        )
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    main()
