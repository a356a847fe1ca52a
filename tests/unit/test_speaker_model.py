"""Speaker networks: sizes, padding, poolings, front ends, frozen and trained encoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank

from unispeech.errors import ConfigError, DataError, NumericsError
from unispeech.losses.margin import Margin
from unispeech.models.config import ConvLayer, EncoderConfig
from unispeech.models.downstream import Rates
from unispeech.models.families import LARGE
from unispeech.models.fbank import Fbank
from unispeech.models.pooling import (
    AttentiveStatisticsPooling,
    FactorisedPooling,
    StatisticsPooling,
)
from unispeech.models.speaker import SpeakerClassifier, SpeakerModel
from unispeech.models.speaker_config import SpeakerConfig, TdnnLayer
from unispeech.train.config import OptimConfig
from unispeech.train.initial import first_speaker
from unispeech.train.optim import build_optimizer, learning_rate, parameter_groups, set_step
from unispeech.train.verification_config import SpeakerModelConfig, SpeakerOptimConfig

TINY = EncoderConfig(
    conv_layers=tuple(
        ConvLayer(channels=8, kernel=k, stride=s)
        for k, s in ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
    ),
    layers=2, dim=16, ffn_dim=32, heads=2, pos_conv_kernel=8, pos_conv_groups=4,
)  # fmt: skip
SMALL = {"channels": 16, "bottleneck": 8, "attention_dim": 8, "embedding": 12}
TDNN = tuple(TdnnLayer(channels=c, kernel=k, dilation=d) for c, k, d in ((8, 5, 1), (12, 3, 2)))
VARIANTS = {
    "ecapa": SpeakerConfig(**SMALL),
    "context": SpeakerConfig(**SMALL, global_context=True),
    "statistics": SpeakerConfig(**SMALL, pooling="statistics"),
    "factorised": SpeakerConfig(**SMALL, pooling="factorised", heads=3),
    "backend": SpeakerConfig(**SMALL, network="none", pooling="factorised", heads=3),
    "xvector": SpeakerConfig(**SMALL, network="xvector", pooling="statistics", tdnn=TDNN),
    "fbank": SpeakerConfig(**SMALL, features="fbank", mels=10),
}


def made(name: str) -> SpeakerModel:
    """A model of each kind with running statistics that are not the first ones."""
    torch.manual_seed(1)
    config = VARIANTS[name]
    model = SpeakerModel(config, None if config.features == "fbank" else TINY)
    for buffer_name, buffer in model.named_buffers():
        if "running" in buffer_name:
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def speech(batch: int, samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(samples))


@pytest.mark.parametrize(
    ("config", "encoder", "parameters"),
    [
        (SpeakerConfig(), LARGE, 8_410_816),
        (SpeakerConfig(), EncoderConfig(), 7_755_456),
        (SpeakerConfig(features="fbank"), None, 5_891_776),
        (SpeakerConfig(global_context=True), LARGE, 8_804_032),
    ],
)
def test_sizes_are_the_published_models(config, encoder, parameters) -> None:
    """Counted in the authors' files, without the layer weights."""
    with torch.device("meta"):
        model = SpeakerModel(config, encoder)
    outside = ("encoder.", "layer_sum.")
    counted = sum(p.numel() for n, p in model.named_parameters() if not n.startswith(outside))
    assert counted == parameters
    assert encoder is None or model.layer_sum.weight.shape == (encoder.layers + 1,)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("is_training", [False, True])
def test_padded_batch_is_single_utterances(name, is_training) -> None:
    model = made(name)
    lengths = torch.tensor([9000, 16000, 5555])
    wavs = speech(3, 16000)
    # The encoder takes padded rows one by one on a CPU unless gradients are wanted.
    with torch.set_grad_enabled(is_training):
        single = [model(wavs[i : i + 1, :n])[0] for i, n in enumerate(lengths.tolist())]
        padded = model(wavs, lengths)
    assert padded.shape == (3, 12)
    torch.testing.assert_close(padded, torch.stack(single), atol=1e-5, rtol=1e-4)


def test_attentive_statistics_with_even_attention_are_plain_ones() -> None:
    x = torch.randn(2, 5, 30, generator=torch.Generator().manual_seed(0))
    pooling = AttentiveStatisticsPooling(5, 4, True)
    for parameter in pooling.linear2.parameters():
        torch.nn.init.zeros_(parameter)
    mean, deviation = x.mean(2), x.std(2, unbiased=False)
    torch.testing.assert_close(pooling(x, None), torch.cat([mean, deviation], 1))
    torch.testing.assert_close(
        StatisticsPooling(5)(x, None), torch.cat([mean, x.std(2)], 1)
    )


def test_attention_on_one_frame_gives_that_frame() -> None:
    x = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0))
    keys = torch.zeros(1, 4, 9)
    keys[0, :, 3] = 1000.0
    pooling = FactorisedPooling(4, 4, 2)
    with torch.no_grad():
        for layer in (pooling.key, pooling.value):
            layer.weight.copy_(torch.eye(4))
            layer.bias.zero_()
        pooling.attention.weight.fill_(1.0)
        found = pooling(keys, x, None)
    torch.testing.assert_close(found, x[:, :, 3].repeat(1, 2))


def test_filter_banks_are_a_transform_and_htk_filters() -> None:
    wavs = speech(2, 8123)
    window = torch.hann_window(400)
    spectrum = torch.stft(wavs, 512, 160, 400, window, return_complex=True).abs().square()
    filters = mel_filter_bank(257, 40, 0.0, 8000.0, 16000, norm=None, mel_scale="htk")
    expected = torch.log(spectrum.transpose(1, 2) @ torch.from_numpy(filters).float() + 1e-6)
    found, counts = Fbank(40)(wavs, None)
    assert counts.tolist() == [8123 // 160 + 1] * 2
    torch.testing.assert_close(found.transpose(1, 2), expected, atol=2e-3, rtol=1e-3)


def test_layer_weights_choose_the_layer() -> None:
    model = made("backend")
    with torch.no_grad():
        model.layer_sum.weight[1] = model.value_sum.weight[1] = 100.0
        output = model.encoder(speech(1, 8000))
        expected = model.linear(model.pooling(*[output.layers[1].transpose(1, 2)] * 2, None))
    torch.testing.assert_close(model(speech(1, 8000)), expected)


@pytest.mark.parametrize(("frozen", "dropout"), [(True, True), (False, False), (False, True)])
def test_frozen_encoder_neither_learns_nor_drops(frozen, dropout) -> None:
    model = made("ecapa")
    model.set_training(frozen, dropout)
    model.train()
    assert model.encoder.training == (dropout and not frozen)
    classifier = SpeakerClassifier(model, 5)
    loss, correct = classifier(speech(4, 8000), None, torch.arange(4), Margin(32, 0.2))
    loss.backward()
    assert 0 <= int(correct) <= 4
    for name, parameter in classifier.named_parameters():
        is_kept = name.startswith("speaker.encoder.") and (frozen or "mask_emb" in name)
        assert (parameter.grad is None) == is_kept, name


def test_rates_fall_with_depth_and_the_optimizer_follows() -> None:
    model = made("ecapa")
    model.set_training(False)
    classifier = SpeakerClassifier(model, 5)
    classifier.rates = Rates(0.1, 0.5)
    scales = {name: classifier.rate_scale(name) for name, _ in classifier.named_parameters()}
    assert scales["classes"] == scales["speaker.linear.weight"] == 1.0
    assert scales["speaker.layer_sum.weight"] == 1.0
    assert scales["speaker.encoder.encoder.layers.1.fc1.weight"] == pytest.approx(0.1)
    assert scales["speaker.encoder.encoder.layers.0.fc1.weight"] == pytest.approx(0.05)
    assert scales["speaker.encoder.layer_norm.weight"] == pytest.approx(0.025)
    config = OptimConfig(optimizer="sgd", momentum=0.0, weight_decay=0.0)
    optimizer = build_optimizer(parameter_groups(classifier), config)
    before = {name: p.detach().clone() for name, p in classifier.named_parameters()}
    for parameter in classifier.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_step(optimizer, config, 0.5, 0)
    optimizer.step()
    for name, parameter in classifier.named_parameters():
        step = 0.0 if name.endswith("mask_emb") else 0.5 * scales[name]
        torch.testing.assert_close(parameter.detach(), before[name] - step)


def test_schedule_is_the_authors() -> None:
    """0.64 to 4e-4 over 20 epochs with one of warm-up: the peak is 0.443 at its end."""
    config = SpeakerOptimConfig()
    rates = [learning_rate(config, update, 21_328) for update in range(1, 21_329)]
    assert max(rates) == pytest.approx(0.443, abs=5e-4)
    assert rates.index(max(rates)) + 1 == 1066
    assert rates[-1] == pytest.approx(4e-4)


def test_sgd_is_the_closed_form() -> None:
    config = OptimConfig(optimizer="sgd", momentum=0.9, nesterov=True, weight_decay=0.1)
    value = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = build_optimizer([value], config)
    expected, velocity = value.detach().clone(), torch.zeros(2, dtype=torch.float64)
    for step in range(4):
        value.grad = torch.tensor([0.3 * step, -0.5], dtype=torch.float64)
        gradient = value.grad + 0.1 * expected
        velocity = gradient.clone() if step == 0 else 0.9 * velocity + gradient
        expected = expected - 0.01 * (gradient + 0.9 * velocity)
        set_step(optimizer, config, 0.01, step)
        optimizer.step()
    torch.testing.assert_close(value.detach(), expected)


@pytest.mark.parametrize(
    ("name", "samples", "message"),
    [("ecapa", 399, "400 samples"), ("fbank", 256, "257"), ("xvector", 1900, "9 frames")],
)
def test_too_short_is_one_clear_line(name, samples, message) -> None:
    with pytest.raises(DataError, match=message):
        made(name).embed(speech(1, samples))


@pytest.mark.parametrize("name", VARIANTS)
def test_silence_has_a_finite_embedding_and_nan_is_an_error(name) -> None:
    model = made(name)
    assert torch.isfinite(model.embed(torch.zeros(1, 8000))).all()
    broken = speech(2, 8000)
    broken[1, 100] = float("nan")
    with pytest.raises(NumericsError, match=r"\[1\]"):
        model.embed(broken)


def test_a_continued_training_keeps_the_network() -> None:
    model = made("ecapa")
    same = first_speaker(SpeakerModelConfig(**SMALL, frozen=False), model, None, 1)
    assert same is model
    assert first_speaker(SpeakerModelConfig(), model, None, 1) is model
    with pytest.raises(ConfigError, match=r"model.channels=32 \(16 in the model\)"):
        first_speaker(SpeakerModelConfig(channels=32), model, None, 1)


@pytest.mark.parametrize(
    "values",
    [
        {"channels": 12},
        {"features": "fbank", "network": "none"},
        {"network": "xvector"},
        {"pooling": "statistics", "global_context": True},
    ],
)
def test_settings_that_do_not_fit_are_refused(values) -> None:
    with pytest.raises(ValueError, match="must be|needs"):
        SpeakerConfig(**values)


def test_embedding_does_not_depend_on_the_gain_of_filter_banks() -> None:
    """The norm over time takes off a constant, but for the floor of the logarithm."""
    model = made("fbank")
    wavs = speech(1, 16000) * 5
    np.testing.assert_allclose(model.embed(wavs), model.embed(2 * wavs), atol=1e-4)
