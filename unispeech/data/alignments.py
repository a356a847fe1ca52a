"""Phone alignments in NIST's CTM format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from unispeech.errors import DataError


class Alignment:
    """Phones of many utterances.

    Args:
        path: lines `utterance channel start duration phone`, times in seconds.

    Raises:
        DataError: the file is missing or a line is not of that form.
    """

    def __init__(self, path: str | Path) -> None:
        self.phones: list[str] = []
        self._ids: dict[str, int] = {}
        self._segments: dict[str, list[tuple[float, float, int]]] = {}
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError("cannot read the alignment", where=path, found=error.strerror) from None
        for number, line in enumerate(lines, start=1):
            self._add(line, f"{path}:{number}")

    def _add(self, line: str, where: str) -> None:
        if not line.strip() or line.startswith(";;"):
            return
        try:
            utterance, _, start, duration, phone = line.split()[:5]
            begin, length = float(start), float(duration)
        except ValueError:
            raise DataError(
                "not a line of a CTM",
                where=where,
                expected="utterance channel start duration phone",
                found=f"'{line}'",
            ) from None
        if phone not in self._ids:
            self._ids[phone] = len(self.phones)
            self.phones.append(phone)
        segment = (begin, begin + length, self._ids[phone])
        self._segments.setdefault(utterance, []).append(segment)

    def __contains__(self, utterance: str) -> bool:
        return utterance in self._segments

    def frames(self, utterance: str, count: int, rate: int) -> npt.NDArray[np.int64]:
        """Phone of each label frame `(count,)` at `rate` Hz, -1 where none is aligned."""
        phones = np.full(count, -1, dtype=np.int64)
        for begin, end, phone in self._segments.get(utterance, []):
            phones[round(begin * rate) : round(end * rate)] = phone
        return phones
