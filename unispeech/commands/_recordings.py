"""Recordings that are given by files, folders and manifests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from unispeech.errors import DataError, UsageError


def given_recordings(sources: Iterable[Path], name_of: Callable[[str], str] = str) -> list[Any]:
    """The cuts of all sources; their names must differ, because files are called by them.

    Args:
        sources: audio files, folders or manifests.
        name_of: the name of a recording from its id.

    Raises:
        UsageError: there is no source.
        DataError: one has no audio, or two recordings have the same name.
    """
    from unispeech.data.recordings import find_recordings

    cuts = [cut for source in sources for cut in find_recordings(source)]
    if not cuts:
        raise UsageError("no audio is given", remedy="name files, folders or manifests")
    (name, count), *_ = Counter(name_of(cut.id) for cut in cuts).most_common(1)
    if count > 1:
        raise DataError(
            f"{count} recordings have the same name", where=name, remedy="give them one by one"
        )
    return cuts
