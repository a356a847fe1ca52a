"""ARPA files: their order, their unknown word, and the transducers that kaldilm makes of them."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from unispeech.errors import DataError, DependencyError


def arpa_order(arpa: str | Path) -> int:
    """The longest n-gram that the head of an ARPA file, also as .gz, declares.

    Raises:
        DataError: the file has no such head.
    """
    opener = gzip.open if Path(arpa).suffix == ".gz" else open
    try:
        with opener(arpa, "rt", encoding="utf-8", errors="replace") as file:
            head = "".join(itertools.islice(file, 30))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("cannot be read", where=arpa, found=error) from None
    orders = [int(order) for order in re.findall(r"^ngram (\d+)=", head, flags=re.MULTILINE)]
    if not orders:
        raise DataError("not an ARPA file", where=arpa, remedy="give a language model")
    return max(orders)


def unknown_log10(arpa: str | Path) -> float | None:
    """log10 probability of `<unk>`, None when the model has none."""
    opener = gzip.open if Path(arpa).suffix == ".gz" else open
    with opener(arpa, "rt", encoding="utf-8") as file:
        for line in itertools.takewhile(lambda line: not line.startswith("\\2-grams"), file):
            fields = line.split()
            if len(fields) > 1 and fields[1].lower() == "<unk>":
                return float(fields[0])
    return None


def compile_arpa(arpa: str | Path, words: str | Path, backoff: str) -> Any:
    """The back-off model of an ARPA file as a kaldifst transducer from words to words.

    Args:
        arpa: the language model, also as .gz; n-grams with words beyond the table are left out.
        words: the word symbol table.
        backoff: the symbol that back-off arcs read; they write nothing.

    Raises:
        DataError: the file is not a whole model.
        DependencyError: kaldifst or kaldilm is missing.
    """
    kf = package("kaldifst")
    if importlib.util.find_spec("kaldilm") is None:
        package("kaldilm")
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(arpa)
        if source.suffix == ".gz":
            source = Path(scratch) / "lm.arpa"
            _unpack(arpa, source)
        command = [sys.executable, "-m", "kaldilm", "--max-arpa-warnings=0"]
        command += [f"--read-symbol-table={words}", f"--disambig-symbol={backoff}", str(source)]
        # A process of its own, because it ends the process that it runs in when the file is bad.
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reasons = re.findall(r"^\[E\] (.*)", done.stderr, flags=re.MULTILINE)
        raise DataError(
            "not a whole ARPA file",
            where=arpa,
            found=reasons[-1] if reasons else done.stderr.strip().rpartition("\n")[2],
            remedy="give a whole model, or have one estimated from the text",
        )
    fst = kf.compile(done.stdout)
    kf.arcsort(fst, "ilabel")
    return fst


def _unpack(archive: str | Path, path: Path) -> None:
    try:
        with gzip.open(archive, "rb") as packed, path.open("wb") as file:
            shutil.copyfileobj(packed, file)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("not a whole gzip file", where=archive, found=error) from None


def package(name: str) -> ModuleType:
    """Import a package that graphs are built with.

    Raises:
        DependencyError: it is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DependencyError(
            f"the package {name} is needed to build a graph",
            found=error,
            remedy=f"pip install {name}",
        ) from None
