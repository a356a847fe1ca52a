"""Separation models: transform, Conformer, features of an encoder, losses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_speaker_model import TINY
from torch import nn

from unispeech.errors import ConfigError
from unispeech.losses.permutation import best_permutation
from unispeech.losses.separation import Target, separation_loss
from unispeech.models.config import conv_stack
from unispeech.models.conformer import Conformer, RelativeAttention
from unispeech.models.downstream import Rates
from unispeech.models.frontend import output_length
from unispeech.models.separation import SeparationModel, normalized
from unispeech.models.separation_config import ConformerConfig, SeparationConfig
from unispeech.models.stft import Stft
from unispeech.score.separation import si_sdr

SMALL = ConformerConfig(layers=2, dim=16, heads=2, ffn_dim=32, kernel=5, distance=20)


def small(features: str = "ssl") -> SeparationModel:
    torch.manual_seed(0)
    config = SeparationConfig(features=features, projection=8, conformer=SMALL)
    return SeparationModel(config, TINY if features == "ssl" else None).eval()


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("window", "fft", "hop"), [(400, 512, 160), (512, 512, 256)])
def test_transform_is_scipys(window: int, fft: int, hop: int) -> None:
    wave = np.random.default_rng(0).standard_normal(3001)
    stft = Stft(window, fft, hop)
    found = stft(torch.from_numpy(wave))
    frames = {"nperseg": window, "noverlap": window - hop, "nfft": fft}
    whole = {"boundary": None, "padded": False}
    expected = scipy.signal.stft(wave, window="hann", **frames, **whole)[2].T
    expected = expected * scipy.signal.get_window("hann", window).sum()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert len(found) == stft.frames(len(wave))


@settings(max_examples=20, deadline=None)
@given(st.integers(900, 6000), st.sampled_from([(400, 512, 160), (512, 512, 256), (400, 400, 100)]))
def test_transform_and_inverse_reconstruct(samples: int, sizes: tuple[int, int, int]) -> None:
    wave = torch.rand(2, samples, generator=torch.Generator().manual_seed(samples)) * 2 - 1
    stft = Stft(*sizes)
    spectra = stft(wave)
    assert spectra.shape[1] == stft.frames(samples)
    found = stft.inverse(spectra)
    assert found.shape[1] == stft.samples(spectra.shape[1])
    inner = slice(stft.margin, found.shape[1] - stft.margin)
    torch.testing.assert_close(found[:, inner], wave[:, inner], atol=1e-6, rtol=0)
    # Where all frames are there, the weights repeat with the hop.
    added = stft.overlap_add(spectra) / stft.period().repeat(spectra.shape[1] + 4)[: found.shape[1]]
    torch.testing.assert_close(added[:, inner], wave[:, inner], atol=1e-6, rtol=0)


@settings(max_examples=200, deadline=None)
@given(st.integers(400, 200_000))
def test_an_encoder_has_a_frame_for_every_two(samples: int) -> None:
    frames, states = Stft(400, 512, 160).frames(samples), output_length(samples, conv_stack())
    assert frames in (2 * states - 1, 2 * states)


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (ConformerConfig(pointwise="scalar"), 22.07),
        (ConformerConfig(pointwise="scalar", layers=18, dim=512, heads=8), 58.72),
    ],
)
def test_sizes_of_the_released_models(config: ConformerConfig, millions: float) -> None:
    """Seven channels and their phase differences are 1799 inputs; there are four masks."""
    with torch.device("meta"):
        conformer, masks = Conformer(1799, config), nn.Linear(config.dim, 4 * 257)
    assert round((parameters(conformer) + parameters(masks)) / 1e6, 2) == millions


def test_size_of_the_released_single_channel_model() -> None:
    shape = {"window": 512, "hop": 256, "log": False, "noises": 2, "features": "magnitude"}
    config = SeparationConfig(**shape, conformer={"pointwise": "scalar"})
    with torch.device("meta"):
        model = SeparationModel(config, None)
    assert round(parameters(model) / 1e6, 2) == 21.68


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_attention_is_the_sum_over_pairs(frames: int) -> None:
    torch.manual_seed(1)
    dim, heads, reach = 8, 2, 3
    layer = RelativeAttention(dim, heads, 0.0).double()
    table = torch.randn(2 * reach, dim // heads, dtype=torch.float64)
    x = torch.randn(1, frames, dim, dtype=torch.float64)
    distances = torch.arange(frames - 1, -frames, -1).clamp(-reach, reach - 1) + reach
    found = layer(x, table[distances], None)[0]
    split = [part(x[0]).view(frames, heads, -1) for part in (layer.query, layer.key, layer.value)]
    rows = []
    for i in range(frames):
        mixed = []
        for h in range(heads):
            q, keys, values = split[0][i, h], split[1][:, h], split[2][:, h]
            own = [table[min(max(i - j, -reach), reach - 1) + reach] for j in range(frames)]
            logits = torch.stack([q @ keys[j] + q @ own[j] for j in range(frames)]) / 2.0
            mixed.append(logits.softmax(0) @ values)
        rows.append(layer.out(torch.cat(mixed)))
    torch.testing.assert_close(found, torch.stack(rows))


@pytest.mark.parametrize("features", ["ssl", "magnitude"])
def test_padding_changes_nothing(features: str) -> None:
    model = small(features)
    lengths = torch.tensor([6000, 4321, 2500])
    waves = 0.1 * torch.randn(3, 6000, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        padded = model(waves, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = model(waves[row : row + 1, :length])
            frames = alone.masks.shape[2]
            assert frames == (length - 400) // 160 + 1
            assert int((~padded.padding_mask[row]).sum()) == frames
            own = padded.masks[row, :, :frames]
            torch.testing.assert_close(own, alone.masks[0], atol=1e-5, rtol=0)
            assert not padded.spectrum[row, frames:].abs().any()
    assert alone.masks.shape[1::2] == (3, 257)
    assert 0 < float(alone.masks.min()) < float(alone.masks.max()) < 1


def test_scalar_convolutions_are_two_numbers() -> None:
    config = SMALL.model_copy(update={"pointwise": "scalar"})
    full, scalar = Conformer(5, SMALL), Conformer(5, config)
    saved = 2 * (2 * 16 * 16 + 2 * 16 + 16 * 16 + 16) - 2 * (4 + 2)
    assert parameters(full) - parameters(scalar) == saved
    assert scalar(torch.randn(2, 7, 5)).shape == (2, 7, 16)


def test_level_does_not_matter_to_normalised_magnitudes() -> None:
    x = torch.rand(2, 50, 4, generator=torch.Generator().manual_seed(3)) + 0.5
    found = normalized(x.log(), None)
    torch.testing.assert_close(found, normalized((8 * x).log(), None), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.mean(1), torch.zeros(2, 4), atol=1e-5, rtol=0)
    assert torch.isfinite(normalized(torch.zeros(1, 3, 4), None)).all()


def test_a_frozen_encoder_learns_nothing_and_layers_have_rates() -> None:
    model = small()
    model.set_training(frozen=True)
    model.train()
    assert not model.encoder.training
    model(0.1 * torch.randn(2, 4000)).masks.sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert model.layer_sum.weight.grad is not None
    model.set_training(frozen=False)
    model.rates = Rates(0.5, 0.1)
    model(0.1 * torch.randn(2, 4000)).masks.sum().backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    last, first = (f"encoder.encoder.layers.{n}.fc1.weight" for n in (1, 0))
    assert model.rate_scale(last) == 0.5
    assert model.rate_scale(first) == pytest.approx(0.05)
    assert model.rate_scale("conformer.proj.weight") == 1.0


def test_an_encoder_of_other_frames_is_refused() -> None:
    config = SeparationConfig(window=512, hop=256, conformer=SMALL)
    with pytest.raises(ConfigError, match="one frame for every two"):
        SeparationModel(config, TINY)


def test_training_separates_two_bands() -> None:
    """A few updates on one batch gain what a network that learns must gain."""
    rng = np.random.default_rng(0)
    bands = [
        scipy.signal.butter(4, band, "bandpass", fs=16000, output="sos")
        for band in ([200, 1200], [2500, 5000])
    ]
    sources = np.stack(
        [[scipy.signal.sosfilt(sos, rng.standard_normal(6000)) for sos in bands] for _ in range(3)]
    )
    quiet = 0.01 * rng.standard_normal((3, 6000))
    wanted, noise = (torch.from_numpy(part).float() for part in (sources, quiet))
    mixture = wanted.sum(1) + noise
    # The order of the references must not matter.
    shuffled = torch.stack([wanted[0], wanted[1].flip(0), wanted[2]])
    model = small("magnitude").train()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    parts = [model.stft(part) for part in (shuffled, noise)]
    for _ in range(40):
        output = model(mixture)
        found = separation_loss(output.masks, output.spectrum, *parts, Target(power=0.5))
        optimizer.zero_grad()
        (found.loss / found.frames).backward()
        optimizer.step()
    inner = slice(400, 5600)
    masked = output.masks[:, :2] * output.spectrum.unsqueeze(1)
    streams = model.stft.inverse(masked)[:, :, inner].detach().double().numpy()
    ordered = np.stack(
        [part[order] for part, order in zip(shuffled, found.permutation, strict=True)]
    )
    ordered = ordered[:, :, inner].astype(float)
    gain = si_sdr(streams, ordered) - si_sdr(mixture[:, None, inner].numpy(), ordered)
    assert gain.min() > 5


costs = st.integers(1, 5).flatmap(
    lambda size: st.lists(st.floats(-10, 10), min_size=size * size, max_size=size * size)
)


@settings(max_examples=100, deadline=None)
@given(costs)
def test_best_permutation_is_the_hungarian_one(values: list[float]) -> None:
    size = round(len(values) ** 0.5)
    matrix = np.array(values).reshape(size, size)
    rows, columns = scipy.optimize.linear_sum_assignment(matrix)
    found = best_permutation(torch.from_numpy(matrix)[None])[0].tolist()
    assert sorted(found) == list(range(size))
    assert matrix[range(size), found].sum() == pytest.approx(matrix[rows, columns].sum())


def test_equal_costs_keep_the_order() -> None:
    assert best_permutation(torch.zeros(2, 3, 3)).tolist() == [[0, 1, 2]] * 2


def drawn(seed: int, speakers: int = 2) -> tuple[torch.Tensor, ...]:
    """Masks with one of noise, mixture, sources and noise: `(2, ., 6, 5)`."""
    rng = torch.Generator().manual_seed(seed)
    shape = (2, speakers, 6, 5)
    sources, noise = (
        torch.randn(*size, dtype=torch.complex64, generator=rng) for size in (shape, (2, 6, 5))
    )
    masks = torch.rand(2, speakers + 1, 6, 5, generator=rng)
    return masks, sources.sum(1) + noise, sources, noise


@pytest.mark.parametrize("speakers", [2, 3])
@pytest.mark.parametrize("kind", ["magnitude", "phase", "mask"])
@pytest.mark.parametrize(("power", "clip"), [(1.0, False), (0.5, True)])
def test_loss_is_the_best_of_all_permutations(
    speakers: int, kind: str, power: float, clip: bool
) -> None:
    masks, mixture, sources, noise = drawn(speakers, speakers)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    target = Target(kind, power, clip, 0.7)
    found = separation_loss(masks, mixture, sources, noise, target, padding)
    m, y, x, n = (tensor.numpy() for tensor in (masks, mixture, sources, noise))

    def wanted(reference: np.ndarray, row: int) -> np.ndarray:
        size, mixed = np.abs(reference), np.abs(y[row])
        if kind == "phase":
            size = size * np.cos(np.angle(reference) - np.angle(y[row]))
        if clip or kind != "magnitude":
            size = np.clip(size, 0, mixed)
        return size / mixed if kind == "mask" else size**power

    def distance(mask: np.ndarray, reference: np.ndarray, row: int) -> float:
        own = mask if kind == "mask" else (mask * np.abs(y[row])) ** power
        each = own - wanted(reference, row)
        each = (np.abs(each) if kind == "mask" else each**2)[: 4 if row else 6]
        return float(each.mean(1).sum())

    total = noises = 0.0
    for row in range(2):
        every = [
            np.mean([distance(m[row, i], x[row, j], row) for i, j in enumerate(order)])
            for order in itertools.permutations(range(speakers))
        ]
        total += min(every)
        order = list(itertools.permutations(range(speakers)))[int(np.argmin(every))]
        assert tuple(found.permutation[row].tolist()) == order
        noises += 0.7 * distance(m[row, speakers], n[row], row)
    assert float(found.loss) == pytest.approx(total + noises, rel=1e-3)
    assert float(found.noise) == pytest.approx(noises, rel=1e-3)
    assert found.frames == 10
    swapped = separation_loss(masks, mixture, sources.flip(1), noise, target, padding)
    assert float(swapped.loss) == pytest.approx(float(found.loss), rel=1e-5)


@pytest.mark.parametrize("kind", ["magnitude", "phase", "mask"])
def test_gradients_are_finite_in_silence(kind: str) -> None:
    masks, mixture, sources, noise = drawn(4)
    masks[0, :, 0] = 0
    mixture[0], sources[0], noise[0] = 0, 0, 0
    masks.requires_grad_()
    separation_loss(masks, mixture, sources, noise, Target(kind, 0.3)).loss.backward()
    assert torch.isfinite(masks.grad).all()
    assert masks.grad.abs().sum() > 0


def test_masks_of_sources_that_do_not_meet_have_no_loss() -> None:
    sources = torch.zeros(1, 2, 4, 6, dtype=torch.complex64)
    sources[0, 0, :, :2], sources[0, 1, :, 2:4] = 1 + 2j, -3j
    noise = torch.zeros(1, 4, 6, dtype=torch.complex64)
    noise[0, :, 4:] = 0.5
    parts = torch.cat([sources, noise[:, None]], 1)
    masks = (parts.abs() > 0).float()[:, [1, 0, 2]]
    found = separation_loss(masks, parts.sum(1), sources, noise, Target())
    assert float(found.loss) == pytest.approx(0.0, abs=1e-9)
    assert found.permutation.tolist() == [[1, 0]]
