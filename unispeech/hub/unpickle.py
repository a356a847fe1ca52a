"""Reading foreign checkpoints without running anything that is in them."""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch

from unispeech.errors import DataError

FOREIGN = re.compile(
    r"argparse\.Namespace$|(fairseq|omegaconf)\.[\w.]+$|typing\.(Any|Union|Optional|List|Dict)$"
    r"|builtins\.(dict|list|tuple|set|int|float|str|bool|object|bytes)$"
    r"|numpy\.(dtype|core\.multiarray\.scalar|_core\.multiarray\.scalar)$|_codecs\.encode$"
)
"""Classes that fairseq's trainer leaves in its files. Each becomes an `Inert`."""

LEGACY_PICKLES = 4
"""Files of torch before 1.6 start with a magic number, a version, sizes, then the object."""


class Inert:
    """What a foreign object held, without its code."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __new__(cls, *arguments: Any) -> Inert:
        """Made by `__new__` alone when unpickled, so the fields are set here too."""
        instance = super().__new__(cls)
        instance.arguments, instance.state = arguments, None
        return instance

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_pickle(path: str | Path) -> Any:
    """Read a file of `torch.save`, old or new format.

    Tensors and plain containers come as they are. The objects of fairseq, omegaconf and argparse
    come as plain dictionaries, lists and scalars; every other class is refused.

    Raises:
        DataError: the file is missing, empty, truncated, not such a file, or names a class that
            is not known to be harmless.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("no such file", where=path, remedy="fetch it, or give another path")
    if path.stat().st_size == 0:
        raise DataError("empty file", where=path, remedy="copy or download it again")
    inert = [(Inert, name) for name in sorted(_foreign_names(path))]
    plain: list[Any] = [*inert, (_empty_dictionary, "collections.defaultdict")]
    try:
        with torch.serialization.safe_globals(plain), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=True)
        return to_plain(value)
    except Exception as error:  # a damaged file fails in many ways inside the library
        raise DataError(
            "cannot read the checkpoint",
            where=path,
            expected="tensors and plain containers in a file of torch.save",
            found=_first_line(error),
            remedy="copy or download it again",
        ) from None


def to_plain(value: Any, depth: int = 0) -> Any:
    """Dictionaries, lists and scalars in the place of `Inert` objects, at any depth.

    Raises:
        DataError: the value is nested too deeply to be a configuration.
    """
    if depth > 64:
        raise DataError("containers inside containers without an end")
    if isinstance(value, Inert):
        return to_plain(_content(value), depth + 1)
    if isinstance(value, dict):
        return {to_plain(k, depth + 1): to_plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_plain(item, depth + 1) for item in value)
    return value


def _content(value: Inert) -> Any:
    state = value.state
    if isinstance(state, dict):
        # omegaconf keeps a container's children in _content and a leaf's value in _val.
        for key in ("_content", "_val"):
            if key in state:
                return state[key]
        return state
    if state is None and len(value.arguments) == 1:
        return value.arguments[0]  # an enumeration's value
    return None if state is None else state


def _foreign_names(path: Path) -> set[str]:
    """The known foreign classes that a file names.

    Raises:
        DataError: it names others.
    """
    try:
        names = set(_global_names(path))
    except Exception as error:  # the pickle is cut off or is none
        raise DataError(
            "not a checkpoint", where=path, found=_first_line(error), remedy="download it again"
        ) from None
    allowed = set(torch.serialization.get_safe_globals()) | _torch_names()
    unknown = {n for n in names if n not in allowed and n != "collections.defaultdict"}
    refused = sorted(n for n in unknown if not FOREIGN.match(n))
    if refused:
        raise DataError(
            "the checkpoint names classes that are not known to be harmless, nothing was loaded",
            where=path,
            expected="tensors, plain containers, and settings of fairseq and omegaconf",
            found=", ".join(refused[:5]),
            remedy="get the file from its authors' page",
        )
    return unknown


def _torch_names() -> set[str]:
    from torch import _weights_only_unpickler

    names: dict[str, Any] = _weights_only_unpickler._get_allowed_globals()
    return set(names)


def _global_names(path: Path) -> Iterator[str]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            if not entries:
                raise ValueError("an archive without data.pkl")
            with archive.open(entries[0]) as file:
                yield from _pickle_names(file.read)
        return
    with path.open("rb") as stream:
        for _ in range(LEGACY_PICKLES):
            yield from _pickle_names_of(stream)


def _pickle_names(read: Callable[[], bytes]) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(read()):
        yield from _name(opcode.name, argument)


def _pickle_names_of(stream: IO[bytes]) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(stream):
        yield from _name(opcode.name, argument)


def _name(opcode: str, argument: Any) -> Iterator[str]:
    if opcode in ("GLOBAL", "INST"):
        # Protocol 2 writes the names of Python 2.
        yield re.sub(r"^__builtin__\.", "builtins.", str(argument).replace(" ", ".", 1))
    elif opcode == "STACK_GLOBAL":
        # The name is computed while unpickling; no file of torch.save has it.
        yield "a name made while loading"


def _empty_dictionary(*_: Any) -> dict[Any, Any]:
    return {}


def _first_line(error: Exception) -> str:
    if isinstance(error, DataError):
        return error.what
    text = str(error)
    known = re.search(r"WeightsUnpickler error: (.*?)(?: Please use|$)", text, re.MULTILINE)
    lines = [known.group(1)] if known else text.splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
