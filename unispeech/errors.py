"""Errors a user can cause, each with the exit code that `python -m unispeech` ends with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UnispeechError(Exception):
    """Base of every error with a known cause: printed as one line, never as a traceback.

    Args:
        what: what went wrong.
        where: the file, key or option concerned.
        expected: what would have been right.
        found: what was there instead.
        remedy: what to do or run next.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        parts = [self.what if self.where is None else f"{self.where}: {self.what}"]
        facts = [
            f"{name} {value}"
            for name, value in (("expected", self.expected), ("found", self.found))
            if value is not None
        ]
        if facts:
            parts.append(", ".join(facts))
        if self.remedy:
            parts.append(self.remedy)
        return " ".join("; ".join(parts).split())


class UsageError(UnispeechError):
    """A wrong, missing or mistyped option (exit 2)."""

    exit_code = 2


class DataError(UnispeechError):
    """Bad audio, manifests, labels or other input files (exit 65)."""

    exit_code = 65


class DataProblems(DataError):
    """Several problems found in one pass over the data, printed one per line (exit 65)."""

    def __init__(self, what: str, problems: Sequence[str], **facts: object) -> None:
        super().__init__(what, **facts)  # type: ignore[arg-type]
        self.problems = list(problems)


class DependencyError(UnispeechError):
    """A package or program that was asked for is missing (exit 69)."""

    exit_code = 69


class NumericsError(UnispeechError):
    """A loss or an activation is not finite (exit 70)."""

    exit_code = 70


class StorageError(UnispeechError):
    """Output could not be written: full disk, read-only folder (exit 74, `EX_IOERR`)."""

    exit_code = 74


class Preempted(UnispeechError):
    """SIGTERM or SIGUSR1 arrived and the state was saved (exit 75)."""

    exit_code = 75


class ConfigError(UnispeechError):
    """A configuration file or a `key=value` does not fit the schema (exit 78)."""

    exit_code = 78


class Interrupted(UnispeechError):
    """Ctrl-C arrived and the state was saved (exit 130)."""

    exit_code = 130


def nearest(name: str, valid: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the valid name closest to `name`, or an empty string."""
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""
