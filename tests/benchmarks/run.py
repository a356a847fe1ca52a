"""All benchmarks, one after the other, and their tables as `RESULTS.md` beside this file.

    python tests/benchmarks/run.py --device cpu|cuda [--only forward training ...] [--threads 2]
        [--output FOLDER]

Each script writes its tables as JSON below FOLDER (default: `exp/benchmarks`), so a run of some of
them leaves the others' tables as they were. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import printed

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
SCRIPTS: dict[str, list[str]] = {
    "forward": ["forward.py", "--cases", "base_single", "base_ragged", "large_single"],
    "training": ["training.py"],
    "training_ragged": "training.py --precisions fp32 --seconds 2 3 4 5 5 6 7 8".split(),
    "objectives": ["objectives.py"],
    "labelling": ["labelling.py"],
    "loading": ["loading.py"],
    "verification": ["verification.py", "--utterances", "100"],
    "diarization": ["diarization.py", "--minutes", "7.5", "30", "120"],
    "separation": ["separation.py"],
    "decoding": ["decoding.py"],
    "shards": ["shards.py", "--cuts", "10000", "100000"],
}
GPU_SCRIPTS: dict[str, list[str]] = {
    "forward": ["forward.py"],
    "training": ["training.py", "--precisions", "bf16", "--seconds", *["15"] * 24],
    "training_ragged": [
        *"training.py --precisions bf16 --seconds".split(),
        *(str(seconds) for seconds in range(6, 30)),
    ],
    "training_large": [
        *"training.py --model wavlm_large --precisions bf16 --seconds".split(), *["15"] * 16
    ],
    "labelling": ["labelling.py"],
    "separation": ["separation.py"],
}  # fmt: skip
THREADED = ("forward", "training", "training_ragged", "objectives", "labelling", "verification")


def measure(name: str, args: argparse.Namespace) -> bool:
    """Run one script and note the machine beside its tables; whether it succeeded."""
    path = args.output / args.device / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    script, *options = (SCRIPTS if args.device == "cpu" else GPU_SCRIPTS)[name]
    command = [sys.executable, str(HERE / script), *options, "--json", str(path)]
    if name in GPU_SCRIPTS:
        command += ["--device", args.device]
    if name in THREADED:
        command += ["--threads", str(args.threads)]
    print(f"\n== {name}: {' '.join(command[1:])}", flush=True)
    began = time.perf_counter()
    if subprocess.run(command, check=False).returncode:
        print(f"{name}: no table", flush=True)
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    words = [script, *options]
    found |= {"command": " ".join(words), "machine": machine(args), "date": time.strftime("%F")}
    found["minutes"] = (time.perf_counter() - began) / 60
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return True


def machine(args: argparse.Namespace) -> str:
    """The processor, the threads and the version of torch."""
    if args.device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [row.split(":")[1].strip() for row in rows if row.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, {args.threads} threads, torch {torch.__version__}"


def page(found: dict[str, dict[str, Any]]) -> str:
    """`RESULTS.md`."""
    lines = [
        "<!-- Written by `python tests/benchmarks/run.py`; run it instead of editing. -->\n",
        "# Benchmarks\n",
        "Each script's docstring says what is measured. Ratios hold better than absolute figures:",
        "peers take their turns in the same run.\n",
    ]
    for name, result in found.items():
        rates = ", ".join(f"{value:.0f} {unit}" for unit, value in result["limits"].items())
        lines += [
            f"## {name.replace('/', ': ')}\n",
            f"`python tests/benchmarks/{result['command']}`, {result['date']}, {result['machine']}."
            f" Limits of the machine, measured behind it: {rates}.\n",
        ]
        for table in result["tables"]:
            columns = table["columns"]
            lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
            lines += [printed(columns, row.values()) for row in table["rows"]]
            lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--only", nargs="+", choices=[*SCRIPTS, "training_large"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("exp/benchmarks"))
    args = parser.parse_args()
    scripts = SCRIPTS if args.device == "cpu" else GPU_SCRIPTS
    wanted = [name for name in scripts if not args.only or name in args.only]
    missing = [name for name in wanted if not measure(name, args)]
    found = {}
    for device in ("cpu", "cuda"):
        for name in SCRIPTS | GPU_SCRIPTS:
            path = args.output / device / f"{name}.json"
            if path.is_file():
                found[f"{device}/{name}"] = json.loads(path.read_text(encoding="utf-8"))
    RESULTS.write_text(page(found), encoding="utf-8")
    print(f"\ntables: {RESULTS}")
    if missing:
        raise SystemExit(f"without a table: {', '.join(missing)}")


if __name__ == "__main__":
    main()
