"""Any checkpoint of the family, whatever wrote it, as one `SpeechModel`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unispeech.errors import DataError
from unispeech.hub.fairseq import Foreign, read_fairseq, tensors_of
from unispeech.hub.huggingface import read_huggingface, tokens_of
from unispeech.hub.names import fairseq_names, huggingface_names
from unispeech.hub.registry import find
from unispeech.hub.unpickle import read_pickle
from unispeech.models.config import CtcConfig, EncoderConfig, Family, HeadsConfig, PaddingRule
from unispeech.models.pretrained import validated
from unispeech.models.speech import SpeechModel
from unispeech.storage import final_checkpoint

SV_PREFIX = "feature_extract.model."
"""The encoder inside the authors' speaker verification and diarization files."""

INSIDE = {
    "speaker": "speaker.encoder.",
    "diarization": "eend.encoder.",
    "separation": "encoder.",
}
"""What the names of the encoder begin with inside our downstream models, by their kind."""

FORMAT = "unispeech-model"
"""Marks our own files of a whole model."""


def load_model(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    padding_rule: PaddingRule | None = None,
) -> SpeechModel:
    """A released or trained model, in evaluation mode.

    Args:
        path: a name of the registry that was fetched, an experiment folder, a folder of Hugging
            Face, or a file: ours, fairseq's, WavLM's, or a speaker verification checkpoint.
        device: where to put it.
        dtype: of the weights; None keeps float32 and refuses files in half precision.
        padding_rule: how padded batches are treated; None keeps the model's own rule, which is
            `exact` for everything that is read here.

    Raises:
        DataError: not such a model, damaged, dangerous, or with weights too many or too few.
    """
    file = find(path)
    if file.is_dir() and (file / "config.json").is_file():
        model = _from_huggingface(file)
    else:
        model = _from_file(final_checkpoint(file))
    if padding_rule is not None:
        config = model.config.model_copy(update={"padding_rule": padding_rule})
        model.encoder.config = config
    widths = {value.dtype for value in model.state_dict().values()}
    if dtype is None and widths - {torch.float32}:
        raise DataError(
            "the weights are not in single precision",
            where=file,
            expected="float32",
            found=", ".join(sorted(map(str, widths))),
            remedy="say which you want: load_model(..., dtype=torch.float32) widens them",
        )
    return model.eval().to(device=device, dtype=dtype)


def _from_file(path: Path) -> SpeechModel:
    state = read_pickle(path)
    if not isinstance(state, dict):
        raise DataError("not a checkpoint", where=path, found=type(state).__name__)
    if isinstance(state.get("encoder"), dict):
        return _from_ours(state, path)
    weights = tensors_of(state.get("model", state), path)
    if any(name.startswith(SV_PREFIX) for name in weights):
        inner = {
            name.removeprefix(SV_PREFIX): value
            for name, value in weights.items()
            if name.startswith(SV_PREFIX)
        }
        model = build(read_fairseq({**state, "model": inner}, path), path)
        model.left_out = tuple(sorted(n for n in weights if not n.startswith(SV_PREFIX)))
        return model
    return build(read_fairseq({**state, "model": weights}, path), path)


def _from_ours(state: Mapping[str, Any], path: Path) -> SpeechModel:
    encoder = validated(EncoderConfig, state["encoder"], path)
    weights = tensors_of(state.get("model"), path)
    if state.get("kind") in INSIDE:
        return _inside_downstream(encoder, weights, INSIDE[state["kind"]], path)
    if state.get("format") == FORMAT:
        heads = validated(HeadsConfig, state.get("heads"), path)
        tokens = tuple(map(str, state.get("tokens", ())))
        model = SpeechModel(state.get("family", "wavlm"), encoder, heads, tokens)
        assign(model, {name: name for name in model.state_dict()}, weights, path)
        return model
    tokens = tuple(map(str, state.get("tokens", ())))
    validated(CtcConfig, state.get("ctc"), path)
    family: Family = "wavlm" if encoder.relative_position else "hubert"
    model = SpeechModel(family, encoder, HeadsConfig(tokens=len(tokens)), tokens)
    names = {name: name.replace("heads.proj.", "proj.") for name in model.state_dict()}
    assign(model, names, weights, path)
    return model


def _inside_downstream(
    encoder: EncoderConfig, weights: dict[str, Tensor], prefix: str, path: Path
) -> SpeechModel:
    """The encoder of a downstream model of ours, as it was trained there."""
    model = SpeechModel("wavlm" if encoder.relative_position else "hubert", encoder, HeadsConfig())
    inner = {name: weight for name, weight in weights.items() if name.startswith(prefix)}
    names = {name: prefix + name.removeprefix("encoder.") for name in model.state_dict()}
    assign(model, names, inner, path)
    model.left_out = tuple(sorted(set(weights) - set(inner)))
    return model


def _from_huggingface(folder: Path) -> SpeechModel:
    foreign = read_huggingface(folder)
    tokens = tokens_of(folder, foreign.heads.tokens) if foreign.heads.tokens else ()
    model = SpeechModel(foreign.family, foreign.encoder, foreign.heads, tokens)
    is_new = any("parametrizations" in name for name in foreign.weights)
    names = huggingface_names(
        model.state_dict(), foreign.family, "new" if is_new else "old", not foreign.is_recogniser
    )
    assign(model, names, foreign.weights, folder)
    return model


def build(foreign: Foreign, path: Path) -> SpeechModel:
    """The model that a foreign checkpoint describes, with its weights.

    Raises:
        DataError: the weights do not fit.
    """
    model = SpeechModel(foreign.family, foreign.encoder, foreign.heads)
    names = fairseq_names(model.state_dict(), foreign.encoder, foreign.is_recogniser)
    assign(model, names, foreign.weights, path)
    return model


def assign(
    model: nn.Module, names: Mapping[str, str], weights: Mapping[str, Tensor], path: Path
) -> None:
    """Put `weights` into the model under our names.

    Raises:
        DataError: some are missing, left over, of another shape, or not finite; all are listed.
    """
    own = {names[name]: value for name, value in model.state_dict().items()}
    problems = [f"missing {n} {tuple(own[n].shape)}" for n in sorted(set(own) - set(weights))]
    extra = sorted(set(weights) - set(own))
    problems += [f"unexpected {n} {tuple(weights[n].shape)}" for n in extra]
    both = sorted(set(own) & set(weights))
    problems += [
        f"{n} is {tuple(weights[n].shape)}, not {tuple(own[n].shape)}"
        for n in both
        if own[n].shape != weights[n].shape
    ]
    if problems:
        raise DataError("the weights do not fit", where=path, found=_listed(problems))
    wrong = [n for n in both if weights[n].is_floating_point() != own[n].is_floating_point()]
    wrong += [n for n in both if n not in wrong and not bool(torch.isfinite(weights[n]).all())]
    if wrong:
        raise DataError(
            "weights that are not finite numbers",
            where=path,
            found=_listed(wrong),
            remedy="download the file again",
        )
    state = {name: weights[theirs] for name, theirs in names.items()}
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def _listed(problems: Iterable[str]) -> str:
    rows = list(problems)
    more = len(rows) - 12
    return "; ".join(rows[:12]) + (f"; and {more} more" if more > 0 else "")
