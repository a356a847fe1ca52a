"""EEND-VC: sizes, layers against torch's, rates of frames, padding, losses, frozen encoders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_speaker_model import TINY, speech
from transformers.audio_utils import mel_filter_bank

from unispeech.errors import DataError, NumericsError
from unispeech.losses.permutation import activity_loss
from unispeech.losses.speaker_table import speaker_loss
from unispeech.models.diarization import EendLayer, EendModel, EendTraining, interpolate
from unispeech.models.diarization_config import EendConfig
from unispeech.models.downstream import Rates
from unispeech.models.families import LARGE
from unispeech.models.fbank import Fbank

SMALL = {"layers": 2, "dim": 16, "heads": 2, "ffn_dim": 24, "vector_dim": 12}
VARIANTS = {
    "ssl": EendConfig(**SMALL),
    "fbank": EendConfig(**SMALL, features="fbank"),
    "powerset": EendConfig(**SMALL, activity="powerset"),
    "plain": EendConfig(**SMALL, features="fbank", residual="plain", slots=2),
    "fast": EendConfig(**SMALL, features="fbank", frame_samples=640, context=2),
}


def made(name: str) -> EendModel:
    torch.manual_seed(1)
    config = VARIANTS[name]
    return EendModel(config, None if config.features == "fbank" else TINY).eval()


@pytest.mark.parametrize(
    ("config", "encoder", "parameters"),
    [(EendConfig(features="fbank"), None, 7_979_520), (EendConfig(), LARGE, 8_153_344)],
)
def test_sizes_are_the_published_models(config, encoder, parameters) -> None:
    """Counted in the reference: its transformers, and the heads of three slots."""
    with torch.device("meta"):
        model = EendModel(config, encoder)
    assert sum(p.numel() for p in model.transformer.parameters()) == parameters
    heads = [*model.activity.parameters(), *model.vectors.parameters()]
    assert sum(p.numel() for p in heads) == 198_147
    assert model.transformer.project.in_features == (345 if encoder is None else 1024)


@pytest.mark.parametrize(
    ("config", "chunk", "frames"),
    [
        (EendConfig(features="fbank"), 15, 150),
        (EendConfig(features="fbank"), 30, 300),
        (EendConfig(), 30, 750),
    ],
)
def test_frames_of_a_chunk_are_the_papers(config, chunk, frames) -> None:
    assert config.frames(chunk * 16000) == frames
    assert frames * config.seconds_per_frame == chunk


def test_plain_layer_is_torchs() -> None:
    torch.manual_seed(0)
    config = VARIANTS["plain"]
    layer = EendLayer(config).eval()
    peer = torch.nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=True).eval()
    with torch.no_grad():
        parts = (layer.query, layer.key, layer.value)
        peer.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        peer.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    pairs = (
        (layer.output, peer.self_attn.out_proj), (layer.attention_norm, peer.norm1),
        (layer.ffn_norm, peer.norm2), (layer.expand, peer.linear1), (layer.contract, peer.linear2),
    )  # fmt: skip
    for own, other in pairs:
        other.load_state_dict(own.state_dict())
    x = torch.randn(2, 9, 16)
    valid = torch.arange(9) < torch.tensor([[9], [6]])
    expected = peer(x, src_key_padding_mask=~valid)
    torch.testing.assert_close(layer(x, valid)[valid], expected[valid], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer(x, None), peer(x), atol=1e-5, rtol=1e-4)


def test_normalised_residual_adds_to_the_norm() -> None:
    """Both sums start from the normalised value, which torch's layers cannot do."""
    torch.manual_seed(0)
    layer = EendLayer(VARIANTS["ssl"]).eval()
    peer = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    parts = (layer.query, layer.key, layer.value)
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        peer.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        peer.out_proj.load_state_dict(layer.output.state_dict())
        for norm in (layer.attention_norm, layer.ffn_norm):
            norm.weight.uniform_(0.5, 2)
    x = torch.randn(2, 7, 16)
    one = F.layer_norm(x, (16,), layer.attention_norm.weight, layer.attention_norm.bias)
    two = F.layer_norm(
        one + peer(one, one, one)[0], (16,), layer.ffn_norm.weight, layer.ffn_norm.bias
    )
    inner = torch.relu(two @ layer.expand.weight.T + layer.expand.bias)
    expected = two + inner @ layer.contract.weight.T + layer.contract.bias
    torch.testing.assert_close(layer(x, None), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("is_training", [False, True])
def test_padded_batch_is_single_chunks(name, is_training) -> None:
    model = made(name)
    lengths = torch.tensor([9700, 16000, 3333])
    wavs = speech(3, 16000)
    for row, length in enumerate(lengths.tolist()):
        wavs[row, length:] = 0
    with torch.set_grad_enabled(is_training):
        padded = model(wavs, lengths)
        for row, length in enumerate(lengths.tolist()):
            single = model(wavs[row : row + 1, :length])
            frames = model.config.frames(length)
            assert single.activity.shape == (1, frames, model.config.slots)
            close = {"atol": 2e-5, "rtol": 1e-4}
            torch.testing.assert_close(padded.activity[row, :frames], single.activity[0], **close)
            torch.testing.assert_close(padded.vectors[row], single.vectors[0], **close)
            assert bool((padded.activity[row, frames:] == 0).all())
            assert padded.valid[row].sum() == frames


def test_interpolation_is_torchs_for_each_row() -> None:
    x = torch.randn(3, 4, 49, generator=torch.Generator().manual_seed(0))
    counts, targets = torch.tensor([49, 31, 2]), torch.tensor([25, 15, 1])
    found = interpolate(x, counts, targets, 25)
    for row, (count, target) in enumerate(zip(counts, targets, strict=True)):
        expected = F.interpolate(x[row : row + 1, :, :count], int(target), mode="linear")
        torch.testing.assert_close(found[row : row + 1, :, :target], expected)
        assert bool((found[row, :, target:] == 0).all())


def test_filters_end_at_four_kilohertz() -> None:
    expected = mel_filter_bank(257, 23, 0.0, 4000.0, 16000, mel_scale="htk")
    np.testing.assert_allclose(Fbank(23, 4000.0).filters, expected, atol=1e-5)


def test_spliced_filter_banks_written_out() -> None:
    """Fifteen filter banks around the middle of every tenth of a second, without the mean."""
    model = made("fbank")
    wavs = speech(1, 16000)
    found = model._spliced(model.fbank, wavs, None, 10)[0].numpy()
    banks = model.fbank(wavs, None)[0][0].T.double().numpy() / math.log(10)
    banks -= banks.mean(0)
    padded = np.concatenate([np.zeros((7, 23)), banks, np.zeros((7, 23))])
    expected = np.stack([padded[c : c + 15].ravel() for c in range(5, 101, 10)])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_activity_of_a_powerset_is_that_of_its_sets() -> None:
    model = made("powerset")
    output = model(speech(1, 16000))
    shares = torch.softmax(output.logits[0, 3], 0)
    assert output.logits.shape == (1, 25, 7)
    assert float(output.activity[0, 3, 0].detach()) == pytest.approx(
        float(shares[[1, 4, 5]].sum().detach()), rel=1e-5
    )


@pytest.mark.parametrize("name", ["ssl", "powerset"])
def test_losses_are_summed_with_their_weights(name) -> None:
    torch.manual_seed(2)
    training = EendTraining(made(name), 6, speaker_weight=0.2, over="active")
    wavs, activity = speech(2, 16000), (torch.rand(2, 25, 3) < 0.4).float()
    speakers = torch.tensor([[4, -1, 0], [5, 2, 1]])
    training.is_known[2] = False
    found = training(wavs, None, activity, speakers)
    labels = torch.stack([speakers[row][found.order[row]] for row in range(2)])
    labels[labels == 2] = -1
    output = training.eend(wavs)
    second = speaker_loss(
        output.vectors, labels, training.table, training.alpha, training.beta, "active"
    ).sum()
    torch.testing.assert_close(found.speaker, second)
    torch.testing.assert_close(found.total, 0.8 * found.activity + 0.2 * second)
    if name == "ssl":
        torch.testing.assert_close(
            found.activity, activity_loss(output.logits, activity, None).loss.sum()
        )
    assert bool(((training.alpha >= 0.5) & (training.alpha < 1.5)).all())


def test_loss_does_not_depend_on_the_order_of_the_speakers() -> None:
    training = EendTraining(made("ssl"), 6)
    wavs, activity = speech(1, 16000), (torch.rand(1, 25, 3) < 0.4).float()
    speakers = torch.tensor([[4, 2, 0]])
    one = training(wavs, None, activity, speakers)
    other = training(wavs, None, activity[:, :, [2, 0, 1]], speakers[:, [2, 0, 1]])
    torch.testing.assert_close(one.total, other.total)


@pytest.mark.parametrize("is_frozen", [True, False])
def test_frozen_encoder_does_not_learn(is_frozen) -> None:
    model = made("ssl")
    model.set_training(is_frozen)
    training = EendTraining(model, 4).train()
    assert not model.encoder.training
    speakers = torch.tensor([[0, 1, 3]])
    training(speech(1, 16000), None, torch.ones(1, 25, 3), speakers).total.backward()
    for name, parameter in training.named_parameters():
        is_kept = name.startswith("eend.encoder.") and (is_frozen or "mask_emb" in name)
        assert (parameter.grad is None) == is_kept, name


def test_rates_fall_with_the_depth_of_the_encoder() -> None:
    training = EendTraining(made("ssl"), 4)
    training.rates = Rates(0.1, 0.5)
    assert training.rate_scale("table") == 1.0
    assert training.rate_scale("eend.transformer.layers.0.query.weight") == 1.0
    assert training.rate_scale("eend.encoder.encoder.layers.0.fc1.weight") == pytest.approx(0.05)
    assert training.rate_scale("eend.encoder.layer_norm.weight") == pytest.approx(0.025)


def test_two_voices_are_told_apart_after_some_updates() -> None:
    """Two tones that take turns: the loss falls far below that of a coin."""
    torch.manual_seed(0)
    config = EendConfig(**SMALL, features="fbank", slots=2, dropout=0.0)
    training = EendTraining(EendModel(config, None), 2, speaker_weight=0.1)
    time = torch.arange(64000) / 16000
    gate = torch.tensor([[1.0, 0, 1, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 1, 1, 0]])
    tones = torch.stack([torch.sin(2 * math.pi * hz * time) for hz in (400, 1500)])
    wavs = (0.1 * tones * gate.repeat_interleave(8000, 1)).sum(0, keepdim=True)
    wavs = wavs + 0.001 * torch.randn(1, 64000)
    activity = gate.repeat_interleave(5, 1).T.unsqueeze(0)
    optimizer = torch.optim.Adam(training.parameters(), 5e-3)
    for _ in range(60):
        losses = training(wavs, None, activity, torch.tensor([[0, 1]]))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.activity.item() < 0.1
    assert losses.speaker.item() < 0.2


def test_too_short_and_not_finite_are_clear() -> None:
    with pytest.raises(DataError, match="at least 1600 samples"):
        made("fbank").diarize(speech(1, 1599))
    broken = speech(1, 16000)
    broken[0, 5] = float("nan")
    for name in ("fbank", "ssl"):
        with pytest.raises(NumericsError, match="not finite"):
            made(name).diarize(broken)


@pytest.mark.parametrize(
    "values",
    [
        {"dim": 20},
        {"features": "fbank", "frame_samples": 1000},
        {"activity": "powerset", "slots": 1},
        {"slots": 7},
    ],
)
def test_settings_that_do_not_fit_are_refused(values) -> None:
    with pytest.raises(ValueError, match="must|less than"):
        EendConfig(**values)
