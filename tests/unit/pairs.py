"""Commands on two processes, and one process that draws what two would."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch

from unispeech.__main__ import main
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


def run_forked_pair(
    commands: Sequence[Sequence[str]], log: Path, prepare: Callable[[], None] | None = None
) -> list[int]:
    """Run commands one after the other on two processes that reduce with gloo.

    The processes come from a server that has imported everything.

    Args:
        commands: of unispeech.
        log: what the first process prints; the second writes beside it.
        prepare: runs in both processes first.

    Returns:
        Exit codes of the commands, the same of both processes.
    """
    context = multiprocessing.get_context("forkserver")
    names = ("commands.pretrain", "train.loop", "train.pretraining", "train.experiment", "hub.load")
    context.set_forkserver_preload([*(f"unispeech.{n}" for n in names), "torch._dynamo"])
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in commands]
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    logs = (log, log.with_suffix(".second"))
    codes = [context.SimpleQueue() for _ in logs]
    processes = [
        context.Process(target=_run_rank, args=(rank, commands, ports, *given, prepare))
        for rank, given in enumerate(zip(logs, codes, strict=True))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0], log.read_text()
    first, second = (queue.get() for queue in codes)
    assert first == second
    return first


def _run_rank(
    rank: int,
    commands: Sequence[Sequence[str]],
    ports: Sequence[int],
    log: Path,
    codes: SimpleQueue[list[int]],
    prepare: Callable[[], None] | None,
) -> None:
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    if prepare is not None:
        prepare()
    common = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    os.environ.update(common, RANK=str(rank), LOCAL_RANK=str(rank))
    found = []
    for command, port in zip(commands, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        found.append(main(list(command)))
    codes.put(found)


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
