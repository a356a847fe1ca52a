"""CTC models of Hugging Face as recognisers: the same log-probabilities, by folder or by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers

from unispeech.__main__ import main
from unispeech.decode.emissions import EmissionReader
from unispeech.errors import DataError
from unispeech.hub.recogniser import open_recogniser

VOCABULARY = {"E": 3, "T": 4, "|": 5, "<pad>": 2, "<s>": 0, "</s>": 1, "'": 7, "<unk>": 6}
"""The blank is not the first output, as in some released models."""

KEPT = ["<pad>", "E", "T", "|", "'"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = transformers.WavLMConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        num_buckets=32, max_bucket_distance=80, layerdrop=0.0, vocab_size=len(VOCABULARY),
    )  # fmt: skip
    model = transformers.WavLMForCTC(config).eval()
    path = tmp_path_factory.mktemp("hub") / "model"
    model.save_pretrained(path)
    (path / "vocab.json").write_text(json.dumps(VOCABULARY))
    (path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    (path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    return path


@pytest.fixture(scope="module")
def expected(folder) -> tuple[np.ndarray, np.ndarray]:
    """A waveform and the library's log-probabilities of the outputs that are kept."""
    rng = np.random.default_rng(0)
    audio = (0.1 * rng.standard_normal(12000)).astype(np.float32)
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    inputs = extractor(audio, sampling_rate=16000, return_tensors="pt").input_values
    model = transformers.WavLMForCTC.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(inputs).logits[0, :, [VOCABULARY[token] for token in KEPT]]
    return audio, torch.log_softmax(logits, dim=-1).numpy()


def test_emissions_are_the_librarys(folder, expected, tmp_path) -> None:
    audio, log_probs = expected
    wav = tmp_path / "wavs" / "one.wav"
    wav.parent.mkdir()
    soundfile.write(wav, audio, 16000, "FLOAT")
    from unispeech.data.manifests import write_cuts
    from unispeech.data.recordings import find_recordings

    write_cuts(find_recordings(wav.parent), tmp_path / "cuts.jsonl.gz")
    given = ["--model", str(folder), "--output", str(tmp_path / "e"), "--device", "cpu"]
    assert main(["emit", *given, str(tmp_path / "cuts.jsonl.gz")]) == 0
    reader = EmissionReader(tmp_path / "e")
    assert reader.tokens == ["<blk>", "E", "T", "|", "'"]
    # Stored in half precision.
    np.testing.assert_allclose(reader["one"], log_probs, atol=3e-3)


def test_word_delimiter_and_blank_of_the_settings(folder, tmp_path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    vocabulary = {("_" if token == "|" else token): i for token, i in VOCABULARY.items()}
    vocabulary = {("[PAD]" if token == "<pad>" else token): i for token, i in vocabulary.items()}
    (other / "vocab.json").write_text(json.dumps(vocabulary))
    settings = {"word_delimiter_token": "_", "pad_token": {"content": "[PAD]", "special": True}}
    (other / "tokenizer_config.json").write_text(json.dumps(settings))
    assert open_recogniser(other).tokens == ["<blk>", "E", "T", "|", "'"]


def test_found_by_name_in_the_cache(folder, expected, tmp_path, monkeypatch) -> None:
    """The layout that huggingface_hub documents."""
    own = tmp_path / "hub" / "models--someone--small-ctc"
    (own / "refs").mkdir(parents=True)
    (own / "refs" / "main").write_text("abc123")
    shutil.copytree(folder, own / "snapshots" / "abc123")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    model = open_recogniser("someone/small-ctc")
    audio, log_probs = expected
    scaled = torch.from_numpy((audio - audio.mean()) / np.sqrt(audio.var() + 1e-7))
    with torch.no_grad():
        found, _ = model.model(scaled[None], None)
    torch.testing.assert_close(found[0].numpy(), log_probs, atol=1e-4, rtol=1e-4)
    with pytest.raises(DataError, match="hf download"):
        open_recogniser("someone/other-ctc")


def test_models_that_recognise_nothing(folder, tmp_path) -> None:
    plain = tmp_path / "plain"
    transformers.WavLMForCTC.from_pretrained(folder).wavlm.save_pretrained(plain)
    with pytest.raises(DataError, match="no CTC layer"):
        open_recogniser(plain)
    nameless = tmp_path / "nameless"
    shutil.copytree(folder, nameless)
    (nameless / "vocab.json").unlink()
    with pytest.raises(DataError, match=r"no vocab\.json"):
        open_recogniser(nameless)
