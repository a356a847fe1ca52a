"""SIGKILL at random points, again and again: the weights are those of a quiet run, bitwise.

Processes are forked from a server that has imported everything, so that a run starts in a moment.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from unispeech.__main__ import main
from unispeech.models.pretrained import read_checkpoint
from unispeech.train.state import CheckpointFolder

UPDATES = 48


def train(
    arguments: list[str], environment: dict[str, str], prepare: Callable[[], None] | None
) -> None:
    """Body of a process: one rank of a training."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stdout
    if prepare is not None:
        prepare()
    sys.exit(main(arguments))


def die_while_saving(calls: int) -> None:
    """Let this process die at the n-th call of a function during its second checkpoint."""
    plain = CheckpointFolder.save
    saves = []

    def save(self: CheckpointFolder, step: int, state: Any, score: float | None) -> None:
        saves.append(step)
        left = [calls if len(saves) == 2 else sys.maxsize]

        def count(*_: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        try:
            plain(self, step, state, score)
        finally:
            sys.setprofile(None)
        if len(saves) == 2:
            # Fewer calls than that: the point is right behind the checkpoint.
            os.kill(os.getpid(), signal.SIGKILL)

    CheckpointFolder.save = save  # type: ignore[method-assign]


class Training:
    """A training on one or two processes that can be started over and over."""

    def __init__(self, corpus, folder: Path, ranks: int) -> None:
        self.folder = folder
        self.ranks = ranks
        options = ["--config", str(corpus.pretrain), "--output", str(folder)]
        updates = [f"train.updates={UPDATES}", "train.validate_every=8", "train.final=best"]
        self.arguments = ["pretrain", *options, *corpus.overrides(), *updates]
        self.context = multiprocessing.get_context("forkserver")
        ours = [f"unispeech.{n}" for n in ("commands.pretrain", "train.loop", "train.pretraining")]
        # An optimizer imports the compiler, which takes longer than the training.
        self.context.set_forkserver_preload([*ours, "unispeech.train.experiment", "torch._dynamo"])
        self.processes: list[BaseProcess] = []

    def start(self, prepare: Callable[[], None] | None = None) -> None:
        """Start all ranks; `prepare` runs in the first, which writes the checkpoints."""
        environments: list[dict[str, str]] = [{}]
        if self.ranks > 1:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            common["WORLD_SIZE"] = str(self.ranks)
            names = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(self.ranks)]
            environments = [{**common, **name} for name in names]
        self.processes = []
        for rank, environment in enumerate(environments):
            body = (self.arguments, environment, None if rank else prepare)
            self.processes.append(self.context.Process(target=train, args=body))
        for process in self.processes:
            process.start()

    def updates(self) -> int:
        """The newest update in the log."""
        path = self.folder / "metrics.jsonl"
        # The last line may be half written.
        rows = path.read_text().split("\n")[:-1] if path.is_file() else []
        return max((json.loads(row)["step"] for row in rows), default=0)

    def wait_for(self, update: int) -> None:
        """Wait until the log has an update."""
        deadline = time.monotonic() + 120
        while self.updates() < update:
            assert all(p.is_alive() for p in self.processes), "ended before it could be killed"
            assert time.monotonic() < deadline, f"update {update} was not reached"
            time.sleep(0.002)

    def kill(self, victim: int) -> None:
        """Kill one rank, then the others, as the launcher does when one is gone."""
        self.processes[victim].kill()
        self.processes[victim].join()
        assert self.processes[victim].exitcode == -signal.SIGKILL
        for process in self.processes:
            process.kill()
            process.join()

    def finish(self) -> None:
        """Start and wait for the end."""
        self.start()
        for process in self.processes:
            process.join(240)
            assert process.exitcode == 0


def kill_while_running(training: Training, draw: random.Random) -> None:
    """At a random moment one to three updates after the newest checkpoint."""
    steps = CheckpointFolder(training.folder / "checkpoints", 2, 1).steps()
    target = (steps[-1] if steps else 0) + draw.randint(1, 3)
    training.start()
    training.wait_for(target)
    time.sleep(draw.uniform(0, 0.03))
    training.kill(draw.randrange(training.ranks))


def kill_while_starting(training: Training, draw: random.Random) -> None:
    """Anywhere between the start and the first updates."""
    training.start()
    time.sleep(draw.uniform(0, 0.5))
    training.kill(draw.randrange(training.ranks))


def kill_while_saving(training: Training, draw: random.Random) -> None:
    """At one of the calls that write, score and remove checkpoints."""
    training.start(functools.partial(die_while_saving, draw.randrange(1, 1500)))
    training.processes[0].join(120)
    assert training.processes[0].exitcode == -signal.SIGKILL
    training.kill(0)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_ten_times_is_bitwise_the_quiet_run(
    shared_corpus, tmp_path, monkeypatch, ranks
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    quiet = Training(shared_corpus, tmp_path / "quiet", ranks)
    quiet.finish()
    killed = Training(shared_corpus, tmp_path / "killed", ranks)
    draw = random.Random(ranks)
    kills = [kill_while_running] * 5 + [kill_while_starting] * 2 + [kill_while_saving] * 3
    draw.shuffle(kills)
    for kill in kills:
        kill(killed, draw)
    assert not (killed.folder / "done.json").exists()
    killed.finish()
    for name in (f"step-{UPDATES:08d}.pt", "final.pt"):
        one, other = (read_checkpoint(run.folder / "checkpoints" / name) for run in (quiet, killed))
        assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"])
    scores = [
        json.loads((run.folder / "checkpoints/scores.json").read_text()) for run in (quiet, killed)
    ]
    assert scores[0] == scores[1]
    assert not list(killed.folder.rglob(".tmp-*"))
