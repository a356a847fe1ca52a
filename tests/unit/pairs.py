"""One process that draws what two would, to compare the two with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from unispeech.data.loading import batches
from unispeech.data.multitask import MixedStream
from unispeech.train.multitask import MultitaskTask
from unispeech.train.parallel import Process
from unispeech.train.task import batch_stream


def run_pair(arguments: list[str], repo: Path) -> None:
    """Run a command on two processes that reduce with gloo."""
    launch = ["bash", str(repo / "utils/launch.sh"), "--cpu-nproc", "2", "--threads", "1"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    python_path = f"{repo}:{os.environ.get('PYTHONPATH', '')}"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, "PYTHONPATH": python_path}
    subprocess.run([*launch, *arguments], env=env, check=True)


def take_batches_of_two(monkeypatch, task: type) -> None:
    """Let one process draw what two would, in turn."""

    def both(self, start):
        data, seed = self.config.data, self.config.train.seed
        loaded = []
        for rank in range(2):
            process = Process(rank, 2, torch.device("cpu"))
            common = {"config": data.batching, "seed": seed, "process": process}
            stream = batch_stream(self.train_cuts, start, keep=self.keep, **common)
            if task is MultitaskTask:
                stream = MixedStream(stream, None, 0.0)
            loaded.append(batches(self.dataset, stream, 0))
        while True:
            yield from (next(stream) for stream in loaded)

    monkeypatch.setattr(task, "batches", both)
