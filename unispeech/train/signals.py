"""Signals that ask a run to save and stop."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class StopSignals:
    """Notes SIGTERM, SIGUSR1 and Ctrl-C so that an update is never cut in two."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        # Ctrl-C wins: torchrun follows it with a SIGTERM.
        if self.received != signal.SIGINT:
            self.received = number
