"""The wav2vec 2.0 objective against transformers' pre-training class, with the same choices."""

from __future__ import annotations

import pytest
import torch

from unispeech.hub.load import load_model
from unispeech.models.draws import Draws, draw, layout
from unispeech.models.objective import ContrastiveConfig
from unispeech.models.pretraining import PretrainingModel, Targets

transformers = pytest.importorskip("transformers")


def peer() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        codevector_dim=16,
        proj_codevector_dim=24,
        num_codevectors_per_group=10,
        num_negatives=9,
        diversity_loss_weight=0.1,
        layerdrop=0.0,
        feat_quantizer_dropout=0.0,
        attn_implementation="eager",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
    )
    return transformers.Wav2Vec2ForPreTraining(config).eval()


def test_contrast_and_gradients_are_transformers(tmp_path) -> None:
    theirs = peer()
    theirs.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    objective = ContrastiveConfig(
        quantizer=loaded.heads.config.quantizer,
        dim=24,
        negatives=9,
        feature_dropout=0.0,
        penalty_weight=0.0,
        diversity_weight=0.0,
    )
    ours = PretrainingModel(loaded.config, objective).eval()
    ours.load_state_dict(loaded.state_dict())
    waveforms = torch.randn(3, 24000, generator=torch.Generator().manual_seed(1))
    batch = layout(loaded.config, 3, 24000, None)
    draws = draw(objective, loaded.config, batch, torch.tensor([1, 2, 3]), 0, None)
    assert draws.negatives is not None
    output = ours(waveforms, None, Targets(), draws)

    # Theirs are rows of all frames, per utterance; ours are rows of the masked frames.
    negatives = torch.zeros(3 * batch.frames, 9, dtype=torch.int64)
    negatives[draws.masked] = draws.masked[draws.negatives]
    expected = theirs(
        waveforms,
        mask_time_indices=draws.time_mask,
        sampled_negative_indices=negatives.view(3, batch.frames, 9),
    )
    assert output.sample_size == int(draws.time_mask.sum())
    torch.testing.assert_close(output.terms["contrast"], expected.contrastive_loss.detach())
    output.loss.backward()
    expected.contrastive_loss.backward()
    pairs = {
        "encoder.encoder.layers.1.fc1.weight":
            "wav2vec2.encoder.layers.1.feed_forward.intermediate_dense.weight",
        "encoder.feature_extractor.conv_layers.3.conv.weight":
            "wav2vec2.feature_extractor.conv_layers.3.conv.weight",
        "heads.contrast.final_proj.weight": "project_hid.weight",
        "heads.contrast.project_q.weight": "project_q.weight",
        "heads.contrast.quantizer.vars": "quantizer.codevectors",
    }  # fmt: skip
    own, peers = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for name, other in pairs.items():
        torch.testing.assert_close(own[name].grad, peers[other].grad, atol=1e-4, rtol=1e-4)


def test_given_gumbel_noise_is_used() -> None:
    """Torch's own Gumbel softmax from the same stream gives the same codewords."""
    objective = ContrastiveConfig(feature_dropout=0.0)
    torch.manual_seed(0)
    model = PretrainingModel(load_small(), objective)
    head = model.heads.contrast
    assert head is not None
    frames = torch.randn(1, 30, 16)
    logits = head.quantizer.weight_proj(frames[0]).view(60, 320)
    torch.manual_seed(5)
    expected = torch.nn.functional.gumbel_softmax(logits, tau=2.0, hard=True).argmax(-1)
    torch.manual_seed(5)
    noise = -torch.empty(60, 320).exponential_().log()
    drawn = head.quantizer(frames, 2.0, noise).codes
    assert drawn.view(60).tolist() == expected.tolist()
    mask = torch.zeros(1, 49, dtype=torch.bool)
    mask[0, :30] = True
    negatives = torch.randint(0, 30, (30, 100))
    waveforms = torch.randn(1, 16000)
    draws = Draws.of(mask, negatives=negatives, temperature=2.0, gumbel=(noise,))
    losses = [model(waveforms, None, Targets(), draws).loss for _ in range(2)]
    torch.testing.assert_close(losses[0], losses[1], atol=0, rtol=0)
    other = draws._replace(gumbel=(noise.flip(0),))
    assert model(waveforms, None, Targets(), other).loss != losses[0]


def load_small():
    """An encoder of 16 channels."""
    from unispeech.models.config import ConvLayer, EncoderConfig

    shape = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
    return EncoderConfig(
        conv_layers=tuple(ConvLayer(channels=16, kernel=k, stride=s) for k, s in shape),
        layers=2, dim=32, ffn_dim=64, heads=4, pos_conv_kernel=16, pos_conv_groups=4,
        relative_position=False, gated=False, layer_drop=0.0, dropout=0.0,
        attention_dropout=0.0, input_dropout=0.0,
    )  # fmt: skip
