"""Write a model for Hugging Face, as safetensors, TorchScript or ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--model", required=True, help="name, folder or file of a model")
    parser.add_argument(
        "--to", required=True, choices=["huggingface", "safetensors", "torchscript", "onnx"]
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="folder for Hugging Face, file for the others"
    )


def run(args: argparse.Namespace) -> None:
    """Load, write, check."""
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
