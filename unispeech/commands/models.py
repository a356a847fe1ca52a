"""List the released models: name, family, data, and what is on this machine.

With `--configurations` it prints the papers' models as configurations instead, as the table of the
README.
"""

from __future__ import annotations

import argparse

import yaml

from unispeech.errors import UsageError, nearest
from unispeech.hub.registry import cache_folder, releases


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("name", nargs="?", help="show all that is known of one model")
    parser.add_argument("--family", help="only this family")
    parser.add_argument(
        "--configurations", action="store_true", help="sizes of the papers' models, as Markdown"
    )


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    if args.configurations:
        from unispeech.models.families import table

        print(table())
        return
    if args.name:
        if args.name not in releases():
            raise UsageError(f"no released model '{args.name}'{nearest(args.name, releases())}")
        entry = {args.name: releases()[args.name].model_dump(mode="json")}
        print(yaml.safe_dump(entry, sort_keys=False, width=1000), end="")
        print(f"belongs in {cache_folder(args.name)}")
        return
    rows = [("name", "family", "size", "data", "here")]
    for name, release in releases().items():
        if args.family and release.family != args.family:
            continue
        labelled = f"labelled {release.labelled}" if release.labelled else ""
        tuned = f"fine-tuned on {release.fine_tuned}" if release.fine_tuned else ""
        data = "; ".join(part for part in (release.unlabelled, labelled, tuned) if part)
        is_here = any(cache_folder(name).glob("*.[pb][ti][hn]*"))
        rows.append((name, release.family, release.size, data, "yes" if is_here else "no"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for name, family, size, data, here in rows:
        print(f"{name:<{widths[0]}}  {family:<{widths[1]}}  {size:<{widths[2]}}  {here:<4}  {data}")
