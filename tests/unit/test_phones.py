"""Phones as tokens: to ids and back, through training and decoding, to a phone error rate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unispeech.__main__ import main
from unispeech.data.manifests import load_cuts, phones, target, write_cuts
from unispeech.data.tokens import Tokenizer
from unispeech.decode.emissions import EmissionReader
from unispeech.decode.greedy import greedy
from unispeech.errors import DataError
from unispeech.models.pretrained import load_recogniser

TOKENS = ["<blk>", "|", "a", "aː", "t͡ʃ", "en:a"]
PHONES = {"AB": "aː b |", "BA": "b aː |", "A": "t͡ʃ |"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("lang") / "tokens.txt"
    path.write_text("".join(f"{t} {i}\n" for i, t in enumerate(TOKENS)), encoding="utf-8")
    return Tokenizer(path, "phones")


def test_phones_of_several_characters_are_one_token(tokenizer) -> None:
    assert tokenizer.encode("t͡ʃ aː | en:a") == [4, 3, 1, 5]


@given(ids=st.lists(st.integers(1, len(TOKENS) - 1), max_size=8))
def test_round_trip(tokenizer, ids) -> None:
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_unknown_phones_are_named(tokenizer) -> None:
    assert tokenizer.unknown("a aa | t͡ʃ") == {"aa"}
    with pytest.raises(DataError, match="'aa'"):
        tokenizer.encode("aa")


def test_greedy_keeps_boundaries_and_phones_apart() -> None:
    log_probs = np.full((6, 5), -9.0, np.float32)
    log_probs[np.arange(6), [2, 2, 0, 2, 1, 4]] = -0.1
    assert greedy(log_probs, TOKENS[:5], "phones") == "a a | t͡ʃ"
    assert greedy(log_probs, TOKENS[:5]) == "aa t͡ʃ"


@pytest.fixture
def lang(corpus) -> Path:
    """The corpus with phones in its supervisions, and their tokens."""
    for path in (corpus.train, corpus.valid):
        cuts = list(load_cuts(path))
        for cut in cuts:
            own = cut.supervisions[0]
            own.custom = {"phones": " ".join(PHONES[word] for word in own.text.split())}
        write_cuts(cuts, path)
    tokens = corpus.folder / "phones.txt"
    tokens.write_text("<blk> 0\n| 1\naː 2\nb 3\nt͡ʃ 4\n", encoding="utf-8")
    return tokens


def test_from_manifest_to_phone_error_rate(corpus, lang, capsys) -> None:
    init, model, out = (corpus.folder / name for name in ("init", "model", "infer/one/valid"))
    few = ["train.updates=1", "train.validate_every=1"]
    pretrain = ["pretrain", "--config", str(corpus.pretrain), "--output", str(init)]
    assert main([*pretrain, *corpus.overrides(), *few]) == 0
    finetune = ["finetune", "--config", str(corpus.finetune), "--output", str(model)]
    overrides = [*corpus.ctc_overrides(init), f"data.tokens={lang}", *few]
    assert main([*finetune, *overrides, "data.units=phones"]) == 0
    assert load_recogniser(model).units == "phones"
    valid = [json.loads(line) for line in (model / "metrics.jsonl").open()][-1]
    assert "per" in valid
    assert "wer" not in valid
    assert main(["emit", "--model", str(model), "--output", str(out), str(corpus.valid)]) == 0
    assert EmissionReader(out).units == "phones"
    greedy_folder = out / "greedy"
    decode = ["decode", "--method", "greedy", "--emissions", str(out)]
    assert main([*decode, "--output", str(greedy_folder)]) == 0
    # Hypotheses with one known error each: the last boundary is missing.
    cuts = load_cuts(corpus.valid)
    lines = [f"{cut.id} {phones(cut).removesuffix(' |')}\n" for cut in cuts]
    (greedy_folder / "text").write_text("".join(lines), encoding="utf-8")
    capsys.readouterr()
    score = ["score", "--reference", str(corpus.valid), "--hypothesis", str(greedy_folder)]
    assert main(score) == 0
    total = sum(len(phones(cut).split()) for cut in cuts)
    rate = 100 * len(cuts) / total
    assert capsys.readouterr().out.startswith(f"%PER {rate:.2f} [ {len(cuts)} / {total}, 0 ins")
    stored = json.loads((greedy_folder / "per.json").read_text())
    assert (stored["metric"], stored["phones"]) == ("PER", total)
    assert stored["per"] == pytest.approx(rate, abs=1e-3)
    assert main(score) == 0
    assert "already scored" in capsys.readouterr().out


def test_manifests_without_phones_are_a_clear_error(corpus, tmp_path, capsys) -> None:
    assert target(load_cuts(corpus.train)[0], "phones") == ""
    init = tmp_path / "init"
    pretrain = ["pretrain", "--config", str(corpus.pretrain), "--output", str(init)]
    assert main([*pretrain, *corpus.overrides(), "train.updates=1"]) == 0
    finetune = ["finetune", "--config", str(corpus.finetune), "--output", str(tmp_path / "model")]
    assert main([*finetune, *corpus.ctc_overrides(init), "data.units=phones"]) == 65
    assert "has no phones" in capsys.readouterr().err
