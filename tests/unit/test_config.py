"""Configuration: precedence, errors, round trip, every shipped file."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unispeech.commands.decode import DecodeConfig
from unispeech.config import Config, Paths, dump, flatten, load
from unispeech.data.config import LabelConfig
from unispeech.diarize.config import DiarizeConfig
from unispeech.errors import ConfigError
from unispeech.models.families import PRESETS
from unispeech.models.objective import family_of, heads_of
from unispeech.train.config import FinetuneConfig, OptimConfig, PretrainConfig
from unispeech.train.diarization_config import DiarizationConfig
from unispeech.train.language_modelling_config import LanguageModelTrainingConfig
from unispeech.train.separation_config import SeparationTrainingConfig
from unispeech.train.verification_config import VerificationConfig

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS: dict[str, type[Config]] = {
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "labels": LabelConfig,
    "labels_layer": LabelConfig,
    "hubert": PretrainConfig,
    "joint": PretrainConfig,
    "continue": PretrainConfig,
    "decode": DecodeConfig,
    "diarize": DiarizeConfig,
}
# Folders of conf/ whose files are all of one kind, and not a model's.
FOLDERS: dict[str, type[Config]] = {
    "finetune": FinetuneConfig,
    "transformer_lm": LanguageModelTrainingConfig,
}
VERIFICATION = ("fbank", "frozen", "joint", "large_margin")
SEPARATION = ("magnitude", "frozen", "joint")
DIARIZATION = ("fbank", "frozen", "joint", "adapted")
# What scripts of local/ read.
LOCAL = ("sets", "mixtures", "conversations", "stored")
SHIPPED = [p for p in sorted(ROOT.glob("egs/*/conf/*/*.yaml")) if p.stem not in LOCAL]
MODELS = [p for p in sorted((ROOT / "egs/librispeech/conf").iterdir()) if p.name not in FOLDERS]


def schema_of(path: Path) -> type[Config]:
    """What a shipped file configures."""
    if "voxceleb" in path.parts and path.stem in VERIFICATION:
        return VerificationConfig
    if "libricss" in path.parts and path.stem in SEPARATION:
        return SeparationTrainingConfig
    if "callhome" in path.parts and path.stem in DIARIZATION:
        return DiarizationConfig
    return FOLDERS.get(path.parent.name) or SCHEMAS[path.stem]


class Inner(Config):
    """Section of the example."""

    rate: float = pydantic.Field(1.0, gt=0)
    name: str = "a"


class Outer(Config):
    """Example."""

    inner: Inner = Inner()
    paths: Paths = ()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_shipped_file_fits_its_schema(path: Path) -> None:
    load(schema_of(path), [path])


def test_a_shipped_set_of_configs_is_whole() -> None:
    """A folder has the model; what it lacks beside is taken from WavLM's folders."""
    conf = ROOT / "egs/librispeech/conf"
    for folder in MODELS:
        assert (folder / "pretrain.yaml").is_file()
    for name in ("tiny", "mini"):
        names = {path.stem for path in (conf / name).glob("*.yaml")}
        assert {"pretrain", "finetune", "decode"} <= names
    for name in ("tiny", "mini", "wavlm_base"):
        names = {path.stem for path in (conf / name).glob("*.yaml")}
        assert {"labels", "labels_layer"} <= names
    for name in ("tiny", "mini"):
        assert (conf / name / "hubert.yaml").is_file()


def test_shipped_models_are_the_presets() -> None:
    """Encoder and heads of every shipped configuration are those of the released models."""
    for folder in MODELS:
        if folder.name in ("tiny", "mini"):
            continue
        config = load(PretrainConfig, [folder / "pretrain.yaml"])
        preset = PRESETS[folder.name.removesuffix("_it1").removesuffix("_it2")]
        assert config.model == preset.encoder
        clusters = [500] if config.objective.kind == "masked_prediction" else []
        assert heads_of(config.model, config.objective, clusters) == preset.heads
        assert family_of(config.model, config.objective) == preset.family


def test_unispeech_is_the_released_model_of_stage_1() -> None:
    folder = ROOT / "egs/commonvoice/conf/unispeech_large"
    first, second = (load(PretrainConfig, [folder / f"{n}.yaml"]) for n in ("pretrain", "continue"))
    preset = PRESETS["unispeech_large_stage1"]
    assert first.model == preset.encoder
    # 76 English phones and four specials: the released vocabulary.
    assert heads_of(first.model, first.objective, (), 80) == preset.heads
    released = PRESETS["unispeech_large_stage2"]
    assert heads_of(second.model, second.objective) == released.heads
    assert family_of(second.model, second.objective) == released.family
    for name in ("dropout", "attention_dropout", "input_dropout", "layer_drop"):
        assert getattr(second.model, name) == getattr(released.encoder, name)


def test_files_merge_left_to_right_and_the_command_line_wins(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("inner: {rate: 2.0, name: x}")
    (tmp_path / "b.yaml").write_text("inner: {rate: 1e-3}")
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    assert load(Outer, files).inner == Inner(rate=1e-3, name="x")
    assert load(Outer, files, ["inner.rate=5e-4"]).inner.rate == 5e-4


def test_a_section_given_in_part_keeps_its_fields_defaults() -> None:
    """FinetuneConfig's optimizer is not OptimConfig's: one key must not change the others."""
    plain, changed = load(FinetuneConfig), load(FinetuneConfig, [], ["optim.lr=1.0"])
    assert changed.optim == plain.optim.model_copy(update={"lr": 1.0})
    assert changed.optim.schedule == "tri_stage"
    deep = load(FinetuneConfig, [], ["ctc.channel_mask.prob=0.1"])
    assert deep.ctc.channel_mask.length == 64
    assert deep.ctc.time_mask == plain.ctc.time_mask
    # What was built in Python is left as it is.
    assert FinetuneConfig(optim=OptimConfig()).optim == OptimConfig()


@given(st.text(st.characters(codec="utf-8", exclude_characters="[{"), min_size=1))
def test_paths_arrive_as_they_were_typed(path: str) -> None:
    scalar = None
    try:
        scalar = yaml.safe_load(path)
    except yaml.YAMLError:
        scalar = path
    if isinstance(scalar, bool | int | float) or scalar is None or _number(path):
        return
    assert load(Outer, [], [f"inner.name={path}", f"paths={path}"]) == Outer(
        inner=Inner(name=path), paths=(path,)
    )


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_list_of_paths() -> None:
    assert load(Outer, [], ["paths=[a b, c]"]).paths == ("a b", "c")
    assert load(Outer, [], ["paths="]).paths == ()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.rte=1", "command line: unknown key 'inner.rte'; did you mean 'rate'?"),
        ("inner.rate=-1", "key 'inner.rate': Input should be greater than 0"),
        ("inner.rate=fast", "found 'fast'"),
        ("inner=3", "key 'inner'"),
        (".=3", "expected key=value"),
        ("paths=[a", "not valid YAML"),
    ],
)
def test_messages(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(Outer, [], [override])
    assert message in str(error.value)


def test_file_errors_name_the_file(tmp_path) -> None:
    path = tmp_path / "x.yaml"
    for text in ("inner: [", "- 1", "inner: {rate: zero}"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"x\.yaml"):
            load(Outer, [path])
    with pytest.raises(ConfigError, match="cannot read"):
        load(Outer, [tmp_path / "absent.yaml"])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_resolved_configuration_is_a_valid_input(path: Path, tmp_path) -> None:
    schema = schema_of(path)
    config = load(schema, [path])
    (tmp_path / "resolved.yaml").write_text(dump(config))
    assert load(schema, [tmp_path / "resolved.yaml"]) == config
    assert flatten(config)
