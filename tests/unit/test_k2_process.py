"""k2's own process, and its CTC: how they end, and against torch."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Corpus
from packages import require
from test_k2 import make_lang

from unispeech.__main__ import main
from unispeech.decode import k2, k2_process
from unispeech.decode.fst import read_graph
from unispeech.errors import DependencyError

pytestmark = pytest.mark.k2


@pytest.fixture(scope="module")
def lang(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lang(tmp_path_factory.mktemp("k2") / "lang", 0)


def own_environment() -> Path:
    """The interpreter of k2's own environment."""
    require("k2")
    python = k2_process.find_python()
    if python is None:
        pytest.skip("k2 is in this environment and has none of its own")
    return python


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_process_that_dies_is_one_error(lang: Path) -> None:
    own_environment()
    process = k2_process.K2Process(read_graph(lang / "LG.fst"), 5)
    worker, folder = process._worker._process.pid, process._worker._folder
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(DependencyError, match="the process that runs k2 ended; .*SIGKILL"):
        process.decode([np.zeros((4, 5), np.float32)])
    assert not Path(folder).exists()
    assert not is_alive(worker)


def test_a_process_ends_with_its_decoder(lang: Path) -> None:
    own_environment()
    process = k2_process.K2Process(read_graph(lang / "LG.fst"), 5)
    worker, folder = process._worker._process.pid, process._worker._folder
    assert is_alive(worker)
    del process
    gc.collect()
    assert not is_alive(worker)
    assert not Path(folder).exists()


# A test run in the background inherits an ignored SIGINT.
LOOP = """
import signal, sys, numpy as np
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from unispeech.__main__ import guard
from unispeech.decode.fst import read_graph
from unispeech.decode.k2_process import K2Process
def action():
    process = K2Process(read_graph(Path(sys.argv[1]) / "LG.fst"), 5)
    print(process._worker._process.pid, flush=True)
    while True:
        process.decode([np.zeros((200, 5), np.float32)] * 4)
sys.exit(guard(action))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_leaves_no_process(lang: Path, repo: Path, number: signal.Signals) -> None:
    own_environment()
    command = [sys.executable, "-c", LOOP, str(lang)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=repo, start_new_session=True, **pipes) as main_process:
        assert main_process.stdout is not None
        worker = int(main_process.stdout.readline())
        time.sleep(0.2)
        # Ctrl-C goes to every process of the terminal.
        (os.killpg if number == signal.SIGINT else os.kill)(main_process.pid, number)
        error = main_process.communicate(timeout=60)[1]
    if number == signal.SIGINT:
        assert main_process.returncode == 130
        assert error == "error: interrupted; run the same command again to continue\n"
    for _ in range(100):
        if not is_alive(worker):
            break
        time.sleep(0.1)
    assert not is_alive(worker)


@pytest.mark.parametrize("given", ["/bin/false", "/nowhere/python", ""])
def test_no_environment(
    lang: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("UNISPEECH_K2_PYTHON", given)
    monkeypatch.setenv("UNISPEECH_K2", str(tmp_path))
    # One that was not finished has an interpreter, but no stamp.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    with pytest.raises(DependencyError, match=re.escape("setup_k2.sh")):
        k2_process.K2Process(read_graph(lang / "LG.fst"), 5)


CTC = """
import sys
sys.path.append(sys.argv[1])
import torch
import torch.nn.functional as F
from unispeech.losses.ctc_k2 import k2_ctc_loss
generator = torch.Generator().manual_seed(0)
for frames, sharpness in ((12, 1.0), (60, 0.1), (150, 2.0), (300, 6.0)):
    logits = sharpness * torch.randn(5, frames, 30, generator=generator)
    # One with no tokens, one that cannot fit, and one that only fits without its repeats.
    sizes = torch.tensor([frames, frames - 3, 3, frames // 2, 4])
    lengths = torch.tensor([frames // 4, 0, 4, frames // 6, 4])
    targets = torch.randint(1, 30, (int(lengths.sum()),), generator=generator)
    targets[-4:] = 7
    found = []
    for name in ("torch", "k2"):
        leaf = logits.clone().requires_grad_(True)
        log_probs = F.log_softmax(leaf, -1)
        if name == "k2":
            loss = k2_ctc_loss(log_probs, sizes, targets, lengths)
        else:
            loss = F.ctc_loss(log_probs.transpose(0, 1), targets, sizes, lengths,
                              reduction="sum", zero_infinity=True)
        loss.backward()
        found.append((loss.item(), leaf.grad))
    (a, da), (b, db) = found
    assert abs(a - b) <= 1e-4 * abs(a), (a, b)
    assert a > 10 and da[[2, 4]].abs().max() == 0 == db[[2, 4]].abs().max()
    assert (da - db).abs().max() <= 5e-3 and (da - db).norm() <= 1e-3 * da.norm()
leaf = torch.zeros(1, 2, 3, requires_grad=True)
loss = k2_ctc_loss(leaf, torch.tensor([1]), torch.tensor([1, 2]), torch.tensor([2]))
loss.backward()
assert loss == 0 and not leaf.grad.any()
print("equal")
"""


def test_ctc_equals_that_of_torch(repo: Path) -> None:
    require("k2")
    python = sys.executable if k2.available() else str(k2_process.find_python())
    command = [python, "-I", "-c", CTC, str(repo)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "equal\n", done.stderr


def test_ctc_of_a_missing_k2_ends_before_training(
    shared_corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretrain = ["pretrain", "--config", str(shared_corpus.pretrain), "--output"]
    options = [*shared_corpus.overrides(), "train.updates=1", "objective.final_dim=8"]
    assert main([*pretrain, str(tmp_path / "init"), *options]) == 0
    monkeypatch.setattr("unispeech.losses.ctc_k2.available", lambda: False)
    capsys.readouterr()
    argv = ["finetune", "--config", str(shared_corpus.finetune), "--output", str(tmp_path / "out")]
    argv += [*shared_corpus.ctc_overrides(tmp_path / "init"), "ctc.loss=k2"]
    assert main(argv) == 69
    error = capsys.readouterr().err
    assert "ctc.loss=k2" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("out/checkpoints/*"))
