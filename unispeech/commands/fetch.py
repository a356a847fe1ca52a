"""Download a released model, continuing and verifying, or say which file to put where."""

from __future__ import annotations

import argparse

from unispeech.errors import DependencyError, UsageError, nearest
from unispeech.hub.download import download
from unispeech.hub.registry import cache_folder, releases
from unispeech.storage import sha256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("name", help="a name that `python -m unispeech models` lists")


def run(args: argparse.Namespace) -> None:
    """Fetch every file of the release."""
    if args.name not in releases():
        raise UsageError(
            f"no released model '{args.name}'{nearest(args.name, releases())}",
            remedy="`python -m unispeech models` lists them",
        )
    release, folder = releases()[args.name], cache_folder(args.name)
    print(f"{args.name}: licence: {release.licence}")
    if not release.files and not any(folder.glob("*.pt*")):
        raise DependencyError(
            f"{args.name} has no address that a program can read",
            where=release.page,
            remedy=f"download its checkpoint there with a browser and put it into {folder} as one"
            " .pt or .pth file",
        )
    for file in release.files:
        path = download(file, folder)
        print(f"{path}  sha256 {sha256(path)}")
