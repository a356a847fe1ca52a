"""Experiments that are not of recognition, told apart by the folder of their scores."""

from __future__ import annotations

import argparse

from unispeech.commands import _diarization_report, _separation_report, _trials_report


def write_other(args: argparse.Namespace) -> bool:
    """Report an experiment of another task; False where it is one of recognition.

    `scores/` is of speaker verification, `wer_streams/` of separation, `der/` of diarization.

    Raises:
        DataError: nothing was scored.
    """
    about = (args.command, args.publish)
    if (args.exp / "scores").is_dir():
        _trials_report.write_experiment(args.exp, args.recipe, *about)
    elif (args.exp / "wer_streams").is_dir():
        _separation_report.write_experiment(args.exp, args.recipe, args.data_name, *about)
    elif (args.exp / "der").is_dir():
        _diarization_report.write_experiment(args.exp, args.recipe, args.data_name, *about)
    else:
        return False
    return True
