"""A released or trained model as a whole: encoder, heads, and what it is called."""

from __future__ import annotations

from torch import Tensor, nn

from unispeech.models.config import EncoderConfig, Family, HeadsConfig
from unispeech.models.encoder import Encoder, EncoderOutput
from unispeech.models.heads import Heads


class SpeechModel(nn.Module):
    """Encoder with the heads its checkpoint holds; called, it is the encoder.

    Args:
        family: which paper's model it is.
        encoder: configuration of the encoder.
        heads: configuration of the heads.
        tokens: names of the CTC outputs, where they are known.
    """

    def __init__(
        self,
        family: Family,
        encoder: EncoderConfig,
        heads: HeadsConfig,
        tokens: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.family = family
        self.encoder = Encoder(encoder)
        self.heads = Heads(encoder, heads)
        self.tokens = tokens
        self.left_out: tuple[str, ...] = ()
        """Weights of the file that belong to another model around this one."""

    @property
    def config(self) -> EncoderConfig:
        """The encoder's configuration, `normalize` and the padding rule included."""
        return self.encoder.config

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor | None = None,
        until: int | None = None,
        keep: bool = True,
    ) -> EncoderOutput:
        """Hidden states of waveforms `(B, N)`; see `Encoder.forward`."""
        output: EncoderOutput = self.encoder(waveforms, lengths, until, keep)
        return output

    def logits(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """CTC logits `(B, T, tokens)` and valid frames `(B,)` of a recogniser."""
        assert self.heads.proj is not None, "the model has no CTC layer"
        output = self(waveforms, lengths, keep=False)
        return self.heads.proj(output.last), output.lengths
