"""CTC recognisers: our fine-tuned models and those of Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from unispeech.errors import DataError
from unispeech.hub.load import load_model
from unispeech.hub.registry import find
from unispeech.models.config import CtcConfig
from unispeech.models.ctc import CtcModel
from unispeech.models.pretrained import Recogniser, load_recogniser
from unispeech.models.speech import SpeechModel

BLANK, BOUNDARY = "<blk>", "|"
"""Our names of the CTC blank and of what stands between words."""


def open_recogniser(path_or_name: str | Path, device: str | torch.device = "cpu") -> Recogniser:
    """A recogniser in evaluation mode, the blank first of its tokens and `|` between words.

    Special tokens of a vocabulary of Hugging Face, which are no part of any word, are left out.

    Args:
        path_or_name: as for `unispeech.hub.registry.find`.
        device: where to put it.

    Raises:
        DataError: no such model, damaged, or without a CTC layer or a vocabulary.
    """
    path = find(path_or_name)
    if not (path.is_dir() and (path / "config.json").is_file()):
        return load_recogniser(path, device)
    model = load_model(path)
    if model.heads.proj is None or not model.tokens:
        raise DataError(
            "not a recogniser",
            where=path,
            expected="a model with a CTC layer, and vocab.json",
            found="no CTC layer" if model.heads.proj is None else "no vocab.json",
            remedy="give a model that was fine-tuned with CTC",
        )
    columns, tokens = _columns(model, path)
    ours = CtcModel(model.config, CtcConfig(), len(tokens))
    ours.encoder = model.encoder
    with torch.no_grad():
        ours.proj.weight.copy_(model.heads.proj.weight[columns])
        ours.proj.bias.copy_(model.heads.proj.bias[columns])
    return Recogniser(ours.eval().to(device), tokens, "letters")


def _columns(model: SpeechModel, folder: Path) -> tuple[list[int], list[str]]:
    """Which outputs are kept, the blank first, and our names of them."""
    settings = {**_read(folder / "config.json"), **_read(folder / "tokenizer_config.json")}
    boundary = _symbol(settings.get("word_delimiter_token"), BOUNDARY)
    special = {
        name: _symbol(settings.get(name), default)
        for name, default in (
            ("pad_token", "<pad>"), ("bos_token", "<s>"), ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
        )
    }  # fmt: skip
    if special["pad_token"] in model.tokens:
        blank = model.tokens.index(special["pad_token"])
    else:
        blank = int(settings.get("pad_token_id") or 0)
    left_out = {*special.values()} - {boundary}
    kept = [
        column
        for column, token in enumerate(model.tokens)
        if column != blank and token not in left_out and not token.startswith("<unused")
    ]
    if not 0 <= blank < len(model.tokens) or not kept:
        raise DataError(
            "the vocabulary does not name the outputs",
            where=folder / "vocab.json",
            expected=f"{special['pad_token']}, the CTC blank, and letters",
            found=" ".join(model.tokens[:6]),
        )
    names = [BOUNDARY if model.tokens[k] == boundary else model.tokens[k] for k in kept]
    return [blank, *kept], [BLANK, *names]


def _symbol(value: Any, default: str) -> str:
    """A token of a tokenizer's settings: a text, or a mapping that holds it."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) and found else default


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            "cannot read", where=path, found=error, remedy="download the folder again"
        ) from None
    return value if isinstance(value, dict) else {}
