"""Write a model for Hugging Face, as safetensors, TorchScript or ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path

from unispeech.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--model", required=True, help="name, folder or file of a model")
    parser.add_argument(
        "--to", required=True, choices=["huggingface", "safetensors", "torchscript", "onnx"]
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="folder for Hugging Face, file for the others"
    )
    parser.add_argument(
        "--speaker",
        action="store_true",
        help="the whole speaker model, embeddings out, instead of its encoder: --to onnx, or"
        " huggingface for one with model.network=xvector",
    )


def run(args: argparse.Namespace) -> None:
    """Load, write, check."""
    if args.speaker:
        _export_speaker(args)
        return
    import torch

    from unispeech.hub import export, save
    from unispeech.hub.load import load_model

    model = load_model(args.model, dtype=torch.float32)
    if args.to == "huggingface":
        left_out = save.save_huggingface(model, args.output)
        for name in left_out:
            print(f"left out, transformers has no place for it: {name}")
    elif args.to == "safetensors":
        save.save_safetensors(model, args.output)
    else:
        write = export.export_torchscript if args.to == "torchscript" else export.export_onnx
        print(f"largest difference to the model: {write(model, args.output):.2g}")
    print(args.output)


def _export_speaker(args: argparse.Namespace) -> None:
    if args.to not in ("onnx", "huggingface"):
        raise UsageError(
            "a speaker model cannot be written in this format",
            where="--to",
            expected="onnx or huggingface",
            found=args.to,
        )
    from unispeech.hub import export
    from unispeech.hub.speaker import read_speaker
    from unispeech.hub.xvector import save_xvector

    saved = read_speaker(args.model)
    model = saved.model.eval()
    if args.to == "onnx":
        print(f"largest difference to the model: {export.export_onnx(model, args.output):.2g}")
    else:
        for name in save_xvector(model, saved.classes, saved.speakers, args.output):
            print(f"left out, transformers has no place for it: {name}")
    print(args.output)
