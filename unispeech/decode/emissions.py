"""CTC log-probabilities on disk: one flat float16 array, an index and a checked description."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unispeech.data.config import Units
from unispeech.errors import DataError, NumericsError
from unispeech.storage import atomic_path, sha256, write_json, write_text

AGAIN = "run emit again"

_ARRAY, _INDEX, _ABOUT = "emissions.npy", "index.tsv", "emissions.json"
_HEADER_BYTES = 128
_LOWEST = float(np.finfo(np.float16).min)


class Span(NamedTuple):
    """Where an utterance lies in the flat array, in frames."""

    offset: int
    frames: int


class EmissionWriter:
    """Write the log-probabilities of a set, utterance by utterance.

    Used as a context manager. The three files get their names when the block succeeds,
    `emissions.json` last, so a folder without it is not finished; sub-folders stay as they are.

    Args:
        folder: where the files go; made when missing.
        tokens: the symbols of the columns, the blank first.
        frame_shift: seconds from one frame to the next.
        meta: anything to keep with the emissions, such as the checkpoint's SHA-256.
    """

    def __init__(
        self,
        folder: str | Path,
        tokens: Sequence[str],
        frame_shift: float,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.tokens = list(tokens)
        self.frame_shift = frame_shift
        self.meta = dict(meta or {})
        self._spans: dict[str, Span] = {}
        self._frames = 0
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> EmissionWriter:
        path = self._stack.enter_context(atomic_path(self.folder / _ARRAY))
        self._file = self._stack.enter_context(path.open("wb"))
        self._file.write(bytes(_HEADER_BYTES))
        return self

    def write(self, utt_id: str, log_probs: npt.NDArray[np.float32]) -> None:
        """Append the natural-log probabilities (frames, tokens) of one utterance.

        Values below float16's range, minus infinity among them, are stored as its minimum.

        Raises:
            NumericsError: a value is NaN or plus infinity.
            DataError: the utterance was written before, or its name holds white space.
        """
        if self._file is None:
            raise RuntimeError("EmissionWriter is a context manager: write inside its block")
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self.tokens):
            raise ValueError(f"shape {log_probs.shape}, expected (frames, {len(self.tokens)})")
        where = f"utterance {utt_id}"
        if not utt_id or utt_id.split() != [utt_id]:
            raise DataError("an utterance id must have no white space", where=where)
        if utt_id in self._spans:
            raise DataError("the utterance is there twice", where=where)
        # NaN fails every comparison, so this finds it as well.
        if not bool(np.all(log_probs < np.inf)):
            raise NumericsError(
                "a log-probability is not a number",
                where=where,
                remedy="check the checkpoint and this utterance's audio",
            )
        self._file.write(np.maximum(log_probs, _LOWEST).astype("<f2").tobytes())
        self._spans[utt_id] = Span(self._frames, len(log_probs))
        self._frames += len(log_probs)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None or self._file is None:
            self._stack.__exit__(kind, error, trace)
            return
        self._file.seek(0)
        self._file.write(_header(self._frames, len(self.tokens)))
        # Without this the old description would stand beside the new array for a moment.
        (self.folder / _ABOUT).unlink(missing_ok=True)
        self._stack.close()
        rows = [f"{name}\t{span.offset}\t{span.frames}\n" for name, span in self._spans.items()]
        write_text(self.folder / _INDEX, "".join(rows))
        about = {
            "tokens": self.tokens,
            "vocabulary": len(self.tokens),
            "frame_shift": self.frame_shift,
            "utterances": len(self._spans),
            "frames": self._frames,
            "sha256": {name: sha256(self.folder / name) for name in (_ARRAY, _INDEX)},
            "meta": self.meta,
        }
        write_json(self.folder / _ABOUT, about)


class EmissionReader:
    """Read what `EmissionWriter` wrote; iterating gives `(utt_id, log_probs)` in its order.

    Args:
        folder: the folder of the emissions.
        verify: compare the SHA-256 of both files too; their sizes are always compared.

    Raises:
        DataError: there are no emissions, or they are not finished, truncated or altered.
    """

    def __init__(self, folder: str | Path, verify: bool = True) -> None:
        self.folder = Path(folder)
        about = self._about()
        try:
            self.tokens: list[str] = list(about["tokens"])
            self.frame_shift = float(about["frame_shift"])
            self.frames = int(about["frames"])
            self.meta: dict[str, Any] = dict(about["meta"])
            self.sha256: str = about["sha256"][_ARRAY]
            hashes = dict(about["sha256"])
            utterances = int(about["utterances"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._broken(_ABOUT, f"the description lacks {error}") from None
        self._check_size()
        if verify:
            for name in (_ARRAY, _INDEX):
                if not (self.folder / name).is_file() or sha256(self.folder / name) != hashes[name]:
                    raise self._broken(
                        name, "the file does not have the SHA-256 it was written with"
                    )
        self._spans = self._read_index(utterances)
        self._array: npt.NDArray[np.float16] = (
            np.memmap(
                self.folder / _ARRAY,
                dtype="<f2",
                mode="r",
                offset=_HEADER_BYTES,
                shape=(self.frames, len(self.tokens)),
            )
            if self.frames
            else np.zeros((0, len(self.tokens)), np.float16)
        )

    @property
    def utt_ids(self) -> list[str]:
        """The utterances in the order they were written."""
        return list(self._spans)

    @property
    def units(self) -> Units:
        """What the tokens are."""
        units: Units = self.meta.get("units", "letters")
        return units

    @property
    def seconds(self) -> float:
        """The audio behind the emissions, in seconds (frames times the frame shift)."""
        return self.frames * self.frame_shift

    def __len__(self) -> int:
        return len(self._spans)

    def __iter__(self) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        return ((utt_id, self[utt_id]) for utt_id in self._spans)

    def __getitem__(self, utt_id: str) -> npt.NDArray[np.float32]:
        """Log-probabilities float32 (frames, tokens) of one utterance.

        Raises:
            DataError: there is no such utterance.
        """
        if utt_id not in self._spans:
            raise DataError(f"no emissions of utterance {utt_id}", where=self.folder)
        offset, frames = self._spans[utt_id]
        return np.asarray(self._array[offset : offset + frames], dtype=np.float32)

    def _about(self) -> dict[str, Any]:
        path = self.folder / _ABOUT
        if not path.is_file():
            raise self._broken(_ABOUT, "no finished emissions here")
        try:
            about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise self._broken(_ABOUT, f"not JSON ({error})") from None
        return about

    def _check_size(self) -> None:
        path = self.folder / _ARRAY
        expected = _HEADER_BYTES + 2 * self.frames * len(self.tokens)
        found = path.stat().st_size if path.is_file() else None
        if found != expected:
            raise DataError(
                "the array is truncated or missing",
                where=path,
                expected=f"{expected} bytes",
                found="no file" if found is None else f"{found} bytes",
                remedy=AGAIN,
            )

    def _read_index(self, utterances: int) -> dict[str, Span]:
        spans: dict[str, Span] = {}
        following = 0
        try:
            for row in (self.folder / _INDEX).read_text(encoding="utf-8").splitlines():
                name, offset, frames = row.split("\t")
                spans[name] = Span(int(offset), int(frames))
                if spans[name].offset != following or spans[name].frames < 0:
                    raise ValueError(f"{name} does not start where the one before it ends")
                following += spans[name].frames
        except (OSError, ValueError) as error:
            raise self._broken(_INDEX, f"not an index ({error})") from None
        if following != self.frames or len(spans) != utterances:
            raise self._broken(_INDEX, "the index does not cover the array")
        return spans

    def _broken(self, name: str, what: str) -> DataError:
        return DataError(what, where=self.folder / name, remedy=AGAIN)


def _header(frames: int, columns: int) -> bytes:
    # numpy's own writer would need the number of frames before the first of them is known.
    text = f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({frames}, {columns}), }}"
    room = _HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + f"{text:<{room - 1}}\n".encode()
