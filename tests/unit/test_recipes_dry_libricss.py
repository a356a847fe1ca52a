"""What the LibriCSS recipe would run, as a dry run prints it."""

from __future__ import annotations

from pathlib import Path

import pytest
from dry_run import ROOT, after, commands, start, with_word

LIBRICSS = ["libricss", "--corpora", "/c", "--exp", "/e"]


@pytest.mark.parametrize(
    ("options", "systems"),
    [
        (["--conf", "conf/wavlm_large"], {
            "frozen": "model.encoder=wavlm_large", "joint": "init=/e/frozen"}),
        (["--conf", "conf/wavlm_base_plus", "--pretrained", "hubert_base"], {
            "frozen": "model.encoder=hubert_base", "joint": "init=/e/frozen"}),
        (["--conf", "conf/conformer"], {"magnitude": "init="}),
        (["--tiny", "true"], {
            "magnitude": "init=", "frozen": "model.encoder=/e/pretrain",
            "joint": "init=/e/frozen"}),
        (["--conf", "conf/mini", "--layout", "folder", "--systems", "frozen"], {
            "frozen": f"model.encoder={ROOT}/egs/librispeech/exp/mini/pretrain_it3"}),
    ],
)  # fmt: skip
def test_each_system_begins_where_it_should(options: list[str], systems: dict[str, str]) -> None:
    found = with_word(commands(*LIBRICSS, "--recogniser", "/r", *options), "separation")
    assert [Path(after(words, "--output")).name for words in found] == list(systems)
    for words in found:
        name = Path(after(words, "--output")).name
        assert systems[name] in words
        config = Path(after(words, "--config"))
        assert config.stem == name
        assert (ROOT / "egs/libricss" / config).is_file()
        assert "data.train=/e/data/train.jsonl.gz" in words
        assert "data.valid=/e/pairs/dev/pairs.jsonl.gz" in words
        assert "data.rir=/e/rooms/rir.jsonl.gz" in words


@pytest.mark.parametrize(
    ("options", "encoder"),
    [
        ([], ["fetch", "wavlm_large"]),
        (["--pretrained", str(ROOT)], []),
        (["--conf", "conf/conformer"], []),
        (["--tiny", "true"], ["pretrain", "--config", "conf/tiny/pretrain.yaml"]),
    ],
)
def test_where_the_encoder_comes_from(options: list[str], encoder: list[str]) -> None:
    found = commands(*LIBRICSS, *options, "--stage", "3", "--stop-stage", "3")
    assert len(found) == bool(encoder)
    assert all(" ".join(encoder) in " ".join(words) for words in found)


def test_everything_is_separated_recognised_and_scored() -> None:
    found = commands(
        *LIBRICSS, "--tiny", "true", "--tests", "dev test", "--method", "mvdr", "--alone", "0.1"
    )
    systems = ("magnitude", "frozen", "joint")
    places = [f"{s}/{i}" for s in ("dev", "test") for i in ("utterance", "continuous")]
    separated = {after(words, "--output"): words for words in with_word(found, "separate")}
    assert set(separated) == {f"/e/streams/{s}/{p}" for s in systems for p in places}
    for place, words in separated.items():
        system, rest = place.removeprefix("/e/streams/").split("/", 1)
        assert after(words, "--model") == f"/e/{system}"
        assert after(words, "--wavs") == f"/e/sets/{rest}.jsonl.gz"
        assert (after(words, "--method"), after(words, "--alone")) == ("mvdr", "0.1")
        assert ("--whole" in words) == place.endswith("utterance")
    heard = {after(words, "--output"): words for words in with_word(found, "emit")}
    everything = [f"{s}/{p}" for s in ("unprocessed", *systems) for p in places]
    assert set(heard) == {f"/e/infer/{name}" for name in everything}
    for place, words in heard.items():
        name = place.removeprefix("/e/infer/")
        assert after(words, "--model") == "/e/finetune"
        is_raw, is_continuous = name.startswith("unprocessed"), name.endswith("continuous")
        assert ("--pieces" in words) == (is_continuous and not is_raw)
        assert ("--window" in words) == (is_continuous and is_raw)
        streams = f"/e/streams/{name}/streams.jsonl.gz"
        assert words[-1] == (f"/e/sets/{name.split('/', 1)[1]}.jsonl.gz" if is_raw else streams)
    decoded = {after(words, "--emissions"): words for words in with_word(found, "decode")}
    assert set(decoded) == set(heard)
    scored = {after(words, "--output"): words for words in with_word(found, "separated")}
    assert set(scored) == {f"/e/wer_streams/{name}" for name in everything}
    for place, words in scored.items():
        name = place.removeprefix("/e/wer_streams/")
        system, condition, evaluation = name.split("/")
        assert after(words, "--reference") == f"/e/sets/{condition}/{evaluation}.jsonl.gz"
        assert after(words, "--hypothesis") == after(decoded[f"/e/infer/{name}"], "--output")
        assert after(words, "--evaluation") == evaluation
        assert (after(words, "--system"), after(words, "--condition")) == (system, condition)
        if system == "unprocessed":
            assert "--streams" not in words
        else:
            assert after(words, "--streams") == f"/e/streams/{name}"


def test_a_graph_instead_of_greedy_search() -> None:
    found = commands(*LIBRICSS, "--recogniser", "/r", "--lang", "/l", "--quality", "true")
    for words in with_word(found, "decode"):
        assert after(words, "--method") == "graph"
        assert after(words, "--lang") == "/l"
        assert "--tuned" not in words
    for words in with_word(found, "separated"):
        assert after(words, "--hypothesis").endswith("/graph")
        assert "--quality" in words
    assert {after(words, "--model") for words in with_word(found, "emit")} == {"/r"}
    # The small recogniser of real speech comes with its graph, and with what was tuned for it.
    own = commands(*LIBRICSS, "--layout", "folder", "--conf", "conf/mini")
    small = ROOT / "egs/librispeech/exp/mini"
    for words in with_word(own, "decode"):
        assert after(words, "--lang") == str(small / "lang")
        assert after(words, "--tuned") == str(small / "infer/pretrained/dev/graph/tune.json")


def test_layouts_noises_and_stored_mixtures() -> None:
    mixtures = str(ROOT / "local/prepare_mixtures.py")
    native = commands(
        *LIBRICSS, "--recogniser", "/r", "--channels", "1", "--continuous", "sessions"
    )
    for words in with_word(native, str(ROOT / "local/prepare_libricss.py")):
        assert (after(words, "--channels"), after(words, "--continuous")) == ("1", "sessions")
    kinds = [after(words, "2") for words in with_word(native, mixtures)]
    assert kinds == ["rooms", "pairs"]
    assert after(with_word(native, "rooms")[0], "--count") == "20000"
    assert not with_word(native, str(ROOT / "local/prepare_folder.py"))
    recorded = ("--musan", "/m", "--rirs", "/i", "--stored", "3", "--tests", "dev test")
    own = commands(*LIBRICSS, "--layout", "folder", "--conf", "conf/mini", *recorded)
    assert not with_word(own, str(ROOT / "local/prepare_libricss.py"))
    made = with_word(own, mixtures)
    assert [after(words, "2") for words in made] == ["pairs", "pairs"] + ["conversations"] * 2
    for words in made[:2]:
        assert "pairs.noise=/e/augmentation/noise.jsonl.gz" in words
        assert "pairs.rir=/e/augmentation/rir.jsonl.gz" in words
    assert after(made[1], "--copies") == "3"
    assert [after(words, "--output") for words in made[2:]] == ["/e/sets/dev", "/e/sets/test"]
    for words in with_word(own, "separation"):
        assert "data.train=/e/pairs/train/pairs.jsonl.gz" in words
    assert after(with_word(own, "validate")[0], "--disjoint-speakers") == "train,dev,test"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--recogniser is missing"),
        (["--layout", "kaldi"], "--layout wants one of libricss folder"),
        (["--systems", "frozen deep"], "no conf/wavlm_large/deep.yaml"),
        (["--conf", "conf/none"], "no configuration in conf/none"),
        (["--method", "mvdr", "--channels", "1"], "--method mvdr needs --channels 7"),
        (["--recogniser", "/r", "--scales", "/s"], "they go with --lang"),
        (["--musan", "/m"], "--musan and --rirs go together"),
        (["--inputs", "utterances"], "--inputs wants some of utterance continuous"),
        (["--tests", ""], "--tests wants some of dev test"),
        (["--recognizer", "/r"], "did you mean --recogniser?"),
    ],
)
def test_wrong_values(options: list[str], message: str) -> None:
    result = start(*LIBRICSS, *options)
    assert result.returncode == 2
    assert message in result.stderr
