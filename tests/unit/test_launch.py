"""utils/launch.sh, run for real with a stand-in for the package."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Takes the place of the commands; errors and exit codes are those of the real __main__.py.
COMMANDS = """
def run(argv: list[str]) -> None:
    import datetime, json, signal, time
    import torch.distributed as dist
    from unispeech import errors
    rank, kind = int(os.environ["RANK"]), argv[0]
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    threads, size = os.environ["OMP_NUM_THREADS"], dist.get_world_size()
    print("ARGV" + json.dumps([rank, size, threads, *argv]), flush=True)
    if kind == "numerics":
        if rank == 0:
            raise errors.NumericsError("the loss is not finite")
        dist.barrier()
    if kind == "bug":
        if rank == 0:
            raise ZeroDivisionError
        dist.barrier()
    if kind == "killed":
        if rank == size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    if kind == "wait":
        received = []
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, lambda number, _: received.append(number))
        print("ready", flush=True)
        while not received:
            time.sleep(0.05)
        time.sleep(0.5)
        print("saved", flush=True)
        if received[0] == signal.SIGINT:
            raise errors.Interrupted("state saved")
        raise errors.Preempted("state saved")
    dist.destroy_process_group()


def main("""

Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def launch(repo: Path, tmp_path: Path) -> Launch:
    package = tmp_path / "unispeech"
    package.mkdir()
    shutil.copy(repo / "unispeech" / "errors.py", package)
    (package / "__init__.py").write_text('__version__ = "0"\n')
    source = (repo / "unispeech" / "__main__.py").read_text()
    real = re.compile(r"def run\(.*?\ndef main\(", re.DOTALL)
    source = real.sub(lambda _: COMMANDS.lstrip(), source)
    (package / "__main__.py").write_text(source)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (binaries / "python").chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    environment["PATH"] = f"{binaries}:{environment['PATH']}"
    environment["PYTHONPATH"] = str(tmp_path)

    def start(*words: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(repo / "utils" / "launch.sh"), *words],
            cwd=tmp_path,
            env=environment | more,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nprc", "2", "pretrain"], "unknown option '--nprc'"),
        (["--nproc"], "--nproc wants a value"),
        (["--nproc", "two", "pretrain"], "--nproc wants a whole number, found 'two'"),
        (["--nproc=0", "pretrain"], "--nproc wants a whole number, found '0'"),
        (["--threads", "$(x)", "pretrain"], "--threads wants a whole number, found '$(x)'"),
        (["--nodes", "2", "pretrain"], "--nodes 2 needs --master HOST:PORT"),
        (["--master", "here", "pretrain"], "--master wants HOST:PORT, found 'here'"),
        (["--nproc", "1"], "no command given"),
    ],
)
def test_wrong_options(launch: Launch, words: list[str], message: str) -> None:
    code, output, errors = finish(launch(*words))
    assert (code, output) == (2, "")
    assert errors == f"launch.sh: error: {message}; see utils/launch.sh --help\n"


def test_help(launch: Launch) -> None:
    code, output, _ = finish(launch("--help"))
    assert code == 0
    assert "--master HOST:PORT" in output
    assert "set -e" not in output


def test_words_reach_the_command_unchanged(launch: Launch) -> None:
    words = ["ok", "--nproc", "a b", "k=$(x)", "*", "ü"]
    options = ["--cpu-nproc", "1", "--threads=3"]
    code, output, errors = finish(launch(*options, *words, CUDA_VISIBLE_DEVICES=""))
    assert code == 0, errors
    line = '["ok", "--nproc", "a b", "k=$(x)", "*", "\\u00fc"]'
    assert output == f'ARGV[0, 1, "3", {line[1:]}\n'


def test_a_failure_is_one_line_and_our_exit_code(launch: Launch) -> None:
    code, _, errors = finish(launch("--nproc", "2", "--threads", "1", "numerics"))
    assert code == 70
    assert errors == "error: the loss is not finite\n"


def test_a_bug_shows_one_traceback(launch: Launch) -> None:
    code, _, errors = finish(launch("--nproc", "2", "--threads", "1", "bug"))
    assert code == 1
    assert errors.count("Traceback") == 1
    assert errors.strip().endswith("ZeroDivisionError")


def test_a_killed_worker_is_named(launch: Launch) -> None:
    code, _, errors = finish(launch("--nproc", "2", "--threads", "1", "killed"))
    assert code == 128 + signal.SIGKILL
    assert errors.startswith("error: worker 1 was killed by SIGKILL (out of memory?)")


@pytest.mark.parametrize(
    ("number", "times", "code", "nproc"),
    [(signal.SIGTERM, 2, 75, 2), (signal.SIGUSR1, 1, 75, 1), (signal.SIGINT, 1, 130, 1)],
)
def test_signals_reach_the_workers(
    launch: Launch, number: int, times: int, code: int, nproc: int
) -> None:
    process = launch("--nproc", str(nproc), "--threads", "1", "wait")
    assert process.stdout is not None
    ready = 0
    while ready < nproc:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        ready += line.startswith("ready")
    for _ in range(times):
        os.kill(process.pid, number)
    found, output, errors = finish(process)
    assert found == code, errors
    assert output.count("saved") == nproc, "every worker has the time to save its state"
    assert errors == "error: state saved\n"


def test_two_machines(launch: Launch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = ["--nodes", "2", "--nproc", "1", "--threads", "1", "--master", f"127.0.0.1:{port}"]
    processes = [launch(*common, "ok", SLURM_NODEID=str(rank)) for rank in range(2)]
    results = [finish(process) for process in processes]
    assert [code for code, _, _ in results] == [0, 0], results
    assert [output for _, output, _ in results] == [
        f'ARGV[{rank}, 2, "1", "ok"]\n' for rank in range(2)
    ]
