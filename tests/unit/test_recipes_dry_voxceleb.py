"""What the VoxCeleb recipe would run, as a dry run prints it."""

from __future__ import annotations

from pathlib import Path

import pytest
from dry_run import ROOT, after, commands, start, with_word

VOXCELEB = ["voxceleb", "--corpora", "/c", "--exp", "/e"]


@pytest.mark.parametrize(
    ("options", "systems"),
    [
        (["--conf", "conf/wavlm_large"], {
            "frozen": "model.encoder=wavlm_large", "joint": "init=/e/frozen",
            "large_margin": "init=/e/joint"}),
        (["--conf", "conf/wavlm_base_plus", "--pretrained", "unispeech_sat_base_plus"], {
            "frozen": "model.encoder=unispeech_sat_base_plus", "joint": "init=/e/frozen",
            "large_margin": "init=/e/joint"}),
        (["--conf", "conf/fbank"], {"fbank": "init=", "large_margin": "init=/e/fbank"}),
        (["--tiny", "true"], {
            "fbank": "init=", "frozen": "model.encoder=/e/pretrain", "joint": "init=/e/frozen",
            "large_margin": "init=/e/joint"}),
        (["--systems", "large_margin"], {"large_margin": "init=/e/joint"}),
        (["--systems", "frozen large_margin"], {
            "frozen": "model.encoder=wavlm_large", "large_margin": "init=/e/frozen"}),
        (["--conf", "conf/mini", "--layout", "folder", "--systems", "fbank joint"], {
            "fbank": "init=", "joint": "init=/e/frozen"}),
    ],
)  # fmt: skip
def test_each_system_begins_where_it_should(options: list[str], systems: dict[str, str]) -> None:
    found = with_word(commands(*VOXCELEB, *options), "speaker")
    assert [Path(after(words, "--output")).name for words in found] == list(systems)
    for words in found:
        name = Path(after(words, "--output")).name
        assert systems[name] in words
        config = Path(after(words, "--config"))
        assert config.stem == name
        assert (ROOT / "egs/voxceleb" / config).is_file()
        assert "data.train=/e/data/train.jsonl.gz" in words
        assert "data.speakers=/e/trials/speakers.txt" in words
        assert "data.noise=/e/augmentation/noise.jsonl.gz" in words


@pytest.mark.parametrize(
    ("options", "encoder"),
    [
        ([], ["fetch", "wavlm_large"]),
        (["--pretrained", "hubert_large"], ["fetch", "hubert_large"]),
        (["--pretrained", str(ROOT)], []),
        (["--conf", "conf/fbank"], []),
        (["--tiny", "true"], ["pretrain", "--config", "conf/tiny/pretrain.yaml"]),
    ],
)
def test_where_the_encoder_comes_from(options: list[str], encoder: list[str]) -> None:
    found = commands(*VOXCELEB, *options, "--stage", "3", "--stop-stage", "3")
    assert len(found) == bool(encoder)
    assert all(" ".join(encoder) in " ".join(words) for words in found)


def test_every_set_is_embedded_once_and_every_list_scored() -> None:
    found = commands(
        *VOXCELEB, "--lists", "vox1-o mine=lists/mine.txt", "--conf", "conf/fbank", "--top", "600"
    )
    embedded = {after(words, "--output"): words for words in with_word(found, "embed")}
    sets = ("eval", "cohort", "calibration")
    assert set(embedded) == {
        f"/e/embeddings/{s}/{x}" for s in ("fbank", "large_margin") for x in sets
    }
    for place, words in embedded.items():
        assert after(words, "--model") == f"/e/{Path(place).parent.name}"
        assert after(words, "--wavs") == f"/e/trials/{Path(place).name}.jsonl.gz"
    scored = {after(words, "--output"): words for words in with_word(found, "trials")}
    for system in ("fbank", "large_margin"):
        own = f"/e/embeddings/{system}"
        calibrated = scored.pop(f"/e/scores/{system}/calibration/calibrated")
        assert after(calibrated, "--calibrate-on") == "/e/trials/calibration/trials.tsv"
        for name in ("vox1-o", "mine"):
            cosine, norm, last = (
                scored.pop(f"/e/scores/{system}/{name}/{how}")
                for how in ("cosine", "asnorm", "calibrated")
            )
            for words in (cosine, norm, last):
                assert after(words, "--embeddings") == f"{own}/eval"
                assert after(words, "--trials") == f"/e/trials/{name}/trials.tsv"
                assert after(words, "--mean") == f"{own}/cohort"
            assert "--cohort" not in cosine
            assert "--calibration" not in norm
            assert [after(words, "--top") for words in (norm, last)] == ["600", "600"]
            file = f"/e/scores/{system}/calibration/calibrated/calibration.json"
            assert after(last, "--calibration") == file
    assert scored == {}


def test_layouts_and_shards() -> None:
    native = commands(*VOXCELEB, "--shards", "true", "--train-parts", "vox1-dev+vox2-dev")
    made = with_word(native, str(ROOT / "local/prepare_voxceleb.py"))
    assert all("train=vox1-dev+vox2-dev" in words for words in made)
    assert {after(words, "--lists") for words in with_word(native, "--lists")} == {"vox1-o"}
    (exported,) = with_word(native, "shards")
    assert after(exported, "--manifest") == "/e/mix/mix.jsonl.gz"
    assert all("data.train=/e/shards" in words for words in with_word(native, "speaker"))
    own = commands(
        *VOXCELEB, "--layout", "folder", "--conf", "conf/mini", "--musan", "/m", "--rirs", "/r"
    )
    assert {after(words, "--sets") for words in with_word(own, "--sets")} == {"conf/mini/sets.yaml"}
    for words in with_word(own, str(ROOT / "local/prepare_trials.py")):
        assert after(words, "--lists") == "conf/mini/lists.txt"
        assert after(words, "--calibration") == "dev"
        assert "--restrict" in words
    for words in with_word(own, str(ROOT / "local/prepare_augmentation.py")):
        assert (after(words, "--musan"), after(words, "--rirs")) == ("/m", "/r")
    scored = {Path(after(words, "--trials")).parent.name for words in with_word(own, "trials")}
    assert scored == {"speechocean", "wuw", "msc", "dsp", "real", "calibration"}


def test_without_noises_and_rooms() -> None:
    found = commands(*VOXCELEB, "--augment", "false")
    assert not with_word(found, str(ROOT / "local/prepare_augmentation.py"))
    for words in with_word(found, "speaker"):
        assert "data.augment_prob=0" in words
        assert not any(word.startswith("data.noise") for word in words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layout", "kaldi"], "--layout wants one of voxceleb folder"),
        (["--calibration", "test"], "--calibration wants one of train dev"),
        (["--systems", "frozen deep"], "no conf/wavlm_large/deep.yaml"),
        (["--conf", "conf/none"], "no configuration in conf/none"),
        (["--cohort", "3"], "did you mean --cohort-utterances?"),
    ],
)
def test_wrong_values(options: list[str], message: str) -> None:
    result = start(*VOXCELEB, *options)
    assert result.returncode == 2
    assert message in result.stderr
