"""Every family against transformers: hidden states, padded batches, and folders in and out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers import PreTrainedModel

from unispeech.hub.load import load_model
from unispeech.hub.save import save_huggingface
from unispeech.models.families import PRESETS
from unispeech.models.speech import SpeechModel

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [24] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_buckets": 32,
    "max_bucket_distance": 80,
    "layerdrop": 0.0,
    "codevector_dim": 16,
    "proj_codevector_dim": 16,
    "num_codevectors_per_group": 10,
    "num_clusters": 14,
}
FAMILIES = ["WavLM", "Hubert", "Wav2Vec2", "UniSpeech", "UniSpeechSat"]
CLASSES = [(family, kind) for family in FAMILIES for kind in ("Model", "ForCTC")]
CLASSES += [(family, "ForPreTraining") for family in FAMILIES[2:]]


def build(family: str, kind: str, is_large: bool, **changes: object) -> PreTrainedModel:
    config = getattr(transformers, family + "Config")(
        **{**SMALL, **changes},
        feat_extract_norm="layer" if is_large else "group",
        do_stable_layer_norm=is_large,
        conv_bias=is_large,
    )
    torch.manual_seed(1)
    model = getattr(transformers, family + kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # The library starts norms and gates at the identity, which would hide mistakes.
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    return getattr(model, model.base_model_prefix, model)


def assert_same_states(theirs, ours: SpeechModel, wavs: torch.Tensor, scaled: bool = False) -> None:
    inputs = F.layer_norm(wavs, wavs.shape[1:]) if ours.config.normalize else wavs
    with torch.no_grad():
        expected = encoder_of(theirs)(inputs, output_hidden_states=True)
        found = ours(wavs)
    pairs = zip(
        [*found.layers, found.last],
        [*expected.hidden_states, expected.last_hidden_state],
        strict=True,
    )
    for state, reference in pairs:
        # The states of 24 layers without a norm between them grow, and their rounding with them.
        scale = max(1.0, float(reference.abs().max())) if scaled else 1.0
        torch.testing.assert_close(state, reference, atol=1e-5 * scale, rtol=1e-5)


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize(("family", "kind"), CLASSES)
def test_folder_in_and_out(tmp_path, family: str, kind: str, is_large: bool) -> None:
    theirs = build(family, kind, is_large)
    theirs.save_pretrained(tmp_path / "in")
    ours = load_model(tmp_path / "in")
    assert_same_states(theirs, ours, 0.1 * torch.randn(2, 8000))
    assert save_huggingface(ours, tmp_path / "out") == []
    again = type(theirs).from_pretrained(tmp_path / "out")
    for (name, value), (_, back) in zip(
        sorted(theirs.state_dict().items()), sorted(again.state_dict().items()), strict=True
    ):
        assert torch.equal(value, back), name
    for value, back in zip(
        ours.state_dict().values(), load_model(tmp_path / "out").state_dict().values(), strict=True
    ):
        assert torch.equal(value, back)


def test_recogniser_gives_the_same_logits(tmp_path) -> None:
    theirs = build("WavLM", "ForCTC", False, vocab_size=9)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "|": 1, "A": 2}')
    ours = load_model(tmp_path)
    wavs = 0.1 * torch.randn(2, 8000)
    with torch.no_grad():
        logits, lengths = ours.logits(wavs)
        torch.testing.assert_close(logits, theirs(wavs).logits, atol=1e-5, rtol=1e-5)
    assert lengths.tolist() == [24, 24]
    assert ours.tokens[:3] == ("<pad>", "|", "A")
    assert len(ours.tokens) == 9


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_batch_by_the_peers_rule(tmp_path, family: str, is_large: bool) -> None:
    theirs = build(family, "Model", is_large)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path, padding_rule="huggingface")
    ours.encoder.config = ours.config.model_copy(update={"normalize": False})
    lengths = torch.tensor([16000, 9001, 5000])
    mask = (torch.arange(16000) < lengths[:, None]).long()
    wavs = 0.1 * torch.randn(3, 16000) * mask
    with torch.no_grad():
        expected = theirs(wavs, attention_mask=mask, output_hidden_states=True).hidden_states
        found = ours(wavs, lengths)
    for state, reference in zip(found.layers, expected, strict=True):
        for row, frames in enumerate(found.lengths.tolist()):
            torch.testing.assert_close(
                state[row, :frames], reference[row, :frames], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("weight_norm", ["weight_g", "original0"])
def test_pickled_weights_in_both_spellings(tmp_path, weight_norm: str) -> None:
    theirs = build("Hubert", "Model", True)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = theirs.state_dict()
    if weight_norm == "weight_g":
        state = {
            name.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): value
            for name, value in state.items()
        }
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_same_states(theirs, load_model(tmp_path), 0.1 * torch.randn(1, 4000))


FULL = {
    "wavlm_base": "WavLM",
    "hubert_base": "Hubert",
    "wav2vec2_base": "Wav2Vec2",
    "unispeech_sat_base": "UniSpeechSat",
    "wavlm_large": "WavLM",
    "unispeech_large_stage2": "UniSpeech",
}


@pytest.mark.parametrize(("name", "peer"), FULL.items())
def test_full_size(tmp_path, name: str, peer: str) -> None:
    preset = PRESETS[name]
    from unispeech.models.config import HeadsConfig

    torch.manual_seed(0)
    ours = SpeechModel(preset.family, preset.encoder, HeadsConfig()).eval()
    save_huggingface(ours, tmp_path / "out")
    theirs = getattr(transformers, peer + "Model").from_pretrained(tmp_path / "out").eval()
    assert_same_states(theirs, ours, 0.1 * torch.randn(1, 8000), scaled=True)


def test_unknown_kinds_and_variants_are_refused(tmp_path) -> None:
    import json

    from unispeech.errors import DataError

    theirs = build("Wav2Vec2", "Model", False)
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    for change, message in (
        ({"model_type": "whisper"}, "not a model of this family"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"add_adapter": True}, "add_adapter"),
        ({"num_hidden_layers": 2}, "unexpected wav2vec2|unexpected encoder.layers.2"),
        ({"num_hidden_layers": 4}, "missing encoder.layers.3"),
        ({"num_attention_heads": 5}, "do not describe an encoder"),
    ):
        path.write_text(json.dumps({**settings, **change}))
        with pytest.raises(DataError, match=message):
            load_model(tmp_path)
