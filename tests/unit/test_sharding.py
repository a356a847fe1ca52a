"""Training with FSDP2 against DDP: the same losses, weights, states and files; changing over."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from pairs import run_forked_pair, take_batches_of_two
from test_diarization_training import Conversations
from test_language_modelling import Text
from test_pretraining_tasks import options as multitask_options
from test_separation_training import Mixtures
from test_speaker_model import TINY
from test_verification import Speakers
from torch import Tensor
from torch.distributed.tensor import DTensor

from unispeech.__main__ import main
from unispeech.data.config import BatchingConfig
from unispeech.data.datasets import load_manifests
from unispeech.data.sampling import BatchStream
from unispeech.hub.save import save_model
from unispeech.models.config import HeadsConfig
from unispeech.models.encoder import Encoder
from unispeech.models.pretrained import read_checkpoint
from unispeech.models.speech import SpeechModel
from unispeech.train import loop, sharding, verification
from unispeech.train.multitask import MultitaskTask
from unispeech.train.pretraining import PretrainTask

# With so large an epsilon a step is proportional to the gradient: tiny gradients stay tiny.
STEADY = ("optim.eps=1", "optim.lr=1", "optim.warmup=0")
# Of the validation utterances the first process then has two batches and the second one.
SMALL_BATCHES = "data.batching.max_seconds=2.5"
# Dropout draws by rank, which one process does not have.
QUIET = ("model.dropout=0", "model.attention_dropout=0", "model.input_dropout=0")
PRETRAININGS = {
    "quiet": QUIET,
    "accumulated": ("train.accumulate=2", "model.layer_drop=0.5", "data.crop.rows=pad"),
    "recomputed-clipped": ("train.activation_checkpointing=true", "optim.clip=0.05"),
    "bf16": ("train.precision=bf16", "train.probe=true"),
    "fp16": ("train.precision=fp16", "train.loss_scale.initial=2048"),
}
# Networks on an encoder: batch norms and SGD, which has no epsilon; an encoder that is frozen, and
# parameters without dimensions; batch norms and the layers of a Conformer.
NETWORKS: dict[str, tuple[Callable, tuple[str, ...]]] = {
    "speaker": (Speakers, ("model.frozen=false", "optim.lr=0.0001")),
    "diarization": (Conversations, ("model.frozen=true", *STEADY)),
    "separation": (Mixtures, ("model.frozen=false", *STEADY)),
}


def pretraining(corpus, *more: str) -> list[str]:
    """A pre-training of five updates that validates twice."""
    options = ["pretrain", "--config", str(corpus.pretrain), *corpus.overrides(), *STEADY]
    lengths = ["train.updates=5", "train.validate_every=3", "train.checkpoint_every=5"]
    return [*options, SMALL_BATCHES, *lengths, *more]


def make_commands(corpus, folder: Path) -> dict[str, list[str]]:
    """A command without its output by the name of each training."""
    commands = {name: pretraining(corpus, *more) for name, more in PRETRAININGS.items()}
    torch.manual_seed(0)
    save_model(SpeechModel("wavlm", TINY, HeadsConfig()), folder / "init.pt")
    # Two updates in which the encoder is frozen, then all of it with layers left out.
    given = ["finetune", "--config", str(corpus.finetune), SMALL_BATCHES, "optim.eps=1"]
    commands["ctc"] = [*given, *corpus.ctc_overrides(folder / "init.pt"), "optim.lr=0.1"]
    # Batches with transcripts and without in turn, largest batches of both kinds.
    mixed = [f"data.unlabelled={corpus.valid}", "data.unlabelled_share=0.5", "train.probe=true"]
    given = multitask_options(corpus, "unispeech", folder / "multitask/one", *mixed, *STEADY)
    commands["multitask"] = [*given, "train.updates=4"]
    # Output tables that are the input's, in bands.
    tied = ("model.tied=true", "model.tied_projections=true")
    commands["text"] = [*Text(folder).options, *STEADY, *tied, "train.updates=4"]
    lengths = ["train.updates=4", "train.validate_every=3", "train.checkpoint_every=3"]
    for name, (kind, more) in NETWORKS.items():
        (folder / name).mkdir()
        made = kind(folder / name)
        commands[name] = [*made.options, f"model.encoder={made.encoder}", *lengths, *more]
    return commands


class Trained(NamedTuple):
    """Every training on two processes, with DDP in `NAME/ddp` and FSDP2 in `NAME/fsdp`."""

    folder: Path
    commands: dict[str, list[str]]
    """Without output, by name."""

    def run(self, name: str, parallel: str, output: Path) -> list[str]:
        """A whole command."""
        return [*self.commands[name], "--output", str(output), f"train.parallel={parallel}"]


@pytest.fixture(scope="module")
def trained(shared_corpus, tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("both")
    both = Trained(folder, make_commands(shared_corpus, folder))
    commands = [
        both.run(name, parallel, folder / name / parallel)
        for name in both.commands
        for parallel in ("ddp", "fsdp")
    ]
    codes = run_forked_pair(commands, folder / "log", let_processes_differ)
    assert codes == [0] * len(commands)
    return both


def let_processes_differ() -> None:
    """Leave the second one nothing to validate speakers on, and other kinds of batches to probe."""
    verification.VALID_BATCH = 100
    plain = MultitaskTask.largest_batches

    def largest_batches(self: MultitaskTask) -> list:
        found = plain(self)
        return found[:0:-1] if self.process.rank else found

    MultitaskTask.largest_batches = largest_batches


def rows_of(folder: Path) -> list[dict]:
    """Metrics without what depends on the clock and the machine."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    measured = ("minutes", "audio_seconds_per_second", "words_per_second", "memory_mb", "data_wait")
    return [{k: v for k, v in row.items() if k not in measured} for row in rows]


def newest(folder: Path) -> dict:
    return read_checkpoint(max((folder / "checkpoints").glob("step-*.pt")))


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert type(value) is type(ours[name]) is Tensor
        size = max(1.0, float(value.float().abs().max()))
        torch.testing.assert_close(ours[name], value, atol=tolerance * size, rtol=tolerance)


@pytest.mark.parametrize("name", [*PRETRAININGS, "ctc", "multitask", "text", *NETWORKS])
def test_both_ways_of_sharing_are_one_training(trained: Trained, name: str) -> None:
    """The same files, metrics, weights and optimizer states."""
    ddp, fsdp = (trained.folder / name / parallel for parallel in ("ddp", "fsdp"))
    files = [sorted(path.name for path in (f / "checkpoints").iterdir()) for f in (ddp, fsdp)]
    assert files[0] == files[1]
    for theirs, ours in zip(rows_of(ddp), rows_of(fsdp), strict=True):
        assert theirs.pop("phase") == ours.pop("phase")
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    theirs, ours = newest(ddp), newest(fsdp)
    assert theirs.keys() == ours.keys()
    assert_close(ours["model"], theirs["model"], 1e-5)
    states = [saved["optimizer"]["state"] for saved in (ours, theirs)]
    assert list(states[0]) == list(states[1])
    for number in states[1]:
        # Statistics over four crops magnify the rounding of the sums over both processes.
        assert_close(states[0][number], states[1][number], 1e-4)
    groups = [saved["optimizer"]["param_groups"] for saved in (ours, theirs)]
    for group, counterpart in zip(*groups, strict=True):
        # SGD of shares is not fused.
        assert {**group, "fused": None} == {**counterpart, "fused": None}


def test_layers_left_out_take_no_step(trained: Trained) -> None:
    """Not even one of a gradient of zero, which would decay the weights."""
    states = newest(trained.folder / "accumulated/fsdp")["optimizer"]["state"].values()
    assert len({float(state["step"]) for state in states}) > 1


def test_overflows_were_found_and_came_to_an_end(trained: Trained) -> None:
    assert 0 < newest(trained.folder / "fp16/fsdp")["precision"]["skipped"] < 5


def test_processes_validated_on_different_numbers_of_batches(shared_corpus) -> None:
    """So a validation that took joint steps would never have come to an end."""
    cuts = load_manifests([shared_corpus.valid])
    config = BatchingConfig(max_seconds=2.5, buckets=2)
    counts = [len(list(BatchStream(cuts, config, 1, rank, 2, epochs=1))) for rank in range(2)]
    assert counts == [2, 1]


def stop_in_third_update() -> None:
    """Let the second process get a SIGTERM."""
    plain = loop._update

    def update(run, micro_batches, step, signals):
        if run.process.rank == 1 and step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(run, micro_batches, step, signals)

    loop._update = update


def test_stopped_and_continued_the_other_way(trained: Trained, tmp_path) -> None:
    ways = [("accumulated", "fsdp", "ddp"), ("accumulated", "ddp", "fsdp")]
    # Bitwise the same way; and an SGD that is fused in one of the two.
    ways += [("accumulated", "fsdp", "fsdp"), ("speaker", "ddp", "fsdp")]
    commands = [
        trained.run(name, parallel, tmp_path / "-".join((name, *way)))
        for name, *way in ways
        for parallel in way
    ]
    codes = run_forked_pair(commands, tmp_path / "log", stop_in_third_update)
    assert codes == [75, 0] * len(ways)
    assert (tmp_path / "log").read_text().count("continuing after update 3 of ") == len(ways)
    for name, first, second in ways:
        ours = newest(tmp_path / f"{name}-{first}-{second}")
        theirs = newest(trained.folder / name / second)
        assert ours["step"] == theirs["step"]
        assert_close(ours["model"], theirs["model"], 0.0 if first == second else 1e-5)


def relabel(folder: Path, processes: int) -> None:
    """Let a training have been begun by so many processes, with the same batches in an update."""
    changes = {"processes": processes, "train.accumulate": 2 // processes}
    path = max((folder / "checkpoints").glob("step-*.pt"))
    saved = read_checkpoint(path)
    torch.save({**saved, "config": {**saved["config"], **changes}}, path)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, **changes}))


def test_stopped_and_continued_alone_and_the_other_way_round(
    trained: Trained, tmp_path, monkeypatch
) -> None:
    """By one process that takes the batches of both."""
    folders = tmp_path / "shared-first", tmp_path / "alone-first"
    shared = [trained.run("quiet", "fsdp", folder) for folder in folders]
    alone = [[*command, "train.accumulate=2"] for command in shared]
    take_batches_of_two(monkeypatch, PretrainTask)
    with monkeypatch.context() as patch:
        plain = loop._update
        patch.setattr(loop, "_update", lambda *a: (plain(*a)[0], 15 if a[2] == 2 else 0))
        assert main(alone[1]) == 75
    relabel(folders[1], 2)
    assert run_forked_pair(shared, tmp_path / "log", stop_in_third_update) == [75, 0]
    relabel(folders[0], 1)
    assert main(alone[0]) == 0
    for folder in folders:
        ours = newest(folder)
        assert ours["step"] == 5
        assert_close(ours["model"], newest(trained.folder / "quiet/ddp")["model"], 1e-5)


def test_what_cannot_be_sharded_is_one_line(tmp_path) -> None:
    commands = []
    for kind, more in ((Conversations, "train.precision=fp16"), (Speakers, "optim.fused=true")):
        made = kind(tmp_path)
        options = [f"model.encoder={made.encoder}", "train.parallel=fsdp", more]
        commands.append([*made.options, *options, "--output", str(tmp_path / f"{kind.__name__}")])
    assert run_forked_pair(commands, tmp_path / "log") == [78, 78]
    lines = (tmp_path / "log").read_text().splitlines()
    first, second = (line for line in lines if line.startswith("error: "))
    assert "parameters without dimensions: alpha, beta" in first
    assert "no fused SGD" in second


@pytest.fixture
def one_process():
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_sharded_encoder_runs_with_the_weights_that_it_has_now(one_process) -> None:
    """Nothing derived from weights outlives them: neither folded filters nor merged projections."""
    torch.manual_seed(0)
    waveforms = torch.randn(2, 16000)
    plain, sharded = Encoder(TINY).eval(), Encoder(TINY)
    sharded.load_state_dict(plain.state_dict())
    sharding.shard(sharded, torch.device("cpu"), "fp32")
    sharded(waveforms).last.sum().backward()
    sharded.eval()
    attention = sharded.encoder.layers[0].self_attn
    with torch.no_grad():
        for _ in range(2):
            with sharding.all_gathered(sharded):
                assert not attention.is_merged()
                ours = sharded(waveforms).last
            torch.testing.assert_close(ours, plain(waveforms).last)
            for parameter in (*plain.parameters(), *sharded.parameters()):
                parameter.mul_(1.1)
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    sharded.to(torch.float64)
    assert not attention.is_merged()
    assert list(sharded.state_dict()) == list(plain.state_dict())
    assert attention.q_proj.weight.dtype == torch.float64
