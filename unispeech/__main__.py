"""`python -m unispeech <command>`: finds the command and turns errors into exit codes."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import unispeech
from unispeech.errors import DataProblems, StorageError, UnispeechError, UsageError, nearest

COMMANDS = {
    "validate": "check manifests, audio and labels; list every problem",
    "shards": "write a manifest as lhotse Shar shards, the format of large corpora",
    "label": "cluster features into frame labels for masked prediction",
    "pretrain": "pre-train an encoder by masked prediction",
    "finetune": "fine-tune a pre-trained encoder with CTC",
    "speaker": "train a speaker model on an encoder's layers or on filter banks",
    "separation": "train a separation model on magnitudes and an encoder's layers",
    "diarization": "train a diarization model on an encoder's layers or on filter banks",
    "average": "average the weights of several checkpoints",
    "lm": "train a Transformer language model",
    "perplexity": "perplexity of text under an n-gram or Transformer language model",
    "emit": "compute and store CTC log-probabilities",
    "decode": "turn stored log-probabilities into words",
    "rescore": "choose from n-best lists by further language models",
    "score": "word error rate with alignments and a bootstrap interval",
    "transcribe": "text with word times and confidence for recordings of any length",
    "extract": "write hidden states of a model for a folder, file or manifest",
    "export": "write a model for Hugging Face, safetensors, TorchScript or ONNX",
    "models": "list the released models",
    "fetch": "download a released model",
    "doctor": "list what is usable here and how to mend what is not",
    "diarize": "say who speaks when in recordings of any length",
    "der": "score diarization: DER as md-eval's by number of speakers, JER, intervals",
    "embed": "write embeddings of the speakers of a folder, file or manifest",
    "trials": "score trials of speaker verification: EER with interval, detection costs",
    "verify": "say whether two recordings have the same speaker",
    "separate": "separate overlapping speakers: two streams for each recording",
    "report_trials": "report scored trials: results, DET curves, figures and one HTML page",
    "separated": "score separated streams: WER by overlap, ORC-WER, cpWER, SI-SDR",
    "report": "write RESULTS.md rows and one HTML page",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UsageError`s that name the nearest valid option."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        hint = ""
        if "unrecognized arguments" in message:
            wrong = message.split(": ", 1)[1].split()[0].split("=")[0]
            options = [o for action in self._actions for o in action.option_strings]
            hint = nearest(wrong, options)
        raise UsageError(f"{message}{hint}", where=self.prog, remedy=f"see {self.prog} --help")


def usage() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    head = "usage: python -m unispeech <command> [options] [key=value ...]"
    tail = "`python -m unispeech <command> --help` lists the options of a command."
    return "\n".join([head, "", "commands:", *rows, "", tail])


def run(argv: list[str]) -> None:
    """Run one command.

    Raises:
        UnispeechError: whatever the user can mend.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return
    if argv[0] == "--version":
        print(unispeech.__version__)
        return
    name = argv[0]
    if name not in COMMANDS:
        raise UsageError(
            f"unknown command '{name}'{nearest(name, COMMANDS)}",
            expected=f"one of {', '.join(COMMANDS)}",
        )
    command = importlib.import_module(f"unispeech.commands.{name}")
    parser = Parser(
        prog=f"python -m unispeech {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    command.run(parser.parse_intermixed_args(argv[1:]))


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code (the table is in CONTRIBUTING.md)."""
    return guard(lambda: run(sys.argv[1:] if argv is None else argv))


def guard(action: Callable[[], None]) -> int:
    """Run `action`; print an error as one line and return the exit code that belongs to it."""
    try:
        code, lines = _attempt(action)
    except Exception:
        if _is_first_to_fail(1):
            raise
        return 1
    if code and _is_first_to_fail(code):
        print("\n".join(lines), file=sys.stderr)
    return code


def _attempt(action: Callable[[], None]) -> tuple[int, list[str]]:
    try:
        action()
    except DataProblems as error:
        problems = [f"- {problem}" for problem in error.problems]
        return error.exit_code, [*problems, f"error: {error}"]
    except UnispeechError as error:
        return error.exit_code, [f"error: {error}"]
    except KeyboardInterrupt:
        return 130, ["error: interrupted; run the same command again to continue"]
    except BrokenPipeError:
        # The reader (head, less) went away; nothing more can be printed to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        storage = StorageError(
            "cannot write",
            where=error.filename,
            found=error.strerror,
            remedy="free some space and run the same command again",
        )
        return storage.exit_code, [f"error: {storage}"]
    return 0, []


def _is_first_to_fail(code: int) -> bool:
    # When one process of several fails, the others lose their connection to it. The first one
    # leaves its exit code for utils/torchrun.py and is the only one that prints.
    path = os.environ.get("UNISPEECH_EXIT_FILE")
    if path is None:
        return True
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(str(code))
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


if __name__ == "__main__":
    sys.exit(main())
