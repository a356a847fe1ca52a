"""Transformer language models of our trainings and of fairseq."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unispeech.data.vocabulary import SPECIAL, Case, Vocabulary
from unispeech.errors import DataError
from unispeech.hub.fairseq import settings_of, tensors_of
from unispeech.hub.load import assign
from unispeech.hub.unpickle import read_pickle
from unispeech.models.language_model import LanguageModel
from unispeech.models.language_model_config import LanguageModelConfig
from unispeech.models.pretrained import validated
from unispeech.storage import final_checkpoint, sha256

DICTIONARY = "dict.txt"
EMBEDDING = "decoder.embed_tokens."
SOFTMAX = "decoder.adaptive_softmax."
IGNORED = re.compile(r"decoder\.(version|.*\._float_tensor)$")
"""What fairseq writes beside the weights."""

REFUSED = {
    "decoder_learned_pos": "learnt positions",
    "no_token_positional_embeddings": "no positions",
    "character_embeddings": "embeddings of characters",
    "layernorm_embedding": "a norm of the embeddings",
}
"""Settings of fairseq's `transformer_lm` that no released model of LibriSpeech has."""


class LoadedLanguageModel(NamedTuple):
    """A language model in evaluation mode, its units, and what identifies both."""

    model: LanguageModel
    vocabulary: Vocabulary
    sha256: str


def load_language_model(
    path: str | Path, device: str | torch.device = "cpu"
) -> LoadedLanguageModel:
    """A Transformer language model of ours or of fairseq.

    Args:
        path: an experiment folder of `lm`, one of its checkpoints, a checkpoint of fairseq with its
            dictionary beside it (`dict.txt`, or the checkpoint's name with `.dict`), or a folder
            of both.
        device: where to put it.

    Raises:
        DataError: not such a model, damaged, dangerous, or with weights too many or too few.
    """
    file = _weights_file(Path(path))
    state = read_pickle(file)
    if not isinstance(state, dict):
        raise DataError("not a checkpoint", where=file, found=type(state).__name__)
    if "language_model" in state:
        model, vocabulary = _from_ours(state, file)
        return LoadedLanguageModel(model.eval().to(device), vocabulary, sha256(file))
    weights = tensors_of(state.get("model"), file)
    if not any(name.startswith(EMBEDDING) for name in weights):
        raise DataError(
            "not a language model",
            where=file,
            expected="an experiment of `lm`, or a transformer_lm of fairseq",
            found=f"weights such as {sorted(weights)[0]}",
        )
    dictionary = _dictionary_file(file)
    vocabulary = read_dictionary(dictionary)
    model = _from_fairseq(settings_of(state)[0], weights, len(vocabulary), file)
    both = hashlib.sha256((sha256(file) + sha256(dictionary)).encode()).hexdigest()
    return LoadedLanguageModel(model.eval().float().to(device), vocabulary, both)


def is_language_model_file(path: Path) -> bool:
    """Whether a path can only be a Transformer: a folder, or a file of `torch.save`."""
    return path.is_dir() or path.suffix in (".pt", ".pth")


def read_dictionary(path: str | Path) -> Vocabulary:
    """The vocabulary of a `dict.txt`: lines of a word and its count, behind the four symbols.

    A dictionary in lower case alone (wav2letter's of LibriSpeech) takes transcripts in upper case
    too, and the other way round.

    Raises:
        DataError: the file is missing or not such a dictionary.
    """
    words: list[str] = []
    try:
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            word, _, count = line.removesuffix(" #fairseq:overwrite").rpartition(" ")
            if not word or not count.isdigit():
                raise ValueError(f"line {number} is not a word and a count: '{line[:40]}'")
            words.append(word)
        if not words or len(set(words) | set(SPECIAL)) != len(words) + len(SPECIAL):
            raise ValueError("it is empty" if not words else "a word is there twice")
    except (OSError, ValueError) as error:
        raise DataError(
            "not a dictionary of fairseq",
            where=path,
            found=error,
            remedy=f"put the model's own dictionary beside it as {DICTIONARY}",
        ) from None
    return Vocabulary([*SPECIAL, *words], case=_case_of(words))


def _case_of(words: Sequence[str]) -> Case:
    letters = [word for word in words if word.lower() != word.upper()]
    if letters and all(word == word.lower() for word in letters):
        return "lower"
    return "upper" if letters and all(word == word.upper() for word in letters) else "as_is"


def _weights_file(path: Path) -> Path:
    if not path.is_dir() or (path / "done.json").is_file():
        return final_checkpoint(path)
    files = sorted(path.glob("*.pt"))
    if len(files) != 1:
        raise DataError(
            "no language model in this folder",
            where=path,
            expected=f"a finished training (done.json), or one *.pt and {DICTIONARY}",
            found=", ".join(file.name for file in files) or "neither",
            remedy="let the training finish, or name the file",
        )
    return files[0]


def _dictionary_file(file: Path) -> Path:
    beside = file.with_suffix(".dict")
    return beside if beside.is_file() else file.with_name(DICTIONARY)


def _from_ours(state: Mapping[str, Any], path: Path) -> tuple[LanguageModel, Vocabulary]:
    config = validated(LanguageModelConfig, state["language_model"], path)
    try:
        vocabulary = Vocabulary.from_state(state["vocabulary"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("the checkpoint has no vocabulary", where=path, found=error) from None
    model = LanguageModel(config, len(vocabulary))
    assign(model, {n: n for n in model.state_dict()}, tensors_of(state.get("model"), path), path)
    return model, vocabulary


def _from_fairseq(
    settings: Mapping[str, Any], weights: dict[str, Tensor], units: int, path: Path
) -> LanguageModel:
    refused = [what for key, what in REFUSED.items() if settings.get(key)]
    if refused:
        raise DataError(f"a language model with {refused[0]}", where=path, expected="sinusoids")
    weights = _split_attention({n: w for n, w in weights.items() if not IGNORED.match(n)})
    rows = _rows(weights)
    if sum(rows) != units:
        raise DataError(
            "the dictionary does not belong to the model",
            where=path,
            expected=f"{sum(rows) - len(SPECIAL)} words",
            found=units - len(SPECIAL),
        )
    config = validated(
        LanguageModelConfig,
        _sizes(settings, weights, rows),
        path,
        "the settings in the checkpoint do not describe a language model",
    )
    model = LanguageModel(config, units)
    names = _names(model, config)
    assign(model, names, _without_copies(weights, config), path)
    return model


def _rows(weights: Mapping[str, Tensor]) -> list[int]:
    """Units of each band of the input."""
    plain = weights.get(EMBEDDING + "weight")
    if plain is not None:
        return [len(plain)]
    return [len(weights[name]) for name in _numbered(weights, EMBEDDING + "embeddings.{}.0.weight")]


def _numbered(weights: Mapping[str, Tensor], pattern: str) -> list[str]:
    names = [pattern.format(index) for index in range(len(weights))]
    return [name for name in names if name in weights]


def _sizes(
    settings: Mapping[str, Any], weights: Mapping[str, Tensor], rows: Sequence[int]
) -> dict[str, Any]:
    """Our configuration; sizes come from the weights, which cannot be wrong."""
    tables = _numbered(weights, EMBEDDING + "embeddings.{}.0.weight")
    tails = _numbered(weights, SOFTMAX + "tail.{}.2.weight")
    fc1 = weights.get("decoder.layers.0.fc1.weight", torch.zeros(0, 0))
    tied = SOFTMAX + "head.word_proj.weight" in weights
    head = weights.get(SOFTMAX + ("head.word_proj.weight" if tied else "head.weight"))
    tail_rows = [len(weights[name]) for name in tails]
    first = None if head is None else len(head) - (0 if tied else len(tails))
    is_shared = bool(settings.get("share_decoder_input_output_embed"))
    sizes: dict[str, Any] = {
        "layers": len(_numbered(weights, "decoder.layers.{}.fc1.weight")),
        "dim": fc1.shape[1],
        "ffn_dim": fc1.shape[0],
        "heads": settings.get("decoder_attention_heads"),
        "final_norm": "decoder.layer_norm.weight" in weights,
        "activation": settings.get("activation_fn") or "relu",
        "scale_embedding": not settings.get("no_scale_embedding", False),
        "input_cutoffs": _cutoffs(rows) if tables else (),
        "output_cutoffs": () if first is None else _cutoffs([first, *tail_rows]),
        "tied": tied or (first is None and is_shared),
        "tied_projections": tied and _are_projections_tied(weights),
    }
    for ours in ("input", "output"):
        theirs = settings.get(f"adaptive_{'input' if ours == 'input' else 'softmax'}_factor")
        sizes[f"{ours}_factor"] = 4.0 if theirs is None else theirs
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        sizes[name] = settings.get(name) or 0.0
    return sizes


def _cutoffs(rows: Sequence[int]) -> tuple[int, ...]:
    return tuple(sum(rows[:count]) for count in range(1, len(rows)))


def _are_projections_tied(weights: Mapping[str, Tensor]) -> bool:
    pairs = [
        (SOFTMAX + f"tail.{index}.0.weight", EMBEDDING + f"embeddings.{index + 1}.1.weight")
        for index in range(len(_numbered(weights, SOFTMAX + "tail.{}.0.weight")))
    ]
    return all(b in weights and _is_same(weights[a], weights[b]) for a, b in pairs)


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _split_attention(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of their own, where an old file has them in one tensor."""
    split = {}
    for name, value in weights.items():
        before, found, kind = name.partition(".in_proj_")
        if not found:
            split[name] = value
            continue
        for part, piece in zip("qkv", value.chunk(3), strict=True):
            split[f"{before}.{part}_proj.{kind}"] = piece.clone()
    return split


def _without_copies(weights: dict[str, Tensor], config: LanguageModelConfig) -> dict[str, Tensor]:
    """The weights without those that a tied model writes twice."""
    left = dict(weights)
    copies = {"decoder.output_projection.weight": EMBEDDING + "weight"} if config.tied else {}
    if config.tied and config.input_cutoffs:
        copies = {SOFTMAX + "head.word_proj.weight": EMBEDDING + "embeddings.0.0.weight"}
        for index in range(len(config.output_cutoffs)):
            original = EMBEDDING + f"embeddings.{index + 1}."
            copies[SOFTMAX + f"tail.{index}.2.weight"] = original + "0.weight"
            if config.tied_projections:
                copies[SOFTMAX + f"tail.{index}.0.weight"] = original + "1.weight"
    for copy, original in copies.items():
        if copy in left and original in left and _is_same(left[copy], left[original]):
            del left[copy]
    return left


def _names(model: LanguageModel, config: LanguageModelConfig) -> dict[str, str]:
    """The names that fairseq gives to our weights."""
    names = {}
    for name in model.state_dict():
        theirs = "decoder." + name
        found = re.match(r"(embedding|output)\.(tables|projections)\.(\d+)\.weight", name)
        if name == "output.head.weight":
            theirs = SOFTMAX + "head.weight"
            if not config.output_cutoffs:
                theirs = "decoder.output_projection.weight"
        elif name == "output.classes.weight":
            theirs = SOFTMAX + "head.class_proj.weight"
        elif found and found[1] == "embedding":
            place = 0 if found[2] == "tables" else 1
            theirs = f"{EMBEDDING}embeddings.{found[3]}.{place}.weight"
            if not config.input_cutoffs:
                theirs = EMBEDDING + "weight"
        elif found:
            theirs = f"{SOFTMAX}tail.{found[3]}.{2 if found[2] == 'tables' else 0}.weight"
        names[name] = theirs
    return names
