"""Hidden states against transformers' WavLMModel with the same random weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import WavLMConfig, WavLMModel

from unispeech.models.config import ConvLayer, EncoderConfig
from unispeech.models.encoder import Encoder

SHAPE = ((24, 10, 5), (24, 3, 2), (24, 3, 2), (24, 3, 2), (24, 3, 2), (24, 2, 2), (24, 2, 2))


def peer(pre_norm: bool) -> WavLMModel:
    torch.manual_seed(3)
    config = WavLMConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=[c for c, _, _ in SHAPE],
        conv_kernel=[k for _, k, _ in SHAPE],
        conv_stride=[s for _, _, s in SHAPE],
        feat_extract_norm="layer" if pre_norm else "group",
        do_stable_layer_norm=pre_norm,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        num_buckets=32,
        max_bucket_distance=80,
        layerdrop=0.0,
    )
    model = WavLMModel(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            # The library's first weights leave gates at one and norms at identity.
            if "gru_rel_pos" in name or "norm" in name or name.endswith("bias"):
                value.add_(0.3 * torch.randn_like(value))
            elif "rel_attn_embed" in name:
                value.copy_(torch.randn_like(value))
    return model


def ours(pre_norm: bool) -> Encoder:
    return Encoder(
        EncoderConfig(
            conv_layers=tuple(ConvLayer(channels=c, kernel=k, stride=s) for c, k, s in SHAPE),
            extractor_norm="layer" if pre_norm else "group",
            norm_first=pre_norm,
            layers=3,
            dim=32,
            ffn_dim=64,
            heads=4,
            pos_conv_kernel=16,
            pos_conv_groups=4,
            num_buckets=32,
            max_distance=80,
            padding_rule="huggingface",
        )
    ).eval()


def our_name(name: str) -> str:
    table = {
        "masked_spec_embed": "mask_emb",
        "feature_projection.layer_norm": "layer_norm",
        "feature_projection.projection": "post_extract_proj",
        "pos_conv_embed.conv.parametrizations.weight.original0": "pos_conv.weight_g",
        "pos_conv_embed.conv.parametrizations.weight.original1": "pos_conv.weight_v",
        "pos_conv_embed.conv.bias": "pos_conv.bias",
        "encoder.layers.0.attention.rel_attn_embed": "encoder.relative_position.embedding",
        ".attention.gru_rel_pos_linear": ".self_attn.grep_linear",
        ".attention.gru_rel_pos_const": ".self_attn.grep_a",
        ".attention.": ".self_attn.",
        ".feed_forward.intermediate_dense": ".fc1",
        ".feed_forward.output_dense": ".fc2",
    }
    for theirs, own in table.items():
        if theirs in name:
            return name.replace(theirs, own)
    if name.startswith("feature_extractor."):
        return name.replace(".layer_norm.", ".norm.")
    if ".layers." in name and ".layer_norm." in name:
        return name.replace(".layer_norm.", ".self_attn_layer_norm.")
    return name


def pair(pre_norm: bool) -> tuple[WavLMModel, Encoder]:
    theirs, own = peer(pre_norm), ours(pre_norm)
    weights = {our_name(name): value for name, value in theirs.state_dict().items()}
    own.load_state_dict(weights)
    return theirs, own


def peer_states(model: WavLMModel, wavs: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    output = model(wavs, attention_mask=mask, output_hidden_states=True)
    return [*output.hidden_states, output.last_hidden_state]


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("samples", [400, 4321, 48000])
def test_every_hidden_state(pre_norm: bool, samples: int) -> None:
    theirs, own = pair(pre_norm)
    wavs = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    with torch.no_grad():
        expected = peer_states(theirs, wavs)
        output = own(wavs)
    assert len(output.layers) == 4
    for state, reference in zip([*output.layers, output.last], expected, strict=True):
        torch.testing.assert_close(state, reference, atol=1e-5, rtol=0)


def test_padded_batch_by_the_peers_rule() -> None:
    # Layer norm in the extractor: no statistics over time, so only the frame mask matters.
    theirs, own = pair(True)
    wavs = 0.1 * torch.randn(2, 32000, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([32000, 20100])
    mask = (torch.arange(32000) < lengths[:, None]).long()
    wavs = wavs * mask
    with torch.no_grad():
        expected = peer_states(theirs, wavs, mask)[-1]
        output = own(wavs, lengths)
    assert output.lengths.tolist() == [99, 62]
    for row, frames in enumerate(output.lengths.tolist()):
        torch.testing.assert_close(
            output.last[row, :frames], expected[row, :frames], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("pre_norm", [False, True])
def test_exact_rule_gives_a_padded_batch_the_states_of_single_utterances(pre_norm: bool) -> None:
    _, own = pair(pre_norm)
    own.config = own.config.model_copy(update={"padding_rule": "exact"})
    generator = torch.Generator().manual_seed(2)
    lengths = torch.tensor([16000, 9001, 400])
    wavs = torch.zeros(3, 16000)
    for row, length in enumerate(lengths.tolist()):
        wavs[row, :length] = 0.1 * torch.randn(length, generator=generator)
    with torch.no_grad():
        batch = own(wavs, lengths)
        for row, length in enumerate(lengths.tolist()):
            single = own(wavs[row : row + 1, :length]).last[0]
            assert batch.lengths[row] == len(single)
            torch.testing.assert_close(batch.last[row, : len(single)], single, atol=1e-5, rtol=0)


def test_normalized_padded_batch_equals_single_utterances() -> None:
    _, own = pair(True)
    own.config = own.config.model_copy(update={"padding_rule": "exact", "normalize": True})
    wavs = 0.2 + 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(5))
    wavs[1, 5000:] = 0
    with torch.no_grad():
        batch = own(wavs, torch.tensor([8000, 5000]))
        single = own(wavs[1:, :5000]).last[0]
    torch.testing.assert_close(batch.last[1, : len(single)], single, atol=1e-5, rtol=0)
