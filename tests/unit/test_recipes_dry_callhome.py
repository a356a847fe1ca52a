"""What the CALLHOME recipe would run, as a dry run prints it; and its configurations."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from dry_run import ROOT, after, commands, start, with_word

from unispeech.config import load
from unispeech.diarize.config import DiarizeConfig
from unispeech.train.config import PretrainConfig
from unispeech.train.diarization_config import DiarizationConfig

CALLHOME = ["callhome", "--corpora", "/c", "--exp", "/e"]
sys.path.insert(0, str(ROOT / "local"))

import prepare_conversations  # noqa: E402
import prepare_folder  # noqa: E402

CONF = ROOT / "egs/callhome/conf"
SCHEMAS = {
    "sets": prepare_folder.Settings,
    "conversations": prepare_conversations.Settings,
    "stored": prepare_conversations.Settings,
    "diarize": DiarizeConfig,
    "pretrain": PretrainConfig,
}


def local(found: list[list[str]], script: str) -> list[list[str]]:
    return with_word(found, str(ROOT / "local" / script))


@pytest.mark.parametrize(
    "path", sorted(CONF.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_configurations_are_valid(path: Path) -> None:
    load(SCHEMAS.get(path.stem, DiarizationConfig), [path])


def test_published_schedules() -> None:
    """NTT's recipe in its log: 100 epochs of 1,701,356 chunks in batches of 64, then adaptation."""
    for system in ("fbank/fbank", "wavlm_base/frozen", "wavlm_large/frozen"):
        config = load(DiarizationConfig, [CONF / f"{system}.yaml"])
        assert 8 * config.data.batching.size * config.train.updates // 100 == pytest.approx(
            1_701_356, rel=1e-3
        )
        simulation = config.data.simulate
        assert simulation is not None
        assert (simulation.speakers, simulation.utterances) == ((3,), (10, 20))
        assert (simulation.silence, simulation.snr) == ((10.0,), (10.0, 15.0, 20.0))
        assert (simulation.reverb_prob, config.data.chunk_seconds) == (0.1, 15.0)
        assert config.loss.speaker_weight == 0.03
    for folder in ("fbank", "wavlm_base", "wavlm_large"):
        config = load(DiarizationConfig, [CONF / folder / "adapted.yaml"])
        chunks = config.data.batching.size * config.train.updates
        assert chunks / 25 == pytest.approx(1187, abs=8)
        assert (config.optim.lr, config.optim.final_lr, config.loss.speaker_weight) == (
            1e-5, 1e-5, 0.01)  # fmt: skip
        assert config.train.checkpoint_every * 25 == config.train.updates
        assert config.train.final_count == 5


def test_systems_that_are_compared_have_equal_budgets() -> None:
    for folder in ("mini", "tiny"):
        one, other = (load(DiarizationConfig, [CONF / folder / f"{name}.yaml"]) for name in
                      ("fbank", "frozen"))  # fmt: skip
        assert (one.data, one.optim, one.train, one.loss) == (
            other.data, other.optim, other.train, other.loss)  # fmt: skip
        assert (one.model.layers, one.model.dim) == (other.model.layers, other.model.dim)


@pytest.mark.parametrize(
    ("options", "systems"),
    [
        (["--conf", "conf/wavlm_large"], {
            "frozen": "model.encoder=wavlm_large", "joint": "init=/e/diarization_frozen",
            "adapted": "init=/e/diarization_joint"}),
        (["--conf", "conf/wavlm_base", "--pretrained", "unispeech_sat_base"], {
            "frozen": "model.encoder=unispeech_sat_base", "joint": "init=/e/diarization_frozen",
            "adapted": "init=/e/diarization_joint"}),
        (["--conf", "conf/wavlm_base", "--systems", "frozen adapted"], {
            "frozen": "model.encoder=wavlm_base", "adapted": "init=/e/diarization_frozen"}),
        (["--conf", "conf/wavlm_base", "--systems", "adapted"], {
            "adapted": "init=/e/diarization_joint"}),
        (["--conf", "conf/fbank"], {"fbank": "init=", "adapted": "init=/e/diarization_fbank"}),
        (["--tiny", "true"], {
            "fbank": "init=", "frozen": "model.encoder=/e/pretrain",
            "adapted": "init=/e/diarization_frozen"}),
    ],
)  # fmt: skip
def test_each_system_begins_where_it_should(options: list[str], systems: dict[str, str]) -> None:
    found = with_word(commands(*CALLHOME, *options), "diarization")
    names = [Path(after(words, "--output")).name.removeprefix("diarization_") for words in found]
    assert names == list(systems)
    for name, words in zip(names, found, strict=True):
        assert systems[name] in words
        config = Path(after(words, "--config"))
        assert config.stem == name
        assert (ROOT / "egs/callhome" / config).is_file()
        assert "data.valid=/e/data/dev.jsonl.gz" in words
        is_adapted = name == "adapted"
        train = "data/adapt" if is_adapted else "speech/train"
        assert f"data.train=/e/{train}.jsonl.gz" in words
        assert ("data.noise=/e/augmentation/noise.jsonl.gz" in words) != is_adapted


def test_every_set_is_diarized_and_scored_with_settings_from_elsewhere() -> None:
    found = commands(
        *CALLHOME, "--conf", "conf/fbank", "--sets", "test more", "--collar", "0", "--overlap=false"
    )
    tuned = with_word(with_word(found, "diarize"), "--tune")
    assert [after(words, "--output") for words in tuned] == [
        "/e/rttm/fbank/tuned", "/e/rttm/adapted/tuned"]  # fmt: skip
    # Nothing is chosen on what is scored.
    assert {after(words, "--wavs") for words in tuned} == {"/e/data/adapt.jsonl.gz"}
    assert {after(words, "--tune") for words in tuned} == {"/e/data/adapt.rttm"}
    diarized = {after(words, "--output"): words for words in with_word(found, "--tuned")}
    scored = {after(words, "--output"): words for words in with_word(found, "der")}
    places = [
        (system, name, count)
        for system in ("fbank", "adapted") for name in ("test", "more")
        for count in ("estimated", "oracle")
    ]  # fmt: skip
    for system, name, count in places:
        words = diarized.pop(f"/e/rttm/{system}/{name}/{count}")
        assert after(words, "--model") == f"/e/diarization_{system}"
        assert after(words, "--wavs") == f"/e/data/{name}.jsonl.gz"
        assert after(words, "--tuned") == f"/e/rttm/{system}/tuned/tuned.json"
        assert ("--oracle" in words) == (count == "oracle")
        words = scored.pop(f"/e/der/{system}/{name}/{count}")
        assert after(words, "--hypothesis") == f"/e/rttm/{system}/{name}/{count}/hyp.rttm"
        assert after(words, "--reference") == f"/e/data/{name}.rttm"
        assert (after(words, "--collar"), after(words, "--overlap")) == ("0", "false")
    assert diarized == scored == {}
    plain = commands(*CALLHOME, "--conf", "conf/fbank", "--tuned", "false", "--counts", "estimated")
    assert not with_word(plain, "--tune")
    assert not with_word(plain, "--tuned")
    assert len(with_word(plain, "der")) == 2


def test_stored_conversations_and_no_noise() -> None:
    found = commands(
        *CALLHOME, "--conf", "conf/fbank", "--simulate", "stored", "--augment", "false"
    )
    (made,) = local(found, "prepare_conversations.py")
    assert [made[i + 1] for i, word in enumerate(made) if word == "--config"] == [
        "conf/fbank/conversations.yaml", "conf/fbank/stored.yaml"]  # fmt: skip
    assert "--noise" not in made
    trained = with_word(found, "diarization")[0]
    assert "data.train=/e/data/train.jsonl.gz" in trained
    assert "data.simulate=null" in trained
    assert not any(word.startswith("data.noise") for word in trained)
    assert not local(found, "prepare_augmentation.py")


def test_layouts() -> None:
    native = commands(*CALLHOME, "--segments", "sad.rttm")
    (checked, prepared) = local(native, "prepare_callhome.py")
    assert checked == [*prepared, "--check"]
    assert after(prepared, "--parts") == "conf/parts"
    (divided,) = local(native, "segment_speech.py")
    assert "train=/e/calls/train.jsonl.gz" in divided
    assert after(divided, "--segments").endswith("/sad.rttm")
    own = commands(
        *CALLHOME, "--layout", "folder", "--conf", "conf/mini", "--musan", "/m", "--rirs", "/r"
    )
    assert not local(own, "prepare_callhome.py")
    assert not local(own, "prepare_telephone.py")
    (divided,) = local(own, "segment_speech.py")
    assert {"train=/e/data/speech_train.jsonl.gz", "test=/e/data/speech_test.jsonl.gz"} < set(
        divided
    )
    checks = with_word(own, "validate")
    wanted = "speech_train,speech_dev,speech_test"
    assert {after(words, "--disjoint-speakers") for words in checks} == {wanted}
    scored = {Path(after(words, "--reference")).stem for words in with_word(own, "der")}
    assert scored == {"test", "mix2", "mix3", "meetings"}
    assert {after(words, "--tune") for words in with_word(own, "--tune")} == {"/e/data/dev.rttm"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layout", "kaldi"], "--layout wants one of callhome folder"),
        (["--simulate", "never"], "--simulate wants one of fly stored"),
        (["--counts", "guessed"], "wants one of estimated oracle"),
        (["--systems", "frozen deep"], "no conf/wavlm_large/deep.yaml"),
        (["--conf", "conf/none"], "no configuration in conf/none"),
        (["--colar", "0"], "did you mean --collar?"),
    ],
)
def test_wrong_values(options: list[str], message: str) -> None:
    result = start(*CALLHOME, *options)
    assert result.returncode == 2
    assert message in result.stderr
