"""Training: bitwise continuation, signals, processes, numerics, full disks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pairs import run_pair, take_batches_of_two

from unispeech.__main__ import main
from unispeech.hub.load import load_model
from unispeech.models.pretrained import load_recogniser, read_checkpoint
from unispeech.train import state
from unispeech.train.pretraining import PretrainTask


def command(corpus, output: Path, *more: str) -> list[str]:
    options = ["--config", str(corpus.pretrain), "--output", str(output)]
    return [sys.executable, "-m", "unispeech", "pretrain", *options, *corpus.overrides(), *more]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "checkpoints/step-00000012.pt")["model"]


def assert_bitwise_equal(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def wait_for_update(folder: Path, process: subprocess.Popen, update: int) -> None:
    path = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        rows = path.read_text().splitlines() if path.is_file() else []
        if any(f'"step": {update},' in row for row in rows):
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    raise AssertionError(f"update {update} was not reached")


@pytest.fixture(scope="module")
def uninterrupted(shared_corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(command(shared_corpus, folder), env=environment(), check=True)
    return folder


@pytest.mark.parametrize(("workers", "update"), [(0, 1), (0, 8), (2, 4), (2, 10)])
def test_killed_and_continued_is_bitwise_the_same(
    shared_corpus, uninterrupted, tmp_path, workers, update
) -> None:
    folder = tmp_path / "run"
    arguments = command(shared_corpus, folder, f"data.batching.workers={workers}")
    process = start(arguments)
    wait_for_update(folder, process, update)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not (folder / "done.json").exists()
    subprocess.run(arguments, env=environment(), check=True)
    assert_bitwise_equal(folder, uninterrupted)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["phase"] == "train"] == list(range(1, 13))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]
)
def test_signals_save_and_exit(shared_corpus, uninterrupted, tmp_path, number, code) -> None:
    folder = tmp_path / "run"
    arguments = command(shared_corpus, folder)
    process = start(arguments)
    wait_for_update(folder, process, 4)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert len(errors.strip().splitlines()) == 1
    assert "run the same command again to continue" in errors
    saved = state.CheckpointFolder(folder / "checkpoints", 2, 1).steps()[-1]
    assert 4 <= saved < 12
    subprocess.run(arguments, env=environment(), check=True)
    assert_bitwise_equal(folder, uninterrupted)


def test_finished_run_is_skipped_and_another_config_refused(
    shared_corpus, uninterrupted, capsys
) -> None:
    options = ["pretrain", "--config", str(shared_corpus.pretrain), "--output", str(uninterrupted)]
    overrides = shared_corpus.overrides()
    before = (uninterrupted / "done.json").stat().st_mtime_ns
    assert main([*options, *overrides]) == 0
    assert "skipped" in capsys.readouterr().out
    assert main([*options, *overrides, "optim.lr=0.5"]) == 78
    assert "optim.lr: 0.001 -> 0.5" in capsys.readouterr().err
    assert (uninterrupted / "done.json").stat().st_mtime_ns == before


def test_run_of_a_version_without_a_setting_had_its_default(
    shared_corpus, uninterrupted, tmp_path, capsys
) -> None:
    for name in ("run.json", "done.json"):
        shutil.copy(uninterrupted / name, tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    del record["model.final_norm"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    options = ["pretrain", "--config", str(shared_corpus.pretrain), "--output", str(tmp_path)]
    assert main([*options, *shared_corpus.overrides()]) == 0
    assert main([*options, *shared_corpus.overrides(), "model.final_norm=false"]) == 78
    assert "model.final_norm: True -> False" in capsys.readouterr().err


def test_is_done_tells_without_training(shared_corpus, uninterrupted, tmp_path) -> None:
    options = ["pretrain", "--config", str(shared_corpus.pretrain), *shared_corpus.overrides()]
    for processes in ("1", "8"):
        assert main([*options, "--output", str(uninterrupted), "--is-done", processes]) == 0
    with pytest.raises(SystemExit) as exit_:
        main([*options, "--output", str(tmp_path / "new"), "--is-done", "1"])
    assert exit_.value.code == 4
    assert not (tmp_path / "new").exists()


RAGGED = ("data.crop.rows=pad",)
# An objective and how it is run on two processes; one process always runs it plainly.
ON_TWO = [
    pytest.param((), (), id="masked-cropped"),
    pytest.param(RAGGED, (), id="masked-ragged"),
    pytest.param((*RAGGED, "objective.unmasked_weight=0.5"), (), id="both-frames-ragged"),
    pytest.param(RAGGED, ("train.activation_checkpointing=true",), id="recomputed"),
    pytest.param(
        (*RAGGED, "train.precision=fp16", "train.loss_scale.initial=2048"), (), id="overflowing"
    ),
]


@pytest.mark.parametrize(("objective", "execution"), ON_TWO)
def test_two_processes_take_the_gradient_of_both_batches(
    shared_corpus, tmp_path, repo, monkeypatch, objective, execution
) -> None:
    """Two ranks with one batch each equal one process that accumulates the batches of both."""
    # With so large an epsilon a step is proportional to the gradient: tiny gradients stay tiny.
    common = ["train.updates=5", "train.validate_every=5", "optim.eps=1", "optim.lr=1"]
    # Dropout draws by rank; LayerDrop leaves out the same layers on both.
    common += [f"model.{name}=0" for name in ("dropout", "attention_dropout", "input_dropout")]
    common += ["optim.warmup=0", "optim.weight_decay=0", *objective]
    run_pair(command(shared_corpus, tmp_path / "two", *common, *execution)[3:], repo)
    take_batches_of_two(monkeypatch, PretrainTask)
    assert run_here(shared_corpus, tmp_path / "one", *common, "train.accumulate=2") == 0
    one, two = (read_checkpoint(tmp_path / n / "checkpoints/final.pt") for n in ("one", "two"))
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, atol=1e-5, rtol=1e-5)
    rows = [(tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in ("one", "two")]
    first, second = ([json.loads(row) for row in part] for part in rows)
    for key in ("loss", "loss_scale", "skipped_updates"):
        values = [[row[key] for row in part if key in row] for part in (first, second)]
        assert values[0] == pytest.approx(values[1], rel=1e-5)
    if "train.precision=fp16" in objective:
        # Some updates overflow, some do not, and the processes agree which.
        assert 0 < second[-2]["skipped_updates"] < 5


def run_here(corpus, folder: Path, *more: str) -> int:
    return main(command(corpus, folder, *more)[3:])


def test_accumulating_batches_is_one_gradient(shared_corpus, tmp_path) -> None:
    common = ["train.updates=1", "model.layer_drop=0", "train.log_every=1"]
    assert run_here(shared_corpus, tmp_path / "a", *common, "train.accumulate=3") == 0
    row = json.loads((tmp_path / "a/metrics.jsonl").read_text().splitlines()[0])
    assert row["loss"] > 0
    assert row["audio_seconds_per_second"] > 0


def test_non_finite_loss_stops_before_the_step(shared_corpus, tmp_path, monkeypatch, capsys):
    plain = PretrainTask.loss

    def broken(self, model, batch, update):
        output = plain(self, model, batch, update)
        return output._replace(loss=output.loss * (float("nan") if update == 5 else 1.0))

    monkeypatch.setattr(PretrainTask, "loss", broken)
    assert run_here(shared_corpus, tmp_path / "run") == 70
    error = capsys.readouterr().err
    assert "the loss of update 5 is nan" in error
    assert "step-00000003.pt" in error
    report = json.loads((tmp_path / "run/log/nonfinite-5.json").read_text())
    assert report["utterances"]
    monkeypatch.undo()
    assert run_here(shared_corpus, tmp_path / "run") == 0


def test_full_disk_keeps_the_older_checkpoint(shared_corpus, tmp_path, monkeypatch, capsys) -> None:
    plain = torch.save
    calls = []

    def full(value, path):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")
        plain(value, path)

    monkeypatch.setattr(torch, "save", full)
    assert run_here(shared_corpus, tmp_path / "run") == 74
    error = capsys.readouterr().err
    assert "cannot write the checkpoint" in error
    assert "step-00000006.pt" in error
    left = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert left == ["scores.json", "step-00000003.pt"]
    monkeypatch.undo()
    assert run_here(shared_corpus, tmp_path / "run") == 0


def test_a_write_that_really_fails_is_a_clear_error(tmp_path) -> None:
    """The system refuses files over a kilobyte, as a full disk or a quota would."""
    code = f"""
import resource, signal, torch
from pathlib import Path
from unispeech.errors import StorageError
from unispeech.train import state
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
try:
    state.save(Path({str(tmp_path)!r}) / "x.pt", {{"model": {{"w": torch.zeros(100000)}}}})
except StorageError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    assert "cannot write the checkpoint" in result.stdout, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_finetune_freezes_then_learns_and_keeps_the_tokens(shared_corpus, uninterrupted, tmp_path):
    folder = tmp_path / "ft"
    options = ["finetune", "--config", str(shared_corpus.finetune), "--output", str(folder)]
    assert main([*options, *shared_corpus.ctc_overrides(uninterrupted), "train.updates=2"]) == 0
    model, tokens, _ = load_recogniser(folder)
    assert tokens == ["<blk>", "|", "A", "B"]
    before = load_model(uninterrupted).encoder.state_dict()
    after = model.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    other = tmp_path / "ft2"
    options[-1] = str(other)
    assert main([*options, *shared_corpus.ctc_overrides(uninterrupted)]) == 0
    after = load_recogniser(other)[0].encoder.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert "encoder.layers.0.fc1.weight" in changed


def test_random_init_ignores_the_weights(shared_corpus, uninterrupted, tmp_path) -> None:
    options = ["finetune", "--config", str(shared_corpus.finetune), "--output", str(tmp_path / "r")]
    overrides = [*shared_corpus.ctc_overrides(uninterrupted), "random_init=true", "train.updates=2"]
    assert main([*options, *overrides]) == 0
    before = load_model(uninterrupted).encoder.state_dict()
    after = load_model(tmp_path / "r").encoder.state_dict()
    assert not torch.equal(before["post_extract_proj.weight"], after["post_extract_proj.weight"])


def test_average_is_the_mean(uninterrupted, tmp_path) -> None:
    folder = uninterrupted / "checkpoints"
    paths = [folder / f"step-{step:08d}.pt" for step in (9, 12)]
    assert main(["average", "--output", str(tmp_path / "avg.pt"), *map(str, paths)]) == 0
    one, two = (read_checkpoint(path)["model"] for path in paths)
    mean = read_checkpoint(tmp_path / "avg.pt")["model"]
    for name in one:
        torch.testing.assert_close(mean[name], (one[name] + two[name]) / 2)


def test_malicious_checkpoint_is_refused(tmp_path, capsys) -> None:
    import pickle

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/executed",)

    with (tmp_path / "evil.pt").open("wb") as file:
        pickle.dump({"model": Evil()}, file)
    assert main(["average", "--output", str(tmp_path / "out.pt"), str(tmp_path / "evil.pt")]) == 65
    assert "tensors and plain containers only" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


def test_truncated_checkpoint_is_a_clear_error(uninterrupted, tmp_path, capsys) -> None:
    whole = (uninterrupted / "checkpoints/final.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    assert main(["average", "--output", str(tmp_path / "o.pt"), str(tmp_path / "half.pt")]) == 65
    assert "cannot read the checkpoint" in capsys.readouterr().err
