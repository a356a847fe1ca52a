"""Utterance mixing: energies, spans and labels' owner; in torch as in NumPy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data._utils.pin_memory import pin_memory

from unispeech.__main__ import main
from unispeech.data.config import MixingConfig
from unispeech.data.datasets import normalize
from unispeech.data.mixing import (
    apply_mixes,
    draw_later,
    draw_mixes,
    draw_reference_mixes,
    mix_batch,
    mixed,
)


def waves(rows: int, samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.05, 0.5, (rows, 1))
    return (scale * rng.standard_normal((rows, samples))).astype(np.float32)


def test_probability_zero_changes_nothing() -> None:
    batch = waves(4, 100)
    mix_batch(batch, MixingConfig(prob=0.0), 0)
    np.testing.assert_array_equal(batch, waves(4, 100))


def test_share_of_mixed_rows() -> None:
    rng = np.random.default_rng(0)
    count = sum(len(draw_mixes(10, 50, MixingConfig(), rng)) for _ in range(1000))
    assert count / 10000 == pytest.approx(0.2, abs=0.015)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(-5, 5), st.booleans())
def test_ratio_span_and_source(seed: int, snr: float, with_noise: bool) -> None:
    """What was added is a scaled piece of one other original, at most half as long."""
    before = waves(3, 400, seed)
    batch = before.copy()
    noise = [waves(1, 300, seed + 1)[0]] if with_noise else []
    config = MixingConfig(prob=1.0, snr=(snr, snr), noise_snr=(snr, snr), noise_prob=1.0)
    mixed: list[int] = []
    mix_batch(batch, config, seed, noise, mixed.append)
    assert mixed == [0, 1, 2]
    for row in range(3):
        added = batch[row].astype(np.float64) - before[row]
        touched = np.flatnonzero(np.abs(added) > 1e-7)
        if len(touched) < 20:
            continue
        first, last = touched[0], touched[-1] + 1
        assert last - first <= 200
        piece = added[first:last]
        others = noise or [before[i] for i in range(3) if i != row]
        gains = [_gain(piece, source.astype(np.float64)) for source in others]
        source, gain = next((s, g) for s, g in zip(others, gains, strict=True) if g is not None)
        power = np.square(before[row], dtype=np.float64).mean()
        ratio = power / (gain**2 * np.square(source, dtype=np.float64).mean())
        assert 10 * np.log10(ratio) == pytest.approx(snr, abs=0.05)


def _gain(piece: np.ndarray, source: np.ndarray) -> float | None:
    """The factor g for which `piece` is g times some stretch of `source`."""
    windows = np.lib.stride_tricks.sliding_window_view(source, len(piece))
    gains = windows @ piece / np.square(windows).sum(1)
    errors = np.abs(windows * gains[:, None] - piece).max(1)
    best = int(errors.argmin())
    return float(gains[best]) if errors[best] < 1e-4 else None


def test_a_single_utterance_is_never_mixed_with_itself() -> None:
    assert draw_mixes(1, 100, MixingConfig(prob=1.0), np.random.default_rng(0)) == []


def test_silence_mixes_in_nothing() -> None:
    batch = waves(2, 100)
    batch[1] = 0
    mix_batch(batch, MixingConfig(prob=1.0), 0)
    np.testing.assert_array_equal(batch[0], waves(2, 100)[0])
    np.testing.assert_array_equal(batch[1], 0)


def test_reference_stream_gives_the_references_mixes() -> None:
    """The specification's golden: seed 2024, sinusoids, every row mixed, no normalisation."""
    time = np.arange(1000)
    rows = [0.1 * (k + 1) * np.sin(0.01 * (k + 1) * time) for k in range(4)]
    before = np.stack(rows).astype(np.float32)
    batch = before.copy()
    config = MixingConfig(prob=1.0)
    mixes = draw_reference_mixes(4, 1000, config, np.random.RandomState(2024))
    apply_mixes(batch, mixes, is_sequential=True)
    spans = [np.flatnonzero(batch[row] != before[row])[[0, -1]].tolist() for row in range(4)]
    assert spans == [[548, 675], [74, 389], [247, 404], [39, 322]]
    sums = [13.261444, 5.532266, 17.350832, 15.269183]
    squares = [6.089723, 13.510092, 56.852585, 78.272552]
    np.testing.assert_allclose(batch.sum(1, dtype=np.float64), sums, atol=2e-5)
    np.testing.assert_allclose(np.square(batch, dtype=np.float64).sum(1), squares, atol=2e-5)


def batches_of(seed: int, rows: int, samples: int, scale: float) -> tuple[np.ndarray, list]:
    rng = np.random.default_rng(seed)
    batch = (scale * waves(rows, samples, seed)).astype(np.float32)
    if rows > 2:
        batch[rng.integers(rows)] = 0.0
    noises = [waves(1, int(n), seed + 1)[0] for n in rng.integers(1, 3 * samples, 3)]
    return batch, [*noises, np.zeros(50, np.float32)]


@pytest.mark.parametrize("stream", ["batch", "reference"])
@pytest.mark.parametrize("is_normalized", [False, True])
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 6),
    samples=st.integers(2, 700),
    noise_prob=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_mixes_drawn_here_and_added_there(
    stream, is_normalized, seed, rows, samples, noise_prob
) -> None:
    """Torch on the drawn mixes is NumPy on the batch; rows that lie in padding included."""
    before, noises = batches_of(seed, rows, samples, 1.0)
    lengths = np.random.default_rng(seed).integers(1, samples + 1, rows).tolist()
    config = MixingConfig(prob=0.8, noise_prob=noise_prob, stream=stream)

    def finish(row: int) -> None:
        if is_normalized:
            expected[row, : lengths[row]] = normalize(expected[row, : lengths[row]])

    expected = before.copy()
    mix_batch(expected, config, seed, noises, finish)
    drawn = draw_later(before.shape, config, seed, noises, lengths if is_normalized else None)
    given_waves = torch.from_numpy(before.copy())
    found = mixed(given_waves, drawn).numpy()
    np.testing.assert_array_equal(given_waves.numpy(), before)
    assert found.dtype == np.float32
    # A row of all but equal samples loses digits when its mean is taken off.
    tolerance = 1e-4 if is_normalized else 1e-6
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_workers_send_pieces_of_noise_not_noises() -> None:
    noises = [waves(1, 100_000)[0]]
    drawn = draw_later((8, 500), MixingConfig(prob=1.0, noise_prob=1.0), 0, noises)
    lengths = [mix.length for mix in drawn.mixes]
    assert [len(piece) for piece in drawn.noises] == lengths
    assert [piece.untyped_storage().nbytes() for piece in drawn.noises] == [4 * n for n in lengths]
    assert drawn.noise_powers == pytest.approx([np.square(noises[0], dtype=np.float64).mean()] * 8)


def test_pinning_keeps_what_was_drawn(monkeypatch) -> None:
    """The loader's thread that pins batches rebuilds every tuple and list in them."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor.clone())
    before, noises = waves(6, 300), [waves(1, 400, 1)[0]]
    drawn = draw_later(before.shape, MixingConfig(prob=1.0, noise_prob=0.5), 3, noises, [300] * 6)
    pinned = pin_memory(drawn)
    assert pinned.noises[0] is not drawn.noises[0]
    waveforms = torch.from_numpy(before)
    assert torch.equal(mixed(waveforms, pinned), mixed(waveforms, drawn))


def test_a_training_is_the_same_wherever_it_mixes(shared_corpus, tmp_path) -> None:
    def losses(name: str, *more: str) -> list[float]:
        options = ["--config", str(shared_corpus.pretrain), "--output", str(tmp_path / name)]
        common = [f"data.noise={shared_corpus.valid}", "data.mixing.noise_prob=0.5"]
        common += ["data.crop.rows=pad", "model.normalize=true", *more]
        assert main(["pretrain", *options, *shared_corpus.overrides(), *common]) == 0
        rows = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(row)["loss"] for row in rows]

    mixing = ["data.mixing.prob=1", "train.updates=3"]
    here = losses("loader", *mixing)
    there = losses("device", *mixing, "data.mixing.where=device", "data.batching.workers=2")
    assert len(here) == 4
    assert there == pytest.approx(here, rel=1e-5)
    unmixed = losses("unmixed", "data.mixing.prob=0", "train.updates=1")
    assert unmixed[0] != pytest.approx(here[0], rel=1e-5)
