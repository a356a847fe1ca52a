"""Half precision, loss scaling, recomputed activations, compiled layers, the largest batch."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet
from torch import Tensor

from unispeech.__main__ import main
from unispeech.data.config import BatchingConfig
from unispeech.data.datasets import load_manifests
from unispeech.data.sampling import BatchStream, largest
from unispeech.errors import DependencyError
from unispeech.kernels import table
from unispeech.models.attention import SelfAttention
from unispeech.models.config import ConvLayer, EncoderConfig
from unispeech.models.draws import draw, layout
from unispeech.models.objective import MaskedPredictionConfig
from unispeech.models.pretrained import read_checkpoint
from unispeech.models.pretraining import PretrainingModel, Targets
from unispeech.train.config import LossScaleConfig, OptimConfig, TrainConfig
from unispeech.train.execution import set_execution
from unispeech.train.optim import build_optimizer, set_step
from unispeech.train.precision import Precision
from unispeech.train.pretraining import PretrainTask

CPU = torch.device("cpu")
LAYER = "encoder.encoder.layers"
SMALL = EncoderConfig(
    conv_layers=tuple(
        ConvLayer(channels=8, kernel=k, stride=s) for k, s in ((10, 5), (3, 2), (3, 2), (2, 2))
    ),
    layers=3, dim=16, ffn_dim=32, heads=2, pos_conv_kernel=8, pos_conv_groups=4, layer_drop=0.4,
)  # fmt: skip


def pretrain(corpus, folder: Path, *more: str) -> int:
    options = ["pretrain", "--config", str(corpus.pretrain), "--output", str(folder)]
    return main([*options, *corpus.overrides(), *more])


def final(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "checkpoints/final.pt")["model"]


def rows(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["phase"] == "train"]


def break_loss(monkeypatch, factors: dict[int, float]) -> None:
    """Multiply the loss of some updates."""
    plain = PretrainTask.loss

    def broken(self, model, batch, update):
        output = plain(self, model, batch, update)
        return output._replace(loss=output.loss * factors.get(update, 1.0))

    monkeypatch.setattr(PretrainTask, "loss", broken)


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=30))
def test_scale_halves_on_overflow_and_doubles_after_a_quiet_window(overflows) -> None:
    """The rule of fairseq, from its initial scale."""
    config = TrainConfig(precision="fp16", loss_scale=LossScaleConfig(window=3, minimum=1e-30))
    precision = Precision(config, CPU)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer([weight], OptimConfig())
    scale, quiet = 128.0, 0
    for overflow in overflows:
        precision.scale_loss((weight * (math.inf if overflow else 3.0)).sum()).backward()
        assert precision.unscale(optimizer) is overflow
        if not overflow:
            assert weight.grad.item() == 3.0
        optimizer.zero_grad(set_to_none=True)
        quiet = 0 if overflow else quiet + 1
        scale /= 2 if overflow else 1
        if quiet == 3:
            scale, quiet = scale * 2, 0
        assert precision.scale == scale
    assert precision.skipped == sum(overflows)


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_other_precisions_are_not_scaled(name) -> None:
    precision = Precision(TrainConfig(precision=name), CPU)
    weight = torch.nn.Parameter(torch.ones(1))
    precision.scale_loss(weight.sum() * math.inf).backward()
    assert not precision.unscale(build_optimizer([weight], OptimConfig()))
    assert precision.values() == {}
    with precision.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[name]


def test_overflow_skips_one_update_and_the_run_continues_bitwise(
    shared_corpus, tmp_path, monkeypatch
) -> None:
    break_loss(monkeypatch, {5: math.inf, 10: math.nan})
    options = ["train.precision=fp16", "train.loss_scale.window=3", "model.layer_drop=0"]
    assert pretrain(shared_corpus, tmp_path / "whole", *options) == 0
    by_step = {row["step"]: row for row in rows(tmp_path / "whole")}
    assert "loss" not in by_step[5]
    assert math.isfinite(by_step[6]["loss"])
    # 128, doubled after three updates, halved at the fifth, doubled after three more, and so on.
    scales = [128, 128, 256, 256, 128, 128, 128, 256, 256, 128, 128, 128]
    assert [by_step[step]["loss_scale"] for step in range(1, 13)] == scales
    assert [by_step[step]["skipped_updates"] for step in (4, 5, 9, 10)] == [0, 1, 1, 2]
    saved = read_checkpoint(tmp_path / "whole/checkpoints/step-00000012.pt")
    assert {float(s["step"]) for s in saved["optimizer"]["state"].values()} == {10.0}

    broken = PretrainTask.loss

    def crash(self, model, batch, update):
        if update == 8:
            raise KeyboardInterrupt
        return broken(self, model, batch, update)

    monkeypatch.setattr(PretrainTask, "loss", crash)
    pretrain(shared_corpus, tmp_path / "parts", *options)
    assert not (tmp_path / "parts/done.json").exists()
    monkeypatch.setattr(PretrainTask, "loss", broken)
    assert pretrain(shared_corpus, tmp_path / "parts", *options) == 0
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_skipped_update_changes_no_weight(shared_corpus, tmp_path, monkeypatch) -> None:
    break_loss(monkeypatch, {3: math.inf})
    options = ["train.precision=fp16", "train.checkpoint_every=1", "train.keep_last=12"]
    assert pretrain(shared_corpus, tmp_path, *options) == 0
    two, three, four = (
        read_checkpoint(tmp_path / f"checkpoints/step-{step:08d}.pt")["model"] for step in (2, 3, 4)
    )
    assert all(torch.equal(two[name], three[name]) for name in two)
    assert not all(torch.equal(three[name], four[name]) for name in two)


def test_overflow_at_the_smallest_scale_is_an_error(shared_corpus, tmp_path, monkeypatch, capsys):
    break_loss(monkeypatch, dict.fromkeys(range(4, 20), math.nan))
    options = ["train.precision=fp16", "train.loss_scale.minimum=20"]
    assert pretrain(shared_corpus, tmp_path, *options) == 70
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    # 128, 64 and 32 are tried; 16 is too small.
    assert "the loss of update 6 is nan" in error
    assert "at a loss scale of 16" in error
    assert (tmp_path / "log/nonfinite-6.json").is_file()


def test_bf16_stops_at_once(shared_corpus, tmp_path, monkeypatch, capsys) -> None:
    break_loss(monkeypatch, {2: math.nan})
    assert pretrain(shared_corpus, tmp_path, "train.precision=bf16") == 70
    assert "the loss of update 2 is nan" in capsys.readouterr().err


def model_and_batch(**changes: object) -> tuple[PretrainingModel, tuple]:
    torch.manual_seed(0)
    objective = MaskedPredictionConfig(final_dim=8)
    model = PretrainingModel(SMALL.model_copy(update=changes), objective, (6,))
    generator = torch.Generator().manual_seed(1)
    waveforms = 0.1 * torch.randn(3, 8000, generator=generator)
    labels = torch.randint(0, 6, (3, 190), generator=generator)
    lengths = torch.tensor([8000, 7000, 5000])
    targets = Targets((labels,), (1,))
    config = model.encoder.config
    frames = layout(config, *waveforms.shape, lengths, targets.labels, targets.ratios)
    draws = draw(objective, config, frames, torch.tensor([3, 4, 5]), 0, 11)
    return model.train(), (waveforms, lengths, targets, draws)


def gradients(
    model: PretrainingModel, batch: tuple, precision: Precision
) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(2)
    with precision.autocast():
        output = model(*batch)
    precision.scale_loss(output.loss / output.sample_size).backward()
    return {n: p.grad / precision.scale for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("name", "tolerance"), [("bf16", 0.1), ("fp16", 0.02)])
def test_half_precision_gradients_are_those_of_fp32(name, tolerance) -> None:
    """Relative error of the whole gradient; the roundings are 2^-8 and 2^-11."""
    quiet = {"dropout": 0.0, "attention_dropout": 0.0, "input_dropout": 0.0}
    model, batch = model_and_batch(**quiet)
    exact = gradients(model, batch, Precision(TrainConfig(), CPU))
    half = gradients(model, batch, Precision(TrainConfig(precision=name), CPU))
    assert exact.keys() == half.keys()
    flat, rounded = (torch.cat([g[n].flatten() for n in exact]) for g in (exact, half))
    assert torch.linalg.norm(rounded - flat) < tolerance * torch.linalg.norm(flat)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("is_relative", [False, True])
def test_attention_logits_beyond_fp16_do_not_overflow(padded, is_relative) -> None:
    """Logits of 10^5 are more than fp16 can hold; the softmax still is that of fp64."""
    torch.manual_seed(0)
    config = SMALL.model_copy(update={"gated": False, "dim": 64, "attention_dropout": 0.0})
    attention = SelfAttention(config).half()
    for layer in (attention.q_proj, attention.k_proj):
        torch.nn.init.normal_(layer.weight, std=30.0)
    x = torch.randn(2, 20, 64).half().requires_grad_()
    bias = torch.randn(2, 20, 20).half() if is_relative else None
    mask = torch.zeros(2, 20, dtype=torch.bool)
    mask[1, 15:] = padded
    out = attention(x, bias, mask if padded else None)

    wide = SelfAttention(config).double()
    wide.load_state_dict(attention.state_dict())
    heads = [
        layer(x.double()).half().double().view(2, 20, 2, 32).transpose(1, 2)
        for layer in (wide.q_proj, wide.k_proj, wide.v_proj)
    ]
    logits = heads[0] @ heads[1].transpose(2, 3) / math.sqrt(32)
    assert logits.abs().max() > 1e5
    logits = logits + (0.0 if bias is None else bias.double())
    logits = logits.masked_fill(mask[:, None, None], -math.inf)
    expected = wide.out_proj((logits.softmax(-1) @ heads[2]).transpose(1, 2).reshape(2, 20, 64))
    torch.testing.assert_close(out.double(), expected, atol=5e-3, rtol=5e-3)
    out.float().square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_activations_give_the_same_gradients(precision, monkeypatch) -> None:
    """Bitwise, with dropout and LayerDrop: the draws are repeated."""
    model, batch = model_and_batch()
    plain = gradients(model, batch, Precision(TrainConfig(precision=precision), CPU))
    config = TrainConfig(precision=precision, activation_checkpointing=True)
    set_execution(model, config)
    calls = []
    for module in model.encoder.encoder.layers:
        module.register_forward_pre_hook(lambda module, _: calls.append(module))
    kernels = table.CPU_TRAINING

    def extract(*args: object) -> Tensor:
        calls.append(kernels)
        return kernels.extract(*args)

    monkeypatch.setattr(table, "CPU_TRAINING", kernels._replace(extract=extract))
    again = gradients(model, batch, Precision(config, CPU))
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    layers = model.encoder.encoder.layers
    run = [x for i, x in enumerate(layers) if f"{LAYER}.{i}.fc1.bias" in plain]
    assert 0 < len(run) < 3
    assert all(calls.count(layer) == 2 for layer in run)
    # The extractor takes one of the three utterances at a time.
    assert calls.count(kernels) == 2 * 3


def test_nothing_is_recomputed_without_gradients() -> None:
    model, batch = model_and_batch()
    set_execution(model, TrainConfig(activation_checkpointing=True))
    with torch.no_grad():
        first = model.eval()(*batch)
        set_execution(model, TrainConfig())
        assert torch.equal(first.loss, model(*batch).loss)


@pytest.mark.slow
def test_compiled_layers_keep_names_and_gradients() -> None:
    quiet = {"dropout": 0.0, "attention_dropout": 0.0, "input_dropout": 0.0, "layers": 1}
    model, batch = model_and_batch(**quiet, layer_drop=0.0)
    precision = Precision(TrainConfig(), CPU)
    names = list(model.state_dict())
    plain = gradients(model, batch, precision)
    set_execution(model, TrainConfig(compile=True))
    compiled = gradients(model, batch, precision)
    assert list(model.state_dict()) == names
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, atol=1e-5, rtol=1e-4)


def test_compilation_without_a_compiler_is_a_clear_error(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(DependencyError, match="needs a C\\+\\+ compiler"):
        set_execution(model_and_batch()[0], TrainConfig(compile=True))


def test_fused_and_plain_adam_agree() -> None:
    values = []
    for fused in (True, False):
        generator = torch.Generator().manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(50, generator=generator))
        config = OptimConfig(fused=fused)
        optimizer = build_optimizer([weight], config)
        assert optimizer.defaults["fused"] is fused
        for step in range(5):
            weight.grad = torch.randn(50, generator=generator)
            set_step(optimizer, config, 0.01, step)
            optimizer.step()
        values.append(weight.detach())
    torch.testing.assert_close(values[0], values[1], atol=1e-6, rtol=1e-6)


def test_probe_reports_and_leaves_no_trace(shared_corpus, tmp_path, capsys) -> None:
    assert pretrain(shared_corpus, tmp_path / "quiet") == 0
    assert "largest batch" not in capsys.readouterr().out
    assert pretrain(shared_corpus, tmp_path / "probed", "train.probe=true") == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("largest batch: "))
    assert " utterances, " in line
    assert line.index("GB of ") > line.index(" s, peak ")
    assert out.index("largest batch") < out.index("train 1/12")
    quiet, probed = final(tmp_path / "quiet"), final(tmp_path / "probed")
    assert all(torch.equal(quiet[name], probed[name]) for name in quiet)


def test_probe_runs_every_layer_of_the_largest_batch(shared_corpus, tmp_path, monkeypatch) -> None:
    seen = []
    plain = PretrainTask.loss

    def watch(self, model, batch, update):
        output = plain(self, model, batch, update)
        if update == 0 and torch.is_grad_enabled():
            output.loss.backward(retain_graph=True)
            layers = model.encoder.encoder.layers
            seen.append((batch.seconds, all(x.fc1.bias.grad is not None for x in layers)))
        return output

    monkeypatch.setattr(PretrainTask, "loss", watch)
    options = ["train.probe=true", "train.updates=1", "model.layer_drop=0.9"]
    assert pretrain(shared_corpus, tmp_path, *options) == 0
    assert all(is_whole for _, is_whole in seen)
    stream = BatchStream(
        load_manifests([shared_corpus.train]),
        BatchingConfig(max_seconds=5.0, buckets=2),
        seed=1,
        epochs=1,
    )
    sizes = [len(s.cuts) * min(c.duration for c in s.cuts) for s in stream]
    assert max(seconds for seconds, _ in seen) == pytest.approx(max(sizes), abs=1e-3)


def test_largest_by_each_way_of_making_rows_equal(shared_corpus) -> None:
    cuts = list(load_manifests([shared_corpus.train]))

    class Stream:
        def __iter__(self):
            from unispeech.data.sampling import BatchSpec, Position

            for index, seconds in enumerate([[0.4, 0.4], [0.1, 0.7], [0.3, 0.3, 0.3], [0.75]]):
                cut = [c.truncate(duration=s) for c, s in zip(cuts, seconds, strict=False)]
                yield BatchSpec(Position(0, index), CutSet.from_cuts(cut))

    # 0.9 s after cropping, 1.4 s after padding and 2 x 0.7^2 for attention.
    assert [spec.position.batch for spec in largest(Stream())] == [2, 1]


def test_a_batch_that_does_not_fit_is_a_clear_error(
    shared_corpus, tmp_path, monkeypatch, capsys
) -> None:
    """A petabyte is refused by the real allocator."""
    plain = PretrainTask.loss

    def greedy(self, model, batch, update):
        torch.empty(2**50)
        return plain(self, model, batch, update)

    monkeypatch.setattr(PretrainTask, "loss", greedy)
    assert pretrain(shared_corpus, tmp_path, "train.probe=true") == 78
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "utterances, " in error
    assert "lower data.batching.max_seconds" in error
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_other_errors_of_a_probe_keep_their_traceback(shared_corpus, tmp_path, monkeypatch) -> None:
    def wrong(*_: object) -> None:
        F.linear(torch.ones(2), torch.ones(3, 3))

    monkeypatch.setattr(PretrainTask, "loss", wrong)
    with pytest.raises(RuntimeError, match="shape|size"):
        pretrain(shared_corpus, tmp_path, "train.probe=true")
