"""Keeps every speaker on the same stream from window to window."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from unispeech.losses.permutation import best_permutation
from unispeech.separate.windows import Window

Distance = Literal["magnitude", "mask"]


class Stitcher:
    """Orders the speaker masks of consecutive windows by their likeness where both look.

    Args:
        speakers: masks that are ordered; those of noise behind them stay.
        distance: `magnitude`: squared differences of masked magnitudes (the papers); `mask`:
            absolute differences of masks (NOTSOFAR).
    """

    def __init__(self, speakers: int, distance: Distance = "magnitude") -> None:
        self.speakers = speakers
        self.distance = distance
        self._before: tuple[Window, Tensor] | None = None

    def __call__(self, window: Window, masks: Tensor, magnitude: Tensor) -> Tensor:
        """The masks of the next window, in the order of the windows before.

        Args:
            window: which frames these are.
            masks: `(K, T, bins)`; its first ones are those of speakers.
            magnitude: `(T, bins)` of the mixture.
        """
        if self._before is not None:
            masks = self._ordered(window, masks, magnitude, *self._before)
        self._before = (window, masks[: self.speakers])
        return masks

    def _ordered(
        self, window: Window, masks: Tensor, magnitude: Tensor, before: Window, known: Tensor
    ) -> Tensor:
        shared = max(0, before.stop - window.start)
        old, new = known[:, known.shape[1] - shared :], masks[: self.speakers, :shared]
        weight = magnitude[:shared] if self.distance == "magnitude" else magnitude.new_ones(1)
        difference = (old.unsqueeze(1) - new.unsqueeze(0)) * weight
        each = difference.square() if self.distance == "magnitude" else difference.abs()
        order = best_permutation(each.double().sum((2, 3)).unsqueeze(0))[0]
        return torch.cat([masks[order], masks[self.speakers :]])
