"""What the recipes would run: every budget, unit, rescoring and setting, as a dry run prints it."""

from __future__ import annotations

from pathlib import Path

import pytest
from dry_run import ROOT, after, commands, start, with_word

LIBRISPEECH = ["librispeech", "--corpora", "/corpora", "--exp", "/e"]
COMMON_VOICE = ["commonvoice", "--corpora", "/corpora", "--exp", "/e", "--splits", "/lists"]


@pytest.mark.parametrize(
    ("options", "preset"),
    [
        (["--budget", "10min"], "base_10min"),
        (["--budget", "10h", "--model", "wavlm_base"], "base_10h"),
        (["--budget", "10h", "--model", "hubert_base_it2"], "hubert_base_10h"),
        (["--model", "wav2vec2_base"], "wav2vec2_base_100h"),
        (["--budget", "1h", "--pretrained", "wavlm_base_plus"], "base_1h"),
        (["--budget", "960h", "--pretrained", "hubert_large"], "large_960h"),
        (["--budget", "100h", "--conf", "conf/ils_large"], "large_100h"),
    ],
)
def test_a_budget_names_the_preset_and_the_data(options: list[str], preset: str) -> None:
    found = commands(*LIBRISPEECH, *options)
    (tuning,) = with_word(found, "finetune")
    file = after(tuning, "--config")
    assert file == f"conf/finetune/{preset}.yaml"
    assert (ROOT / "egs/librispeech" / file).is_file()
    budget = preset.rpartition("_")[2]
    manifests = with_word(found, str(ROOT / "local/prepare_librispeech.py"))
    assert all(f"train={budget}" in words for words in manifests)
    (report,) = with_word(found, "report")
    assert ("--paper-hours" in report) == (budget != "10min")
    # The row of the paper is that of the model.
    if "--paper-hours" in report:
        assert after(report, "--paper-hours") == budget.removesuffix("h")
        assert Path(after(report, "--model")).name in " ".join([*options, "wavlm_base"])


def test_a_released_model_is_fine_tuned_as_it_is() -> None:
    found = commands(*LIBRISPEECH, "--pretrained", "wavlm_large")
    assert not with_word(found, "pretrain")
    assert not with_word(found, "label")
    (tuning,) = with_word(found, "finetune")
    assert "init=wavlm_large" in tuning


@pytest.mark.parametrize(
    ("init", "starts"),
    [
        ("", [None, None, None]),
        ("hubert_base", [None, None, "hubert_base"]),
        ("previous", [None, "/e/pretrain_it1", "/e/pretrain_it2"]),
    ],
)
def test_where_each_iteration_starts(init: str, starts: list[str | None]) -> None:
    options = ["--conf", "conf/mini", "--iterations", "mfcc pretrain:2 pretrain:3"]
    found = commands(*LIBRISPEECH, *options, "--init", init)
    trainings = [words for words in with_word(found, "pretrain") if "--config" in words]
    assert [after(words, "--output") for words in trainings] == [
        f"/e/pretrain_it{number}" for number in (1, 2, 3)
    ]
    given = [[word[5:] for word in words if word.startswith("init=")] for words in trainings]
    assert given == [[start] if start else [] for start in starts]
    layers = [word for words in with_word(found, "label") for word in words if "layer=" in word]
    assert layers == ["layer=2", "layer=3"]


@pytest.mark.parametrize("units", ["letters", "bpe", "phones"])
def test_units_reach_every_step(units: str) -> None:
    found = commands(*LIBRISPEECH, "--units", units, "--pieces", "500", "--lexicon", "/l.txt")
    (lang,) = with_word(found, str(ROOT / "local/prepare_lang.py"))
    assert (after(lang, "--units"), after(lang, "--pieces")) == (units, "500")
    assert after(lang, "--lexicon") == "/l.txt"
    (tuning,) = with_word(found, "finetune")
    assert f"data.units={units}" in tuning
    phones = with_word(found, str(ROOT / "local/add_phones.py"))
    assert len(phones) == (units == "phones")
    for words in phones:
        assert (after(words, "--manifests"), after(words, "--output")) == (
            "/e/manifests",
            "/e/data",
        )
        assert after(lang, "--text") == "/e/manifests/train.jsonl.gz"


def test_rescoring_follows_the_contract_of_its_commands() -> None:
    options = ["--rescore-arpa", "/4gram.arpa.gz", "--lm", "/lm", "--tests", "test-clean"]
    found = commands(*LIBRISPEECH, *options, "--scratch", "true", "--stage", "5")
    outputs = {after(words, "--output"): words for words in found if "--output" in words}
    for system in ("pretrained", "scratch"):
        for place in ("dev-other", "test-clean"):
            folder = f"/e/infer/{system}/{place}"
            graph, larger = (outputs[f"{folder}/{name}"] for name in ("graph", "graph_4gram"))
            rescored = outputs[f"{folder}/rescored"]
            assert "--rescore-arpa" not in graph
            assert after(larger, "--rescore-arpa") == "/4gram.arpa.gz"
            assert int(after(graph, "--nbest")) == int(after(larger, "--nbest")) > 1
            assert after(rescored, "--nbest") == f"{folder}/graph_4gram"
            assert after(rescored, "--lm") == "transformer=/lm"
            dev = f"/e/infer/{system}/dev-other"
            if place == "dev-other":
                assert after(larger, "--tune-emissions") == dev
                assert after(rescored, "--tune-nbest") == f"{dev}/graph_4gram"
                for words in (graph, larger, rescored):
                    assert after(words, "--tune-reference") == "/e/data/dev-other.jsonl.gz"
            else:
                assert after(graph, "--tuned") == f"{dev}/graph/tune.json"
                assert after(larger, "--tuned") == f"{dev}/graph_4gram/tune.json"
                assert after(rescored, "--tuned") == f"{dev}/rescored/tune.json"
    for words in with_word(found, "score"):
        places = [Path(word).parts[-3::2] for word in words if word.startswith("/e/infer")]
        methods = ("greedy", "graph", "graph_4gram", "rescored")
        assert set(places) == {(s, m) for s in ("pretrained", "scratch") for m in methods}


def test_what_is_estimated_here_for_rescoring() -> None:
    found = commands(*LIBRISPEECH, "--rescore-order", "4")
    (lang,) = with_word(found, str(ROOT / "local/prepare_lang.py"))
    assert after(lang, "--rescore-order") == "4"
    larger = with_word(found, "--rescore-arpa")
    assert {after(words, "--rescore-arpa") for words in larger} == {"/e/lang/rescore.arpa"}


def test_a_transformer_is_trained_and_used() -> None:
    found = commands(*LIBRISPEECH, "--lm", "transformer", "--lm-text", "/text.txt.gz")
    (training,) = with_word(found, "lm")
    assert after(training, "--config") == "conf/transformer_lm/large.yaml"
    assert after(training, "--output") == "/e/lm"
    assert {"data.train=/text.txt.gz", "data.valid=/e/data/dev-other.jsonl.gz"} <= set(training)
    assert {after(words, "--lm") for words in with_word(found, "rescore")} == {"transformer=/e/lm"}


def test_defaults_decode_twice() -> None:
    found = commands(*LIBRISPEECH, "--stage", "5", "--stop-stage", "6")
    assert {Path(after(words, "--output")).name for words in with_word(found, "decode")} == {
        "greedy", "graph",
    }  # fmt: skip
    assert not with_word(found, "rescore")
    assert not with_word(found, "--nbest")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["librispeech", "--budget", "2h"], "--budget wants one of 10min 1h 10h 100h 960h"),
        (["librispeech", "--units", "words"], "--units wants one of letters bpe phones"),
        (["commonvoice", "--vocabulary", "none"], "--vocabulary wants one of separate shared"),
        (["commonvoice", "--target", " "], "--target wants a language"),
    ],
)
def test_wrong_values(options: list[str], message: str) -> None:
    result = start(*options)
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        (["--target", "ky"], "one-to-one"),
        (["--target", "ky nl"], "one-to-one"),
        (["--target", "ky nl", "--source", "en fr"], "many-to-one"),
        (["--target", "ky nl", "--together", "true"], "one-to-many"),
        (["--target", "ky nl", "--together", "true", "--source", "en fr"], "many-to-many"),
    ],
)
def test_settings_of_common_voice(options: list[str], setting: str) -> None:
    found = commands(*COMMON_VOICE, *options)
    several = "ky nl" in options
    together = "--together" in options
    tunings = with_word(found, "finetune")
    (first, *rest) = with_word(found, "pretrain")
    assert after(first, "--output") == "/e/pretrain"
    models = [""] if together or not several else ["_ky", "_nl"]
    assert [after(words, "--output") for words in tunings] == [f"/e/finetune{m}" for m in models]
    assert [after(words, "--output") for words in rest] == [
        f"/e/pretrain_continued{model}" for model in models
    ]
    for model, tuning, adapting in zip(models, tunings, rest, strict=True):
        own = ["ky_", "nl_"] if together else [f"{model[1:]}_"] if model else [""]
        listed = {
            part: "[" + ",".join(f'"/e/data/{name}{part}.jsonl.gz"' for name in own) + "]"
            for part in ("train", "dev", "pretrain")
        }
        assert f"init=/e/pretrain_continued{model}" in tuning
        assert f"data.tokens=/e/lang/target{model}/tokens.txt" in tuning
        assert {f"data.train={listed['train']}", f"data.valid={listed['dev']}"} <= set(tuning)
        assert f"data.train={listed['pretrain']}" in adapting
    names = ["ky_", "nl_"] if several else [""]
    emitted = {Path(words[-1]).name for words in with_word(found, "emit")}
    assert emitted == {f"{name}{part}.jsonl.gz" for name in names for part in ("dev", "test")}
    (report,) = with_word(found, "report")
    assert f"setting={setting}" in report
    assert "vocabulary=separate" in report
    # Only the first of the paper's tables is known.
    assert ("--paper-model" in report) == (setting == "one-to-one")
    assert after(report, "--data-name") == ("Common Voice" if several else "Common Voice ky")
