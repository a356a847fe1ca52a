"""A small experiment folder with every part that a report shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource

from unispeech.data.manifests import write_cuts
from unispeech.decode.emissions import EmissionWriter

TOKENS = ["<blk>", "|", "A", "B", "C", "$"]
HOSTILE = "<script>alert(1)</script>"
WORDS = {
    "spk1-001": ("A B C", "A B C"),
    "spk1-002": ("A C C", "A B C"),
    "spk2-001": ("C A", "C"),
    "spk2-002": (HOSTILE, "A C C"),
}
COMMAND = "bash egs/librispeech/run.sh --tiny true"


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def add_training(exp: Path, name: str, *, minutes: float) -> None:
    folder = exp / name
    folder.mkdir(parents=True)
    lines = [
        {"phase": phase, "step": step, "loss": 5 / step, "lr": 1e-4, "grad_norm": 1.0}
        for step in range(1, 130)
        for phase in ("train", "valid")
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(text + '\n{"phase": "tra')
    done = {"step": 129, "minutes": minutes, "sha256": "ab" * 32, "seed": 7, "parameters": 1234}
    write_json(folder / "done.json", done)
    env = {"python": "3.12", "commit": "c" * 40, "dirty": False, "packages": {"k2": "1.24"}}
    write_json(folder / "env.json", env)
    (folder / "config.yaml").write_text("model:\n  layers: 4\n")
    (folder / "command.txt").write_text(
        f"python -m unispeech finetune --config /home/me/egs/librispeech/conf/tiny/{name}.yaml"
    )


def add_data(exp: Path) -> None:
    cuts = []
    for name, (reference, _) in WORDS.items():
        path = exp / "audio" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * np.sin(np.arange(16000) * 0.3), 16000)
        source = AudioSource("file", [0], str(path))
        recording = Recording(name, [source], 16000, 16000, 1.0)
        segment = SupervisionSegment(
            name, name, 0.0, 1.0, text=reference, speaker=name.split("-")[0]
        )
        cuts.append(MonoCut(name, 0.0, 1.0, 0, [segment], recording=recording))
    write_cuts(cuts, exp / "data" / "test.jsonl.gz")


def add_scored(exp: Path, system: str, method: str, value: float) -> None:
    folder = exp / "infer" / system / "test" / method
    folder.mkdir(parents=True)
    (folder / "text").write_text("".join(f"{k} {h}\n" for k, (_, h) in WORDS.items()))
    search = {"backend": "kaldi", "beam": 20.0, "lm_scale": 0.5} if method == "graph" else {}
    measured = {"rtf": 0.01, "seconds": 1.5, "not_final": [], "text_sha256": "e" * 64}
    write_json(folder / "decode.json", {"method": method, **search, **measured})
    counts = {"errors": 5, "insertions": 2, "deletions": 1, "substitutions": 2, "words": 9}
    interval = {"wer": value, "low": value - 5, "high": value + 5, "utterances": 4}
    write_json(folder / "wer.json", {**interval, **counts, "speakers": {"spk1": 20.0}})


def add_emissions(exp: Path, system: str) -> None:
    rng = np.random.default_rng(0)
    with EmissionWriter(exp / "infer" / system / "test", TOKENS, 0.02) as writer:
        for name in WORDS:
            logits = rng.normal(size=(50, len(TOKENS)))
            norm = np.log(np.exp(logits).sum(axis=1, keepdims=True))
            writer.write(name, (logits - norm).astype(np.float32))


def build(root: Path) -> Path:
    """A small experiment folder with every part that a report shows."""
    add_data(root)
    for name, minutes in (("pretrain_it1", 10.0), ("finetune", 2.5), ("finetune_scratch", 3.0)):
        add_training(root, name, minutes=minutes)
    for system, value in (("pretrained", 20.0), ("scratch", 40.0)):
        add_emissions(root, system)
        add_scored(root, system, "greedy", value)
        add_scored(root, system, "graph", value / 2)
    (root / "lang").mkdir()
    (root / "lang" / "lm.arpa").write_text("\\data\\\nngram 1=5\nngram 2=7\nngram 3=2\n\n")
    (root / "commands.tsv").write_text(
        "2025-01-02T03:04:05\t3\tpython -m unispeech pretrain <b>\t0\t61\n"
        "2025-01-02T03:05:06\t4\tfalse\t1\t2\n"
    )
    quality = {"phone_purity": 0.5, "cluster_purity": 0.3, "pnmi": 0.412, "phones": 9, "frames": 5}
    write_json(root / "data" / "labels" / "mfcc" / "labels.json", {"quality": quality})
    return root
