"""Frame features that are clustered into labels."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from unispeech.data.config import LabelConfig
from unispeech.data.manifests import SAMPLING_RATE
from unispeech.data.mfcc import SHIFT, mfcc39
from unispeech.errors import ConfigError

FloatArray = npt.NDArray[np.float32]

CHUNK_SAMPLES = 1_600_000


class Extractor(Protocol):
    """Waveform to frame features."""

    rate: int
    """Frames per second."""

    def features(self, waveform: FloatArray) -> FloatArray:
        """`(N,)` float32 at 16 kHz to `(T, D)` float32."""
        ...


class MfccExtractor:
    """39 MFCC at 100 Hz.

    Args:
        cmvn: normalise the cepstra of each utterance.
    """

    rate = SAMPLING_RATE // SHIFT

    def __init__(self, cmvn: bool) -> None:
        self.cmvn = cmvn

    def features(self, waveform: FloatArray) -> FloatArray:
        """`(N,)` to `(T, 39)`."""
        return mfcc39(waveform, self.cmvn)


class LayerExtractor:
    """States of one layer of a trained encoder.

    Long recordings are encoded in chunks of 100 s that do not overlap, as the reference does.

    Args:
        encoder: a `unispeech.models.encoder.Encoder` in evaluation mode.
        layer: index into its states, 0 to L.
    """

    def __init__(self, encoder: Any, layer: int) -> None:
        if layer > encoder.config.layers:
            raise ConfigError(
                "no such layer", expected=f"0 to {encoder.config.layers}", found=layer
            )
        self.encoder = encoder
        self.layer = layer
        self.rate = SAMPLING_RATE // encoder.config.hop

    def features(self, waveform: FloatArray) -> FloatArray:
        """`(N,)` to `(T, D)`."""
        smallest = self.encoder.config.receptive_field
        device = next(self.encoder.parameters()).device
        chunks = [
            waveform[start : start + CHUNK_SAMPLES]
            for start in range(0, len(waveform), CHUNK_SAMPLES)
        ]
        with torch.inference_mode():
            inputs = [torch.from_numpy(c)[None].to(device) for c in chunks if len(c) >= smallest]
            # The layers behind the wanted one are not run.
            outputs = [self.encoder(chunk, until=self.layer) for chunk in inputs]
        states = [output.layers[self.layer][0].float() for output in outputs]
        return np.asarray(torch.cat(states).cpu().numpy(), dtype=np.float32)


def build_extractor(config: LabelConfig, encoder: Any = None) -> Extractor:
    """The extractor of a configuration; `encoder` is needed for the features of a layer."""
    if config.feature == "mfcc":
        return MfccExtractor(config.cmvn)
    return LayerExtractor(encoder, config.layer)
